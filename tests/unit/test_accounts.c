/* accounts.h: how many requests go to the service, what is remembered how long, and what its
 * answers mean; with a made-up clock and a service that answers when the test says so. */
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
#include "ws-broker/accounts.h"
#include "ws-broker/identity.h"

#define URL "http://accounts.example:8081"

#define NOT_FOUND "{\"errorMessage\":\"no such account\"}"

#define TEXT_16  "0123456789abcdef"
#define TEXT_128 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16

enum {
    WAITS = 256,
    FRESH_MS = 300000,
    STALE_MS = 3600000,
    MISSING_MS = 30000,
    FAILING_MS = 5000,
};

static struct accounts *accounts;
static int64_t now_ms;

/* In place of libuv's: accounts.c looks at it when it learns something. */
uint64_t uv_hrtime(void) {
    return (uint64_t)now_ms * 1000000;
}

struct outcome {
    struct accounts_wait *wait;
    unsigned calls;
    enum accounts_result result;
    char nickname[IDENTITY_NICKNAME_MAX + 1];
    char detail[ACCOUNTS_DETAIL_MAX + 1];
    bool cancels_next; /* its callback cancels the one after it */
};

static struct outcome outcomes[WAITS];

static int start(void **state) {
    (void)state;
    log_init(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    now_ms = 10 * STALE_MS;
    memset(outcomes, 0, sizeof(outcomes));
    accounts = accounts_new(NULL, URL);
    return accounts ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    accounts_free(accounts);
    stub_reset(); /* asserts that no request was left open */
    return 0;
}

/* ---- words of the tests ---- */

static void on_account(void *user, const struct accounts_answer *answer) {
    struct outcome *outcome = user;
    outcome->calls++;
    outcome->wait = NULL;
    outcome->result = answer->result;
    assert_non_null(answer->detail);
    snprintf(outcome->detail, sizeof(outcome->detail), "%s", answer->detail);
    if (answer->result == ACCOUNTS_FOUND) {
        assert_true(*answer->nickname);
        snprintf(outcome->nickname, sizeof(outcome->nickname), "%s", answer->nickname);
    }
    if (outcome->cancels_next) {
        accounts_cancel(accounts, outcome[1].wait);
        outcome[1].wait = NULL;
    }
}

/* From copies that are gone on return. */
static void ask_with(size_t n, const char *user_id, const char *with_token) {
    char *id = stub_copy(user_id), *token = stub_copy(with_token);
    outcomes[n] = (struct outcome){0};
    outcomes[n].wait = accounts_ask(accounts, id, token, on_account, &outcomes[n]);
    memset(id, 'x', strlen(id));
    explicit_bzero(token, strlen(token));
    free(id);
    free(token);
    assert_non_null(outcomes[n].wait);
    assert_int_equal(outcomes[n].calls, 0);
}

static void ask(size_t n, const char *user_id) {
    char *token = text_of("token-of-%zu", n);
    ask_with(n, user_id, token);
    free(token);
}

static void ask_user(size_t n, size_t user) {
    char *id = text_of("HL%zu", user);
    ask(n, id);
    free(id);
}

static void cancel(size_t n) {
    accounts_cancel(accounts, outcomes[n].wait);
    outcomes[n].wait = NULL;
}

static void check(size_t n, enum accounts_result result, const char *nickname) {
    assert_int_equal(outcomes[n].calls, 1);
    assert_int_equal(outcomes[n].result, result);
    assert_string_equal(outcomes[n].nickname, nickname);
}

static void check_waits(size_t n) {
    assert_int_equal(outcomes[n].calls, 0);
}

/* What is remembered of a user: a nickname, "(missing)" or "(unknown)". */
static const char *remembered(const char *user_id) {
    const char *nickname = NULL;
    switch (accounts_remembered(accounts, user_id, now_ms, &nickname)) {
    case ACCOUNTS_FOUND:
        return nickname;
    case ACCOUNTS_MISSING:
        return "(missing)";
    case ACCOUNTS_UNKNOWN:
        return "(unknown)";
    default:
        fail_msg("no such answer");
        return "";
    }
}

/* Asks for HL1 and has the answer at once; status 0: none came. */
static void learn(int status, const char *body) {
    ask(0, "HL1");
    if (status)
        stub_answer(http_stub.count - 1, status, body);
    else
        stub_fail(http_stub.count - 1);
    assert_int_equal(outcomes[0].calls, 1);
}

/* ---- one request ---- */

static void test_request(void **state) {
    (void)state;
    assert_string_equal(remembered("HL1"), "(unknown)");
    ask(0, "HL1");
    assert_int_equal(http_stub.count, 1);
    assert_string_equal(stub_request(0)->url, URL "/idm/accounts/HL1");
    assert_string_equal(stub_request(0)->bearer, "token-of-0");
    assert_null(stub_request(0)->json);
    stub_answer(0, 200, "{\"nickname\":\"Great Heavenland Hero\"}");
    check(0, ACCOUNTS_FOUND, "Great Heavenland Hero");
    assert_string_equal(remembered("HL1"), "Great Heavenland Hero");
}

static void test_user_ids_are_escaped(void **state) {
    static const char *const rows[][2] = {
        {"a/b", "a%2Fb"},         {"../admin", "..%2Fadmin"},
        {"a?b#c", "a%3Fb%23c"},   {"a b\r\nHost: x", "a%20b%0D%0AHost%3A%20x"},
        {"%2e%2e", "%252e%252e"}, {"Žofie", "%C5%BDofie"},
        {"auth0|1", "auth0%7C1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char *url = text_of(URL "/idm/accounts/%s", rows[i][1]);
        ask(i, rows[i][0]);
        assert_string_equal(stub_request(i)->url, url);
        free(url);
    }
}

/* ---- what answers mean ---- */

static const struct {
    int status; /* 0: no whole answer */
    const char *body;
    enum accounts_result result;
    const char *nickname;
} answers[] = {
    {200, "{\"nickname\":\"Hero\",\"id\":\"HL1\"}", ACCOUNTS_FOUND, "Hero"},
    {200, "{\"nickname\":\"\\u017dofie\"}", ACCOUNTS_FOUND, "Žofie"},
    {200, "{\"nickname\":\"" TEXT_128 "\"}", ACCOUNTS_FOUND, TEXT_128},
    /* no nickname that can be used: the user id stands in */
    {200, "{}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":\"\"}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":null}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":1}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":[\"Hero\"]}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":\"" TEXT_128 "x\"}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":\"He\\nro\"}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":\"He\\u0000ro\"}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":\"\xff\"}", ACCOUNTS_FOUND, "HL1"},
    {200, "{\"nickname\":\"\xed\xa0\x80\"}", ACCOUNTS_FOUND, "HL1"},
    /* not the answer that was agreed on */
    {200, "", ACCOUNTS_DOWN, ""},
    {200, "<html>hello</html>", ACCOUNTS_DOWN, ""},
    {200, "[]", ACCOUNTS_DOWN, ""},
    {200, "null", ACCOUNTS_DOWN, ""},
    {200, "\"Hero\"", ACCOUNTS_DOWN, ""},
    {200, "{\"nickname\":\"He", ACCOUNTS_DOWN, ""},
    {204, "", ACCOUNTS_DOWN, ""},
    {302, "", ACCOUNTS_DOWN, ""},
    {401, "{\"errorMessage\":\"no\"}", ACCOUNTS_DENIED, ""},
    {403, "", ACCOUNTS_DENIED, ""},
    {404, NOT_FOUND, ACCOUNTS_MISSING, ""},
    {404, "{\"errorMessage\":\"" TEXT_128 "\"}", ACCOUNTS_MISSING, ""},
    {404, "{}", ACCOUNTS_DOWN, ""}, /* somebody else's: the URL may be wrong */
    {404, "{\"errorMessage\":1}", ACCOUNTS_DOWN, ""},
    {404, "[\"errorMessage\"]", ACCOUNTS_DOWN, ""},
    {404, "<html>", ACCOUNTS_DOWN, ""},
    {404, "", ACCOUNTS_DOWN, ""},
    {405, "{}", ACCOUNTS_DOWN, ""},
    {405, "{\"errorMessage\":\"x\"}", ACCOUNTS_DOWN, ""},
    {400, "{}", ACCOUNTS_DOWN, ""},
    {408, "{}", ACCOUNTS_DOWN, ""},
    {429, "{}", ACCOUNTS_DOWN, ""},
    {500, "{\"nickname\":\"Hero\"}", ACCOUNTS_DOWN, ""},
    {502, "<html>", ACCOUNTS_DOWN, ""},
    {503, "", ACCOUNTS_DOWN, ""},
    {0, NULL, ACCOUNTS_DOWN, ""},
};

static void test_answers(void **state) {
    for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
        learn(answers[i].status, answers[i].body);
        if (outcomes[0].result != answers[i].result ||
            strcmp(outcomes[0].nickname, answers[i].nickname) != 0)
            fail_msg("row %zu: %d, %s", i, outcomes[0].result, outcomes[0].nickname);
        stop(state);
        start(state);
    }
}

static const struct {
    int status;
    const char *body, *detail;
} details[] = {
    {404, "{\"statusCode\":404,\"statusDescription\":\"Not Found\",\"errorMessage\":\"no HL1\"}",
     "no HL1"},
    {401, "{\"errorMessage\":\"expired\"}", "expired"},
    {400, "{\"errorMessage\":\"Žofie\"}", "Žofie"},
    {499, "{\"errorMessage\":\"x\"}", "x"},
    {404, "{\"errorMessage\":\"" TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 "0123\"}",
     TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 "0123"}, /* 100 */
    {404, "{\"errorMessage\":\"" TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 "01234\"}", ""},
    {404, "{\"errorMessage\":\"\"}", ""},
    {404, "{\"errorMessage\":null}", ""},
    {404, "{\"errorMessage\":{\"a\":1}}", ""},
    {404, "{\"errorMessage\":\"two\\nlines\"}", ""},
    {404, "{\"errorMessage\":\"\\u001b[31m\"}", ""},
    {404, "{\"errorMessage\":\"nul\\u0000nul\"}", ""},
    {404, "{\"errorMessage\":\"del\\u007f\"}", ""},
    {404, "{\"errorMessage\":\"\xff\"}", ""},
    {404, "{\"statusDescription\":\"Not Found\"}", ""},
    {404, "<html>no HL1</html>", ""},
    {404, "[{\"errorMessage\":\"x\"}]", ""},
    {404, "", ""},
    {200, "{\"errorMessage\":\"x\"}", ""}, /* may hold a token, and is not parsed */
    {201, "{\"errorMessage\":\"x\"}", ""},
    {204, "{\"errorMessage\":\"x\"}", ""},
    {500, "{\"errorMessage\":\"database\"}", "database"}, /* for the log */
    {0, "", ""},
};

static void test_details(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(details) / sizeof(*details); i++) {
        struct http_answer answer = {.status = details[i].status,
                                     .body = details[i].body,
                                     .body_len = strlen(details[i].body),
                                     .error = "timeout"};
        char detail[ACCOUNTS_DETAIL_MAX + 1];
        memset(detail, 'x', sizeof(detail));
        accounts_error_text(&answer, detail);
        if (strcmp(detail, details[i].detail) != 0)
            fail_msg("row %zu: %s", i, detail);
    }
    learn(404, details[0].body);
    assert_string_equal(outcomes[0].detail, "no HL1");
    learn(401, "{\"errorMessage\":\"expired\"}");
    assert_string_equal(outcomes[0].detail, "expired");
    learn(200, "{\"errorMessage\":\"x\"}");
    assert_string_equal(outcomes[0].detail, "");
    learn(500, "{\"errorMessage\":\"database\"}");
    assert_string_equal(outcomes[0].detail, "");
}

/* While the service fails: a line for the first, and then one each 10 s. */
static void test_failures_do_not_flood_the_log(void **state) {
    (void)state;
    log_watch_start(LOG_LEVEL_WARN);
    for (int i = 0; i < 100; i++)
        learn(503, "{}");
    now_ms += 10000;
    learn(0, NULL);
    const char *logged = log_watch_stop();
    assert_int_equal(log_watch_count("warn accounts lookup_failed"), 2);
    assert_non_null(strstr(logged, "failures=1 "));
    assert_non_null(strstr(logged, "failures=100 "));
}

/* A wrong URL shows: its refusals are there for whoever looks, a line each 10 s. */
static void test_refusals_are_logged(void **state) {
    static const int statuses[] = {401, 403, 404};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char *status = text_of("status=%d error=\"no such account\"", statuses[i]);
        now_ms += 10000;
        log_watch_start(LOG_LEVEL_INFO);
        for (int n = 0; n < 3; n++)
            learn(statuses[i], NOT_FOUND);
        learn(200, "{}");
        const char *logged = log_watch_stop();
        assert_int_equal(log_watch_count("\n"), 1);
        assert_non_null(strstr(logged, "info accounts lookup_refused refusals="));
        assert_non_null(strstr(logged, status));
        free(status);
    }
    now_ms += 10000;
    log_watch_start(LOG_LEVEL_INFO);
    learn(404, "<html>");
    const char *logged = log_watch_stop();
    assert_int_equal(log_watch_count("\n"), 1);
    assert_non_null(strstr(logged, "warn accounts lookup_failed failures=1 status=404"));
}

/* A URL that cannot be used, say: it is said once, and those who wait have their deadline. */
static void test_requests_that_cannot_begin(void **state) {
    (void)state;
    http_stub.refuses = true;
    log_watch_start(LOG_LEVEL_WARN);
    for (size_t i = 0; i < 3; i++)
        ask_user(i, i);
    const char *logged = log_watch_stop();
    assert_int_equal(log_watch_count("\n"), 1);
    assert_non_null(strstr(logged, "warn accounts lookup_failed "));
    assert_non_null(strstr(logged, HTTP_CANNOT_START));
    http_stub.refuses = false;
    ask_user(3, 0); /* asks for both */
    stub_answer(0, 200, "{\"nickname\":\"Hero\"}");
    check(0, ACCOUNTS_FOUND, "Hero");
    check(3, ACCOUNTS_FOUND, "Hero");
}

/* ---- what is remembered ---- */

static void test_fresh_for_300_s(void **state) {
    (void)state;
    learn(200, "{\"nickname\":\"Hero\"}");
    now_ms += FRESH_MS - 1;
    assert_string_equal(remembered("HL1"), "Hero");
    assert_string_equal(remembered("HL2"), "(unknown)");
    assert_string_equal(remembered("HL"), "(unknown)");
    now_ms += 1;
    assert_string_equal(remembered("HL1"), "(unknown)");
    learn(200, "{\"nickname\":\"New Name\"}");
    check(0, ACCOUNTS_FOUND, "New Name");
    now_ms += FRESH_MS - 1;
    assert_string_equal(remembered("HL1"), "New Name");
}

/* The time counts from the answer, not from the question. */
static void test_known_since_the_answer(void **state) {
    (void)state;
    ask(0, "HL1");
    now_ms += 9000;
    stub_answer(0, 200, "{\"nickname\":\"Hero\"}");
    now_ms += FRESH_MS - 1;
    assert_string_equal(remembered("HL1"), "Hero");
}

static void test_stale_for_an_hour(void **state) {
    static const int failures[] = {0, 500, 503, 429, 302};
    (void)state;
    learn(200, "{\"nickname\":\"Hero\"}");
    now_ms += FRESH_MS;
    for (size_t i = 0; i < sizeof(failures) / sizeof(*failures); i++) {
        learn(failures[i], "<html>");
        check(0, ACCOUNTS_FOUND, "Hero");
        now_ms += FAILING_MS;
        assert_string_equal(remembered("HL1"), "(unknown)"); /* not fresh by that */
    }
    learn(200, "<html>");
    check(0, ACCOUNTS_FOUND, "Hero");
    now_ms += STALE_MS - FRESH_MS - 5 * FAILING_MS - 1;
    learn(0, NULL);
    check(0, ACCOUNTS_FOUND, "Hero");
    now_ms += 1;
    learn(0, NULL);
    check(0, ACCOUNTS_DOWN, "");
}

/* While the service fails nobody waits for it whose nickname is known: each failure counts for 5 s,
 * any answer ends that. */
static void test_stale_at_once_while_the_service_fails(void **state) {
    static const int answers_it_is_back[] = {200, 401, 404};
    (void)state;
    learn(200, "{\"nickname\":\"Hero\"}");
    now_ms += FRESH_MS;
    ask(1, "HL2");
    stub_fail(1);
    check(1, ACCOUNTS_DOWN, "");
    assert_string_equal(remembered("HL1"), "Hero");
    assert_string_equal(remembered("HL2"), "(unknown)");
    now_ms += FAILING_MS - 1;
    assert_string_equal(remembered("HL1"), "Hero");
    now_ms += 1;
    assert_string_equal(remembered("HL1"), "(unknown)"); /* time to try again */
    for (size_t i = 0; i < 3; i++) {
        ask(1, "HL2");
        stub_answer(http_stub.count - 1, 500, "{}");
        assert_string_equal(remembered("HL1"), "Hero");
        ask(1, "HL3");
        stub_answer(http_stub.count - 1, answers_it_is_back[i], NOT_FOUND);
        assert_string_equal(remembered("HL1"), "(unknown)");
    }
    ask(1, "HL2");
    stub_fail(http_stub.count - 1);
    now_ms += FAILING_MS - 1;
    learn(200, "{\"nickname\":\"Hero\"}");
    now_ms += STALE_MS;
    ask(1, "HL2");
    stub_fail(http_stub.count - 1);
    assert_string_equal(remembered("HL1"), "(unknown)"); /* an hour is too old */
}

/* For a login whose time is up before the service says anything. */
static void test_stale_before_the_answer(void **state) {
    (void)state;
    assert_null(accounts_stale(accounts, "HL1", now_ms));
    learn(200, "{\"nickname\":\"Hero\"}");
    now_ms += STALE_MS - 1;
    ask(0, "HL1");
    assert_string_equal(accounts_stale(accounts, "HL1", now_ms), "Hero");
    assert_null(accounts_stale(accounts, "HL2", now_ms));
    now_ms += 1;
    assert_null(accounts_stale(accounts, "HL1", now_ms));
    stub_answer(1, 404, NOT_FOUND);
    assert_null(accounts_stale(accounts, "HL1", now_ms));
}

/* The service has an answer, and it is no: what was known does not count. */
static void test_stale_is_not_for_refusals(void **state) {
    (void)state;
    learn(200, "{\"nickname\":\"Hero\"}");
    now_ms += FRESH_MS;
    learn(401, "{}");
    check(0, ACCOUNTS_DENIED, "");
    learn(404, NOT_FOUND);
    check(0, ACCOUNTS_MISSING, "");
    now_ms += MISSING_MS;
    learn(0, NULL);
    check(0, ACCOUNTS_DOWN, ""); /* an account that is gone has no nickname */
}

static void test_missing_for_30_s(void **state) {
    (void)state;
    learn(404, NOT_FOUND);
    now_ms += MISSING_MS - 1;
    assert_string_equal(remembered("HL1"), "(missing)");
    now_ms += 1;
    assert_string_equal(remembered("HL1"), "(unknown)");
    learn(200, "{\"nickname\":\"Hero\"}");
    assert_string_equal(remembered("HL1"), "Hero");
}

static void test_failures_are_not_remembered(void **state) {
    static const int statuses[] = {0, 401, 403, 500};
    (void)state;
    for (size_t i = 0; i < sizeof(statuses) / sizeof(*statuses); i++) {
        learn(statuses[i], "{}");
        assert_string_equal(remembered("HL1"), "(unknown)");
    }
}

/* ---- coalescing ---- */

static void test_100_waits_one_request(void **state) {
    (void)state;
    for (size_t i = 0; i < 100; i++)
        ask(i, "HL1");
    assert_int_equal(http_stub.count, 1);
    assert_string_equal(stub_request(0)->bearer, "token-of-0");
    stub_answer(0, 200, "{\"nickname\":\"Hero\"}");
    for (size_t i = 0; i < 100; i++)
        check(i, ACCOUNTS_FOUND, "Hero");
    assert_int_equal(http_stub.count, 1);
}

static void test_others_do_not_join(void **state) {
    (void)state;
    ask(0, "HL1");
    ask(1, "HL2");
    ask(2, "hl1");
    assert_int_equal(http_stub.count, 3);
    stub_answer(1, 200, "{\"nickname\":\"Two\"}");
    check_waits(0);
    check(1, ACCOUNTS_FOUND, "Two");
    stub_answer(0, 404, NOT_FOUND);
    check(0, ACCOUNTS_MISSING, "");
    check_waits(2);
}

/* ---- one user's tokens: one may be revoked, and another good ---- */

static void test_denied_is_for_that_token(void **state) {
    static const char *const tokens[] = {"bad", "good", "bad", "other", "bad"};
    (void)state;
    for (size_t i = 0; i < 5; i++)
        ask_with(i, "HL1", tokens[i]);
    assert_string_equal(stub_request(0)->bearer, "bad");
    stub_answer(0, 401, "{\"errorMessage\":\"revoked\"}");
    for (size_t i = 0; i < 5; i += 2) {
        check(i, ACCOUNTS_DENIED, "");
        assert_string_equal(outcomes[i].detail, "revoked");
    }
    check_waits(1);
    check_waits(3);
    assert_int_equal(http_stub.count, 2); /* asked again, with the next one's */
    assert_string_equal(stub_request(1)->bearer, "good");
    stub_answer(1, 200, "{\"nickname\":\"Hero\"}");
    check(1, ACCOUNTS_FOUND, "Hero");
    check(3, ACCOUNTS_FOUND, "Hero");
    assert_int_equal(http_stub.count, 2);
}

static void test_all_denied(void **state) {
    (void)state;
    for (size_t i = 0; i < 10; i++)
        ask(i, "HL1");
    for (size_t i = 0; i < 10; i++) {
        char *token = text_of("token-of-%zu", i);
        assert_int_equal(http_stub.count, i + 1);
        assert_string_equal(stub_request(i)->bearer, token);
        stub_answer(i, 403, "{}");
        check(i, ACCOUNTS_DENIED, "");
        free(token);
    }
    assert_int_equal(stub_open(), 0);
}

/* Who brought the token has left; others may have come with the same. */
static void test_denied_after_its_first_has_left(void **state) {
    (void)state;
    ask_with(0, "HL1", "bad");
    ask_with(1, "HL1", "good");
    ask_with(2, "HL1", "bad");
    cancel(0);
    stub_answer(0, 401, "{}");
    check(2, ACCOUNTS_DENIED, "");
    check_waits(1);
    assert_string_equal(stub_request(1)->bearer, "good");
    cancel(1);
    stub_answer(1, 401, "{}");
    assert_int_equal(http_stub.count, 2); /* nobody is left to ask for */
}

/* It goes to the end of the queue: others have waited longer. */
static void test_asked_again_in_its_turn(void **state) {
    (void)state;
    ask_with(200, "HL0", "bad");
    ask_with(201, "HL0", "good");
    for (size_t i = 1; i <= ACCOUNTS_IN_FLIGHT; i++)
        ask_user(i, i);
    assert_int_equal(http_stub.count, ACCOUNTS_IN_FLIGHT);
    stub_answer(0, 401, "{}");
    assert_int_equal(stub_open(), ACCOUNTS_IN_FLIGHT);
    assert_string_equal(stub_request(ACCOUNTS_IN_FLIGHT)->bearer, "token-of-44");
    check_waits(201);
    stub_answer(1, 200, "{}");
    assert_string_equal(stub_request(ACCOUNTS_IN_FLIGHT + 1)->bearer, "good");
}

/* The one whose turn it is leaves: the next one's token is sent. */
static void test_queued_without_its_first(void **state) {
    (void)state;
    for (size_t i = 0; i < ACCOUNTS_IN_FLIGHT; i++)
        ask_user(i, i);
    ask_with(200, "HL1000", "first");
    ask_with(201, "HL1000", "second");
    cancel(200);
    stub_answer(0, 200, "{}");
    assert_string_equal(stub_request(ACCOUNTS_IN_FLIGHT)->bearer, "second");
}

static void test_cancel_from_a_denied_callback(void **state) {
    (void)state;
    ask_with(0, "HL1", "bad");
    ask_with(1, "HL1", "bad");
    ask_with(2, "HL1", "bad");
    ask_with(3, "HL1", "good");
    outcomes[0].cancels_next = outcomes[2].cancels_next = true;
    stub_answer(0, 401, "{}");
    check(0, ACCOUNTS_DENIED, "");
    check(2, ACCOUNTS_DENIED, "");
    check_waits(1);
    check_waits(3);
    assert_int_equal(http_stub.count, 1);
}

/* ---- secrets ---- */

#if defined(__SANITIZE_ADDRESS__)
static void test_tokens_are_wiped(void **state) {
    (void)state;
    print_message("[  SKIPPED ] the address sanitizer owns the allocator\n");
    skip();
}
#else

static void test_tokens_are_wiped(void **state) {
    (void)state;
    ask_with(0, "HL1", "CANARY-bad");
    ask_with(1, "HL1", "CANARY-good");
    ask_with(2, "HL1", "CANARY-third");
    ask_with(3, "HL2", "CANARY-free");
    secret_watch_start("CANARY");
    stub_answer(0, 401, "{}");
    cancel(2);
    stub_answer(2, 200, "{}");
    accounts_free(accounts);
    assert_int_equal(secret_watch_stop(), 0);
    check(0, ACCOUNTS_DENIED, "");
    check(1, ACCOUNTS_FOUND, "HL1");
    check_waits(3);
    start(state);
}
#endif

/* ---- 44 in flight ---- */

static void test_44_in_flight(void **state) {
    (void)state;
    for (size_t i = 0; i < 100; i++)
        ask_user(i, i);
    assert_int_equal(stub_open(), ACCOUNTS_IN_FLIGHT);
    for (size_t i = 0; i < 100; i++) {
        char *url = text_of(URL "/idm/accounts/HL%zu", i); /* in the order of the questions */
        char *token = text_of("token-of-%zu", i);
        assert_string_equal(stub_request(i)->url, url);
        assert_string_equal(stub_request(i)->bearer, token);
        free(url);
        free(token);
        stub_answer(i, 200, "{\"nickname\":\"Hero\"}");
        check(i, ACCOUNTS_FOUND, "Hero");
        size_t left = 100 - i - 1;
        assert_int_equal(stub_open(), left < ACCOUNTS_IN_FLIGHT ? left : ACCOUNTS_IN_FLIGHT);
    }
}

/* Those who join one that waits for its turn are served by its one request. */
static void test_join_a_queued_one(void **state) {
    (void)state;
    for (size_t i = 0; i <= ACCOUNTS_IN_FLIGHT; i++)
        ask_user(i, i);
    ask_user(200, ACCOUNTS_IN_FLIGHT);
    assert_int_equal(http_stub.count, ACCOUNTS_IN_FLIGHT);
    stub_answer(0, 200, "{}");
    assert_int_equal(http_stub.count, ACCOUNTS_IN_FLIGHT + 1);
    stub_answer(ACCOUNTS_IN_FLIGHT, 200, "{\"nickname\":\"Hero\"}");
    check(ACCOUNTS_IN_FLIGHT, ACCOUNTS_FOUND, "Hero");
    check(200, ACCOUNTS_FOUND, "Hero");
}

/* Failures of the service free their places, too. */
static void test_failures_free_their_places(void **state) {
    (void)state;
    for (size_t i = 0; i < 3 * ACCOUNTS_IN_FLIGHT; i++)
        ask_user(i, i);
    for (size_t i = 0; i < 3 * ACCOUNTS_IN_FLIGHT; i++)
        stub_fail(i);
    for (size_t i = 0; i < 3 * ACCOUNTS_IN_FLIGHT; i++)
        check(i, ACCOUNTS_DOWN, "");
}

static void test_request_that_cannot_begin(void **state) {
    (void)state;
    log_init(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    http_stub.refuses = true;
    ask(0, "HL1"); /* told by its deadline, which is not ours */
    http_stub.refuses = false;
    ask(1, "HL1");
    assert_int_equal(http_stub.count, 1);
    stub_answer(0, 200, "{\"nickname\":\"Hero\"}");
    check(0, ACCOUNTS_FOUND, "Hero");
    check(1, ACCOUNTS_FOUND, "Hero");
}

/* ---- cancelling ---- */

static void test_cancel_one_of_many(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++)
        ask(i, "HL1");
    cancel(1);
    stub_answer(0, 200, "{\"nickname\":\"Hero\"}");
    check(0, ACCOUNTS_FOUND, "Hero");
    check_waits(1);
    check(2, ACCOUNTS_FOUND, "Hero");
}

/* All have left: the answer is remembered all the same, and who comes meanwhile joins. */
static void test_cancel_all_in_flight(void **state) {
    (void)state;
    ask(0, "HL1");
    ask(1, "HL1");
    cancel(0);
    cancel(1);
    ask(2, "HL1");
    assert_int_equal(http_stub.count, 1);
    cancel(2);
    stub_answer(0, 200, "{\"nickname\":\"Hero\"}");
    assert_int_equal(outcomes[0].calls + outcomes[1].calls + outcomes[2].calls, 0);
    assert_string_equal(remembered("HL1"), "Hero");
}

static void test_cancel_queued(void **state) {
    (void)state;
    for (size_t i = 0; i < ACCOUNTS_IN_FLIGHT + 3; i++)
        ask_user(i, i);
    ask_user(200, ACCOUNTS_IN_FLIGHT + 1); /* joins the second of the three */
    cancel(ACCOUNTS_IN_FLIGHT);            /* nobody wants it any more: not asked at all */
    cancel(ACCOUNTS_IN_FLIGHT + 1);
    stub_answer(0, 200, "{}");
    stub_answer(1, 200, "{}");
    stub_answer(2, 200, "{}");
    assert_int_equal(http_stub.count, ACCOUNTS_IN_FLIGHT + 2);
    assert_string_equal(stub_request(ACCOUNTS_IN_FLIGHT)->url, URL "/idm/accounts/HL45");
    assert_string_equal(stub_request(ACCOUNTS_IN_FLIGHT + 1)->url, URL "/idm/accounts/HL46");
    stub_answer(ACCOUNTS_IN_FLIGHT, 200, "{\"nickname\":\"Hero\"}");
    check(200, ACCOUNTS_FOUND, "Hero");
    check_waits(ACCOUNTS_IN_FLIGHT + 1);
}

static void test_cancel_from_a_callback(void **state) {
    (void)state;
    for (size_t i = 0; i < 4; i++)
        ask(i, "HL1");
    outcomes[0].cancels_next = outcomes[2].cancels_next = true;
    stub_answer(0, 200, "{\"nickname\":\"Hero\"}");
    check(0, ACCOUNTS_FOUND, "Hero");
    check(2, ACCOUNTS_FOUND, "Hero");
    check_waits(1);
    check_waits(3);
}

static void test_free_with_work_pending(void **state) {
    for (size_t i = 0; i < 2 * ACCOUNTS_IN_FLIGHT; i++)
        ask_user(i, i);
    ask_user(200, 0);
    ask_user(201, 2 * ACCOUNTS_IN_FLIGHT - 1);
    accounts_free(accounts);
    assert_int_equal(stub_open(), 0);
    for (size_t i = 0; i < WAITS; i++)
        check_waits(i);
    accounts_free(NULL);
    start(state);
}

/* ---- the ceiling of what is remembered ---- */

static void learn_user(size_t user) {
    ask_user(0, user);
    stub_answer(http_stub.count - 1, 200, "{\"nickname\":\"Hero\"}");
    assert_int_equal(outcomes[0].calls, 1);
    stub_forget_answered();
}

static bool is_remembered(size_t user) {
    char *id = text_of("HL%zu", user);
    bool is = strcmp(remembered(id), "Hero") == 0;
    free(id);
    return is;
}

static void test_cache_ceiling(void **state) {
    (void)state;
    for (size_t i = 0; i < ACCOUNTS_CACHED_MAX; i++)
        learn_user(i);
    assert_true(is_remembered(0)); /* and used just now by that */
    learn_user(ACCOUNTS_CACHED_MAX);
    assert_false(is_remembered(1)); /* the one used longest ago made room */
    assert_true(is_remembered(0));
    assert_true(is_remembered(2));
    assert_true(is_remembered(ACCOUNTS_CACHED_MAX));
}

/* Who waits is never forgotten, however full it is. */
static void test_cache_ceiling_keeps_the_busy(void **state) {
    (void)state;
    ask_user(1, 999999);
    for (size_t i = 0; i < ACCOUNTS_CACHED_MAX + 10; i++)
        learn_user(i);
    stub_answer(0, 200, "{\"nickname\":\"Hero\"}");
    check(1, ACCOUNTS_FOUND, "Hero");
    assert_true(is_remembered(999999));
    assert_false(is_remembered(10));
    assert_true(is_remembered(12));
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)
        TEST(test_request),
        TEST(test_user_ids_are_escaped),
        TEST(test_answers),
        TEST(test_details),
        TEST(test_failures_do_not_flood_the_log),
        TEST(test_requests_that_cannot_begin),
        TEST(test_refusals_are_logged),
        TEST(test_fresh_for_300_s),
        TEST(test_known_since_the_answer),
        TEST(test_stale_for_an_hour),
        TEST(test_stale_at_once_while_the_service_fails),
        TEST(test_stale_before_the_answer),
        TEST(test_stale_is_not_for_refusals),
        TEST(test_missing_for_30_s),
        TEST(test_failures_are_not_remembered),
        TEST(test_100_waits_one_request),
        TEST(test_others_do_not_join),
        TEST(test_denied_is_for_that_token),
        TEST(test_all_denied),
        TEST(test_denied_after_its_first_has_left),
        TEST(test_asked_again_in_its_turn),
        TEST(test_queued_without_its_first),
        TEST(test_cancel_from_a_denied_callback),
        TEST(test_tokens_are_wiped),
        TEST(test_44_in_flight),
        TEST(test_join_a_queued_one),
        TEST(test_failures_free_their_places),
        TEST(test_request_that_cannot_begin),
        TEST(test_cancel_one_of_many),
        TEST(test_cancel_all_in_flight),
        TEST(test_cancel_queued),
        TEST(test_cancel_from_a_callback),
        TEST(test_free_with_work_pending),
        TEST(test_cache_ceiling),
        TEST(test_cache_ceiling_keeps_the_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
