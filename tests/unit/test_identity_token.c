/*
 * identity_token.h: logins from the credentials to the answer, with the real verifier, accounts and
 * passwords; only the clock is made up, and the services, which answer when the test says so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/cmocka.h"

#include "shared/log.h"
#include "shared/metrics.h"
#include "tests/unit/http_stub.h"
#include "tests/unit/secret_watch.h"
#include "tests/unit/token_maker.h"
#include "ws-broker/identity_token.h"

#define JWKS_URL    "https://id.example/keys"
#define ACCOUNT_URL "http://accounts.example:8081"

#define ERROR_TOKEN    "the access token is expired or invalid"
#define ERROR_ACCOUNT  "there is no account for this access token"
#define ERROR_PASSWORD "invalid credentials"
#define ERROR_DOWN     "the account service does not answer: try again"
#define ERROR_BUSY     "too many logins are waiting: try again"

#define SECRET  "CANARY-0123456789abcdef0123456789abcdef0123456789abcdef-CANARY"
#define REFRESH "{\"refreshToken\":{\"value\":\"" SECRET "\"}}"

enum { CONNS = IDENTITY_LOGINS_MAX + 10, PASSWORDS_MOST = 520, FRESH_MS = 300000 };

static EVP_PKEY *key;
static char *jwks, *token, *token_2, *token_dots, *token_expired;
static int64_t exp_s;

static struct identity *identity;
static struct metrics metrics;
static uv_loop_t loop; /* only asked for the time */
static int64_t now_ms;
static unsigned pending;
static bool is_checking;

/* What each connection was told; its id is its place. */
struct conn_record {
    unsigned answers;
    struct identity_answer answer;
    uint64_t forgets; /* its answer makes this other connection leave; 0: nobody */
};

static struct conn_record conns[CONNS];

/* ---- the clock, in place of libuv's ---- */

uint64_t uv_now(const uv_loop_t *of) {
    assert_ptr_equal(of, &loop);
    return (uint64_t)now_ms;
}

uint64_t uv_hrtime(void) {
    return (uint64_t)now_ms * 1000000;
}

/* ---- start and stop ---- */

static char *make_token(const char *sub, int64_t exp) {
    char *payload = text_of("{\"sub\":\"%s\",\"aud\":\"game\",\"exp\":%lld,\"nickname\":\"Hero\","
                            "\"x\":\"" SECRET "\"}",
                            sub, (long long)exp);
    char *made = sign_token(key, NULL, "{\"alg\":\"RS256\",\"kid\":\"a\"}", payload);
    free(payload);
    return made;
}

static int make_tokens(void **state) {
    (void)state;
    log_init(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    exp_s = (int64_t)time(NULL) + 3600;
    key = make_key(2048);
    jwks = jwks_of(key, "a");
    token = make_token("HL1", exp_s);
    token_2 = make_token("HL2", exp_s);
    token_dots = make_token("..", exp_s);
    token_expired = make_token("HL1", 1);
    identity_token_register_metrics(&metrics);
    return 0;
}

static int free_tokens(void **state) {
    (void)state;
    EVP_PKEY_free(key);
    free(jwks);
    free(token);
    free(token_2);
    free(token_dots);
    free(token_expired);
    return 0;
}

static void on_answer(void *user, uint64_t conn_id, const struct identity_answer *answer) {
    assert_ptr_equal(user, conns);
    assert_false(is_checking); /* never from inside */
    assert_true(conn_id < CONNS);
    struct conn_record *conn = &conns[conn_id];
    conn->answers++;
    conn->answer = *answer;
    if (answer->status == IDENTITY_ACCEPTED)
        assert_string_equal(answer->error, "");
    else
        assert_true(*answer->error);
    if (conn->forgets)
        identity_forget(identity, conn->forgets);
}

static void on_pending(void *user) {
    assert_ptr_equal(user, conns);
    pending++;
}

static void start_with(const char *account_url) {
    static const struct identity_events events = {on_answer, on_pending};
    const struct identity_token_options options = {
        .verifier = {.policy = {.algorithm = "RS256",
                                .audience = "game",
                                .nickname_claim = "nickname"},
                     .jwks_url = JWKS_URL},
        .account_url = account_url};
    now_ms = 100000000;
    pending = 0;
    memset(conns, 0, sizeof(conns));
    identity = identity_token_new(&options, &loop, NULL, &events, conns);
    assert_non_null(identity);
    assert_string_equal(stub_request(0)->url, JWKS_URL);
}

static void have_keys(void) {
    stub_answer(0, 200, jwks);
    stub_forget_answered();
}

static int start(void **state) {
    (void)state;
    start_with(ACCOUNT_URL);
    have_keys();
    return 0;
}

static int start_without_accounts(void **state) {
    (void)state;
    start_with(NULL);
    have_keys();
    return 0;
}

static int stop(void **state) {
    (void)state;
    identity_free(identity);
    stub_reset(); /* asserts that no request was left open */
    return 0;
}

/* ---- words of the tests ---- */

static void check_waiting(unsigned want) {
    size_t len;
    char *text = metrics_text(&metrics, &len),
         *line = text_of("\nhlchat_logins_waiting %u\n", want);
    assert_non_null(text);
    assert_non_null(strstr(text, line));
    free(text);
    free(line);
}

/* Whether the answer came at once; the credentials are gone on return. */
static bool login(uint64_t conn_id, const char *with_token, const char *password) {
    char *copy = stub_copy(with_token ? with_token : password);
    struct identity_credentials credentials = {.token = copy};
    struct identity_answer answer;
    if (!with_token)
        credentials = (struct identity_credentials){.username = "ann", .password = copy};
    memset(&answer, 0xee, sizeof(answer));
    is_checking = true;
    bool at_once = identity_check(identity, &credentials, conn_id, &answer);
    is_checking = false;
    explicit_bzero(copy, strlen(copy));
    free(copy);
    if (at_once) {
        conns[conn_id].answers++;
        conns[conn_id].answer = answer;
    }
    return at_once;
}

static void login_by_token(uint64_t conn_id, const char *with_token) {
    assert_false(login(conn_id, with_token, NULL));
}

static void login_by_password(uint64_t conn_id, const char *password) {
    assert_false(login(conn_id, NULL, password));
}

static void turns(void) {
    while (identity_turn(identity))
        ;
}

static void check_accepted(uint64_t conn_id, const char *user_id, const char *nickname) {
    const struct conn_record *conn = &conns[conn_id];
    assert_int_equal(conn->answers, 1);
    assert_int_equal(conn->answer.status, IDENTITY_ACCEPTED);
    assert_string_equal(conn->answer.user_id, user_id);
    assert_string_equal(conn->answer.nickname, nickname);
    assert_int_equal(conn->answer.expires_at, exp_s);
}

static void check_failed(uint64_t conn_id, enum identity_status status, const char *error) {
    const struct conn_record *conn = &conns[conn_id];
    assert_int_equal(conn->answers, 1);
    assert_int_equal(conn->answer.status, status);
    assert_string_equal(conn->answer.error, error);
}

static void check_waits(uint64_t conn_id) {
    assert_int_equal(conns[conn_id].answers, 0);
}

static char *access_of(const char *with_token) {
    return text_of("{\"accessToken\":{\"value\":\"%s\"}}", with_token);
}

/* ---- by token alone ---- */

static void test_token(void **state) {
    (void)state;
    login_by_token(1, token);
    assert_true(pending > 0);
    check_waits(1);
    check_waiting(1);
    turns();
    check_accepted(1, "HL1", "Hero");
    check_waiting(0);
    assert_int_equal(http_stub.count, 0);
}

static void test_token_refused(void **state) {
    const char *bad[] = {token_expired, "rubbish", "", "a.b.c"};
    (void)state;
    for (uint64_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        login_by_token(i, bad[i]);
        turns();
        check_failed(i, IDENTITY_REFUSED, ERROR_TOKEN);
    }
}

static void test_no_passwords_without_accounts(void **state) {
    (void)state;
    assert_true(login(1, NULL, SECRET));
    check_failed(1, IDENTITY_REFUSED, "this server takes no passwords: log in with a token");
    check_waiting(0);
}

static void test_keys_that_cannot_be_had(void **state) {
    start_with(NULL);
    login_by_token(1, token);
    turns();
    check_waits(1);
    stub_fail(0);
    turns();
    check_failed(1, IDENTITY_UNAVAILABLE, ERROR_DOWN);
    stop(state);
}

/* ---- by token, with accounts ---- */

static void test_token_and_account(void **state) {
    (void)state;
    login_by_token(1, token);
    turns();
    check_waits(1);
    assert_int_equal(http_stub.count, 1);
    assert_string_equal(stub_request(0)->url, ACCOUNT_URL "/idm/accounts/HL1");
    assert_string_equal(stub_request(0)->bearer, token);
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}");
    check_accepted(1, "HL1", "Great Hero"); /* not the token's */
    login_by_token(2, token);
    turns();
    check_accepted(2, "HL1", "Great Hero"); /* remembered */
    assert_int_equal(http_stub.count, 1);
}

static void test_100_logins_of_one_user(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 100; i++)
        login_by_token(i, token);
    turns();
    assert_int_equal(http_stub.count, 1);
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}");
    for (uint64_t i = 0; i < 100; i++)
        check_accepted(i, "HL1", "Great Hero");
    check_waiting(0);
}

static const struct {
    int status; /* 0: no whole answer */
    const char *body;
    enum identity_status result;
    const char *error;
} lookups[] = {
    {404, "{\"errorMessage\":\"\"}", IDENTITY_REFUSED, ERROR_ACCOUNT},
    {404, "{\"errorMessage\":\"no HL1\"}", IDENTITY_REFUSED, ERROR_ACCOUNT ": no HL1"},
    {404, "{}", IDENTITY_UNAVAILABLE, ERROR_DOWN},
    {404, "<html>", IDENTITY_UNAVAILABLE, ERROR_DOWN},
    {401, "{\"errorMessage\":\"revoked\"}", IDENTITY_REFUSED, ERROR_TOKEN ": revoked"},
    {403, "{}", IDENTITY_REFUSED, ERROR_TOKEN},
    {400, "{\"errorMessage\":\"odd\"}", IDENTITY_UNAVAILABLE, ERROR_DOWN},
    {500, "{\"errorMessage\":\"database\"}", IDENTITY_UNAVAILABLE, ERROR_DOWN},
    {502, "<html>", IDENTITY_UNAVAILABLE, ERROR_DOWN},
    {200, "<html>", IDENTITY_UNAVAILABLE, ERROR_DOWN},
    {0, NULL, IDENTITY_UNAVAILABLE, ERROR_DOWN},
};

static void test_account_failures(void **state) {
    for (size_t i = 0; i < sizeof(lookups) / sizeof(*lookups); i++) {
        login_by_token(1, token);
        turns();
        if (lookups[i].status)
            stub_answer(0, lookups[i].status, lookups[i].body);
        else
            stub_fail(0);
        check_failed(1, lookups[i].result, lookups[i].error);
        stop(state);
        start(state);
    }
}

static void test_missing_account_is_remembered(void **state) {
    (void)state;
    login_by_token(1, token);
    turns();
    stub_answer(0, 404, "{\"errorMessage\":\"no HL1\"}");
    login_by_token(2, token);
    turns();
    check_failed(2, IDENTITY_REFUSED, ERROR_ACCOUNT);
    assert_int_equal(http_stub.count, 1);
}

/* "." and ".." are steps in a path: such a user is not looked for. */
static void test_user_id_of_dots(void **state) {
    (void)state;
    login_by_token(1, token_dots);
    turns();
    check_failed(1, IDENTITY_REFUSED, ERROR_ACCOUNT);
    assert_int_equal(http_stub.count, 0);
}

static void test_invalid_tokens_ask_no_service(void **state) {
    (void)state;
    login_by_token(1, token_expired);
    turns();
    check_failed(1, IDENTITY_REFUSED, ERROR_TOKEN);
    assert_int_equal(http_stub.count, 0);
}

/* ---- by password ---- */

static void test_password(void **state) {
    char *access = access_of(token);
    (void)state;
    login_by_password(1, "swordfish");
    check_waiting(1);
    assert_string_equal(stub_request(0)->url, ACCOUNT_URL "/idm/auth/login");
    stub_answer(0, 200, REFRESH);
    assert_string_equal(stub_request(1)->url, ACCOUNT_URL "/idm/auth/access-token");
    pending = 0;
    stub_answer(1, 200, access);
    assert_true(pending > 0); /* now the token is to be verified */
    turns();
    assert_string_equal(stub_request(2)->url, ACCOUNT_URL "/idm/accounts/HL1");
    assert_string_equal(stub_request(2)->bearer, token);
    check_waits(1);
    stub_answer(2, 200, "{\"nickname\":\"Great Hero\"}");
    check_accepted(1, "HL1", "Great Hero");
    check_waiting(0);
    free(access);
}

static void test_password_refused(void **state) {
    (void)state;
    login_by_password(1, "swordfish");
    stub_answer(0, 401, "{\"errorMessage\":\"wrong password\"}");
    check_failed(1, IDENTITY_REFUSED, ERROR_PASSWORD ": wrong password");
    login_by_password(2, "swordfish");
    stub_answer(1, 404, "{}");
    check_failed(2, IDENTITY_REFUSED, ERROR_PASSWORD);
    login_by_password(3, "swordfish");
    stub_answer(2, 503, "{\"errorMessage\":\"database\"}");
    check_failed(3, IDENTITY_UNAVAILABLE, ERROR_DOWN);
    login_by_password(4, "swordfish");
    stub_answer(3, 200, REFRESH);
    stub_fail(4);
    check_failed(4, IDENTITY_UNAVAILABLE, ERROR_DOWN);
}

/* The service's own tokens are verified like any other. */
static void test_password_gives_a_bad_token(void **state) {
    char *access = access_of(token_expired);
    (void)state;
    login_by_password(1, "swordfish");
    stub_answer(0, 200, REFRESH);
    stub_answer(1, 200, access);
    turns();
    check_failed(1, IDENTITY_REFUSED, ERROR_TOKEN);
    free(access);
}

/* ---- ceilings ---- */

static void test_2000_logins(void **state) {
    (void)state;
    for (uint64_t i = 0; i < IDENTITY_LOGINS_MAX; i++)
        login_by_token(i, token);
    check_waiting(IDENTITY_LOGINS_MAX);
    assert_true(login(2001, token, NULL));
    check_failed(2001, IDENTITY_UNAVAILABLE, ERROR_BUSY);
    assert_true(login(2002, NULL, "swordfish"));
    check_failed(2002, IDENTITY_UNAVAILABLE, ERROR_BUSY);
    identity_forget(identity, 5);
    login_by_token(2003, token);
    assert_true(login(2004, token, NULL));
    turns();
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}");
    check_accepted(0, "HL1", "Great Hero");
    check_waits(5);
    check_waiting(0);
}

/* A service that hangs holds so many logins, and no more: those who need it not still come in. */
static void test_1500_wait_for_the_service(void **state) {
    (void)state;
    login_by_token(0, token); /* is remembered from now on */
    turns();
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}");
    for (uint64_t i = 1; i <= PASSWORDS_MOST; i++)
        login_by_password(i, "swordfish");
    for (uint64_t i = PASSWORDS_MOST + 1; i <= 1510; i++)
        login_by_token(i, token_2);
    turns();
    check_waiting(IDENTITY_AT_SERVICE_MAX);
    for (uint64_t i = 1; i <= IDENTITY_AT_SERVICE_MAX; i++)
        check_waits(i);
    for (uint64_t i = IDENTITY_AT_SERVICE_MAX + 1; i <= 1510; i++)
        check_failed(i, IDENTITY_UNAVAILABLE, ERROR_BUSY);
    login_by_token(1511, token);
    turns();
    check_accepted(1511, "HL1", "Great Hero");
    identity_forget(identity, 1); /* its place is free: for a password, */
    login_by_password(1512, "swordfish");
    assert_true(login(1513, NULL, "swordfish"));
    check_failed(1513, IDENTITY_UNAVAILABLE, ERROR_BUSY);
    identity_forget(identity, IDENTITY_AT_SERVICE_MAX); /* and for a look-up */
    login_by_token(1514, token_2);
    login_by_token(1515, token_2);
    turns();
    check_waits(1514);
    check_failed(1515, IDENTITY_UNAVAILABLE, ERROR_BUSY);
    now_ms += FRESH_MS;
    login_by_token(1516, token); /* not fresh any more, and no room to ask: better than nothing */
    turns();
    check_accepted(1516, "HL1", "Great Hero");
}

/* The service fails: who was known within the hour does not wait for it. */
static void test_stale_nickname_while_the_service_fails(void **state) {
    (void)state;
    login_by_token(1, token);
    turns();
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}");
    now_ms += FRESH_MS;
    login_by_token(2, token_2);
    turns();
    stub_fail(1);
    check_failed(2, IDENTITY_UNAVAILABLE, ERROR_DOWN);
    login_by_token(3, token);
    turns();
    check_accepted(3, "HL1", "Great Hero");
    assert_int_equal(http_stub.count, 2);
}

/* A flood of passwords: it fills its own queue, and tokens go on. */
static void test_passwords_do_not_hinder_tokens(void **state) {
    (void)state;
    for (uint64_t i = 0; i < PASSWORDS_MOST; i++)
        login_by_password(i, "swordfish");
    assert_true(login(600, NULL, "swordfish"));
    check_failed(600, IDENTITY_UNAVAILABLE, ERROR_BUSY);
    check_waiting(PASSWORDS_MOST);
    login_by_token(601, token);
    turns();
    stub_answer(http_stub.count - 1, 200, "{\"nickname\":\"Great Hero\"}");
    check_accepted(601, "HL1", "Great Hero");
}

/* ---- the deadline ---- */

static void test_deadline(void **state) {
    char *access = access_of(token_2);
    (void)state;
    login_by_token(1, token); /* will be looked up */
    turns();
    login_by_password(2, "swordfish"); /* in the first step */
    login_by_password(3, "swordfish"); /* in the second */
    stub_answer(2, 200, REFRESH);
    now_ms += 1;
    login_by_password(4, "swordfish"); /* is verified, and never gets its turn */
    size_t second = http_stub.count;
    stub_answer(second - 1, 200, REFRESH);
    stub_answer(second, 200, access);
    now_ms += IDENTITY_DEADLINE_MS - 2;
    identity_tick(identity);
    for (uint64_t i = 1; i <= 4; i++)
        check_waits(i);
    now_ms += 1;
    identity_tick(identity);
    for (uint64_t i = 1; i <= 3; i++)
        check_failed(i, IDENTITY_UNAVAILABLE, ERROR_DOWN);
    check_waits(4); /* began a millisecond later */
    check_waiting(1);
    now_ms += 1;
    identity_tick(identity);
    check_failed(4, IDENTITY_UNAVAILABLE, ERROR_DOWN);
    turns();
    assert_int_equal(stub_open(), 1);                     /* the look-up: its answer is of use */
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}"); /* too late for 1 */
    assert_int_equal(conns[1].answers, 1);
    login_by_token(5, token);
    turns();
    check_accepted(5, "HL1", "Great Hero");
    check_waiting(0);
    free(access);
}

/* All steps together have one deadline. */
static void test_one_deadline_for_all_steps(void **state) {
    char *access = access_of(token);
    (void)state;
    login_by_password(1, "swordfish");
    now_ms += 4000;
    identity_tick(identity);
    stub_answer(0, 200, REFRESH);
    now_ms += 4000;
    identity_tick(identity);
    stub_answer(1, 200, access);
    turns();
    check_waits(1);
    now_ms += IDENTITY_DEADLINE_MS - 8000;
    identity_tick(identity);
    check_failed(1, IDENTITY_UNAVAILABLE, ERROR_DOWN);
    free(access);
}

/* The service hangs: who was known within the hour logs in all the same, at the deadline. */
static void test_stale_nickname_at_the_deadline(void **state) {
    (void)state;
    login_by_token(1, token);
    turns();
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}");
    now_ms += FRESH_MS;
    login_by_token(2, token);
    login_by_token(3, token_2);
    turns();
    check_waits(2);
    now_ms += IDENTITY_DEADLINE_MS;
    identity_tick(identity);
    check_accepted(2, "HL1", "Great Hero");
    check_failed(3, IDENTITY_UNAVAILABLE, ERROR_DOWN);
}

/* Requests end before the login's deadline does, so that a stale nickname comes by itself. */
static void test_requests_end_in_time(void **state) {
    (void)state;
    login_by_token(1, token);
    turns();
    assert_true(stub_request(0)->timeout_ms < IDENTITY_DEADLINE_MS);
    login_by_password(2, "swordfish");
    assert_true(stub_request(1)->timeout_ms <= IDENTITY_DEADLINE_MS);
}

/* ---- connections that leave ---- */

static void test_forget_in_each_state(void **state) {
    (void)state;
    login_by_token(1, token);
    turns();
    login_by_token(2, token_2);
    login_by_password(3, "swordfish");
    login_by_password(4, "swordfish");
    stub_answer(2, 200, REFRESH);
    check_waiting(4);
    for (uint64_t i = 1; i <= 4; i++)
        identity_forget(identity, i);
    identity_forget(identity, 1); /* and again, and one who never came */
    identity_forget(identity, 77);
    check_waiting(0);
    turns();
    assert_int_equal(stub_open(), 1); /* the look-up: its answer is of use */
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}");
    now_ms += IDENTITY_DEADLINE_MS;
    identity_tick(identity);
    for (uint64_t i = 1; i <= 4; i++)
        check_waits(i);
}

/* An answer makes others leave: the next in line, and one who waits for the same account. */
static void test_forget_from_an_answer(void **state) {
    (void)state;
    for (uint64_t i = 1; i <= 6; i++)
        login_by_token(i, token);
    conns[1].forgets = 2;
    conns[3].forgets = 4;
    turns();
    stub_answer(0, 200, "{\"nickname\":\"Great Hero\"}");
    for (uint64_t i = 1; i <= 6; i++)
        assert_int_equal(conns[i].answers, i == 2 || i == 4 ? 0 : 1);
}

static void test_forget_from_an_answer_at_the_deadline(void **state) {
    (void)state;
    for (uint64_t i = 1; i <= 6; i++)
        login_by_password(i, "swordfish");
    conns[1].forgets = 2;
    conns[3].forgets = 6;
    now_ms += IDENTITY_DEADLINE_MS;
    identity_tick(identity);
    for (uint64_t i = 1; i <= 6; i++)
        assert_int_equal(conns[i].answers, i == 2 || i == 6 ? 0 : 1);
    check_waiting(0);
}

static void test_free_with_work_pending(void **state) {
    login_by_token(1, token);
    turns();
    login_by_token(2, token_2);
    login_by_password(3, "swordfish");
    stub_answer(1, 200, REFRESH);
    login_by_password(4, "swordfish");
    for (uint64_t i = 5; i < 60; i++)
        login_by_password(i, "swordfish");
    identity_free(identity);
    assert_int_equal(stub_open(), 0);
    for (uint64_t i = 0; i < 60; i++)
        check_waits(i);
    stub_reset();
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

/* Ends of a login: accepted, refused by the service, the connection left, the deadline. */
static void test_secrets_are_wiped(void **state) {
    /* a piece of the token's payload, as it stands in it */
    const char *mark = strchr(token, '.') + 20;
    char *piece = text_of("%.24s", mark), *access = access_of(token);
    (void)state;
    for (int end = 0; end < 4; end++) {
        uint64_t conn_id = (uint64_t)end + 1;
        size_t n = http_stub.count;
        conns[conn_id] = (struct conn_record){0};
        login_by_password(conn_id, "swordfish");
        stub_answer(n, 200, REFRESH);
        secret_watch_start(piece);
        stub_answer(n + 1, 200, access);
        turns();
        if (end == 0)
            stub_answer(n + 2, 500, "{}");
        else if (end == 1)
            stub_answer(n + 2, 401, "{}");
        else if (end == 2)
            identity_forget(identity, conn_id);
        now_ms += IDENTITY_DEADLINE_MS;
        identity_tick(identity);
        unsigned found = secret_watch_stop();
        if (found > 0)
            fail_msg("end %d: %u blocks with a piece of the token", end, found);
        if (end == 2)
            stub_answer(n + 2, 500, "{}");
    }
    free(piece);
    free(access);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name)       cmocka_unit_test_setup_teardown(name, start, stop)
#define TOKEN_TEST(name) cmocka_unit_test_setup_teardown(name, start_without_accounts, stop)
        TOKEN_TEST(test_token),
        TOKEN_TEST(test_token_refused),
        TOKEN_TEST(test_no_passwords_without_accounts),
        cmocka_unit_test(test_keys_that_cannot_be_had),
        TEST(test_token_and_account),
        TEST(test_100_logins_of_one_user),
        TEST(test_account_failures),
        TEST(test_missing_account_is_remembered),
        TEST(test_user_id_of_dots),
        TEST(test_invalid_tokens_ask_no_service),
        TEST(test_password),
        TEST(test_password_refused),
        TEST(test_password_gives_a_bad_token),
        TEST(test_2000_logins),
        TEST(test_1500_wait_for_the_service),
        TEST(test_stale_nickname_while_the_service_fails),
        TEST(test_passwords_do_not_hinder_tokens),
        TEST(test_deadline),
        TEST(test_one_deadline_for_all_steps),
        TEST(test_stale_nickname_at_the_deadline),
        TEST(test_requests_end_in_time),
        TEST(test_forget_in_each_state),
        TEST(test_forget_from_an_answer),
        TEST(test_forget_from_an_answer_at_the_deadline),
        TEST(test_free_with_work_pending),
        TEST(test_secrets_are_wiped),
    };
    return cmocka_run_group_tests(tests, make_tokens, free_tokens);
}
