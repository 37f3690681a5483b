/* subprotocol.h: what is selected of an offer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "shared/status.h"
#include "tests/unit/cmocka.h"
#include "ws-broker/subprotocol.h"

static void test_the_first_name(void **state) {
    static const struct {
        const char *offer, *name;
    } rows[] = {
        {"chat", "chat"},
        {"binary, base64", "binary"},
        {"a,b", "a"},
        {" \ta \t,\tb", "a"},
        {"graphql-transport-ws", "graphql-transport-ws"},
        {"chat.v2.json", "chat.v2.json"},
        {"!#$%&'+-.^_`|~09AZaz", "!#$%&'+-.^_`|~09AZaz"},
        {"2d", "2d"},
        {"a,,b", "a"},
        {"a, not a list \"", "a"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char name[SUBPROTOCOL_MAX];
        assert_int_equal(subprotocol_select(rows[i].offer, name), CHAT_OK);
        assert_string_equal(name, rows[i].name);
    }
}

static void test_what_is_no_name(void **state) {
    static const char *const offers[] = {
        "",    " ",   ",",    ",a",          "a b", "a;b", "a/b",   "\"a\"", "a=b",  "(a)",
        "a@b", "{a}", "a\\b", "caf\xc3\xa9", "13",  "1.0", "a\x01", "a\x7f", "a\rb", "a*b"};
    (void)state;
    for (size_t i = 0; i < sizeof(offers) / sizeof(*offers); i++) {
        char name[SUBPROTOCOL_MAX];
        if (subprotocol_select(offers[i], name) != CHAT_EINVAL)
            fail_msg("'%s' was taken for a name", offers[i]);
    }
}

static void test_the_longest_name(void **state) {
    char offer[SUBPROTOCOL_MAX + 1], name[SUBPROTOCOL_MAX];
    (void)state;
    memset(offer, 'a', sizeof(offer));
    offer[SUBPROTOCOL_MAX - 1] = '\0';
    assert_int_equal(subprotocol_select(offer, name), CHAT_OK);
    assert_string_equal(name, offer);
    offer[SUBPROTOCOL_MAX - 1] = 'a';
    offer[SUBPROTOCOL_MAX] = '\0';
    assert_int_equal(subprotocol_select(offer, name), CHAT_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_name),
        cmocka_unit_test(test_what_is_no_name),
        cmocka_unit_test(test_the_longest_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
