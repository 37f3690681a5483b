/* wire.h (of the load generator): a server's frames whole and cut anywhere, a client's frames, and
 * what no server may send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "tests/bench/load/wire.h"
#include "ws-broker/frame.h"

/* The broker's own frames, of every form of length, cut at every byte. */
static void test_whole_and_cut(void **state) {
    static const size_t lengths[] = {0, 1, 125, 126, 127, 65535, 65536};
    (void)state;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        size_t header = frame_header_len(lengths[i]), size = header + lengths[i];
        uint8_t *data = calloc(1, size + 2);
        struct wire_frame frame;
        frame_text_header(data, lengths[i]);
        for (size_t len = 0; len < size; len += len < 20 ? 1 : size / 7)
            assert_int_equal(wire_parse(data, len, &frame), 0);
        assert_int_equal(wire_parse(data, size - 1, &frame), 0);
        for (size_t more = 0; more <= 2; more++) { /* the next one begins behind it */
            assert_int_equal(wire_parse(data, size + more, &frame), 1);
            assert_int_equal(frame.opcode, WIRE_TEXT);
            assert_ptr_equal(frame.payload, data + header);
            assert_int_equal(frame.len, lengths[i]);
            assert_int_equal(frame.size, size);
        }
        free(data);
    }
}

static void test_control_frames(void **state) {
    (void)state;
    struct wire_frame frame;
    assert_int_equal(wire_parse((const uint8_t *)"\x89\x00", 2, &frame), 1);
    assert_int_equal(frame.opcode, WIRE_PING);
    assert_int_equal(wire_parse((const uint8_t *)"\x88\x02\x03\xf4", 4, &frame), 1);
    assert_int_equal(frame.opcode, WIRE_CLOSE);
    assert_memory_equal(frame.payload, "\x03\xf4", 2);
}

static void test_refused(void **state) {
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"\x01\x00", 2},                                  /* the first part of several */
        {"\x80\x00", 2},                                  /* the last part of several */
        {"\xc1\x00", 2},                                  /* compressed */
        {"\x82\x00", 2},                                  /* binary */
        {"\x83\x00", 2},                                  /* reserved */
        {"\x81\x80\x00\x00\x00\x00", 6},                  /* masked */
        {"\x81\x7f\x00\x00\x00\x00\x00\x10\x00\x01", 10}, /* one more than WIRE_PAYLOAD_MAX */
        {"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", 10},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct wire_frame frame;
        assert_int_equal(wire_parse((const uint8_t *)cases[i].bytes, cases[i].len, &frame),
                         CHAT_EINVAL);
    }
}

static void test_client_frames(void **state) {
    static const struct {
        size_t len;
        const char *header;
        size_t header_len;
    } cases[] = {
        {0, "\x81\x80\0\0\0\0", 6},
        {125, "\x81\xfd\0\0\0\0", 6},
        {126, "\x81\xfe\x00\x7e\0\0\0\0", 8},
        {65535, "\x81\xfe\xff\xff\0\0\0\0", 8},
        {65536, "\x81\xff\0\0\0\0\0\x01\0\0\0\0\0\0", 14},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint8_t *text = malloc(cases[i].len + 1), *out = malloc(cases[i].len + WIRE_HEADER_MAX);
        memset(text, 'x', cases[i].len + 1);
        assert_int_equal(wire_encode(out, WIRE_TEXT, text, cases[i].len),
                         cases[i].header_len + cases[i].len);
        assert_memory_equal(out, cases[i].header, cases[i].header_len);
        assert_memory_equal(out + cases[i].header_len, text, cases[i].len);
        free(text);
        free(out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_and_cut),
        cmocka_unit_test(test_control_frames),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_client_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
