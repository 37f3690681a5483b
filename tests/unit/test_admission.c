/* admission.h: who may connect; caps, addresses and connect rates by a made-up clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "ws-broker/admission.h"

static struct address_ip ip(const char *text) {
    struct address_ip address = {.is_unix = true};
    if (strcmp(text, "unix") != 0)
        assert_int_equal(address_ip_parse(text, strlen(text), &address), 0);
    return address;
}

static enum admission_result ask(struct admission *admission, const char *address, int64_t now_ms) {
    struct address_ip from = ip(address);
    return admission_ask(admission, &from, now_ms);
}

static void enter(struct admission *admission, const char *address) {
    struct address_ip from = ip(address);
    assert_int_equal(admission_enter(admission, &from), CHAT_OK);
}

static void leave(struct admission *admission, const char *address) {
    struct address_ip from = ip(address);
    admission_leave(admission, &from);
}

static void test_cap_on_all(void **state) {
    struct admission admission = {.max_clients = 2};
    (void)state;
    assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_OK);
    assert_int_equal(admission.clients, 0); /* asking changes no count */
    enter(&admission, "203.0.113.1");
    assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_OK);
    enter(&admission, "203.0.113.1");
    assert_int_equal(admission.clients, 2);
    assert_int_equal(ask(&admission, "203.0.113.2", 0), ADMISSION_FULL);
    leave(&admission, "203.0.113.1");
    assert_int_equal(ask(&admission, "203.0.113.2", 0), ADMISSION_OK);
    leave(&admission, "203.0.113.1");
    assert_int_equal(admission.clients, 0);
    admission_clear(&admission);
}

/* Without limits per address connections are counted all the same: a limit may be set later. */
static void test_addresses_off(void **state) {
    struct admission admission = {.max_clients = 1000000};
    (void)state;
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_OK);
        enter(&admission, "203.0.113.1");
    }
    admission.max_per_address = 1000;
    assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_ADDRESS);
    for (int i = 0; i < 1000; i++)
        leave(&admission, "203.0.113.1");
    assert_int_equal(admission.clients, 0);
    admission_tick(&admission, 0);
    assert_null(admission._by_address);
}

static void test_connections_per_address(void **state) {
    struct admission admission = {.max_clients = 100, .max_per_address = 2};
    (void)state;
    enter(&admission, "203.0.113.1");
    enter(&admission, "203.0.113.1");
    assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_ADDRESS);
    assert_int_equal(ask(&admission, "::ffff:203.0.113.1", 0), ADMISSION_ADDRESS);
    assert_int_equal(ask(&admission, "203.0.113.2", 0), ADMISSION_OK);
    leave(&admission, "203.0.113.1");
    assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_OK);
    leave(&admission, "203.0.113.1");
    admission_clear(&admission);
}

/* An IPv6 /64 is one household. */
static void test_ipv6_by_64(void **state) {
    struct admission admission = {.max_clients = 100, .max_per_address = 1};
    (void)state;
    enter(&admission, "2001:db8:0:1::1");
    assert_int_equal(ask(&admission, "2001:db8:0:1:ffff:ffff:ffff:ffff", 0), ADMISSION_ADDRESS);
    assert_int_equal(ask(&admission, "2001:db8:0:2::1", 0), ADMISSION_OK);
    leave(&admission, "2001:db8:0:1::2"); /* of the same /64: the same count */
    assert_int_equal(ask(&admission, "2001:db8:0:1::1", 0), ADMISSION_OK);
    admission_clear(&admission);
}

static void test_unix_peers_are_one(void **state) {
    struct admission admission = {.max_clients = 100, .max_per_address = 1};
    (void)state;
    enter(&admission, "unix");
    assert_int_equal(ask(&admission, "unix", 0), ADMISSION_ADDRESS);
    assert_int_equal(ask(&admission, "127.0.0.1", 0), ADMISSION_OK);
    assert_int_equal(ask(&admission, "::", 0), ADMISSION_OK);
    admission_clear(&admission);
}

static void test_connect_rate(void **state) {
    struct admission admission = {.max_clients = 100,
                                  .connect_rate = {.per_second = 2, .burst = 4}};
    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_OK);
    assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_RATE);
    assert_int_equal(ask(&admission, "203.0.113.1", 499), ADMISSION_RATE);
    assert_int_equal(ask(&admission, "203.0.113.2", 499), ADMISSION_OK);
    assert_int_equal(ask(&admission, "203.0.113.1", 500), ADMISSION_OK);
    assert_int_equal(ask(&admission, "203.0.113.1", 500), ADMISSION_RATE);
    admission_clear(&admission);
}

/* Leaving and coming again does not fill the bucket; only time does. */
static void test_rate_outlives_connections(void **state) {
    struct admission admission = {.max_clients = 100,
                                  .connect_rate = {.per_second = 1, .burst = 1}};
    (void)state;
    assert_int_equal(ask(&admission, "203.0.113.1", 0), ADMISSION_OK);
    enter(&admission, "203.0.113.1");
    leave(&admission, "203.0.113.1");
    admission_tick(&admission, 999);
    assert_int_equal(ask(&admission, "203.0.113.1", 999), ADMISSION_RATE);
    admission_tick(&admission, 1000);
    assert_null(admission._by_address); /* full again: forgotten */
    assert_int_equal(ask(&admission, "203.0.113.1", 1000), ADMISSION_OK);
    admission_clear(&admission);
}

static void test_tick_spares_the_connected(void **state) {
    struct admission admission = {.max_clients = 100, .max_per_address = 1};
    (void)state;
    enter(&admission, "203.0.113.1");
    enter(&admission, "203.0.113.2");
    leave(&admission, "203.0.113.2");
    admission_tick(&admission, 1000000);
    assert_int_equal(ask(&admission, "203.0.113.1", 1000000), ADMISSION_ADDRESS);
    assert_int_equal(ask(&admission, "203.0.113.2", 1000000), ADMISSION_OK);
    leave(&admission, "203.0.113.1");
    admission_tick(&admission, 1000000);
    assert_null(admission._by_address);
}

static int64_t login_wait_s(struct admission *admission, const char *address, int64_t now_ms) {
    struct address_ip from = ip(address);
    return admission_login_wait_s(admission, &from, now_ms);
}

static void fail_login(struct admission *admission, const char *address, int64_t now_ms) {
    struct address_ip from = ip(address);
    admission_login_failed(admission, &from, now_ms);
}

/* So many a minute and address, all its connections together; time alone forgives. */
static void test_login_failures(void **state) {
    struct admission admission = {.max_clients = 100, .login_failures_per_minute = 6};
    (void)state;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(login_wait_s(&admission, "2001:db8::1", 0), 0);
        fail_login(&admission, "2001:db8::1", 0);
    }
    int64_t wait_s = login_wait_s(&admission, "2001:db8::1", 0);
    assert_in_range(wait_s, 10, 11);
    assert_in_range(login_wait_s(&admission, "2001:db8::ffff", 0), 10, 11); /* the same /64 */
    assert_int_equal(login_wait_s(&admission, "2001:db8:0:1::1", 0), 0);
    admission_tick(&admission, 9000);
    assert_in_range(login_wait_s(&admission, "2001:db8::1", 9000), 1, 2);
    assert_int_equal(login_wait_s(&admission, "2001:db8::1", 9900), 1); /* a part of one is one */
    assert_int_equal(login_wait_s(&admission, "2001:db8::1", wait_s * 1000), 0);
    admission_tick(&admission, 70000);
    assert_null(admission._by_address); /* all forgiven, nothing remembered */
}

/* Guesses count as failures from their beginning, and for good only those that were wrong. */
static void test_guesses(void **state) {
    struct admission admission = {.max_clients = 100, .login_failures_per_minute = 2};
    struct address_ip from = ip("203.0.113.1");
    (void)state;
    admission_guess_begin(&admission, &from, 0);
    assert_int_equal(login_wait_s(&admission, "203.0.113.1", 0), 0);
    admission_guess_begin(&admission, &from, 0);
    assert_int_equal(login_wait_s(&admission, "203.0.113.1", 0), 30);
    assert_true(admission_is_guessing(&admission, &from));

    admission_guess_end(&admission, &from, false);
    assert_int_equal(login_wait_s(&admission, "203.0.113.1", 0), 0);
    admission_tick(&admission, 100000); /* one has not ended: it is not forgotten */
    assert_true(admission_is_guessing(&admission, &from));
    admission_guess_end(&admission, &from, true);
    assert_false(admission_is_guessing(&admission, &from));
    fail_login(&admission, "203.0.113.1", 0);
    assert_int_equal(login_wait_s(&admission, "203.0.113.1", 0), 30);

    admission_guess_end(&admission, &from, false); /* none has begun */
    assert_int_equal(login_wait_s(&admission, "203.0.113.1", 0), 30);
    admission_clear(&admission);
}

static void test_login_failures_off(void **state) {
    struct admission admission = {.max_clients = 100};
    (void)state;
    for (int i = 0; i < 1000; i++)
        fail_login(&admission, "203.0.113.1", 0);
    assert_int_equal(login_wait_s(&admission, "203.0.113.1", 0), 0);
    assert_null(admission._by_address);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cap_on_all),
        cmocka_unit_test(test_addresses_off),
        cmocka_unit_test(test_connections_per_address),
        cmocka_unit_test(test_ipv6_by_64),
        cmocka_unit_test(test_unix_peers_are_one),
        cmocka_unit_test(test_connect_rate),
        cmocka_unit_test(test_rate_outlives_connections),
        cmocka_unit_test(test_tick_spares_the_connected),
        cmocka_unit_test(test_login_failures),
        cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_login_failures_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
