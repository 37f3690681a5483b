#include "ws-broker/accounts.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "shared/log.h"
#include "ws-broker/http.h"
#include "ws-broker/identity.h"
#include "ws-broker/log_limit.h"
#include "ws-broker/utf8.h"

enum {
    FRESH_MS = 300 * 1000,
    STALE_MS = 3600 * 1000,
    MISSING_MS = 30 * 1000,
    FAILING_MS = 5 * 1000,
    REQUEST_TIMEOUT_MS =
        6000, /* less than a login's deadline: a stale nickname still comes in time */
};

struct accounts_wait {
    struct account *account;
    accounts_cb callback;
    void *user;
    struct accounts_wait *prev, *next;
    char token[];
};

/* One user: what is remembered, and who waits for better. */
struct account {
    char user_id[IDENTITY_ID_MAX + 1];
    char nickname[IDENTITY_NICKNAME_MAX + 1]; /* "": nothing is remembered */
    int64_t known_at_ms;                      /* nickname's, or when it was found missing */
    bool is_missing;
    struct accounts *owner;
    struct accounts_wait *waits;
    struct http_request *request; /* under way */
    char *asked_with;             /* its token */
    bool is_queued;               /* waits for its turn to ask with its first wait's token */
    struct account *prev, *next;  /* in `queue` */
    UT_hash_handle hh;            /* by user id, the one used longest ago first */
};

struct accounts {
    struct http *http;
    const char *url;
    struct account *by_user;
    struct account *queue;
    int in_flight;
    int64_t failing_until_ms; /* the service, as far as we know */
    struct log_limit failures, refusals;
};

static void on_account(void *user, const struct http_answer *http);

/* The clock of uv_now(). */
static int64_t clock_ms(void) {
    return (int64_t)(uv_hrtime() / 1000000);
}

/* ---- remembering ----------------------------------------------------------------------------- */

static struct account *find(struct accounts *accounts, const char *user_id) {
    struct account *account;
    HASH_FIND_STR(accounts->by_user, user_id, account);
    if (account) { /* it goes to the end: what is at the front was not used for longest */
        HASH_DEL(accounts->by_user, account);
        HASH_ADD_STR(accounts->by_user, user_id, account);
    }
    return account;
}

static bool is_busy(const struct account *account) {
    return account->waits || account->request;
}

static void make_room(struct accounts *accounts) {
    struct account *account, *next;
    HASH_ITER(hh, accounts->by_user, account, next) {
        if (HASH_COUNT(accounts->by_user) < ACCOUNTS_CACHED_MAX)
            return;
        if (is_busy(account))
            continue;
        HASH_DEL(accounts->by_user, account);
        free(account);
    }
}

static struct account *find_or_add(struct accounts *accounts, const char *user_id) {
    struct account *account = find(accounts, user_id);
    if (account)
        return account;
    make_room(accounts);
    account = calloc(1, sizeof(*account));
    if (!account)
        return NULL;
    account->owner = accounts;
    snprintf(account->user_id, sizeof(account->user_id), "%s", user_id);
    HASH_ADD_STR(accounts->by_user, user_id, account);
    return account;
}

static bool has_stale(const struct account *account, int64_t now_ms) {
    return account->nickname[0] && now_ms - account->known_at_ms < STALE_MS;
}

enum accounts_result accounts_remembered(struct accounts *accounts, const char *user_id,
                                         int64_t now_ms, const char **nickname) {
    struct account *account = find(accounts, user_id);
    bool is_failing = now_ms < accounts->failing_until_ms;
    if (account && has_stale(account, now_ms) &&
        (is_failing || now_ms - account->known_at_ms < FRESH_MS)) {
        *nickname = account->nickname;
        return ACCOUNTS_FOUND;
    }
    if (account && account->is_missing && now_ms - account->known_at_ms < MISSING_MS)
        return ACCOUNTS_MISSING;
    return ACCOUNTS_UNKNOWN;
}

const char *accounts_stale(struct accounts *accounts, const char *user_id, int64_t now_ms) {
    struct account *account = find(accounts, user_id);
    return account && has_stale(account, now_ms) ? account->nickname : NULL;
}

/* ---- the queue ------------------------------------------------------------------------------- */

static void enqueue(struct account *account) {
    account->is_queued = true;
    DL_APPEND(account->owner->queue, account);
}

static void dequeue(struct account *account) {
    account->is_queued = false;
    DL_DELETE(account->owner->queue, account);
}

static void forget_token(struct account *account) {
    if (account->asked_with)
        explicit_bzero(account->asked_with, strlen(account->asked_with));
    free(account->asked_with);
    account->asked_with = NULL;
}

static void log_failure(struct accounts *accounts, int64_t now_ms, int status, const char *error) {
    int64_t failures = log_limit_count(&accounts->failures, now_ms);
    if (failures > 0)
        log_warn("accounts", "lookup_failed", log_int("failures", failures),
                 log_int("status", status), log_str("error", error));
}

/* Each may be a player's own fault; all of them together are a wrong HEAVENLAND_API_URL, say. */
static void log_refusal(struct accounts *accounts, int64_t now_ms, int status, const char *text) {
    int64_t refusals = log_limit_count(&accounts->refusals, now_ms);
    if (refusals > 0)
        log_info("accounts", "lookup_refused", log_int("refusals", refusals),
                 log_int("status", status), log_str("error", text));
}

static void start(struct accounts *accounts, struct account *account) {
    char *segment = http_escape(account->user_id);
    char *url = NULL;
    if (segment && asprintf(&url, "%s/idm/accounts/%s", accounts->url, segment) < 0)
        url = NULL;
    account->asked_with = strdup(account->waits->token);
    if (url && account->asked_with) {
        struct http_options options = {
            .url = url, .bearer = account->asked_with, .timeout_ms = REQUEST_TIMEOUT_MS};
        account->request = http_start(accounts->http, &options, on_account, account);
    }
    free(url);
    free(segment);
    dequeue(account);
    if (account->request) {
        accounts->in_flight++;
    } else { /* those who wait are told by their own deadline */
        forget_token(account);
        log_failure(accounts, clock_ms(), 0, HTTP_CANNOT_START);
    }
}

static void start_next(struct accounts *accounts) {
    while (accounts->queue && accounts->in_flight < ACCOUNTS_IN_FLIGHT)
        start(accounts, accounts->queue);
}

/* ---- the service's answer -------------------------------------------------------------------- */

static struct json_object *parse_body(const struct http_answer *answer) {
    struct json_object *root = json_tokener_parse(answer->body);
    if (json_object_is_type(root, json_type_object))
        return root;
    json_object_put(root);
    return NULL;
}

/* Copies a string member that is UTF-8 of 1..max bytes without control characters; else "". */
static void copy_member(const struct json_object *root, const char *key, char *out, size_t max) {
    struct json_object *value = NULL;
    out[0] = '\0';
    json_object_object_get_ex(root, key, &value);
    if (!json_object_is_type(value, json_type_string))
        return;
    const char *text = json_object_get_string(value);
    size_t len = (size_t)json_object_get_string_len(value);
    if (len > max || !utf8_is_printable(text, len))
        return;
    memcpy(out, text, len);
    out[len] = '\0';
}

bool accounts_error_text(const struct http_answer *answer, char out[ACCOUNTS_DETAIL_MAX + 1]) {
    bool may_hold_secrets = answer->status >= 200 && answer->status < 300;
    struct json_object *root = may_hold_secrets ? NULL : parse_body(answer);
    bool is_object = root != NULL;
    copy_member(root, "errorMessage", out, ACCOUNTS_DETAIL_MAX);
    json_object_put(root);
    return is_object;
}

/* Reads a 200; false: it is not the object that was agreed on. */
static bool read_account(struct account *account, const struct http_answer *answer,
                         int64_t now_ms) {
    struct json_object *root = parse_body(answer);
    if (!root)
        return false;
    copy_member(root, "nickname", account->nickname, IDENTITY_NICKNAME_MAX);
    if (!account->nickname[0]) /* the user id stands in */
        memcpy(account->nickname, account->user_id, sizeof(account->user_id));
    account->known_at_ms = now_ms;
    account->is_missing = false;
    json_object_put(root);
    return true;
}

/* Whether it is worded as the service words its errors: another's 404 tells of a wrong URL, not of
 * an account. */
static bool is_services_error(const struct http_answer *answer) {
    struct json_object *root = parse_body(answer), *message = NULL;
    json_object_object_get_ex(root, "errorMessage", &message);
    bool is_text = json_object_is_type(message, json_type_string);
    json_object_put(root);
    return is_text;
}

/* What an answer that means something says. */
static enum accounts_result read_answer(struct account *account, const struct http_answer *answer,
                                        int64_t now_ms) {
    switch (answer->status) {
    case 200:
        return read_account(account, answer, now_ms) ? ACCOUNTS_FOUND : ACCOUNTS_DOWN;
    case 401:
    case 403:
        return ACCOUNTS_DENIED;
    case 404:
        if (!is_services_error(answer))
            return ACCOUNTS_DOWN;
        account->nickname[0] = '\0';
        account->is_missing = true;
        account->known_at_ms = now_ms;
        return ACCOUNTS_MISSING;
    default:
        return ACCOUNTS_DOWN;
    }
}

static enum accounts_result judge(struct account *account, const struct http_answer *answer,
                                  const char *text) {
    struct accounts *accounts = account->owner;
    int64_t now_ms = clock_ms();
    enum accounts_result result = read_answer(account, answer, now_ms);
    if (result != ACCOUNTS_DOWN) {
        accounts->failing_until_ms = now_ms;
        if (result != ACCOUNTS_FOUND)
            log_refusal(accounts, now_ms, answer->status, text);
        return result;
    }
    accounts->failing_until_ms = now_ms + FAILING_MS;
    log_failure(accounts, now_ms, answer->status, answer->status ? text : answer->error);
    /* What was known before is better than nothing. */
    if (has_stale(account, now_ms))
        return ACCOUNTS_FOUND;
    return ACCOUNTS_DOWN;
}

static void free_wait(struct accounts_wait *wait) {
    explicit_bzero(wait->token, strlen(wait->token));
    free(wait);
}

/* Puts those in front who came with the token that was sent. */
static void sort_waits(struct account *account) {
    struct accounts_wait *wait, *next, *same = NULL;
    DL_FOREACH_SAFE(account->waits, wait, next) {
        if (strcmp(wait->token, account->asked_with) != 0)
            continue;
        DL_DELETE(account->waits, wait);
        DL_APPEND(same, wait);
    }
    DL_CONCAT(same, account->waits);
    account->waits = same;
}

/* All of them; but that a token is denied concerns only those who came with it. */
static void tell_waits(struct account *account, const struct accounts_answer *answer) {
    bool denied = answer->result == ACCOUNTS_DENIED;
    struct accounts_wait *wait;
    if (denied)
        sort_waits(account);
    while ((wait = account->waits) && (!denied || strcmp(wait->token, account->asked_with) == 0)) {
        DL_DELETE(account->waits, wait);
        wait->callback(wait->user, answer);
        free_wait(wait);
    }
}

static void on_account(void *user, const struct http_answer *http) {
    struct account *account = user;
    struct accounts *accounts = account->owner;
    char detail[ACCOUNTS_DETAIL_MAX + 1];
    accounts_error_text(http, detail);
    struct accounts_answer answer = {.result = judge(account, http, detail)};
    answer.nickname = account->nickname;
    answer.detail = http->status >= 400 && http->status < 500 ? detail : "";
    tell_waits(account, &answer);
    account->request = NULL;
    accounts->in_flight--;
    forget_token(account);
    if (account->waits)
        enqueue(account);
    start_next(accounts);
}

/* ---- asking ---------------------------------------------------------------------------------- */

struct accounts_wait *accounts_ask(struct accounts *accounts, const char *user_id,
                                   const char *token, accounts_cb callback, void *user) {
    struct account *account = find_or_add(accounts, user_id);
    struct accounts_wait *wait = account ? calloc(1, sizeof(*wait) + strlen(token) + 1) : NULL;
    if (!wait)
        return NULL;
    *wait = (struct accounts_wait){.account = account, .callback = callback, .user = user};
    memcpy(wait->token, token, strlen(token));
    DL_APPEND(account->waits, wait);
    if (!account->request && !account->is_queued)
        enqueue(account);
    start_next(accounts);
    return wait;
}

void accounts_cancel(struct accounts *accounts, struct accounts_wait *wait) {
    struct account *account = wait->account;
    (void)accounts;
    DL_DELETE(account->waits, wait);
    free_wait(wait);
    if (!account->waits && account->is_queued)
        dequeue(account); /* nobody waits: not asked at all */
}

/* ---- life ------------------------------------------------------------------------------------ */

struct accounts *accounts_new(struct http *http, const char *url) {
    struct accounts *accounts = calloc(1, sizeof(*accounts));
    if (accounts)
        *accounts = (struct accounts){.http = http, .url = url};
    return accounts;
}

void accounts_free(struct accounts *accounts) {
    if (!accounts)
        return;
    struct account *account, *next;
    HASH_ITER(hh, accounts->by_user, account, next) {
        HASH_DEL(accounts->by_user, account);
        while (account->waits) {
            struct accounts_wait *wait = account->waits;
            DL_DELETE(account->waits, wait);
            free_wait(wait);
        }
        if (account->request)
            http_cancel(account->request);
        forget_token(account);
        free(account);
    }
    free(accounts);
}
