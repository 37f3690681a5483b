/* checker.h (of the load generator): what a good run is, and that each fault is told, whether the
 * first client to receive has it or a later one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "tests/bench/load/checker.h"
#include "tests/bench/load/wire.h"

enum { READERS = 3, PUBLISHERS = 2, MESSAGES = 8, FRAME_MAX = 64, NOW = 5000000 };

struct world {
    struct checker checker;
    struct checker_reader readers[READERS];
    uint8_t frames[MESSAGES][FRAME_MAX];
    size_t sizes[MESSAGES];
    unsigned sent;
};

/* Its publisher sends a message: frame number `sent` from now on. */
static void publish(struct world *world, uint32_t publisher) {
    char text[CHECKER_MARKER + 20];
    int head = snprintf(text, sizeof(text), "{\"n\":%u,\"m\":\"", world->sent);
    assert_int_equal(checker_send(&world->checker, publisher, 1000000, text + head), 0);
    uint8_t *frame = world->frames[world->sent];
    size_t len = (size_t)head + CHECKER_MARKER;
    frame[0] = 0x81;
    frame[1] = (uint8_t)len;
    memcpy(frame + 2, text, len);
    world->sizes[world->sent++] = len + 2;
}

/* A reader is given `len` bytes, handled as crowd.c does; how many were whole frames. */
static size_t feed(struct world *world, unsigned reader, const uint8_t *data, size_t len) {
    size_t done = 0;
    for (;;) {
        struct wire_frame frame;
        int64_t known =
            checker_known(&world->checker, &world->readers[reader], data + done, len - done, NOW);
        assert_true(known >= 0);
        done += (size_t)known;
        if (done == len || wire_parse(data + done, len - done, &frame) != 1)
            return done;
        assert_true(checker_text(&world->checker, &world->readers[reader], data + done, frame.size,
                                 frame.payload, NOW) >= 0);
        done += frame.size;
    }
}

/* A reader receives these messages, "0123", in one read when `at_once`, else one by one. */
static void receive(struct world *world, unsigned reader, const char *numbers, bool at_once) {
    uint8_t data[4 * MESSAGES * FRAME_MAX];
    size_t len = 0;
    for (; *numbers; numbers++) {
        size_t size = world->sizes[*numbers - '0'];
        memcpy(data + len, world->frames[*numbers - '0'], size);
        len += size;
        if (at_once && numbers[1])
            continue;
        assert_int_equal(feed(world, reader, data, len), len);
        len = 0;
    }
}

static void begin(struct world *world) {
    *world = (struct world){0};
    assert_int_equal(checker_init(&world->checker, 0xabcdef01, PUBLISHERS, READERS), 0);
}

static void finish(struct world *world) {
    for (unsigned i = 0; i < READERS; i++)
        checker_end_reader(&world->checker, &world->readers[i]);
    checker_finish(&world->checker);
}

struct expected {
    unsigned deliveries, lost, duplicates, reordered, undelivered;
};

static void assert_found(const struct checker *found, struct expected expected) {
    assert_int_equal(found->deliveries, expected.deliveries);
    assert_int_equal(found->lost, expected.lost);
    assert_int_equal(found->duplicates, expected.duplicates);
    assert_int_equal(found->reordered, expected.reordered);
    assert_int_equal(found->undelivered, expected.undelivered);
    assert_int_equal(found->altered, 0);
}

/* What each reader receives of four messages of one publisher. The readers take their turns in all
 * orders, so each of them is the first, the middle and the last one once. */
static void test_faults(void **state) {
    static const struct {
        const char *received[READERS];
        struct expected expected;
    } cases[] = {
        {{"0123", "0123", "0123"}, {12, 0, 0, 0, 0}},
        {{"", "", ""}, {0, 0, 0, 0, 4}},
        {{"013", "0123", "0123"}, {11, 1, 0, 0, 0}},   /* a gap */
        {{"03", "0123", "0123"}, {10, 2, 0, 0, 0}},    /* a wide one */
        {{"123", "0123", "0123"}, {11, 1, 0, 0, 0}},   /* at the begin */
        {{"012", "0123", "0123"}, {11, 1, 0, 0, 0}},   /* at the end */
        {{"", "0123", "0123"}, {8, 4, 0, 0, 0}},       /* of all */
        {{"01123", "0123", "0123"}, {12, 0, 1, 0, 0}}, /* one came twice */
        {{"01230", "0123", "0123"}, {12, 0, 1, 0, 0}}, /* much later */
        {{"0213", "0123", "0123"}, {12, 0, 0, 1, 0}},  /* a swap */
        {{"1230", "0123", "0123"}, {12, 0, 0, 1, 0}},  /* one was late */
        {{"013", "0132", "0123"}, {11, 1, 0, 1, 0}},
        {{"013", "013", "013"}, {9, 0, 0, 0, 1}}, /* one that was refused */
        {{"13", "13", "13"}, {6, 0, 0, 0, 2}},
        {{"013", "013", "0123"}, {10, 2, 0, 0, 0}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        for (unsigned way = 0; way < 12; way++) {
            struct world world;
            unsigned first = way % 3, second = (first + 1 + way / 3 % 2) % 3;
            unsigned order[READERS] = {first, second, 3 - first - second};
            begin(&world);
            for (unsigned n = 0; n < 4; n++)
                publish(&world, 0);
            for (unsigned n = 0; n < READERS; n++)
                receive(&world, order[n], cases[i].received[order[n]], way < 6);
            finish(&world);
            assert_found(&world.checker, cases[i].expected);
            checker_deinit(&world.checker);
        }
    }
}

/* Between publishers the first to receive is believed: the others differ from it. */
static void test_order_between_publishers(void **state) {
    (void)state;
    struct world world;
    begin(&world);
    publish(&world, 0);
    publish(&world, 1);
    receive(&world, 0, "10", false);
    receive(&world, 1, "10", false);
    receive(&world, 2, "01", false);
    finish(&world);
    assert_found(&world.checker, (struct expected){.deliveries = 6, .reordered = 1});
    checker_deinit(&world.checker);
}

/* Whatever the network makes of it: what is not whole is not taken, and comes again. */
static void test_cut_anywhere(void **state) {
    (void)state;
    uint8_t data[MESSAGES * FRAME_MAX];
    size_t len = 0;
    struct world world;
    begin(&world);
    for (unsigned n = 0; n < MESSAGES; n++) {
        publish(&world, n % PUBLISHERS);
        memcpy(data + len, world.frames[n], world.sizes[n]);
        len += world.sizes[n];
    }
    for (unsigned reader = 0; reader < READERS; reader++) {
        size_t done = 0;
        for (size_t upto = 0; upto <= len; upto += reader + 1)
            done += feed(&world, reader, data + done, upto - done);
        done += feed(&world, reader, data + done, len - done);
        assert_int_equal(done, len);
    }
    finish(&world);
    assert_found(&world.checker, (struct expected){.deliveries = READERS * MESSAGES});
    checker_deinit(&world.checker);
}

static void test_other_bytes_are_told(void **state) {
    (void)state;
    struct world world;
    begin(&world);
    publish(&world, 0);
    receive(&world, 0, "0", false);
    world.frames[0][4] = 'N';
    receive(&world, 1, "0", false);
    assert_int_equal(world.checker.altered, 1);
    assert_int_equal(world.checker.deliveries, 2);
    checker_deinit(&world.checker);
}

static void test_texts_of_others_are_none_of_ours(void **state) {
    static const char *const texts[] = {
        "",
        "{\"info\":\"connected\"}",
        "~abcdef0100000001~", /* not sent yet */
        "~abcdef0200000000~", /* of another run */
        "~abcdef010000000g~", /* no number */
        "~abcdef01-0000000~",
        "~abcdef0100000000", /* cut */
        "~abcdef0100000000-",
    };
    (void)state;
    struct world world;
    begin(&world);
    publish(&world, 0);
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        const uint8_t *text = (const uint8_t *)texts[i];
        assert_int_equal(
            checker_text(&world.checker, &world.readers[0], text, strlen(texts[i]), text, NOW), 0);
    }
    assert_int_equal(world.checker.deliveries, 0);
    checker_deinit(&world.checker);
}

/* A message is on the way until the last reader has it; those who left are not waited for. */
static void test_on_the_way(void **state) {
    (void)state;
    struct world world;
    begin(&world);
    publish(&world, 0);
    publish(&world, 0);
    publish(&world, 0);
    assert_int_equal(world.checker.on_the_way, 3);
    receive(&world, 0, "01", true);
    receive(&world, 1, "01", true);
    assert_int_equal(world.checker.on_the_way, 3);
    receive(&world, 2, "0", true);
    assert_int_equal(world.checker.on_the_way, 2);
    checker_leave(&world.checker, &world.readers[2]);
    assert_int_equal(world.checker.on_the_way, 1);
    checker_refused(&world.checker);
    assert_int_equal(world.checker.on_the_way, 0);
    publish(&world, 0); /* only two are left for this one */
    receive(&world, 0, "3", true);
    receive(&world, 1, "3", true);
    assert_int_equal(world.checker.on_the_way, 0);
    checker_end_reader(&world.checker, &world.readers[0]);
    checker_end_reader(&world.checker, &world.readers[1]);
    checker_finish(&world.checker);
    assert_found(&world.checker, (struct expected){.deliveries = 7, .undelivered = 1});
    checker_deinit(&world.checker);
}

static void test_latency_is_from_when_it_was_due(void **state) {
    (void)state;
    struct world world;
    begin(&world);
    world.checker.measured_from_ns = 1000000;
    publish(&world, 0); /* due at 1 ms, received at 5 ms */
    receive(&world, 0, "0", true);
    assert_int_equal(world.checker.latency.count, 1);
    assert_int_equal(world.checker.latency.max_us, 4000);
    assert_int_equal(world.checker.fanout.count, 0);
    receive(&world, 1, "0", true);
    receive(&world, 2, "0", true);
    assert_int_equal(world.checker.latency.count, 3);
    assert_int_equal(world.checker.fanout.count, 1);
    world.checker.measured_from_ns = 1000001; /* the next one belongs to the warm-up */
    publish(&world, 0);
    receive(&world, 0, "1", true);
    assert_int_equal(world.checker.latency.count, 3);
    checker_leave(&world.checker, &world.readers[0]);
    finish(&world);
    checker_deinit(&world.checker);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_order_between_publishers),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_other_bytes_are_told),
        cmocka_unit_test(test_texts_of_others_are_none_of_ours),
        cmocka_unit_test(test_on_the_way),
        cmocka_unit_test(test_latency_is_from_when_it_was_due),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
