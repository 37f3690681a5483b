/* drain.h: what happens when, with a made-up clock and clients that are only counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/cmocka.h"

#include "shared/log.h"
#include "tests/unit/log_watch.h"
#include "ws-broker/drain.h"

enum { BEGIN = 1000000, RATE = 200, DEADLINE_MS = 30000 };

static const struct drain_options production = {.rate = RATE, .deadline_ms = DEADLINE_MS};
static struct drain drain;
static int64_t now_ms;

static int begin_with(const struct drain_options *options, size_t clients) {
    log_init(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    drain = (struct drain){0};
    now_ms = BEGIN;
    drain_signal(&drain, options, now_ms, clients);
    assert_int_equal(drain.phase, DRAIN_ACCEPTING);
    return 0;
}

/* Steps until `end_ms` after the beginning; clients go as soon as they are told. Returns those
 * left. */
static size_t run(size_t clients, int64_t end_ms) {
    while (drain.phase != DRAIN_OVER && now_ms < BEGIN + end_ms) {
        size_t told = drain_step(&drain, now_ms, clients, true);
        assert_true(told <= clients);
        clients -= told;
        now_ms += DRAIN_STEP_MS;
    }
    return clients;
}

static void test_nobody_is_told_while_haproxy_looks_twice(void **state) {
    (void)state;
    begin_with(&production, 100);
    assert_int_equal(run(100, DRAIN_ACCEPT_MS), 100);
    assert_int_equal(drain.phase, DRAIN_ACCEPTING);
    assert_int_equal(run(100, DRAIN_ACCEPT_MS + DRAIN_STEP_MS), 96);
    assert_int_equal(drain.phase, DRAIN_CLOSING);
}

static void test_the_wait_is_for_production_even_without_clients(void **state) {
    (void)state;
    begin_with(&production, 0);
    run(0, DRAIN_ACCEPT_MS);
    assert_int_equal(drain.phase, DRAIN_ACCEPTING);
    run(0, DRAIN_ACCEPT_MS + DRAIN_STEP_MS);
    assert_int_equal(drain.phase, DRAIN_OVER);
}

static void test_in_development_it_is_while_there_are_clients(void **state) {
    struct drain_options options = production;
    (void)state;
    options.may_skip_accept = true;
    begin_with(&options, 0);
    assert_int_equal(drain_step(&drain, now_ms, 0, true), 0);
    assert_int_equal(drain.phase, DRAIN_OVER);

    begin_with(&options, 2);
    assert_int_equal(drain_step(&drain, now_ms, 2, true), 0);
    assert_int_equal(drain.phase, DRAIN_ACCEPTING);
    assert_int_equal(drain_step(&drain, now_ms + 500, 0, true), 0);
    assert_int_equal(drain.phase, DRAIN_OVER);
}

static void test_the_pace_is_the_rate(void **state) {
    size_t left = 1000;
    (void)state;
    begin_with(&production, left);
    left = run(left, DRAIN_ACCEPT_MS);
    for (int second = 1; second <= 4; second++) {
        left = run(left, DRAIN_ACCEPT_MS + second * 1000);
        assert_in_range(left, 1000 - (size_t)second * RATE - 4, 1000 - (size_t)second * RATE);
    }
    left = run(left, DEADLINE_MS);
    assert_int_equal(left, 0);
    assert_int_equal(drain.phase, DRAIN_OVER);
    assert_in_range(now_ms - BEGIN, 6900, 7100);
}

static void test_a_slow_rate_is_kept(void **state) {
    struct drain_options options = {.rate = 1, .deadline_ms = DEADLINE_MS};
    (void)state;
    begin_with(&options, 10);
    assert_int_equal(run(10, DRAIN_ACCEPT_MS + 100), 9);
    assert_int_equal(run(9, DRAIN_ACCEPT_MS + 2900), 7);
}

static void test_many_are_told_in_time_to_answer_before_the_deadline(void **state) {
    static const size_t many[] = {5000, 23000, 200000};
    (void)state;
    for (size_t i = 0; i < sizeof(many) / sizeof(*many); i++) {
        begin_with(&production, many[i]);
        size_t left = run(many[i], DEADLINE_MS - DRAIN_ANSWER_MS - 1000);
        assert_true(left > 0);
        left = run(left, DEADLINE_MS - DRAIN_ANSWER_MS);
        assert_int_equal(left, 0);
    }
}

static void test_a_short_deadline(void **state) {
    struct drain_options options = {.rate = 1, .deadline_ms = 5000};
    size_t left = 300;
    (void)state;
    begin_with(&options, left);
    left = run(left, DRAIN_ACCEPT_MS + 1000);
    assert_int_equal(left, 0);
}

/* A step that comes late makes up for it; one that the clock did not move for tells nobody. */
static void test_steps_at_odd_times(void **state) {
    (void)state;
    begin_with(&production, 1000);
    now_ms += DRAIN_ACCEPT_MS;
    assert_int_equal(drain_step(&drain, now_ms, 1000, true), 4);
    assert_int_equal(drain_step(&drain, now_ms, 996, true), 0);
    assert_int_equal(drain_step(&drain, now_ms + 1, 996, true), 1);
    assert_int_equal(drain_step(&drain, now_ms + 1000, 995, true), 199);
    assert_int_equal(drain_step(&drain, now_ms + 1020, 796, true), 4);
}

static void test_it_waits_for_what_is_under_way_and_for_those_told(void **state) {
    (void)state;
    begin_with(&production, 1);
    now_ms += DRAIN_ACCEPT_MS;
    assert_int_equal(drain_step(&drain, now_ms, 1, true), 1);
    drain_step(&drain, now_ms + 3000, 1, true); /* it has not gone */
    assert_int_equal(drain.phase, DRAIN_CLOSING);
    drain_step(&drain, now_ms + 3100, 0, false); /* its message is under way */
    assert_int_equal(drain.phase, DRAIN_CLOSING);
    drain_step(&drain, now_ms + 3200, 0, true);
    assert_int_equal(drain.phase, DRAIN_OVER);
}

static void test_the_deadline(void **state) {
    (void)state;
    for (int settled = 0; settled < 2; settled++) {
        begin_with(&production, 1);
        drain_step(&drain, BEGIN + DEADLINE_MS - 1, 1, settled);
        assert_int_equal(drain.phase, DRAIN_CLOSING);
        assert_int_equal(drain_step(&drain, BEGIN + DEADLINE_MS, 1, settled), 0);
        assert_int_equal(drain.phase, DRAIN_OVER);
    }
}

static void test_a_second_signal_ends_it(void **state) {
    (void)state;
    begin_with(&production, 1000);
    drain_step(&drain, now_ms, 1000, true);
    now_ms += 100;
    drain_signal(&drain, &production, now_ms, 1000);
    assert_int_equal(drain_step(&drain, now_ms, 1000, true), 1000);
    drain_signal(&drain, &production, now_ms + 500, 1000); /* a third changes nothing */
    drain_step(&drain, now_ms + DRAIN_HURRY_MS - 1, 3, true);
    assert_int_equal(drain.phase, DRAIN_CLOSING);
    drain_step(&drain, now_ms + DRAIN_HURRY_MS, 3, true);
    assert_int_equal(drain.phase, DRAIN_OVER);
}

static void test_a_second_signal_shortly_before_the_deadline(void **state) {
    (void)state;
    begin_with(&production, 1);
    drain_step(&drain, BEGIN + DEADLINE_MS - 10, 1, true);
    drain_signal(&drain, &production, BEGIN + DEADLINE_MS - 10, 1);
    drain_step(&drain, BEGIN + DEADLINE_MS, 1, true);
    assert_int_equal(drain.phase, DRAIN_OVER);
}

/* A long one tells how far it is. */
static void test_progress_is_logged(void **state) {
    struct drain_options options = {.rate = 1, .deadline_ms = 60000};
    (void)state;
    begin_with(&options, 30);
    log_watch_start(LOG_LEVEL_INFO);
    run(30, 12000);
    log_watch_stop();
    assert_int_equal(log_watch_count("drain progress clients="), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_is_told_while_haproxy_looks_twice),
        cmocka_unit_test(test_the_wait_is_for_production_even_without_clients),
        cmocka_unit_test(test_in_development_it_is_while_there_are_clients),
        cmocka_unit_test(test_the_pace_is_the_rate),
        cmocka_unit_test(test_a_slow_rate_is_kept),
        cmocka_unit_test(test_many_are_told_in_time_to_answer_before_the_deadline),
        cmocka_unit_test(test_a_short_deadline),
        cmocka_unit_test(test_steps_at_odd_times),
        cmocka_unit_test(test_it_waits_for_what_is_under_way_and_for_those_told),
        cmocka_unit_test(test_the_deadline),
        cmocka_unit_test(test_a_second_signal_ends_it),
        cmocka_unit_test(test_a_second_signal_shortly_before_the_deadline),
        cmocka_unit_test(test_progress_is_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
