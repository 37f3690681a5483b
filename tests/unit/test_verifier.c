/* verifier.h: how many tokens a turn takes, which wait for keys, and when keys are asked for; with
 * a made-up clock and an identity provider that answers when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/cmocka.h"

#include "shared/log.h"
#include "shared/status.h"
#include "tests/unit/http_stub.h"
#include "tests/unit/log_watch.h"
#include "tests/unit/token_maker.h"
#include "ws-broker/verifier.h"

#define JWKS_URL "https://id.example/keys"
#define PAYLOAD  "{\"sub\":\"HL1\",\"aud\":\"game\",\"exp\":1700000060,\"nickname\":\"Hero\"}"

enum {
    NOW_S = 1700000000,
    START_MS = 5000000,
    PER_TURN = 20,
    MINUTE_MS = 60 * 1000,
    HOUR_MS = 3600 * 1000,
    TOKENS = 64,
};

static EVP_PKEY *key, *other_key;
static char *keys_a, *keys_b; /* key sets: key as "a", other_key as "b" */
static char *pem_path;
static char *token_a, *token_b, *token_unnamed, *token_expired, *token_forged;
static char *token_forged_unnamed;

static struct verifier *verifier;
static int64_t now_ms;
static unsigned pending;

/* Of one submitted token: what came back. */
struct outcome {
    struct verifier_wait *wait;
    unsigned calls;
    enum verifier_result result;
    bool cancels_next; /* its callback cancels the one after it */
};

static struct outcome outcomes[TOKENS];

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    must(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static int make_keys(void **state) {
    static char path[] = "/tmp/test_verifier.XXXXXX";
    (void)state;
    log_init(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    key = make_key(2048);
    other_key = make_key(2048);
    keys_a = jwks_of(key, "a");
    keys_b = jwks_of(other_key, "b");
    token_a = sign_token(key, NULL, "{\"alg\":\"RS256\",\"kid\":\"a\"}", PAYLOAD);
    token_b = sign_token(other_key, NULL, "{\"alg\":\"RS256\",\"kid\":\"b\"}", PAYLOAD);
    token_unnamed = sign_token(key, NULL, "{\"alg\":\"RS256\"}", PAYLOAD);
    token_expired = sign_token(key, NULL, "{\"alg\":\"RS256\",\"kid\":\"a\"}",
                               "{\"sub\":\"HL1\",\"aud\":\"game\",\"exp\":1}");
    token_forged = sign_token(other_key, NULL, "{\"alg\":\"RS256\",\"kid\":\"a\"}", PAYLOAD);
    token_forged_unnamed = sign_token(other_key, NULL, "{\"alg\":\"RS256\"}", PAYLOAD);
    char *pem = pem_of(key);
    int fd = mkstemp(path);
    must(fd >= 0 && close(fd) == 0);
    pem_path = path;
    write_text(pem_path, pem);
    free(pem);
    return 0;
}

static int free_keys(void **state) {
    (void)state;
    unlink(pem_path);
    EVP_PKEY_free(key);
    EVP_PKEY_free(other_key);
    free(keys_a);
    free(keys_b);
    free(token_a);
    free(token_b);
    free(token_unnamed);
    free(token_expired);
    free(token_forged);
    free(token_forged_unnamed);
    return 0;
}

/* ---- words of the tests ---- */

static void on_pending(void *user) {
    assert_ptr_equal(user, &pending);
    pending++;
}

static void start(const char *pem_files, const char *jwks_url) {
    const struct verifier_options options = {
        .policy = {.algorithm = "RS256", .audience = "game", .nickname_claim = "nickname"},
        .pem_files = pem_files,
        .jwks_url = jwks_url,
        .on_pending = on_pending,
        .user = &pending};
    now_ms = START_MS;
    pending = 0;
    memset(outcomes, 0, sizeof(outcomes));
    verifier = verifier_new(&options, now_ms);
}

static int stop(void **state) {
    (void)state;
    verifier_free(verifier);
    verifier = NULL;
    stub_reset(); /* asserts that no request was left open */
    return 0;
}

static void on_verified(void *user, enum verifier_result result, const struct jwt_claims *claims) {
    struct outcome *outcome = user;
    outcome->calls++;
    outcome->result = result;
    outcome->wait = NULL;
    assert_int_equal(claims != NULL, result == VERIFIER_VALID);
    if (claims) {
        assert_string_equal(claims->sub, "HL1");
        assert_string_equal(claims->nickname, "Hero");
        assert_int_equal(claims->expires_at, NOW_S + 60);
    }
    if (outcome->cancels_next) {
        verifier_cancel(verifier, outcome[1].wait);
        outcome[1].wait = NULL;
    }
}

/* From a copy that is gone before the turn. */
static void submit(size_t n, const char *token) {
    char *copy = stub_copy(token);
    unsigned before = pending;
    outcomes[n] = (struct outcome){0};
    outcomes[n].wait = verifier_submit(verifier, copy, on_verified, &outcomes[n]);
    memset(copy, 'x', strlen(copy));
    free(copy);
    assert_non_null(outcomes[n].wait);
    assert_true(pending > before);
    assert_int_equal(outcomes[n].calls, 0);
}

static void cancel(size_t n) {
    verifier_cancel(verifier, outcomes[n].wait);
    outcomes[n].wait = NULL;
}

static bool turn(void) {
    return verifier_turn(verifier, now_ms, NOW_S);
}

static unsigned answered(void) {
    unsigned sum = 0;
    for (size_t i = 0; i < TOKENS; i++) {
        assert_true(outcomes[i].calls <= 1);
        sum += outcomes[i].calls;
    }
    return sum;
}

static void check(size_t n, enum verifier_result want) {
    assert_int_equal(outcomes[n].calls, 1);
    assert_int_equal(outcomes[n].result, want);
}

/* Submits a token, takes turns until none is left, and tells what became of it; -1: it waits. */
static int ask(const char *token) {
    submit(0, token);
    while (turn())
        ;
    int result = outcomes[0].calls ? (int)outcomes[0].result : -1;
    if (outcomes[0].wait)
        cancel(0);
    return result;
}

static void tick_after(int64_t ms) {
    now_ms += ms;
    verifier_tick(verifier, now_ms);
}

/* ---- PEM files ---- */

static void test_pem_file(void **state) {
    (void)state;
    start(pem_path, NULL);
    assert_non_null(verifier);
    assert_int_equal(ask(token_unnamed), VERIFIER_VALID);
    assert_int_equal(ask(token_a), VERIFIER_VALID); /* a name nobody knows: the unnamed are tried */
    assert_int_equal(ask(token_b), VERIFIER_INVALID);
    assert_int_equal(ask(token_expired), VERIFIER_INVALID);
    assert_int_equal(ask("rubbish"), VERIFIER_INVALID);
    assert_int_equal(ask(""), VERIFIER_INVALID);
    tick_after(2 * HOUR_MS);
    assert_int_equal(http_stub.count, 0);
}

static void test_pem_files(void **state) {
    char *list = text_of(" %s ,  %s,", pem_path, pem_path);
    (void)state;
    start(list, NULL);
    free(list); /* read at start */
    assert_non_null(verifier);
    assert_int_equal(ask(token_unnamed), VERIFIER_VALID);
}

/* Each of them says so in the log; and who asks before is told. */
static void test_pem_files_refused(void **state) {
    char error[VERIFIER_ERROR_MAX];
    char *second = text_of("%s,/nonexistent/key.pem", pem_path);
    const char *lists[] = {"/nonexistent/key.pem", "/", "/dev/null", second};
    (void)state;
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
        start(lists[i], JWKS_URL);
        assert_null(verifier);
        assert_int_equal(stub_open(), 0);
        assert_int_equal(verifier_check_files(lists[i], error), CHAT_EINVAL);
        assert_non_null(strstr(error, "JWT_PUBLIC_KEY_FILE: /"));
    }
    free(second);
    assert_int_equal(verifier_check_files(pem_path, error), CHAT_OK);
    assert_int_equal(verifier_check_files(NULL, error), CHAT_OK);
}

/* None is cut: a key at its end would be missing without a word. */
static void test_pem_file_of_64_kib(void **state) {
    char path[] = "/tmp/test_verifier.XXXXXX", *pem = pem_of(key);
    size_t len = strlen(pem);
    int fd = mkstemp(path);
    (void)state;
    must(fd >= 0);
    for (size_t size = 64 << 10; size <= (64 << 10) + 1; size++) {
        char *text = malloc(size);
        assert_non_null(text);
        memset(text, '\n', size);
        memcpy(text + size - len, pem, len);
        assert_int_equal(pwrite(fd, text, size, 0), size);
        free(text);
        log_watch_start(LOG_LEVEL_ERROR);
        start(path, NULL);
        const char *logged = log_watch_stop();
        if (size > 64 << 10) {
            assert_null(verifier);
            assert_non_null(strstr(logged, ": larger than 64 KiB\""));
            continue;
        }
        assert_string_equal(logged, "");
        assert_int_equal(ask(token_unnamed), VERIFIER_VALID);
        stop(state);
    }
    close(fd);
    unlink(path);
    free(pem);
}

/* ---- a reload ---- */

static int reload(const char *pem_files, const char *jwks_url) {
    static const struct jwt_policy policy = {
        .algorithm = "RS256", .audience = "game", .nickname_claim = "nickname"};
    static char error[VERIFIER_ERROR_MAX];
    int status = verifier_reload(verifier, &policy, pem_files, jwks_url, now_ms, error);
    assert_true(status == CHAT_OK || (pem_files && strstr(error, "/nonexistent/key.pem: No such")));
    return status;
}

static void test_reload_reads_the_files_again(void **state) {
    char *before = pem_of(key), *after = pem_of(other_key);
    (void)state;
    start(pem_path, NULL);
    write_text(pem_path, after);
    assert_int_equal(ask(token_unnamed), VERIFIER_VALID);
    submit(1, token_a); /* looked at with the new keys */
    assert_int_equal(reload(pem_path, NULL), CHAT_OK);
    assert_int_equal(ask(token_b), VERIFIER_VALID);
    assert_int_equal(ask(token_unnamed), VERIFIER_INVALID);
    check(1, VERIFIER_INVALID);
    write_text(pem_path, before);
    free(before);
    free(after);
}

static void test_reload_of_a_bad_file_changes_nothing(void **state) {
    (void)state;
    start(pem_path, JWKS_URL);
    assert_int_equal(reload("/nonexistent/key.pem", NULL), CHAT_EINVAL);
    assert_int_equal(ask(token_unnamed), VERIFIER_VALID);
    assert_int_equal(http_stub.count, 1);
    stub_answer(0, 200, keys_b);
    assert_int_equal(ask(token_b), VERIFIER_VALID);
}

/* The keys of the set are good until the new ones are here. */
static void test_reload_fetches_the_key_set(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    stub_answer(0, 200, keys_a);
    assert_int_equal(reload(pem_path, JWKS_URL), CHAT_OK);
    assert_int_equal(http_stub.count, 2);
    assert_int_equal(ask(token_a), VERIFIER_VALID);
    stub_answer(1, 200, keys_b);
    assert_int_equal(ask(token_b), VERIFIER_VALID);
    assert_int_equal(ask(token_unnamed), VERIFIER_VALID); /* by the file */
    assert_int_equal(reload(NULL, JWKS_URL), CHAT_OK);
    assert_int_equal(ask(token_b), VERIFIER_VALID);
}

static void test_reload_with_another_key_set(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    submit(0, token_a);
    turn(); /* it waits for the first one */
    assert_int_equal(reload(NULL, "https://id2.example/keys"), CHAT_OK);
    assert_int_equal(stub_request(0)->state, STUB_CANCELLED);
    assert_string_equal(stub_request(1)->url, "https://id2.example/keys");
    stub_answer(1, 200, keys_a);
    turn();
    check(0, VERIFIER_VALID);
    assert_int_equal(reload(NULL, JWKS_URL), CHAT_OK); /* nothing of the other's is kept */
    submit(0, token_a);
    turn();
    assert_int_equal(answered(), 0);
    assert_int_equal(reload(pem_path, NULL), CHAT_OK); /* nobody to wait for any more */
    turn();
    check(0, VERIFIER_VALID);
    assert_int_equal(stub_open(), 0);
}

/* ---- turns ---- */

static void test_20_a_turn_in_order(void **state) {
    (void)state;
    start(pem_path, NULL);
    for (size_t i = 0; i < 50; i++)
        submit(i, i % 3 ? token_unnamed : token_b);
    assert_int_equal(answered(), 0);
    for (unsigned done = PER_TURN; done <= 60; done += PER_TURN) {
        assert_int_equal(turn(), done < 50);
        assert_int_equal(answered(), done < 50 ? done : 50);
        for (size_t i = 0; i < 50; i++)
            assert_int_equal(outcomes[i].calls, i < done);
    }
    for (size_t i = 0; i < 50; i++)
        check(i, i % 3 ? VERIFIER_VALID : VERIFIER_INVALID);
    assert_false(turn());
}

static void test_cancel_while_queued(void **state) {
    (void)state;
    start(pem_path, NULL);
    for (size_t i = 0; i < 5; i++)
        submit(i, token_unnamed);
    cancel(0);
    cancel(2);
    cancel(4);
    assert_false(turn());
    assert_int_equal(answered(), 2);
    check(1, VERIFIER_VALID);
    check(3, VERIFIER_VALID);
}

static void test_cancel_from_a_callback(void **state) {
    (void)state;
    start(pem_path, NULL);
    for (size_t i = 0; i < 4; i++)
        submit(i, token_unnamed);
    outcomes[0].cancels_next = outcomes[2].cancels_next = true;
    assert_false(turn());
    assert_int_equal(outcomes[0].calls + outcomes[2].calls, 2);
    assert_int_equal(outcomes[1].calls + outcomes[3].calls, 0);
}

static void test_free_with_work_pending(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    for (size_t i = 0; i < 30; i++)
        submit(i, token_a);
    turn(); /* some parked, some queued, the request under way: stop() looks at what is left */
    verifier_free(verifier);
    verifier = NULL;
    assert_int_equal(answered(), 0);
    assert_int_equal(stub_request(0)->state, STUB_CANCELLED);
    verifier_free(NULL);
}

/* ---- key sets ---- */

static void test_tokens_wait_for_the_first_keys(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    assert_int_equal(http_stub.count, 1); /* asked for at once */
    assert_string_equal(stub_request(0)->url, JWKS_URL);
    assert_null(stub_request(0)->bearer);
    assert_null(stub_request(0)->json);
    submit(0, token_a);
    submit(1, token_unnamed);
    submit(2, token_b);
    submit(3, token_expired);
    assert_false(turn()); /* nothing to do but wait */
    assert_int_equal(answered(), 0);
    unsigned before = pending;
    stub_answer(0, 200, keys_a);
    assert_true(pending > before);
    assert_int_equal(answered(), 0); /* only from a turn */
    assert_false(turn());
    check(0, VERIFIER_VALID);
    check(1, VERIFIER_VALID);   /* names none: each key is tried */
    check(2, VERIFIER_INVALID); /* even the newest keys do not know it */
    check(3, VERIFIER_INVALID);
    assert_int_equal(http_stub.count, 1);
}

static void test_parked_tokens_are_20_a_turn_too(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    for (size_t i = 0; i < 50; i++)
        submit(i, token_a);
    while (turn())
        ;
    stub_answer(0, 200, keys_a);
    assert_true(turn());
    assert_int_equal(answered(), PER_TURN);
    while (turn())
        ;
    assert_int_equal(answered(), 50);
}

static void test_cancel_while_parked(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    for (size_t i = 0; i < 3; i++)
        submit(i, token_a);
    turn();
    cancel(1);
    stub_answer(0, 200, keys_a);
    cancel(2); /* in the queue again */
    turn();
    assert_int_equal(answered(), 1);
    check(0, VERIFIER_VALID);
}

static void test_a_named_key_and_a_pem_file(void **state) {
    (void)state;
    start(pem_path, JWKS_URL);
    assert_int_equal(ask(token_unnamed), VERIFIER_VALID); /* before any answer */
    stub_answer(0, 200, keys_b);
    assert_int_equal(ask(token_b), VERIFIER_VALID);
    assert_int_equal(ask(token_unnamed), VERIFIER_VALID);
}

/* A key that came after the last answer: the first token that names it is worth asking at once. */
static void test_unknown_key_is_fetched(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    stub_answer(0, 200, keys_a);
    submit(0, token_b);
    turn();
    assert_int_equal(http_stub.count, 2);
    submit(1, token_a); /* those with known keys do not wait */
    submit(2, token_b); /* and one answer serves all the others */
    turn();
    check(1, VERIFIER_VALID);
    assert_int_equal(answered(), 1);
    assert_int_equal(http_stub.count, 2);
    stub_answer(1, 200, keys_b);
    turn();
    check(0, VERIFIER_VALID);
    check(2, VERIFIER_VALID);
    assert_int_equal(ask(token_a), VERIFIER_INVALID); /* its key was withdrawn */
}

/* A storm of names that nobody knows: one request a minute. */
static void test_unknown_keys_once_a_minute(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    stub_answer(0, 200, keys_a);
    for (int minute = 0; minute < 3; minute++) {
        submit(0, token_b);
        turn();
        assert_int_equal(http_stub.count, minute + 2);
        stub_answer((size_t)minute + 1, 200, keys_a);
        turn();
        check(0, VERIFIER_INVALID);
        for (int i = 0; i < 100; i++)
            assert_int_equal(ask(token_b), VERIFIER_INVALID);
        now_ms += MINUTE_MS - 1;
        assert_int_equal(ask(token_b), VERIFIER_INVALID);
        assert_int_equal(http_stub.count, minute + 2);
        now_ms += 1;
    }
}

/* Keys without a name, too, are renewed; a token cannot say which it wants, so one that fits none
 * is worth asking, for as seldom. */
static void test_a_renewed_key_without_a_name(void **state) {
    char *before = jwks_of(key, NULL), *after = jwks_of(other_key, NULL);
    (void)state;
    start(NULL, JWKS_URL);
    stub_answer(0, 200, before);
    assert_int_equal(ask(token_unnamed), VERIFIER_VALID);
    submit(0, token_forged_unnamed);
    turn();
    assert_int_equal(http_stub.count, 2);
    stub_answer(1, 200, after);
    turn();
    check(0, VERIFIER_VALID); /* it was not */
    now_ms += MINUTE_MS - 1;
    assert_int_equal(ask(token_unnamed), VERIFIER_INVALID);
    assert_int_equal(http_stub.count, 2);
    now_ms += 1;
    submit(0, token_unnamed);
    turn();
    assert_int_equal(http_stub.count, 3);
    stub_answer(2, 200, after);
    turn();
    check(0, VERIFIER_INVALID);
    free(before);
    free(after);
}

/* Tokens that are wrong in other ways are no reason to ask. */
static void test_forged_tokens_ask_for_nothing(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    stub_answer(0, 200, keys_a);
    assert_int_equal(ask(token_forged), VERIFIER_INVALID);
    assert_int_equal(ask(token_expired), VERIFIER_INVALID);
    assert_int_equal(ask("a.b.c"), VERIFIER_INVALID);
    assert_int_equal(http_stub.count, 1);
}

/* ---- keys that cannot be had ---- */

static void test_no_keys_means_unavailable(void **state) {
    static const struct {
        int status;
        const char *body;
    } rows[] = {{500, "{}"}, {404, "<html>"},        {302, ""}, {200, "<html>"},
                {200, ""},   {200, "{\"keys\":[]}"}, {204, ""}, {500, NULL /* keys */},
                {0, NULL}};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        start(NULL, JWKS_URL);
        submit(0, token_a);
        turn();
        if (rows[i].status)
            stub_answer(0, rows[i].status, rows[i].body ? rows[i].body : keys_a);
        else
            stub_fail(0);
        turn();
        check(0, VERIFIER_UNAVAILABLE); /* nobody can say that it is wrong */
        assert_int_equal(ask(token_unnamed), VERIFIER_UNAVAILABLE);
        assert_int_equal(http_stub.count, 1); /* within 5 s not again */
        stop(state);
    }
}

static void test_no_keys_ask_every_5_s(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    stub_fail(0);
    tick_after(4999);
    assert_int_equal(ask(token_a), VERIFIER_UNAVAILABLE);
    assert_int_equal(http_stub.count, 1);
    tick_after(1); /* nobody logs in, and it asks all the same */
    assert_int_equal(http_stub.count, 2);
    tick_after(60000); /* never two at once */
    assert_int_equal(http_stub.count, 2);
    assert_int_equal(ask(token_a), -1);
    stub_fail(1);
    assert_int_equal(ask(token_a), -1); /* long since: asks at once, and the token waits */
    assert_int_equal(http_stub.count, 3);
    stub_answer(2, 200, keys_a);
    assert_int_equal(ask(token_a), VERIFIER_VALID);
    tick_after(5000);
    assert_int_equal(http_stub.count, 3);
}

/* Keys are there, one is missing, and the provider does not answer: the token may be good. */
static void test_unknown_key_while_the_provider_is_down(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    stub_answer(0, 200, keys_a);
    submit(0, token_b);
    turn();
    stub_fail(1);
    turn();
    check(0, VERIFIER_UNAVAILABLE);
    assert_int_equal(ask(token_a), VERIFIER_VALID); /* what is known stays known */
    assert_int_equal(ask(token_forged), VERIFIER_INVALID);
}

static void test_request_that_cannot_begin(void **state) {
    (void)state;
    http_stub.refuses = true;
    log_watch_start(LOG_LEVEL_WARN);
    start(NULL, JWKS_URL);
    assert_non_null(strstr(log_watch_stop(), "verifier key_set_failed"));
    assert_non_null(strstr(log_watch.text, HTTP_CANNOT_START));
    assert_non_null(verifier);
    assert_int_equal(ask(token_a), VERIFIER_UNAVAILABLE);
    tick_after(5000);
    http_stub.refuses = false;
    tick_after(4999);
    assert_int_equal(http_stub.count, 0);
    tick_after(1);
    stub_answer(0, 200, keys_a);
    assert_int_equal(ask(token_a), VERIFIER_VALID);
}

/* ---- once an hour ---- */

static void test_hourly_refresh(void **state) {
    (void)state;
    start(NULL, JWKS_URL);
    stub_answer(0, 200, keys_a);
    tick_after(HOUR_MS - 1);
    assert_int_equal(http_stub.count, 1);
    tick_after(1);
    assert_int_equal(http_stub.count, 2);
    assert_int_equal(ask(token_a), VERIFIER_VALID); /* meanwhile the old ones serve */
    stub_fail(1);
    assert_int_equal(ask(token_a), VERIFIER_VALID); /* and go on, when it fails */
    for (size_t i = 2; i < 5; i++) {                /* then each minute */
        tick_after(MINUTE_MS - 1);
        assert_int_equal(http_stub.count, i);
        tick_after(1);
        assert_int_equal(http_stub.count, i + 1);
        if (i < 4)
            stub_answer(i, 503, "{}");
    }
    stub_answer(4, 200, keys_b);
    assert_int_equal(ask(token_b), VERIFIER_VALID);
    tick_after(HOUR_MS - 1);
    assert_int_equal(http_stub.count, 5);
    tick_after(1);
    assert_int_equal(http_stub.count, 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_pem_file, stop),
        cmocka_unit_test_teardown(test_pem_files, stop),
        cmocka_unit_test_teardown(test_pem_files_refused, stop),
        cmocka_unit_test_teardown(test_pem_file_of_64_kib, stop),
        cmocka_unit_test_teardown(test_reload_reads_the_files_again, stop),
        cmocka_unit_test_teardown(test_reload_of_a_bad_file_changes_nothing, stop),
        cmocka_unit_test_teardown(test_reload_fetches_the_key_set, stop),
        cmocka_unit_test_teardown(test_reload_with_another_key_set, stop),
        cmocka_unit_test_teardown(test_20_a_turn_in_order, stop),
        cmocka_unit_test_teardown(test_cancel_while_queued, stop),
        cmocka_unit_test_teardown(test_cancel_from_a_callback, stop),
        cmocka_unit_test_teardown(test_free_with_work_pending, stop),
        cmocka_unit_test_teardown(test_tokens_wait_for_the_first_keys, stop),
        cmocka_unit_test_teardown(test_parked_tokens_are_20_a_turn_too, stop),
        cmocka_unit_test_teardown(test_cancel_while_parked, stop),
        cmocka_unit_test_teardown(test_a_named_key_and_a_pem_file, stop),
        cmocka_unit_test_teardown(test_unknown_key_is_fetched, stop),
        cmocka_unit_test_teardown(test_unknown_keys_once_a_minute, stop),
        cmocka_unit_test_teardown(test_a_renewed_key_without_a_name, stop),
        cmocka_unit_test_teardown(test_forged_tokens_ask_for_nothing, stop),
        cmocka_unit_test_teardown(test_no_keys_means_unavailable, stop),
        cmocka_unit_test_teardown(test_no_keys_ask_every_5_s, stop),
        cmocka_unit_test_teardown(test_unknown_key_while_the_provider_is_down, stop),
        cmocka_unit_test_teardown(test_request_that_cannot_begin, stop),
        cmocka_unit_test_teardown(test_hourly_refresh, stop),
    };
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
