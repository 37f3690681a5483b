/* seen.h: keys taken once, forgotten by age, and missed when a re-reading does not find them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "ws-broker/seen.h"

static void add(struct seen *seen, unsigned number) {
    char key[SEEN_KEY_MAX + 1];
    snprintf(key, sizeof(key), "k-%u", number);
    assert_int_equal(seen_add(seen, key, (struct stream_id){number, 0}), CHAT_OK);
}

static enum seen_where find_at(struct seen *seen, unsigned number, struct stream_id id) {
    char key[SEEN_KEY_MAX + 1];
    snprintf(key, sizeof(key), "k-%u", number);
    return seen_find(seen, key, id);
}

static bool find(struct seen *seen, unsigned number) {
    return find_at(seen, number, (struct stream_id){number, 0}) != SEEN_NOWHERE;
}

static void test_the_oldest_is_forgotten(void **state) {
    struct seen *seen = seen_new(3);
    (void)state;
    for (unsigned i = 1; i <= 4; i++)
        add(seen, i);
    assert_false(find(seen, 1));
    assert_true(find(seen, 2) && find(seen, 3) && find(seen, 4));
    assert_false(find(seen, 5));
    seen_free(seen);
}

static void test_nothing_is_missing(void **state) {
    struct seen *seen = seen_new(100);
    (void)state;
    for (unsigned i = 1; i <= 10; i++)
        add(seen, i);
    seen_begin(seen);
    for (unsigned i = 5; i <= 10; i++) /* 1 to 4 were trimmed: the stream begins at 5 */
        assert_true(find(seen, i));
    add(seen, 11);
    assert_int_equal(seen_end(seen, (struct stream_id){5, 0}), 0);
    assert_true(find(seen, 1));
    seen_free(seen);
}

static void test_what_is_missing_is_counted_once(void **state) {
    struct seen *seen = seen_new(100);
    (void)state;
    for (unsigned i = 1; i <= 10; i++)
        add(seen, i);
    seen_begin(seen);
    for (unsigned i = 5; i <= 8; i++) /* 9 and 10 are lost */
        find(seen, i);
    assert_int_equal(seen_end(seen, (struct stream_id){5, 0}), 2);
    assert_true(find(seen, 9)); /* its writer has added it again */
    assert_int_equal(seen_take_lost(seen), 1);
    assert_int_equal(seen_take_lost(seen), 0);
    seen_begin(seen);
    for (unsigned i = 5; i <= 8; i++)
        find(seen, i);
    assert_int_equal(seen_end(seen, (struct stream_id){5, 0}), 1); /* 9 again */
    assert_int_equal(seen_take_lost(seen), 1);
    seen_free(seen);
}

static void test_an_empty_stream_has_lost_all(void **state) {
    struct seen *seen = seen_new(100);
    (void)state;
    add(seen, 1);
    add(seen, 2);
    seen_begin(seen);
    assert_int_equal(seen_end(seen, (struct stream_id){0, 0}), 2);
    seen_free(seen);
}

static void test_where_it_was(void **state) {
    struct seen *seen = seen_new(100);
    const struct stream_id first = {1, 0}, second = {7, 0}, third = {8, 0};
    (void)state;
    add(seen, 1);
    assert_int_equal(find_at(seen, 2, first), SEEN_NOWHERE);
    assert_int_equal(find_at(seen, 1, first), SEEN_HERE);
    assert_int_equal(find_at(seen, 1, second), SEEN_ELSEWHERE);
    assert_int_equal(find_at(seen, 1, second), SEEN_HERE); /* from now on */
    seen_begin(seen);
    assert_int_equal(find_at(seen, 1, third), SEEN_ELSEWHERE);
    seen_begin(seen); /* that one has not ended */
    assert_int_equal(find_at(seen, 1, third), SEEN_ELSEWHERE);
    assert_int_equal(seen_end(seen, first), 0);
    assert_int_equal(find_at(seen, 1, third), SEEN_HERE);
    seen_free(seen);
}

static void test_a_reading_that_does_not_end(void **state) {
    struct seen *seen = seen_new(100);
    (void)state;
    add(seen, 1);
    seen_begin(seen);
    add(seen, 2);
    add(seen, 3);
    seen_begin(seen);
    assert_true(find(seen, 1));
    assert_false(find(seen, 2) || find(seen, 3));
    assert_int_equal(seen_age(seen, "k-1"), 0);
    add(seen, 4);
    assert_int_equal(seen_end(seen, (struct stream_id){1, 0}), 0);
    seen_begin(seen);
    assert_true(find(seen, 1) && find(seen, 4)); /* of one that has */
    seen_free(seen);
}

static void test_the_age(void **state) {
    struct seen *seen = seen_new(3);
    (void)state;
    for (unsigned i = 1; i <= 4; i++)
        add(seen, i);
    find(seen, 2); /* is as old as it was */
    assert_int_equal(seen_age(seen, "k-4"), 0);
    assert_int_equal(seen_age(seen, "k-2"), 2);
    assert_true(seen_age(seen, "k-1") == SIZE_MAX);
    seen_free(seen);
}

static void test_ids_are_compared(void **state) {
    struct stream_id a = {1, 2}, b = {1, 3}, c = {2, 0};
    (void)state;
    assert_true(stream_id_compare(a, b) < 0 && stream_id_compare(b, c) < 0);
    assert_true(stream_id_compare(c, a) > 0);
    assert_int_equal(stream_id_compare(a, a), 0);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_oldest_is_forgotten),
        cmocka_unit_test(test_nothing_is_missing),
        cmocka_unit_test(test_what_is_missing_is_counted_once),
        cmocka_unit_test(test_an_empty_stream_has_lost_all),
        cmocka_unit_test(test_where_it_was),
        cmocka_unit_test(test_a_reading_that_does_not_end),
        cmocka_unit_test(test_the_age),
        cmocka_unit_test(test_ids_are_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
