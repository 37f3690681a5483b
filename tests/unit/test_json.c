/* json.h: what is an object and what is not, and that the JSON library reads all that is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "ws-broker/json.h"

/* Reads from a block of just the right size, so that the sanitizer sees a step too far. */
static bool is_object(const char *text, size_t len) {
    char *block = malloc(len ? len : 1);
    assert_non_null(block);
    memcpy(block, text, len);
    bool found = json_is_object(block, len);
    free(block);
    return found;
}

static const char *const good[] = {
    "{}",
    " \t\r\n{ \n} \n",
    "{\"a\":1}",
    "{ \"a\" : [ 1 , 2 ] , \"b\" : { } }",
    "{\"a\":[[],[[]],{}]}",
    "{\"a\":null,\"b\":true,\"c\":false}",
    "{\"a\":0,\"b\":-0,\"c\":-1.5,\"d\":10e3,\"e\":1E+2,\"f\":0.25e-3}",
    "{\"\":\"\"}",
    "{\"a\":1,\"a\":2}",
    "{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83C\"}",
    "{\"a\":\"\x7f \xc5\xbd\"}",
    "{\"user_id\":\"HL1\",\"timestamp\":1666259380,\"message\":\"hi\",\"nickname\":\"Hero\"}",
};

static const char *const bad[] = {
    "",
    " ",
    "[]",
    "1",
    "\"a\"",
    "null",
    "{",
    "}",
    "{}}",
    "{} x",
    "{}{}",
    "{,}",
    "{a:1}",
    "{'a':1}",
    "{\"a\":'b'}",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\" 1}",
    "{\"a\":1,}",
    "{\"a\":1 \"b\":2}",
    "{\"a\":[1,]}",
    "{\"a\":[1}",
    "{\"a\":[1]",
    "{1:2}",
    "{\"a\":/**/1}",
    "{\"a\":nul}",
    "{\"a\":nulll}",
    "{\"a\":True}",
    "{\"a\":NaN}",
    "{\"a\":Infinity}",
    "{\"a\":01}",
    "{\"a\":+1}",
    "{\"a\":-}",
    "{\"a\":.5}",
    "{\"a\":1.}",
    "{\"a\":1e}",
    "{\"a\":1e+}",
    "{\"a\":0x1}",
    "{\"a\":\"b}",
    "{\"a\":\"\\\"}",
    "{\"a\":\"\\x\"}",
    "{\"a\":\"\\u12\"}",
    "{\"a\":\"\\u12g4\"}",
    "{\"a\":\"\n\"}",
    "{\"a\":\"\x01\"}",
    "\xef\xbb\xbf{}",
};

static void test_texts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        if (!is_object(good[i], strlen(good[i])))
            fail_msg("refused: %s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        if (is_object(bad[i], strlen(bad[i])))
            fail_msg("taken: %s", bad[i]);
}

static void test_nul(void **state) {
    (void)state;
    assert_false(is_object("{}\0", 3));
    assert_false(is_object("\0{}", 3));
    assert_false(is_object("{\0}", 3));
    assert_false(is_object("{\"a\":\0}", 7));
    assert_false(is_object("{\"a\":\"\0\"}", 9));
    assert_false(is_object("{\"a\":\"\\\0\"}", 10));
}

static bool is_nested(size_t depth) {
    char text[1024] = "{\"a\":";
    size_t len = strlen(text);
    memset(text + len, '[', depth - 1);
    memset(text + len + depth - 1, ']', depth - 1);
    len += 2 * (depth - 1);
    text[len++] = '}';
    return is_object(text, len);
}

static void test_depth(void **state) {
    (void)state;
    assert_true(is_nested(JSON_DEPTH_MAX));
    assert_false(is_nested(JSON_DEPTH_MAX + 1));
    assert_false(is_nested(400));
}

static bool library_takes(struct json_tokener *tokener, const char *text, size_t len) {
    json_tokener_reset(tokener);
    struct json_object *root = json_tokener_parse_ex(tokener, text, (int)len);
    bool is_good = json_tokener_get_error(tokener) == json_tokener_success &&
                   json_object_is_type(root, json_type_object);
    json_object_put(root);
    return is_good;
}

/* Good texts with some bytes changed: whatever is taken, the library, which is lenient, takes. */
static void test_changed_texts(void **state) {
    static const char bytes[] = "{}[]\":,\\ u0e.-+1a\n\x01t'/";
    struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX + 1);
    uint32_t random = 1;
    unsigned taken = 0;
    (void)state;
    assert_non_null(tokener);
    for (unsigned i = 0; i < 200000; i++) {
        char text[128];
        const char *from = good[i % (sizeof(good) / sizeof(*good))];
        size_t len = strlen(from);
        memcpy(text, from, len);
        for (unsigned k = 0; k <= i % 3; k++) {
            random = random * 1664525 + 1013904223;
            text[(random >> 8) % len] = bytes[(random >> 20) % (sizeof(bytes) - 1)];
        }
        if (!is_object(text, len))
            continue;
        taken++;
        if (!library_takes(tokener, text, len))
            fail_msg("only we take: %.*s", (int)len, text);
    }
    assert_true(taken > 10000); /* else it would say little */
    json_tokener_free(tokener);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_changed_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
