/* rate.h: a token bucket by a made-up clock: bursts, exact waits, jumps of the clock, no limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/cmocka.h"

#include "ws-broker/rate.h"

static const struct rate_limit five = {.per_second = 5, .burst = 20};

static void take_all(struct rate *rate, const struct rate_limit *limit, int64_t now_ms) {
    for (int i = 0; i < limit->burst; i++)
        assert_int_equal(rate_take(rate, limit, now_ms), 0);
}

static void test_burst_then_wait(void **state) {
    struct rate rate = {0};
    (void)state;
    take_all(&rate, &five, 0);
    assert_int_equal(rate_take(&rate, &five, 0), 200);
}

/* Whoever waits as told gets one token, not a millisecond earlier, and only one. */
static void test_wait_is_exact(void **state) {
    static const struct rate_limit limits[] = {{5, 20}, {1, 1},   {3, 2},
                                               {7, 1},  {999, 5}, {1000, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
        struct rate rate = {0};
        int64_t now_ms = 1000000;
        take_all(&rate, &limits[i], now_ms);
        for (int round = 0; round < 20; round++) {
            int64_t wait_ms = rate_take(&rate, &limits[i], now_ms);
            assert_true(wait_ms >= 1);
            if (wait_ms > 1)
                assert_int_equal(rate_take(&rate, &limits[i], now_ms + wait_ms - 1), 1);
            now_ms += wait_ms;
            assert_int_equal(rate_take(&rate, &limits[i], now_ms), 0);
        }
    }
}

static void test_refused_takes_nothing(void **state) {
    struct rate rate = {0};
    (void)state;
    take_all(&rate, &five, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(rate_take(&rate, &five, 100), 100);
    assert_int_equal(rate_take(&rate, &five, 200), 0);
}

/* Asking how long it takes is free. */
static void test_asking_takes_nothing(void **state) {
    struct rate rate = {0};
    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(rate_wait(&rate, &five, 0), 0);
    take_all(&rate, &five, 0);
    assert_int_equal(rate_wait(&rate, &five, 0), 200);
    assert_int_equal(rate_wait(&rate, &five, 199), 1);
    assert_int_equal(rate_wait(&rate, &five, 200), 0);
    assert_int_equal(rate_take(&rate, &five, 200), 0);
}

/* Over a long time as many pass as the limit says, however often they ask. */
static void test_long_run(void **state) {
    static const struct rate_limit limits[] = {{5, 20}, {5, 1}, {7, 13}, {600, 50}};
    (void)state;
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
        struct rate rate = {0};
        int passed = 0;
        for (int64_t now_ms = 0; now_ms <= 60000; now_ms++)
            passed += rate_take(&rate, &limits[i], now_ms) == 0;
        assert_int_equal(passed, limits[i].burst + 60 * limits[i].per_second);
    }
}

/* More than one in a millisecond. */
static void test_fast_limit(void **state) {
    static const struct rate_limit fast = {.per_second = 10000, .burst = 10};
    struct rate rate = {0};
    (void)state;
    take_all(&rate, &fast, 5);
    assert_int_equal(rate_take(&rate, &fast, 5), 1);
    take_all(&rate, &fast, 6);
    assert_int_equal(rate_take(&rate, &fast, 6), 1);
}

/* The machine slept for years: full, but never more than full. */
/* What was given back is there again, and never more than the bucket holds. */
static void test_give_back(void **state) {
    struct rate rate = {0};
    (void)state;
    take_all(&rate, &five, 0);
    rate_give_back(&rate);
    assert_int_equal(rate_take(&rate, &five, 0), 0);
    assert_int_equal(rate_take(&rate, &five, 0), 200);

    rate = (struct rate){0};
    assert_int_equal(rate_take(&rate, &five, 0), 0);
    assert_int_equal(rate_take(&rate, &five, 100), 0); /* half of the first is refilled */
    rate_give_back(&rate);
    rate_give_back(&rate);
    take_all(&rate, &five, 100);
    assert_int_equal(rate_take(&rate, &five, 100), 200);
}

static void test_clock_jumps_ahead(void **state) {
    static const int64_t jumps_ms[] = {4000, 4001, 86400000, INT64_MAX / 2, INT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof(jumps_ms) / sizeof(*jumps_ms); i++) {
        struct rate rate = {0};
        take_all(&rate, &five, 0);
        assert_true(rate_is_full(&rate, &five, jumps_ms[i]));
        take_all(&rate, &five, jumps_ms[i]);
        assert_int_equal(rate_take(&rate, &five, jumps_ms[i]), 200);
    }
}

static void test_first_use_at_any_time(void **state) {
    static const int64_t times_ms[] = {0, 1, 1666259380000, INT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof(times_ms) / sizeof(*times_ms); i++) {
        struct rate rate = {0};
        assert_true(rate_is_full(&rate, &five, times_ms[i]));
        take_all(&rate, &five, times_ms[i]);
        assert_int_equal(rate_take(&rate, &five, times_ms[i]), 200);
    }
}

static void test_zero_is_no_limit(void **state) {
    static const struct rate_limit none = {.per_second = 0, .burst = 1};
    struct rate rate = {0};
    (void)state;
    for (int i = 0; i < 10000; i++)
        assert_int_equal(rate_take(&rate, &none, 0), 0);
    assert_true(rate_is_full(&rate, &none, 0));
}

static void test_largest_limit(void **state) {
    static const struct rate_limit largest = {.per_second = INT32_MAX, .burst = INT32_MAX};
    struct rate rate = {0};
    (void)state;
    assert_int_equal(rate_take(&rate, &largest, 0), 0);
    assert_false(rate_is_full(&rate, &largest, 0));
    assert_true(rate_is_full(&rate, &largest, 1));
}

static void test_is_full_again(void **state) {
    struct rate rate = {0};
    (void)state;
    assert_true(rate_is_full(&rate, &five, 0));
    take_all(&rate, &five, 0);
    assert_false(rate_is_full(&rate, &five, 0));
    assert_false(rate_is_full(&rate, &five, 3999));
    assert_true(rate_is_full(&rate, &five, 4000)); /* 20 tokens at 5 a second */
}

/* By the time at which it came, though others have taken since; what is left to wait is from now.
 */
static void test_late(void **state) {
    static const struct rate_limit one = {.per_second = 1, .burst = 1};
    struct rate rate = {0};
    (void)state;
    assert_int_equal(rate_take_late(&rate, &one, 1000, 9000), 0);
    assert_int_equal(rate_take_late(&rate, &one, 2000, 9000), 0);
    assert_int_equal(rate_take_late(&rate, &one, 2500, 2600), 400);
    assert_int_equal(rate_take_late(&rate, &one, 2500, 9000), 1);
    assert_int_equal(rate_take(&rate, &one, 9000), 0);
    assert_int_equal(rate_take_late(&rate, &one, 3000, 9500), 500); /* as if it came at 9000 */
    assert_int_equal(rate_take_late(&rate, &one, 3000, 10000), 1);
    assert_int_equal(rate_take(&rate, &one, 10000), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_burst_then_wait),
        cmocka_unit_test(test_wait_is_exact),
        cmocka_unit_test(test_refused_takes_nothing),
        cmocka_unit_test(test_asking_takes_nothing),
        cmocka_unit_test(test_long_run),
        cmocka_unit_test(test_fast_limit),
        cmocka_unit_test(test_give_back),
        cmocka_unit_test(test_clock_jumps_ahead),
        cmocka_unit_test(test_first_use_at_any_time),
        cmocka_unit_test(test_zero_is_no_limit),
        cmocka_unit_test(test_largest_limit),
        cmocka_unit_test(test_is_full_again),
        cmocka_unit_test(test_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
