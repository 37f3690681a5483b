/* histogram.h (of the load generator): exact below 64 us, at most 1.6 % above the truth beyond. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/cmocka.h"

#include "tests/bench/load/histogram.h"

static void test_empty(void **state) {
    (void)state;
    struct histogram histogram = {0};
    assert_int_equal(histogram_quantile(&histogram, 0.5), 0);
    assert_int_equal(histogram.max_us, 0);
}

static void test_small_ones_are_exact(void **state) {
    (void)state;
    struct histogram histogram = {0};
    for (uint64_t us = 1; us <= 50; us++)
        histogram_add(&histogram, us);
    assert_int_equal(histogram_quantile(&histogram, 0), 1);
    assert_int_equal(histogram_quantile(&histogram, 0.5), 25);
    assert_int_equal(histogram_quantile(&histogram, 0.98), 49);
    assert_int_equal(histogram_quantile(&histogram, 0.99), 50);
    assert_int_equal(histogram_quantile(&histogram, 1), 50);
}

/* Each value alone with a larger one, so that the largest does not hide what bucket it is in. */
static void test_never_below_and_hardly_above(void **state) {
    (void)state;
    for (uint64_t us = 1; us < UINT64_C(1) << 39; us += us / 7 + 1) {
        struct histogram histogram = {0};
        histogram_add(&histogram, us);
        histogram_add(&histogram, us * 2);
        uint64_t seen = histogram_quantile(&histogram, 0.5);
        assert_true(seen >= us && (double)seen <= (double)us * 1.016);
    }
}

static void test_edges_of_the_buckets(void **state) {
    (void)state;
    for (unsigned bit = 6; bit < 40; bit++) {
        uint64_t edge = UINT64_C(1) << bit;
        struct histogram histogram = {0};
        histogram_add(&histogram, edge - 1);
        histogram_add(&histogram, edge);
        assert_int_equal(histogram_quantile(&histogram, 0.5), edge - 1);
        assert_int_equal(histogram_quantile(&histogram, 1), edge);
    }
}

static void test_what_is_too_large_is_the_largest(void **state) {
    (void)state;
    struct histogram histogram = {0};
    histogram_add(&histogram, UINT64_MAX);
    histogram_add(&histogram, 5);
    assert_int_equal(histogram_quantile(&histogram, 0.5), 5);
    assert_int_equal(histogram_quantile(&histogram, 1), (UINT64_C(1) << 40) - 1);
    assert_int_equal(histogram.max_us, UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_small_ones_are_exact),
        cmocka_unit_test(test_never_below_and_hardly_above),
        cmocka_unit_test(test_edges_of_the_buckets),
        cmocka_unit_test(test_what_is_too_large_is_the_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
