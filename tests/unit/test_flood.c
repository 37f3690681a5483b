/* flood.h: what is too much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/cmocka.h"
#include "ws-broker/flood.h"

static void test_messages_are_never_too_much(void **state) {
    struct flood flood = {0};
    uint64_t received = 1000; /* the handshake */
    (void)state;
    for (int64_t now_ms = 1; now_ms < 100000; now_ms++) {
        received += 100000 + 8;
        flood.used += 100000 + FLOOD_FRAME;
        assert_false(flood_is_over(&flood, received, now_ms));
    }
}

static void test_pings(void **state) {
    struct flood slow = {0}, fast = {0};
    uint64_t received = 0;
    int64_t now_ms = 0;
    (void)state;
    for (; now_ms < 1000000; now_ms += 100)
        assert_false(flood_is_over(&slow, received += FLOOD_RATE / 10, now_ms));
    for (received = 0, now_ms = 0; !flood_is_over(&fast, received, now_ms); now_ms += 100)
        received += FLOOD_RATE;
    assert_in_range(received, FLOOD_BURST, FLOOD_BURST * 2);
}

static void test_a_burst_drains(void **state) {
    struct flood flood = {0};
    (void)state;
    assert_false(flood_charge(&flood, FLOOD_BURST, 0));
    assert_true(flood_charge(&flood, 1, 0));
    assert_false(flood_charge(&flood, FLOOD_RATE, 1001));
    assert_false(flood_charge(&flood, FLOOD_BURST, 100000));
}

/* A look now and then sees all since the last one, spread over that time. */
static void test_what_came_slowly(void **state) {
    struct flood flood = {0};
    (void)state;
    assert_false(flood_is_over(&flood, 100 * FLOOD_RATE, 100000));
    assert_true(flood_is_over(&flood, 200 * FLOOD_RATE, 110000));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_are_never_too_much),
        cmocka_unit_test(test_pings),
        cmocka_unit_test(test_a_burst_drains),
        cmocka_unit_test(test_what_came_slowly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
