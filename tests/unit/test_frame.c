/* frame.h: the bytes before a payload, at the edges of the three forms that RFC 6455 has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "ws-broker/frame.h"

static void test_headers(void **state) {
    static const struct {
        size_t len;
        const char *header;
        size_t header_len;
    } cases[] = {
        {0, "\x81\x00", 2},
        {1, "\x81\x01", 2},
        {125, "\x81\x7d", 2},
        {126, "\x81\x7e\x00\x7e", 4},
        {127, "\x81\x7e\x00\x7f", 4},
        {256, "\x81\x7e\x01\x00", 4},
        {65535, "\x81\x7e\xff\xff", 4},
        {65536, "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10},
        {0x12345678, "\x81\x7f\x00\x00\x00\x00\x12\x34\x56\x78", 10},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint8_t out[FRAME_HEADER_MAX + 1];
        memset(out, 0xee, sizeof(out));
        assert_int_equal(frame_header_len(cases[i].len), cases[i].header_len);
        assert_int_equal(frame_text_header(out, cases[i].len), cases[i].header_len);
        assert_memory_equal(out, cases[i].header, cases[i].header_len);
        assert_int_equal(out[cases[i].header_len], 0xee); /* nothing behind it was touched */
    }
}

static void test_ping_is_whole_and_empty(void **state) {
    (void)state;
    assert_memory_equal(FRAME_PING, "\x89\x01\x00", sizeof(FRAME_PING));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_ping_is_whole_and_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
