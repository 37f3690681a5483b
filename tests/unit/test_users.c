/* users.h: users counted once, and message rates that outlive a reconnect. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "ws-broker/identity.h"
#include "ws-broker/users.h"

static const struct rate_limit five = {.per_second = 5, .burst = 20};

static void test_counted_once(void **state) {
    struct users users = {0};
    (void)state;
    assert_int_equal(users_online(&users), 0);
    struct user *ann = users_enter(&users, "1", "Ann");
    struct user *bob = users_enter(&users, "2", "Bob");
    assert_ptr_not_equal(ann, bob);
    assert_string_equal(ann->id, "1");
    assert_string_equal(ann->nickname, "Ann");
    assert_ptr_equal(users_enter(&users, "1", "Ann"), ann);
    assert_int_equal(ann->connections, 2);
    assert_int_equal(users_online(&users), 2);
    users_leave(&users, ann, &five, 0);
    assert_int_equal(users_online(&users), 2);
    users_leave(&users, ann, &five, 0);
    assert_int_equal(users_online(&users), 1);
    users_leave(&users, bob, &five, 0);
    assert_int_equal(users_online(&users), 0);
    users_clear(&users);
}

/* The newest login's nickname is everybody's, a shorter one too. */
static void test_nickname_changes(void **state) {
    struct users users = {0};
    (void)state;
    struct user *user = users_enter(&users, "1", "A rather long nickname");
    assert_ptr_equal(users_enter(&users, "1", "Bo"), user);
    assert_string_equal(user->nickname, "Bo");
    users_enter(&users, "1", "");
    assert_string_equal(user->nickname, "");
    users_clear(&users);
}

static void test_longest_names(void **state) {
    struct users users = {0};
    char id[IDENTITY_ID_MAX + 1], nickname[IDENTITY_NICKNAME_MAX + 1];
    (void)state;
    memset(id, 'i', IDENTITY_ID_MAX);
    memset(nickname, 'n', IDENTITY_NICKNAME_MAX);
    id[IDENTITY_ID_MAX] = nickname[IDENTITY_NICKNAME_MAX] = '\0';
    struct user *user = users_enter(&users, id, nickname);
    assert_string_equal(user->id, id);
    assert_string_equal(user->nickname, nickname);
    assert_ptr_equal(users_enter(&users, id, nickname), user);
    id[IDENTITY_ID_MAX - 1] = 'j';
    assert_ptr_not_equal(users_enter(&users, id, nickname), user);
    assert_int_equal(users_online(&users), 2);
    users_clear(&users);
}

static void use_up(struct user *user, int64_t now_ms) {
    for (int i = 0; i < five.burst; i++)
        assert_int_equal(rate_take(&user->messages, &five, now_ms), 0);
}

static void test_reconnecting_gains_nothing(void **state) {
    struct users users = {0};
    (void)state;
    struct user *user = users_enter(&users, "1", "Ann");
    use_up(user, 1000);
    users_leave(&users, user, &five, 1000);
    assert_int_equal(users_online(&users), 0);
    users_tick(&users, &five, 1100);
    user = users_enter(&users, "1", "Ann");
    assert_int_equal(users_online(&users), 1);
    assert_int_equal(rate_take(&user->messages, &five, 1100), 100);
    users_clear(&users);
}

/* Once the bucket is full again there is nothing to remember, and nothing is. */
static void test_forgotten_when_full(void **state) {
    struct users users = {0};
    (void)state;
    struct user *user = users_enter(&users, "1", "Ann");
    use_up(user, 0);
    users_leave(&users, user, &five, 0);
    users_tick(&users, &five, 3999);
    assert_non_null(users._by_id);
    users_tick(&users, &five, 4000);
    assert_null(users._by_id);
    /* Who leaves with a full bucket is forgotten at once. */
    user = users_enter(&users, "1", "Ann");
    users_leave(&users, user, &five, 5000);
    assert_null(users._by_id);
}

static void test_tick_spares_the_connected(void **state) {
    struct users users = {0};
    (void)state;
    struct user *ann = users_enter(&users, "1", "Ann"), *bob = users_enter(&users, "2", "Bob");
    use_up(bob, 0);
    users_leave(&users, bob, &five, 0);
    users_tick(&users, &five, 1000000); /* Bob is forgotten, Ann is not */
    assert_int_equal(users_online(&users), 1);
    assert_string_equal(ann->nickname, "Ann");
    assert_ptr_equal(users_enter(&users, "1", "Ann"), ann);
    users_clear(&users);
}

static void test_no_limit(void **state) {
    static const struct rate_limit none = {.per_second = 0, .burst = 1};
    struct users users = {0};
    (void)state;
    struct user *user = users_enter(&users, "1", "Ann");
    assert_int_equal(rate_take(&user->messages, &none, 0), 0);
    users_leave(&users, user, &none, 0);
    assert_null(users._by_id);
}

static void test_clear(void **state) {
    struct users users = {0};
    (void)state;
    for (int i = 0; i < 1000; i++) {
        char id[8];
        snprintf(id, sizeof(id), "%d", i % 500);
        assert_non_null(users_enter(&users, id, "Crowd"));
    }
    assert_int_equal(users_online(&users), 500);
    users_clear(&users);
    assert_int_equal(users_online(&users), 0);
    users_clear(&users);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counted_once),
        cmocka_unit_test(test_nickname_changes),
        cmocka_unit_test(test_longest_names),
        cmocka_unit_test(test_reconnecting_gains_nothing),
        cmocka_unit_test(test_forgotten_when_full),
        cmocka_unit_test(test_tick_spares_the_connected),
        cmocka_unit_test(test_no_limit),
        cmocka_unit_test(test_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
