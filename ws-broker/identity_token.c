#include "ws-broker/identity_token.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uthash.h>

#include "shared/log.h"
#include "shared/metrics.h"
#include "ws-broker/accounts.h"
#include "ws-broker/passwords.h"

/* What a player is told. Stable: docs/identity.md lists them. */
#define ERROR_ACCOUNT      "there is no account for this access token"
#define ERROR_PASSWORD     "invalid credentials"
#define ERROR_DOWN         "the account service does not answer: try again"
#define ERROR_BUSY         "too many logins are waiting: try again"
#define ERROR_NO_PASSWORDS "this server takes no passwords: log in with a token"

/* A login that is under way; one step at a time is set. */
struct login {
    uint64_t conn_id;
    int64_t deadline_ms;
    struct token_identity *owner;
    char *token; /* kept for the account's look-up */
    struct passwords_wait *asking;
    struct verifier_wait *verifying;
    struct accounts_wait *looking;
    struct jwt_claims claims;
    UT_hash_handle hh; /* by connection; the oldest first */
};

struct token_identity {
    struct identity base;
    uv_loop_t *loop;
    struct verifier *verifier;
    struct accounts *accounts;   /* NULL: no account service */
    struct passwords *passwords; /* likewise */
    const struct identity_events *events;
    void *user;
    struct login *logins;
    unsigned at_service; /* logins that wait for the account service */
};

static struct metric waiting = {.name = "hlchat_logins_waiting",
                                .help = "Logins that wait for their identity to be found out",
                                .type = METRIC_GAUGE};

void identity_token_register_metrics(struct metrics *metrics) {
    metrics_register(metrics, &waiting);
}

static int64_t now_ms(const struct token_identity *identity) {
    return (int64_t)uv_now(identity->loop);
}

/* ---- the end of a login ---------------------------------------------------------------------- */

static void forget(struct login *login) {
    struct token_identity *identity = login->owner;
    HASH_DEL(identity->logins, login);
    waiting.value = HASH_COUNT(identity->logins);
    if (login->asking || login->looking)
        identity->at_service--;
    if (login->asking)
        passwords_cancel(identity->passwords, login->asking);
    if (login->verifying)
        verifier_cancel(identity->verifier, login->verifying);
    if (login->looking)
        accounts_cancel(identity->accounts, login->looking);
    if (login->token)
        explicit_bzero(login->token, strlen(login->token));
    free(login->token);
    free(login);
}

static void finish(struct login *login, const struct identity_answer *answer) {
    struct token_identity *identity = login->owner;
    uint64_t conn_id = login->conn_id;
    forget(login);
    identity->events->on_answer(identity->user, conn_id, answer);
}

static void accept_login(struct login *login, const char *nickname) {
    struct identity_answer answer = {.status = IDENTITY_ACCEPTED,
                                     .expires_at = login->claims.expires_at};
    snprintf(answer.user_id, sizeof(answer.user_id), "%s", login->claims.sub);
    snprintf(answer.nickname, sizeof(answer.nickname), "%s", nickname);
    finish(login, &answer);
}

/* `detail` is the account service's own word, or "". */
static void refuse(struct login *login, enum identity_status status, const char *error,
                   const char *detail) {
    struct identity_answer answer = {.status = status};
    snprintf(answer.error, sizeof(answer.error), "%s%s%s", error, *detail ? ": " : "", detail);
    finish(login, &answer);
}

/* ---- the steps ------------------------------------------------------------------------------- */

static bool has_room_at_service(const struct token_identity *identity) {
    return identity->at_service < IDENTITY_AT_SERVICE_MAX;
}

static void on_account(void *user, const struct accounts_answer *answer) {
    struct login *login = user;
    login->looking = NULL;
    login->owner->at_service--;
    switch (answer->result) {
    case ACCOUNTS_FOUND:
        accept_login(login, answer->nickname);
        return;
    case ACCOUNTS_MISSING:
        refuse(login, IDENTITY_REFUSED, ERROR_ACCOUNT, answer->detail);
        return;
    case ACCOUNTS_DENIED:
        refuse(login, IDENTITY_REFUSED, IDENTITY_ERROR_TOKEN, answer->detail);
        return;
    case ACCOUNTS_DOWN:
    case ACCOUNTS_UNKNOWN:
        refuse(login, IDENTITY_UNAVAILABLE, ERROR_DOWN, "");
        return;
    }
}

/* The service cannot be asked, or says nothing: the nickname of within the hour, or `error`. */
static void use_stale(struct login *login, const char *error) {
    struct token_identity *identity = login->owner;
    const char *stale = accounts_stale(identity->accounts, login->claims.sub, now_ms(identity));
    if (stale)
        accept_login(login, stale);
    else
        refuse(login, IDENTITY_UNAVAILABLE, error, "");
}

/* In a URL's path these two mean something else, and cannot be escaped. */
static bool is_dots(const char *segment) {
    return strcmp(segment, ".") == 0 || strcmp(segment, "..") == 0;
}

static void look_up(struct login *login) {
    struct token_identity *identity = login->owner;
    if (is_dots(login->claims.sub)) {
        refuse(login, IDENTITY_REFUSED, ERROR_ACCOUNT, "");
        return;
    }
    const char *nickname = NULL;
    switch (
        accounts_remembered(identity->accounts, login->claims.sub, now_ms(identity), &nickname)) {
    case ACCOUNTS_FOUND:
        accept_login(login, nickname);
        return;
    case ACCOUNTS_MISSING:
        refuse(login, IDENTITY_REFUSED, ERROR_ACCOUNT, "");
        return;
    default:
        break;
    }
    if (has_room_at_service(identity))
        login->looking =
            accounts_ask(identity->accounts, login->claims.sub, login->token, on_account, login);
    if (login->looking)
        identity->at_service++;
    else
        use_stale(login, ERROR_BUSY);
}

static void on_verified(void *user, enum verifier_result result, const struct jwt_claims *claims) {
    struct login *login = user;
    login->verifying = NULL;
    if (result == VERIFIER_INVALID) {
        refuse(login, IDENTITY_REFUSED, IDENTITY_ERROR_TOKEN, "");
    } else if (result == VERIFIER_UNAVAILABLE) {
        refuse(login, IDENTITY_UNAVAILABLE, ERROR_DOWN, "");
    } else {
        login->claims = *claims;
        if (login->owner->accounts)
            look_up(login);
        else
            accept_login(login, claims->nickname);
    }
}

/* Begins to verify; false: no memory. */
static bool verify(struct login *login, const char *token) {
    login->token = strdup(token);
    login->verifying =
        login->token ? verifier_submit(login->owner->verifier, login->token, on_verified, login)
                     : NULL;
    return login->verifying != NULL;
}

static void on_password(void *user, const struct passwords_answer *answer) {
    struct login *login = user;
    login->asking = NULL;
    login->owner->at_service--;
    if (answer->result == PASSWORDS_REFUSED)
        refuse(login, IDENTITY_REFUSED, ERROR_PASSWORD, answer->detail);
    else if (answer->result == PASSWORDS_DOWN)
        refuse(login, IDENTITY_UNAVAILABLE, ERROR_DOWN, "");
    else if (!verify(login, answer->token))
        refuse(login, IDENTITY_UNAVAILABLE, ERROR_BUSY, "");
}

/* ---- the interface --------------------------------------------------------------------------- */

static struct token_identity *token_identity(struct identity *base) {
    return (struct token_identity *)base;
}

static bool answer_now(struct identity_answer *answer, enum identity_status status,
                       const char *error) {
    *answer = (struct identity_answer){.status = status};
    snprintf(answer->error, sizeof(answer->error), "%s", error);
    return true;
}

static bool token_check(struct identity *base, const struct identity_credentials *credentials,
                        uint64_t conn_id, struct identity_answer *answer) {
    struct token_identity *identity = token_identity(base);
    if (!credentials->token && !identity->passwords)
        return answer_now(answer, IDENTITY_REFUSED, ERROR_NO_PASSWORDS);
    if (HASH_COUNT(identity->logins) >= IDENTITY_LOGINS_MAX)
        return answer_now(answer, IDENTITY_UNAVAILABLE, ERROR_BUSY);
    struct login *login = calloc(1, sizeof(*login));
    if (!login)
        return answer_now(answer, IDENTITY_UNAVAILABLE, ERROR_BUSY);
    login->conn_id = conn_id;
    login->deadline_ms = now_ms(identity) + IDENTITY_DEADLINE_MS;
    login->owner = identity;
    HASH_ADD(hh, identity->logins, conn_id, sizeof(login->conn_id), login);
    waiting.value = HASH_COUNT(identity->logins);

    bool begun = false;
    if (credentials->token) {
        begun = verify(login, credentials->token);
    } else if (has_room_at_service(identity)) {
        login->asking = passwords_ask(identity->passwords, credentials->username,
                                      credentials->password, on_password, login);
        begun = login->asking != NULL;
        identity->at_service += begun;
    }
    if (begun)
        return false;
    forget(login);
    return answer_now(answer, IDENTITY_UNAVAILABLE, ERROR_BUSY);
}

static void token_forget(struct identity *base, uint64_t conn_id) {
    struct token_identity *identity = token_identity(base);
    struct login *login;
    HASH_FIND(hh, identity->logins, &conn_id, sizeof(conn_id), login);
    if (login)
        forget(login);
}

static bool token_turn(struct identity *base) {
    struct token_identity *identity = token_identity(base);
    return verifier_turn(identity->verifier, now_ms(identity), (int64_t)time(NULL));
}

static void token_tick(struct identity *base) {
    struct token_identity *identity = token_identity(base);
    int64_t now = now_ms(identity);
    struct login *login;
    verifier_tick(identity->verifier, now);
    /* Always the oldest: an answer may make any other connection leave. */
    while ((login = identity->logins) && login->deadline_ms <= now) {
        if (login->looking)
            use_stale(login, ERROR_DOWN);
        else
            refuse(login, IDENTITY_UNAVAILABLE, ERROR_DOWN, "");
    }
}

static void token_free(struct identity *base) {
    struct token_identity *identity = token_identity(base);
    struct login *login, *next;
    HASH_ITER(hh, identity->logins, login, next) forget(login);
    verifier_free(identity->verifier);
    accounts_free(identity->accounts);
    passwords_free(identity->passwords);
    free(identity);
}

struct identity *identity_token_new(const struct identity_token_options *options, uv_loop_t *loop,
                                    struct http *http, const struct identity_events *events,
                                    void *user) {
    static const struct identity_ops ops = {.check = token_check,
                                            .forget = token_forget,
                                            .turn = token_turn,
                                            .tick = token_tick,
                                            .free = token_free};
    struct token_identity *identity = calloc(1, sizeof(*identity));
    if (!identity) {
        log_error("identity", "no_memory");
        return NULL;
    }
    *identity =
        (struct token_identity){.base = {&ops}, .loop = loop, .events = events, .user = user};
    struct verifier_options verifier = options->verifier;
    verifier.http = http;
    verifier.on_pending = events->on_pending;
    verifier.user = user;
    identity->verifier = verifier_new(&verifier, now_ms(identity));
    if (options->account_url) {
        identity->accounts = accounts_new(http, options->account_url);
        identity->passwords = passwords_new(http, options->account_url);
    }
    if (!identity->verifier ||
        (options->account_url && (!identity->accounts || !identity->passwords))) {
        log_error("identity", "not_started");
        token_free(&identity->base);
        return NULL;
    }
    return &identity->base;
}

int identity_token_reload(struct identity *base, const struct verifier_options *verifier,
                          char error[VERIFIER_ERROR_MAX]) {
    struct token_identity *identity = token_identity(base);
    return verifier_reload(identity->verifier, &verifier->policy, verifier->pem_files,
                           verifier->jwks_url, now_ms(identity), error);
}
