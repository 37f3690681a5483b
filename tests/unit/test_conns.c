/* conns.h: found by id, and told once a second who is overdue; by a made-up clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "ws-broker/conn.h"
#include "ws-broker/conns.h"

enum { PING_MS = 25000, NOW_S = 1666259380 };

/* What happened, as "login:1 ping:2 ". */
static char events[256];

static void note(const char *what, const struct conn *conn) {
    size_t used = strlen(events);
    snprintf(events + used, sizeof(events) - used, "%s:%d ", what, (int)conn->id);
}

static void on_login_timeout(void *user, struct conn *conn) {
    assert_string_equal(user, "user");
    note("login", conn);
    conn->state = CONN_CLOSING;
}

static void on_expired(void *user, struct conn *conn) {
    assert_string_equal(user, "user");
    note("expired", conn);
    conn->state = CONN_CLOSING;
}

static void on_ping(void *user, struct conn *conn) {
    assert_string_equal(user, "user");
    note("ping", conn);
}

static void on_silent(void *user, struct conn *conn) {
    assert_string_equal(user, "user");
    note("silent", conn);
    conn->state = CONN_CLOSING;
}

static void on_each(void *user, struct conn *conn) {
    assert_string_equal(user, "user");
    note("each", conn);
}

static void check_tick(struct conns *conns, int64_t now_ms, const char *want) {
    static const struct conns_overdue overdue = {on_login_timeout, on_expired, on_ping, on_silent};
    char user[] = "user";
    events[0] = '\0';
    conns_tick(conns, now_ms, NOW_S + now_ms / 1000, PING_MS, &overdue, user);
    assert_string_equal(events, want);
}

/* Two connections: 1 is new and has until 120 s to log in, 2 is logged in. First pings at 25 s. */
static void make_two(struct conns *conns, struct conn conn[2]) {
    memset(conn, 0, 2 * sizeof(*conn));
    for (unsigned i = 0; i < 2; i++) {
        conn_init(&conn[i], i + 1);
        conn[i].login_deadline_ms = 120000;
        conn[i].next_ping_ms = PING_MS;
        conns_add(conns, &conn[i]);
    }
    conn[1].state = CONN_LOGGED_IN;
}

static void test_found_by_id(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    (void)state;
    assert_int_equal(conns_count(&conns), 0);
    assert_null(conns_find(&conns, 1));
    make_two(&conns, conn);
    assert_int_equal(conns_count(&conns), 2);
    assert_ptr_equal(conns_find(&conns, 1), &conn[0]);
    assert_ptr_equal(conns_find(&conns, 2), &conn[1]);
    assert_null(conns_find(&conns, 3));
    conns_remove(&conns, &conn[0]);
    assert_null(conns_find(&conns, 1));
    assert_ptr_equal(conns_find(&conns, 2), &conn[1]);
    assert_int_equal(conns_count(&conns), 1);
    conns_remove(&conns, &conn[1]);
    assert_null(conns_find(&conns, 2));
    assert_int_equal(conns_count(&conns), 0);
}

static void test_each(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    char user[] = "user";
    (void)state;
    events[0] = '\0';
    conns_each(&conns, on_each, user);
    assert_string_equal(events, "");
    make_two(&conns, conn);
    conns_each(&conns, on_each, user);
    assert_string_equal(events, "each:1 each:2 ");
    conns_remove(&conns, &conn[0]);
    conns_remove(&conns, &conn[1]);
}

static void test_many(void **state) {
    enum { COUNT = 1000 };
    static struct conn conn[COUNT];
    struct conns conns = {0};
    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        conn_init(&conn[i], i + 1);
        conns_add(&conns, &conn[i]);
    }
    for (unsigned i = 0; i < COUNT; i += 3)
        conns_remove(&conns, &conn[i]);
    for (unsigned i = 0; i < COUNT; i++)
        assert_ptr_equal(conns_find(&conns, i + 1), i % 3 == 0 ? NULL : &conn[i]);
    for (unsigned i = 0; i < COUNT; i++)
        if (i % 3 != 0)
            conns_remove(&conns, &conn[i]);
    assert_int_equal(conns_count(&conns), 0);
}

static void test_login_deadline(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    (void)state;
    make_two(&conns, conn);
    conn[0].next_ping_ms = conn[1].next_ping_ms = INT64_MAX;
    check_tick(&conns, 119999, "");
    check_tick(&conns, 120000, "login:1 "); /* who is logged in has no deadline */
    check_tick(&conns, 121000, "");         /* told once */
    conns_remove(&conns, &conn[0]);
    conns_remove(&conns, &conn[1]);
}

/* No deadline runs while an identity is being found out. */
static void test_login_pending(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    (void)state;
    make_two(&conns, conn);
    conn[0].next_ping_ms = conn[1].next_ping_ms = INT64_MAX;
    conn[0].login_pending = true;
    check_tick(&conns, 500000, "");
    conn[0].login_pending = false;
    check_tick(&conns, 500001, "login:1 ");
    conns_remove(&conns, &conn[0]);
    conns_remove(&conns, &conn[1]);
}

/* 0 is never; else the second of the expiry is the first too late. */
static void test_expiry(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    (void)state;
    make_two(&conns, conn);
    conn[0].next_ping_ms = conn[1].next_ping_ms = INT64_MAX;
    conn[1].expires_at = NOW_S + 10;
    check_tick(&conns, 9999, "");
    check_tick(&conns, 10000, "expired:2 ");
    check_tick(&conns, 11000, ""); /* told once */
    conns_remove(&conns, &conn[0]);
    conns_remove(&conns, &conn[1]);
}

/* A ping each interval; after two without an answer the third time is the end. */
static void test_pings(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    (void)state;
    make_two(&conns, conn);
    check_tick(&conns, 24999, "");
    check_tick(&conns, 25000, "ping:1 ping:2 ");
    check_tick(&conns, 26000, "");
    conn[1].pings_unanswered = 0; /* 2 has answered */
    check_tick(&conns, 50000, "ping:1 ping:2 ");
    check_tick(&conns, 75000, "silent:1 ping:2 ");
    check_tick(&conns, 76000, "");
    check_tick(&conns, 100000, "silent:2 "); /* and missed the next two */
    check_tick(&conns, 125000, "");          /* both are closing */
    conns_remove(&conns, &conn[0]);
    conns_remove(&conns, &conn[1]);
}

/* While nothing is read of one it may answer as it likes. */
static void test_pings_to_the_unread(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    (void)state;
    make_two(&conns, conn);
    conn[1].is_unread = true;
    check_tick(&conns, 25000, "ping:1 ping:2 ");
    check_tick(&conns, 50000, "ping:1 ping:2 ");
    check_tick(&conns, 75000, "silent:1 ping:2 ");
    conn[1].is_unread = false;
    check_tick(&conns, 100000, "ping:2 ");
    check_tick(&conns, 125000, "silent:2 ");
    conns_remove(&conns, &conn[0]);
    conns_remove(&conns, &conn[1]);
}

/* An answer at any time between gives two more intervals. */
static void test_answered_pings_go_on(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    (void)state;
    make_two(&conns, conn);
    conn[0].state = CONN_LOGGED_IN;
    for (int64_t now_ms = PING_MS; now_ms < 100 * PING_MS; now_ms += PING_MS) {
        check_tick(&conns, now_ms, "ping:1 ping:2 ");
        conn[0].pings_unanswered = conn[1].pings_unanswered = 0;
    }
    conns_remove(&conns, &conn[0]);
    conns_remove(&conns, &conn[1]);
}

/* A loop that was held up for minutes sends one ping, not one for each interval it missed. */
static void test_late_tick(void **state) {
    struct conns conns = {0};
    struct conn conn[2];
    (void)state;
    make_two(&conns, conn);
    conn[0].state = CONN_LOGGED_IN;
    check_tick(&conns, 600000, "ping:1 ping:2 ");
    check_tick(&conns, 601000, "");
    check_tick(&conns, 625000, "ping:1 ping:2 ");
    conns_remove(&conns, &conn[0]);
    conns_remove(&conns, &conn[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found_by_id),
        cmocka_unit_test(test_each),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_login_deadline),
        cmocka_unit_test(test_login_pending),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_pings),
        cmocka_unit_test(test_pings_to_the_unread),
        cmocka_unit_test(test_answered_pings_go_on),
        cmocka_unit_test(test_late_tick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
