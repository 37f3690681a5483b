/* log_limit.h: when a line is written, and what it says, with a made-up clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/cmocka.h"

#include "ws-broker/log_limit.h"

static void test_the_first_and_then_each_10_s(void **state) {
    struct log_limit limit = {0};
    (void)state;
    assert_int_equal(log_limit_count(&limit, 0), 1);
    for (int64_t now_ms = 0; now_ms < 10000; now_ms += 100)
        assert_int_equal(log_limit_count(&limit, now_ms), 0);
    assert_int_equal(log_limit_count(&limit, 10000), 101);
    assert_int_equal(log_limit_count(&limit, 19999), 0);
    assert_int_equal(log_limit_count(&limit, 20000), 2);
    assert_int_equal(log_limit_count(&limit, 500000), 1);
    assert_int_equal(log_limit_count(&limit, 509999), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_and_then_each_10_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
