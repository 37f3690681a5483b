/* passwords.h: the two steps and their bodies, what refusals are, how many run and wait, and that
 * no memory is given back with a secret in it; the service answers when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/log.h"
#include "tests/unit/http_stub.h"
#include "tests/unit/log_watch.h"
#include "tests/unit/secret_watch.h"
#include "tests/unit/token_maker.h"
#include "ws-broker/passwords.h"

#define URL "http://accounts.example:8081"

#define REFRESH "{\"refreshToken\":{\"value\":\"refresh-1\"}}"
#define ACCESS  "{\"accessToken\":{\"value\":\"access.token.1\"}}"

enum { WAITS = 600 };

static struct passwords *passwords;
static int64_t now_ms;

/* In place of libuv's. */
uint64_t uv_hrtime(void) {
    return (uint64_t)now_ms * 1000000;
}

struct outcome {
    struct passwords_wait *wait;
    unsigned calls;
    enum passwords_result result;
    char token[64], detail[128];
    bool cancels_next; /* its callback cancels the one after it */
    bool asks_again;   /* its callback asks into the next one */
};

static struct outcome outcomes[WAITS];

static int start(void **state) {
    (void)state;
    log_init(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    memset(outcomes, 0, sizeof(outcomes));
    passwords = passwords_new(NULL, URL);
    return passwords ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    passwords_free(passwords);
    stub_reset(); /* asserts that no request was left open */
    return 0;
}

/* ---- words of the tests ---- */

static void on_password(void *user, const struct passwords_answer *answer) {
    struct outcome *outcome = user;
    outcome->calls++;
    outcome->wait = NULL;
    outcome->result = answer->result;
    assert_non_null(answer->detail);
    assert_int_equal(answer->token != NULL, answer->result == PASSWORDS_OK);
    snprintf(outcome->token, sizeof(outcome->token), "%s", answer->token ? answer->token : "");
    snprintf(outcome->detail, sizeof(outcome->detail), "%s", answer->detail);
    if (outcome->cancels_next) {
        passwords_cancel(passwords, outcome[1].wait);
        outcome[1].wait = NULL;
    }
    if (outcome->asks_again)
        outcome[1].wait = passwords_ask(passwords, "again", "p", on_password, &outcome[1]);
}

/* From copies that are gone on return. */
static bool ask_as(size_t n, const char *username, const char *password) {
    char *name = stub_copy(username), *word = stub_copy(password);
    outcomes[n].wait = passwords_ask(passwords, name, word, on_password, &outcomes[n]);
    explicit_bzero(name, strlen(name));
    explicit_bzero(word, strlen(word));
    free(name);
    free(word);
    assert_int_equal(outcomes[n].calls, 0);
    return outcomes[n].wait;
}

static bool ask(size_t n) {
    char *username = text_of("user-%zu", n);
    bool asked = ask_as(n, username, "swordfish");
    free(username);
    return asked;
}

static void cancel(size_t n) {
    passwords_cancel(passwords, outcomes[n].wait);
    outcomes[n].wait = NULL;
}

static void check(size_t n, enum passwords_result result, const char *token) {
    assert_int_equal(outcomes[n].calls, 1);
    assert_int_equal(outcomes[n].result, result);
    assert_string_equal(outcomes[n].token, token);
}

static void check_request(size_t n, const char *url, const char *json) {
    assert_string_equal(stub_request(n)->url, url);
    assert_string_equal(stub_request(n)->json, json);
    assert_null(stub_request(n)->bearer);
}

/* ---- the two steps ---- */

static void test_two_steps(void **state) {
    (void)state;
    assert_true(ask_as(0, "ann", "swordfish"));
    assert_int_equal(http_stub.count, 1);
    check_request(0, URL "/idm/auth/login",
                  "{\"username\":\"ann\",\"password\":\"swordfish\","
                  "\"type\":\"credentials\",\"clientType\":\"game\"}");
    stub_answer(0, 200, REFRESH);
    assert_int_equal(outcomes[0].calls, 0);
    assert_int_equal(http_stub.count, 2);
    check_request(1, URL "/idm/auth/access-token", "{\"refreshToken\":\"refresh-1\"}");
    stub_answer(1, 200, ACCESS);
    check(0, PASSWORDS_OK, "access.token.1");
    assert_string_equal(outcomes[0].detail, "");
    assert_int_equal(http_stub.count, 2);
}

static void test_created_is_as_good_as_ok(void **state) {
    (void)state;
    assert_true(ask(0));
    stub_answer(0, 201, REFRESH);
    stub_answer(1, 201, ACCESS);
    check(0, PASSWORDS_OK, "access.token.1");
}

/* What a text holds stays in its string. */
static void test_bodies_are_escaped(void **state) {
    (void)state;
    assert_true(ask_as(0, "a\"b\\c/d", "\n\t\001\x7f Žofie \",\"type\":\"admin"));
    check_request(0, URL "/idm/auth/login",
                  "{\"username\":\"a\\\"b\\\\c/d\","
                  "\"password\":\"\\u000a\\u0009\\u0001\x7f Žofie \\\",\\\"type\\\":\\\"admin\","
                  "\"type\":\"credentials\",\"clientType\":\"game\"}");
    stub_answer(0, 200, "{\"refreshToken\":{\"value\":\"q\\\"uote\\\\\"}}");
    check_request(1, URL "/idm/auth/access-token", "{\"refreshToken\":\"q\\\"uote\\\\\"}");
    cancel(0);
}

static void test_more_members_are_no_matter(void **state) {
    (void)state;
    assert_true(ask(0));
    stub_answer(0, 200, "{\"id\":1,\"refreshToken\":{\"expiresIn\":1,\"value\":\"refresh-1\"}}");
    stub_answer(1, 200, "{\"accessToken\":{\"type\":\"x\",\"value\":\"access.token.1\"},\"x\":[]}");
    check(0, PASSWORDS_OK, "access.token.1");
}

static const struct {
    int status; /* 0: no whole answer */
    const char *body;
    enum passwords_result result;
    const char *detail;
} failures[] = {
    {401, "{\"errorMessage\":\"wrong password\"}", PASSWORDS_REFUSED, "wrong password"},
    {400, "{}", PASSWORDS_REFUSED, ""},
    {403, "{\"errorMessage\":\"banned\"}", PASSWORDS_REFUSED, "banned"},
    {404, "{\"errorMessage\":\"nobody\"}", PASSWORDS_REFUSED, "nobody"},
    {401, "{\"errorMessage\":\"two\\nlines\"}", PASSWORDS_REFUSED, ""},
    /* not the service's words: a proxy's, say */
    {404, "", PASSWORDS_DOWN, ""},
    {401, "<html>no</html>", PASSWORDS_DOWN, ""},
    {404, "<html>Not Found</html>", PASSWORDS_DOWN, ""},
    {403, "[]", PASSWORDS_DOWN, ""},
    {400, "\"no\"", PASSWORDS_DOWN, ""},
    /* no, but not to the credentials */
    {402, "{}", PASSWORDS_DOWN, ""},
    {405, "{\"errorMessage\":\"not POST\"}", PASSWORDS_DOWN, ""},
    {409, "{}", PASSWORDS_DOWN, ""},
    {422, "{}", PASSWORDS_DOWN, ""},
    {499, "{}", PASSWORDS_DOWN, ""},
    {408, "{}", PASSWORDS_DOWN, NULL},
    {429, "{}", PASSWORDS_DOWN, NULL},
    {500, "{\"errorMessage\":\"database\"}", PASSWORDS_DOWN, ""},
    {502, "<html>", PASSWORDS_DOWN, ""},
    {302, "", PASSWORDS_DOWN, ""},
    {204, "", PASSWORDS_DOWN, ""},
    {0, NULL, PASSWORDS_DOWN, ""},
    {200, "", PASSWORDS_DOWN, ""},
    {200, "<html>", PASSWORDS_DOWN, ""},
    {200, "null", PASSWORDS_DOWN, ""},
    {200, "[]", PASSWORDS_DOWN, ""},
    {200, "\"token\"", PASSWORDS_DOWN, ""},
    {200, "{}", PASSWORDS_DOWN, ""},
    {200, "{\"refreshToken\":\"x\",\"accessToken\":\"x\"}", PASSWORDS_DOWN, ""},
    {200, "{\"refreshToken\":{},\"accessToken\":{}}", PASSWORDS_DOWN, ""},
    {200, "{\"refreshToken\":null,\"accessToken\":null}", PASSWORDS_DOWN, ""},
    {200, "{\"refreshToken\":{\"value\":\"\"},\"accessToken\":{\"value\":\"\"}}", PASSWORDS_DOWN,
     ""},
    {200, "{\"refreshToken\":{\"value\":1},\"accessToken\":{\"value\":1}}", PASSWORDS_DOWN, ""},
    {200, "{\"refreshToken\":{\"value\":\"x", PASSWORDS_DOWN, ""},
    {200, "{\"value\":\"x\"}", PASSWORDS_DOWN, ""},
    {201, "{}", PASSWORDS_DOWN, ""},
    {202, "{\"refreshToken\":{\"value\":\"x\"},\"accessToken\":{\"value\":\"x\"}}", PASSWORDS_DOWN,
     ""},
};

static void test_failures_in_either_step(void **state) {
    (void)state;
    for (size_t step = 0; step < 2; step++)
        for (size_t i = 0; i < sizeof(failures) / sizeof(*failures); i++) {
            size_t n = http_stub.count;
            outcomes[0] = (struct outcome){0};
            assert_true(ask(0));
            if (step == 1)
                stub_answer(n++, 200, REFRESH);
            if (failures[i].status)
                stub_answer(n, failures[i].status, failures[i].body);
            else
                stub_fail(n);
            if (outcomes[0].calls != 1 || outcomes[0].result != failures[i].result ||
                (failures[i].detail && strcmp(outcomes[0].detail, failures[i].detail) != 0))
                fail_msg("step %zu, row %zu", step, i);
            assert_int_equal(http_stub.count, n + 1);
        }
}

/* While the service fails: a line for the first, and then one each 10 s. */
static void test_failures_do_not_flood_the_log(void **state) {
    (void)state;
    log_watch_start(LOG_LEVEL_WARN);
    for (size_t i = 0; i < 101; i++) {
        assert_true(ask(i));
        now_ms += i < 100 ? 1 : 10000;
        stub_answer(i, 503, "{}");
    }
    assert_true(ask(101));
    stub_answer(101, 401, "{}"); /* wrong credentials are no failure */
    const char *logged = log_watch_stop();
    assert_int_equal(log_watch_count("\n"), 2);
    assert_non_null(strstr(logged, "failures=1 "));
    assert_non_null(strstr(logged, "failures=100 "));
}

/* A wrong URL shows: its refusals are there for whoever looks, a line each 10 s. */
static void test_refusals_are_logged(void **state) {
    (void)state;
    log_watch_start(LOG_LEVEL_INFO);
    for (size_t i = 0; i < 3; i++) {
        assert_true(ask(i));
        stub_answer(i, 404, "{\"errorMessage\":\"no such path\"}");
    }
    const char *logged = log_watch_stop();
    assert_int_equal(log_watch_count("\n"), 1);
    assert_non_null(strstr(logged, "info passwords step_refused refusals=1 step=login status=404 "
                                   "error=\"no such path\""));
}

/* A URL that cannot be used, say: it is said once, and the passwords wait for their deadline. */
static void test_requests_that_cannot_begin(void **state) {
    (void)state;
    http_stub.refuses = true;
    log_watch_start(LOG_LEVEL_WARN);
    for (size_t i = 0; i < 3; i++)
        assert_true(ask(i));
    const char *logged = log_watch_stop();
    assert_int_equal(log_watch_count("\n"), 1);
    assert_non_null(strstr(logged, "warn passwords step_failed "));
    assert_non_null(strstr(logged, HTTP_CANNOT_START));
    for (size_t i = 0; i < 3; i++)
        cancel(i);
}

/* ---- how many ---- */

static void test_20_in_flight_500_waiting(void **state) {
    size_t most = PASSWORDS_IN_FLIGHT + PASSWORDS_QUEUE;
    (void)state;
    for (size_t i = 0; i < most; i++)
        assert_true(ask(i));
    assert_int_equal(stub_open(), PASSWORDS_IN_FLIGHT);
    assert_false(ask(most));
    stub_answer(0, 401, "{}"); /* one place is free: the next in line takes it */
    check(0, PASSWORDS_REFUSED, "");
    assert_int_equal(stub_open(), PASSWORDS_IN_FLIGHT);
    assert_true(ask(most));
    assert_false(ask(most + 1));
    stub_answer(1, 200, REFRESH); /* the second step keeps the place of the first */
    assert_int_equal(stub_open(), PASSWORDS_IN_FLIGHT);
    assert_false(ask(most + 1));
    cancel(100); /* leaves the queue */
    assert_true(ask(most + 1));
    assert_false(ask(most + 2));
    cancel(2); /* leaves the service: the next in line */
    assert_int_equal(stub_open(), PASSWORDS_IN_FLIGHT);
    assert_true(ask(most + 2));
    assert_false(ask(most + 3));
}

static void test_in_order_till_all_are_done(void **state) {
    (void)state;
    for (size_t i = 0; i < 100; i++)
        assert_true(ask(i));
    for (size_t i = 0; i < 100; i++) {
        char *name = text_of("{\"username\":\"user-%zu\"", i);
        assert_memory_equal(stub_request(i)->json, name, strlen(name));
        free(name);
        stub_answer(i, 500, "{}");
        check(i, PASSWORDS_DOWN, "");
    }
    assert_int_equal(stub_open(), 0);
}

/* ---- cancelling ---- */

static void test_cancel_in_each_state(void **state) {
    (void)state;
    for (size_t i = 0; i <= PASSWORDS_IN_FLIGHT; i++)
        assert_true(ask(i));
    cancel(PASSWORDS_IN_FLIGHT); /* queued */
    assert_int_equal(http_stub.count, PASSWORDS_IN_FLIGHT);
    cancel(0); /* in the first step */
    assert_int_equal(stub_request(0)->state, STUB_CANCELLED);
    stub_answer(1, 200, REFRESH);
    size_t second = http_stub.count - 1;
    cancel(1); /* in the second */
    assert_int_equal(stub_request(second)->state, STUB_CANCELLED);
    for (size_t i = 2; i < PASSWORDS_IN_FLIGHT; i++)
        stub_fail(i);
    assert_int_equal(outcomes[0].calls + outcomes[1].calls + outcomes[20].calls, 0);
    assert_true(ask(30)); /* all places are free again */
    assert_int_equal(stub_open(), 1);
}

static void test_cancel_and_ask_from_a_callback(void **state) {
    (void)state;
    for (size_t i = 0; i < 2; i++)
        assert_true(ask(i));
    outcomes[0].cancels_next = true;
    outcomes[2].asks_again = true;
    assert_true(ask(2));
    stub_answer(0, 401, "{}");
    assert_int_equal(stub_request(1)->state, STUB_CANCELLED);
    stub_answer(2, 401, "{}");
    stub_answer(3, 200, REFRESH);
    stub_answer(4, 200, ACCESS);
    check(0, PASSWORDS_REFUSED, "");
    check(2, PASSWORDS_REFUSED, "");
    check(3, PASSWORDS_OK, "access.token.1");
    assert_int_equal(outcomes[1].calls, 0);
}

static void test_free_with_work_pending(void **state) {
    for (size_t i = 0; i < 50; i++)
        assert_true(ask(i));
    stub_answer(3, 200, REFRESH);
    passwords_free(passwords);
    assert_int_equal(stub_open(), 0);
    for (size_t i = 0; i < 50; i++)
        assert_int_equal(outcomes[i].calls, 0);
    passwords_free(NULL);
    start(state);
}

/* ---- secrets ---- */

#if defined(__SANITIZE_ADDRESS__)
static void test_secrets_are_wiped(void **state) {
    (void)state;
    print_message("[  SKIPPED ] the address sanitizer owns the allocator\n");
    skip();
}
#else

/* Secrets begin and end with a mark: a wiped beginning is not enough. */
#define LONG_TEXT "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define SECRET    "CANARY" LONG_TEXT "CANARY" LONG_TEXT "CANARY"

static void test_secrets_are_wiped(void **state) {
    (void)state;
    char *password = stub_copy(SECRET);
    for (int end = 0; end < 4; end++) { /* well; refused in either step; cancelled */
        size_t n = http_stub.count;
        outcomes[0] = (struct outcome){0};
        secret_watch_start("CANARY");
        outcomes[0].wait = passwords_ask(passwords, "ann", password, on_password, &outcomes[0]);
        if (end == 1)
            stub_answer(n, 401, "{}");
        else
            stub_answer(n, 200, "{\"refreshToken\":{\"value\":\"" SECRET "\"}}");
        if (end == 0)
            stub_answer(n + 1, 200, "{\"accessToken\":{\"value\":\"" SECRET "\"},\"x\":\"y\"}");
        else if (end == 2)
            stub_answer(n + 1, 401, "{}");
        else if (end == 3)
            cancel(0);
        unsigned left_behind = secret_watch_stop();
        if (left_behind > 0)
            fail_msg("end %d: %u blocks with a secret", end, left_behind);
    }
    for (size_t i = 0; i <= PASSWORDS_IN_FLIGHT; i++) /* the last one is queued */
        outcomes[i].wait = passwords_ask(passwords, "ann", password, on_password, &outcomes[i]);
    secret_watch_start("CANARY");
    cancel(PASSWORDS_IN_FLIGHT);
    assert_int_equal(secret_watch_stop(), 0);
    free(password);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)
        TEST(test_two_steps),
        TEST(test_created_is_as_good_as_ok),
        TEST(test_bodies_are_escaped),
        TEST(test_more_members_are_no_matter),
        TEST(test_failures_in_either_step),
        TEST(test_failures_do_not_flood_the_log),
        TEST(test_requests_that_cannot_begin),
        TEST(test_refusals_are_logged),
        TEST(test_20_in_flight_500_waiting),
        TEST(test_in_order_till_all_are_done),
        TEST(test_cancel_in_each_state),
        TEST(test_cancel_and_ask_from_a_callback),
        TEST(test_free_with_work_pending),
        TEST(test_secrets_are_wiped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
