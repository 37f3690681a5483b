/* ring.h: frames in and spans out, over the end of the ring many times, and what is lost when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "ws-broker/frame.h"
#include "ws-broker/ring.h"

enum { RING = 64 << 10, FRAME_MAX = RING / 8 };

static int make_ring(void **state) {
    *state = ring_new(RING);
    return *state ? 0 : -1;
}

static int free_ring(void **state) {
    ring_free(*state);
    return 0;
}

/* The payload of frame `seq`: any length, and other bytes than its neighbours'. */
static void fill(uint8_t *payload, size_t len, uint64_t seq) {
    for (size_t i = 0; i < len; i++)
        payload[i] = (uint8_t)(seq * 31 + i);
}

static void append(struct ring *ring, size_t len) {
    uint8_t payload[FRAME_MAX];
    fill(payload, len, ring_head(ring));
    assert_int_equal(ring_append(ring, payload, len), CHAT_OK);
}

/* Checks that a frame `seq` with `len` bytes of payload stands at `at`; returns its whole length.
 */
static size_t check_frame(const uint8_t *at, uint64_t seq, size_t len) {
    uint8_t header[FRAME_HEADER_MAX], payload[FRAME_MAX];
    size_t header_len = frame_text_header(header, len);
    fill(payload, len, seq);
    assert_memory_equal(at, header, header_len);
    assert_memory_equal(at + header_len, payload, len);
    return header_len + len;
}

static void test_size_is_rounded_up(void **state) {
    static const struct {
        size_t asked, size;
    } cases[] = {{0, 65536}, {1, 65536}, {65536, 65536}, {65537, 131072}, {1 << 20, 1 << 20}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct ring *ring = ring_new(cases[i].asked);
        assert_non_null(ring);
        assert_int_equal(ring_frame_max(ring), cases[i].size / 8);
        ring_free(ring);
    }
    ring_free(NULL);
}

static void test_empty(void **state) {
    struct ring *ring = *state;
    assert_int_equal(ring_head(ring), 0);
    assert_int_equal(ring_tail(ring), 0);
    assert_int_equal(ring_bytes_since(ring, 0), 0);
}

static void test_one_frame(void **state) {
    struct ring *ring = *state;
    const uint8_t *bytes;
    size_t len;
    append(ring, 100);
    assert_int_equal(ring_head(ring), 1);
    assert_int_equal(ring_bytes_since(ring, 0), 102);
    assert_int_equal(ring_bytes_since(ring, 1), 0);
    assert_int_equal(ring_span(ring, 0, 1, SIZE_MAX, &bytes, &len), 1);
    assert_int_equal(len, 102);
    check_frame(bytes, 0, 100);
}

static void test_empty_payload(void **state) {
    struct ring *ring = *state;
    const uint8_t *bytes;
    size_t len;
    assert_int_equal(ring_append(ring, "", 0), CHAT_OK);
    assert_int_equal(ring_span(ring, 0, 1, SIZE_MAX, &bytes, &len), 1);
    assert_int_equal(len, 2);
}

/* An eighth of the ring, header included, is the last that fits. */
static void test_largest_frame(void **state) {
    struct ring *ring = *state;
    static const uint8_t payload[FRAME_MAX + 1];
    size_t most = FRAME_MAX - 4; /* its header has 4 bytes */
    assert_int_equal(ring_frame_max(ring), FRAME_MAX);
    assert_int_equal(ring_append(ring, payload, FRAME_MAX + 1), CHAT_ERANGE);
    assert_int_equal(ring_append(ring, payload, most + 1), CHAT_ERANGE);
    assert_int_equal(ring_append(ring, payload, SIZE_MAX), CHAT_ERANGE);
    assert_int_equal(ring_head(ring), 0);
    assert_int_equal(ring_append(ring, payload, most), CHAT_OK);
    assert_int_equal(ring_bytes_since(ring, 0), FRAME_MAX);
}

static void test_largest_frames_wrap(void **state) {
    struct ring *ring = *state;
    for (uint64_t seq = 0; seq < 100; seq++) {
        const uint8_t *bytes;
        size_t len, payload = FRAME_MAX - 10;
        append(ring, payload);
        assert_int_equal(ring_span(ring, seq, seq + 1, 1, &bytes, &len), seq + 1);
        assert_int_equal(len, check_frame(bytes, seq, payload));
        /* Eight of them fit, for they are a little under an eighth. */
        assert_int_equal(ring_tail(ring), seq < 8 ? 0 : seq - 7);
    }
}

/* Filled to the last byte, all of it is whole. */
static void test_exactly_full(void **state) {
    struct ring *ring = *state;
    for (int i = 0; i < 8; i++)
        append(ring, FRAME_MAX - 4);
    assert_int_equal(ring_tail(ring), 0);
    assert_int_equal(ring_bytes_since(ring, 0), RING);
    append(ring, 0);
    assert_int_equal(ring_tail(ring), 1);
}

/* Whole frames only: as many as fit, but one at least, and never beyond `to`. */
static void test_span_is_cut_at_frames(void **state) {
    struct ring *ring = *state;
    static const struct {
        uint64_t from, to;
        size_t max;
        uint64_t next;
    } cases[] = {
        {0, 10, SIZE_MAX, 10}, {0, 10, 1020, 10}, {0, 10, 1019, 9}, {0, 10, 204, 2},
        {0, 10, 203, 1},       {0, 10, 102, 1},   {0, 10, 101, 1},  {0, 10, 0, 1},
        {3, 10, 306, 6},       {3, 5, 306, 5},    {9, 10, 0, 10},   {0, 1, SIZE_MAX, 1},
        {0, 10, 204, 2},       {0, 10, 204, 2}, /* asked again: the remembered answer */
        {2, 10, 204, 4},       {2, 4, 204, 4},    {2, 3, 204, 3},
    };
    for (int i = 0; i < 10; i++)
        append(ring, 100);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const uint8_t *bytes;
        size_t len;
        uint64_t next = ring_span(ring, cases[i].from, cases[i].to, cases[i].max, &bytes, &len);
        assert_int_equal(next, cases[i].next);
        assert_int_equal(len, (next - cases[i].from) * 102);
        for (uint64_t seq = cases[i].from; seq < next; seq++)
            bytes += check_frame(bytes, seq, 100);
    }
}

/* Frames far under RING_MIN_FRAME: the marks run out long before the bytes do. */
static void test_marks_run_out(void **state) {
    struct ring *ring = *state;
    enum { MARKS = RING / RING_MIN_FRAME, COUNT = 5 * MARKS + 7 };
    for (uint64_t seq = 0; seq < COUNT; seq++) {
        append(ring, 1);
        assert_int_equal(ring_tail(ring), seq < MARKS ? 0 : seq + 1 - MARKS);
    }
    const uint8_t *bytes;
    size_t len;
    uint64_t tail = ring_tail(ring);
    assert_int_equal(ring_bytes_since(ring, tail), MARKS * 3);
    assert_int_equal(ring_span(ring, tail, COUNT, SIZE_MAX, &bytes, &len), COUNT);
    assert_int_equal(len, MARKS * 3);
    for (uint64_t seq = tail; seq < COUNT; seq++)
        bytes += check_frame(bytes, seq, 1);
}

/* Frames of any length, many times around: all that the ring says is whole is whole, in one piece,
 * and it keeps at least what a ring less one frame holds. */
static void test_random_lengths(void **state) {
    struct ring *ring = *state;
    static size_t lens[20000];
    srand(20);
    for (uint64_t seq = 0; seq < sizeof(lens) / sizeof(*lens); seq++) {
        lens[seq] = (size_t)rand() % (rand() % 20 == 0 ? FRAME_MAX - 10 : 300);
        append(ring, lens[seq]);
        uint64_t tail = ring_tail(ring), head = ring_head(ring);
        size_t held = ring_bytes_since(ring, tail);
        assert_in_range(held, 0, RING);
        assert_true(tail == 0 || held > RING - FRAME_MAX || head - tail == RING / RING_MIN_FRAME);
        if (seq % 100 != 0)
            continue;
        const uint8_t *bytes;
        size_t len;
        assert_int_equal(ring_span(ring, tail, head, SIZE_MAX, &bytes, &len), head);
        assert_int_equal(len, held);
        for (uint64_t i = tail; i < head; i++)
            bytes += check_frame(bytes, i, lens[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_is_rounded_up),
        cmocka_unit_test_setup_teardown(test_empty, make_ring, free_ring),
        cmocka_unit_test_setup_teardown(test_one_frame, make_ring, free_ring),
        cmocka_unit_test_setup_teardown(test_empty_payload, make_ring, free_ring),
        cmocka_unit_test_setup_teardown(test_largest_frame, make_ring, free_ring),
        cmocka_unit_test_setup_teardown(test_largest_frames_wrap, make_ring, free_ring),
        cmocka_unit_test_setup_teardown(test_exactly_full, make_ring, free_ring),
        cmocka_unit_test_setup_teardown(test_span_is_cut_at_frames, make_ring, free_ring),
        cmocka_unit_test_setup_teardown(test_marks_run_out, make_ring, free_ring),
        cmocka_unit_test_setup_teardown(test_random_lengths, make_ring, free_ring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
