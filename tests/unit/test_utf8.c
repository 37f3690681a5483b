/* utf8.h against the table of RFC 3629, section 4, written down once more here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "ws-broker/utf8.h"

/* Reads from a block of just the right size, so that the sanitizer sees a step too far. */
static bool is_valid(const void *bytes, size_t len) {
    char *block = malloc(len ? len : 1);
    assert_non_null(block);
    memcpy(block, bytes, len);
    bool valid = utf8_is_valid(block, len);
    free(block);
    return valid;
}

/* How many bytes the character at `s` has; 0: it is none. */
static size_t character(const unsigned char *s, size_t len) {
    static const struct {
        unsigned char first_low, first_high, second_low, second_high;
        size_t len;
    } rows[] = {
        {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
        {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
        {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    if (s[0] < 0x80)
        return 1;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        if (s[0] < rows[i].first_low || s[0] > rows[i].first_high)
            continue;
        if (len < rows[i].len || s[1] < rows[i].second_low || s[1] > rows[i].second_high)
            return 0;
        for (size_t k = 2; k < rows[i].len; k++)
            if (s[k] < 0x80 || s[k] > 0xbf)
                return 0;
        return rows[i].len;
    }
    return 0;
}

static bool expected(const unsigned char *s, size_t len) {
    for (size_t used; len > 0; s += used, len -= used) {
        used = character(s, len);
        if (used == 0)
            return false;
    }
    return true;
}

static void check(const unsigned char *bytes, size_t len) {
    if (utf8_is_valid((const char *)bytes, len) != expected(bytes, len))
        fail_msg("wrong about %02x %02x %02x %02x, %zu bytes", bytes[0], bytes[1], bytes[2],
                 bytes[3], len);
}

static void test_all_short_sequences(void **state) {
    (void)state;
    for (unsigned i = 0; i < 65536; i++) {
        const unsigned char bytes[4] = {(unsigned char)(i >> 8), (unsigned char)i};
        check(bytes, 1);
        check(bytes, 2);
    }
}

/* Three and four bytes: all first and second bytes, and the edges of the others. */
static void test_longer_sequences(void **state) {
    static const unsigned char edges[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90,
                                          0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xff};
    (void)state;
    for (unsigned i = 0; i < 65536; i++)
        for (size_t k = 0; k < sizeof(edges); k++)
            for (size_t l = 0; l < sizeof(edges); l++) {
                const unsigned char bytes[4] = {(unsigned char)(i >> 8), (unsigned char)i, edges[k],
                                                edges[l]};
                if (l == 0)
                    check(bytes, 3);
                check(bytes, 4);
            }
}

static void test_texts(void **state) {
    static const struct {
        const char *text;
        size_t len;
        bool valid;
    } rows[] = {
        {"", 0, true},
        {"\0", 1, true},
        {"plain", 5, true},
        {"\xc2\x80", 2, true},
        {"\xdf\xbf", 2, true},
        {"\xe0\xa0\x80", 3, true},
        {"\xed\x9f\xbf", 3, true},
        {"\xee\x80\x80", 3, true},
        {"\xef\xbf\xbf", 3, true}, /* U+FFFF is no character, and good UTF-8 */
        {"\xef\xbb\xbfx", 4, true},
        {"\xf0\x90\x80\x80", 4, true},
        {"\xf4\x8f\xbf\xbf", 4, true},
        {"Žofie 日本語 🎮", 21, true},
        {"\x80", 1, false},
        {"\xc0\x80", 2, false}, /* NUL, too long */
        {"\xc1\xbf", 2, false},
        {"\xe0\x9f\xbf", 3, false},
        {"\xf0\x8f\xbf\xbf", 4, false},
        {"\xed\xa0\x80", 3, false}, /* surrogates */
        {"\xed\xbf\xbf", 3, false},
        {"\xed\xa0\xbc\xed\xbe\xae", 6, false},
        {"\xf4\x90\x80\x80", 4, false}, /* above U+10FFFF */
        {"\xf5\x80\x80\x80", 4, false},
        {"\xf8\x88\x80\x80\x80", 5, false},
        {"\xfc\x84\x80\x80\x80\x80", 6, false},
        {"\xfe", 1, false},
        {"\xff", 1, false},
        {"ok\xe2\x82", 4, false}, /* cut */
        {"ok\xf0\x9f\x8e", 5, false},
        {"\xe2\x82\xacok\xe2", 6, false},
        {"\xe2(\xa1", 3, false},
        {"good then bad \xff then good", 25, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        if (is_valid(rows[i].text, rows[i].len) != rows[i].valid)
            fail_msg("row %zu", i);
}

static void test_printable(void **state) {
    (void)state;
    for (unsigned c = 0; c < 256; c++) {
        const char text[3] = {'a', (char)c, 'b'};
        assert_int_equal(utf8_is_printable(text, 3), c >= 0x20 && c < 0x7f);
    }
    assert_true(utf8_is_printable("", 0));
    assert_true(utf8_is_printable("Žofie 日本語 🎮", strlen("Žofie 日本語 🎮")));
    assert_false(utf8_is_printable("\xed\xa0\x80", 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_short_sequences),
        cmocka_unit_test(test_longer_sequences),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
