/* base64url.h against OpenSSL's encoder: all short texts, and that each value has one text only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "tests/unit/token_maker.h"
#include "ws-broker/base64url.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Decodes from and into blocks of just the right size, so that the sanitizer sees a step too far.
 */
static int decode(const char *text, size_t len, unsigned char *out, size_t *out_len) {
    char *in = malloc(len ? len : 1);
    unsigned char *room = malloc(BASE64URL_DECODED_MAX(len));
    assert_non_null(in);
    assert_non_null(room);
    memcpy(in, text, len);
    *out_len = SIZE_MAX;
    int status = base64url_decode(in, len, room, out_len);
    if (status == CHAT_OK) {
        assert_true(*out_len <= BASE64URL_DECODED_MAX(len));
        memcpy(out, room, *out_len);
    }
    free(in);
    free(room);
    return status;
}

static void check_bytes(const unsigned char *bytes, size_t len) {
    unsigned char out[1024];
    size_t out_len;
    char *text = encode(bytes, len);
    assert_int_equal(decode(text, strlen(text), out, &out_len), CHAT_OK);
    assert_int_equal(out_len, len);
    assert_memory_equal(out, bytes, len);
    free(text);
}

static void test_short_values(void **state) {
    (void)state;
    check_bytes((const unsigned char *)"", 0);
    for (unsigned i = 0; i < 256; i++)
        check_bytes((const unsigned char[]){(unsigned char)i}, 1);
    for (unsigned i = 0; i < 65536; i++)
        check_bytes((const unsigned char[]){(unsigned char)(i >> 8), (unsigned char)i}, 2);
}

static void test_long_values(void **state) {
    unsigned char bytes[1024];
    uint32_t random = 1;
    (void)state;
    for (size_t len = 3; len <= sizeof(bytes) - 2; len += len < 64 ? 1 : 53) {
        for (size_t i = 0; i < len; i++) {
            random = random * 1664525 + 1013904223;
            bytes[i] = (unsigned char)(random >> 24);
        }
        check_bytes(bytes, len);
    }
}

/* Every text of 1 to 3 characters: accepted only when encoding gives the same text again. */
static void check_text(const char *text, size_t len) {
    unsigned char out[4];
    size_t out_len;
    if (decode(text, len, out, &out_len) != CHAT_OK)
        return;
    char *again = encode(out, out_len);
    assert_int_equal(strlen(again), len);
    assert_memory_equal(again, text, len);
    free(again);
}

static void test_each_value_has_one_text(void **state) {
    unsigned accepted = 0;
    (void)state;
    for (unsigned i = 0; i < 65536; i++) { /* any two bytes */
        const char text[2] = {(char)(i >> 8), (char)i};
        unsigned char out[4];
        size_t out_len;
        check_text(text, 2);
        accepted += decode(text, 2, out, &out_len) == CHAT_OK;
    }
    assert_int_equal(accepted, 256); /* one for each byte */
    accepted = 0;
    for (unsigned i = 0; i < 64 * 64 * 64; i++) {
        const char text[3] = {alphabet[i >> 12], alphabet[i >> 6 & 63], alphabet[i & 63]};
        unsigned char out[4];
        size_t out_len;
        check_text(text, 3);
        accepted += decode(text, 3, out, &out_len) == CHAT_OK;
    }
    assert_int_equal(accepted, 65536);
}

/* A character of no alphabet is refused wherever it stands. */
static void test_strange_characters(void **state) {
    (void)state;
    for (unsigned c = 0; c < 256; c++)
        for (size_t place = 0; place < 8; place++) {
            char text[8] = {'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A'};
            unsigned char out[8];
            size_t out_len;
            text[place] = (char)c;
            int want = c && strchr(alphabet, (int)c) ? CHAT_OK : CHAT_EINVAL;
            assert_int_equal(decode(text, 8, out, &out_len), want);
        }
}

static void test_refused(void **state) {
    static const char *const texts[] = {
        "A",        "AAAAA",     "QQ==",    "QUI=",     "QQ=", "=",       "====", "QUJD=",
        "QUJDRA==", "QUJD QUJD", " QUJD",   "QUJD\n",   "QR",  "QUJDRB",  "QUJ",  "QUK",
        "A+A",      "A/AA",      "QUJ\tDE", "QUJD\r\n", "QQ.", "\xc3\xa4"};
    unsigned char out[32];
    size_t out_len;
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        if (decode(texts[i], strlen(texts[i]), out, &out_len) != CHAT_EINVAL)
            fail_msg("accepted: %s", texts[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_values),
        cmocka_unit_test(test_long_values),
        cmocka_unit_test(test_each_value_has_one_text),
        cmocka_unit_test(test_strange_characters),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
