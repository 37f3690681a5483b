#include "ws-broker/passwords.h"

#include <json-c/json.h>
#include <json-c/printbuf.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "shared/log.h"
#include "ws-broker/accounts.h"
#include "ws-broker/http.h"
#include "ws-broker/log_limit.h"

enum { REQUEST_TIMEOUT_MS = 9000 };

struct passwords_wait {
    struct passwords *owner;
    char *credentials;            /* body of the first request, while it waits for its turn */
    struct http_request *request; /* the step that is under way */
    passwords_cb callback;
    void *user;
    struct passwords_wait *prev, *next; /* in `queue` or `running` (utlist's names) */
};

struct passwords {
    struct http *http;
    const char *url;
    struct passwords_wait *queue, *running;
    int queued, in_flight;
    struct log_limit failures, refusals;
};

static void on_refresh_token(void *user, const struct http_answer *answer);
static void on_access_token(void *user, const struct http_answer *answer);

/* Frees a text that was secret. */
static void wipe(char *text) {
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

/* ---- JSON with secrets: the library frees without wiping, and moves texts that grow ---------- */

/* Joins a list of pieces that NULL ends: the first, third... as they are, those between as the
 * inside of a JSON string. One block from the start, so that no copies are left behind. NULL: no
 * memory. */
static char *join(const char *const pieces[]) {
    size_t size = 1;
    for (size_t i = 0; pieces[i]; i++)
        size += strlen(pieces[i]) * (i % 2 ? sizeof("\\u0000") - 1 : 1);
    char *text = malloc(size), *out = text;
    for (size_t i = 0; text && pieces[i]; i++)
        for (const char *c = pieces[i]; *c; c++) {
            if (i % 2 && (unsigned char)*c < ' ') {
                out += snprintf(out, sizeof("\\u0000"), "\\u%04x", (unsigned)*c);
                continue;
            }
            if (i % 2 && (*c == '"' || *c == '\\'))
                *out++ = '\\';
            *out++ = *c;
        }
    if (text)
        *out = '\0';
    return text;
}

static struct json_object *parse(const struct http_answer *answer) {
    struct json_tokener *tokener = json_tokener_new();
    struct json_object *root = NULL;
    /* room for the longest string that can come */
    if (tokener && printbuf_memset(tokener->pb, 0, 0, (int)answer->body_len + 1) == 0) {
        root = json_tokener_parse_ex(tokener, answer->body, (int)answer->body_len);
        explicit_bzero(tokener->pb->buf, (size_t)tokener->pb->size);
    }
    if (tokener) /* NULL makes it crash */
        json_tokener_free(tokener);
    return root;
}

static void wipe_strings(struct json_object *value) {
    if (json_object_is_type(value, json_type_string)) {
        explicit_bzero((char *)(uintptr_t)json_object_get_string(value),
                       (size_t)json_object_get_string_len(value));
    } else if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++)
            wipe_strings(json_object_array_get_idx(value, i));
    } else if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, key, member) {
            (void)key;
            wipe_strings(member);
        }
    }
}

static void wipe_and_put(struct json_object *root) {
    wipe_strings(root);
    json_object_put(root);
}

/* ---- one login ------------------------------------------------------------------------------- */

static void log_failure(struct passwords *passwords, const char *step, int status,
                        const char *error) {
    int64_t failures = log_limit_count(&passwords->failures, (int64_t)(uv_hrtime() / 1000000));
    if (failures > 0)
        log_warn("passwords", "step_failed", log_int("failures", failures), log_str("step", step),
                 log_int("status", status), log_str("error", error));
}

static void forget(struct passwords_wait *wait) {
    struct passwords *passwords = wait->owner;
    if (wait->credentials) {
        DL_DELETE(passwords->queue, wait);
        passwords->queued--;
    } else {
        DL_DELETE(passwords->running, wait);
        passwords->in_flight--;
    }
    if (wait->request)
        http_cancel(wait->request);
    wipe(wait->credentials);
    free(wait);
}

/* Each may be a player's own fault; all of them together are a wrong HEAVENLAND_API_URL, say. */
static void log_refusal(struct passwords *passwords, const char *step, int status,
                        const char *text) {
    int64_t refusals = log_limit_count(&passwords->refusals, (int64_t)(uv_hrtime() / 1000000));
    if (refusals > 0)
        log_info("passwords", "step_refused", log_int("refusals", refusals), log_str("step", step),
                 log_int("status", status), log_str("error", text));
}

static struct http_request *post(struct passwords_wait *wait, const char *path, const char *json,
                                 http_cb callback) {
    char *url = NULL;
    if (asprintf(&url, "%s%s", wait->owner->url, path) < 0)
        return NULL;
    struct http_options options = {.url = url, .json = json, .timeout_ms = REQUEST_TIMEOUT_MS};
    struct http_request *request = http_start(wait->owner->http, &options, callback, wait);
    free(url);
    return request;
}

static void start_next(struct passwords *passwords) {
    while (passwords->queue && passwords->in_flight < PASSWORDS_IN_FLIGHT) {
        struct passwords_wait *wait = passwords->queue;
        DL_DELETE(passwords->queue, wait);
        DL_APPEND(passwords->running, wait);
        passwords->queued--;
        passwords->in_flight++;
        wait->request = post(wait, "/idm/auth/login", wait->credentials, on_refresh_token);
        wipe(wait->credentials);
        wait->credentials = NULL;
        if (!wait->request) /* who waits is told by their own deadline */
            log_failure(passwords, "login", 0, HTTP_CANNOT_START);
    }
}

static void finish(struct passwords_wait *wait, enum passwords_result result, const char *token,
                   const char *detail) {
    struct passwords *passwords = wait->owner;
    passwords_cb callback = wait->callback;
    void *user = wait->user;
    struct passwords_answer answer = {.result = result, .token = token, .detail = detail};
    wait->request = NULL;
    forget(wait);
    callback(user, &answer);
    start_next(passwords);
}

/* The statuses by which the service says no to credentials. */
static bool is_refusal(int status) {
    return status == 400 || status == 401 || status == 403 || status == 404;
}

static void fail(struct passwords_wait *wait, const struct http_answer *answer, const char *step) {
    char text[ACCOUNTS_DETAIL_MAX + 1];
    bool is_services = accounts_error_text(answer, text); /* else a proxy's page, say */
    bool refused = is_services && is_refusal(answer->status);
    if (refused)
        log_refusal(wait->owner, step, answer->status, text);
    else
        log_failure(wait->owner, step, answer->status, answer->status ? text : answer->error);
    finish(wait, refused ? PASSWORDS_REFUSED : PASSWORDS_DOWN, NULL, refused ? text : "");
}

/* 201: something was created, a session say. */
static bool is_success(int status) {
    return status == 200 || status == 201;
}

/* The text at root.key.value; NULL: it is not there. */
static const char *token_value(const struct json_object *root, const char *key) {
    struct json_object *object = NULL, *value = NULL;
    if (!json_object_is_type(root, json_type_object) ||
        !json_object_object_get_ex(root, key, &object) ||
        !json_object_is_type(object, json_type_object) ||
        !json_object_object_get_ex(object, "value", &value) ||
        !json_object_is_type(value, json_type_string) || json_object_get_string_len(value) == 0)
        return NULL;
    return json_object_get_string(value);
}

static void on_refresh_token(void *user, const struct http_answer *answer) {
    struct passwords_wait *wait = user;
    struct json_object *root = is_success(answer->status) ? parse(answer) : NULL;
    const char *token = token_value(root, "refreshToken");
    wait->request = NULL;
    if (token) {
        char *json = join((const char *const[]){"{\"refreshToken\":\"", token, "\"}", NULL});
        wait->request = json ? post(wait, "/idm/auth/access-token", json, on_access_token) : NULL;
        if (!wait->request)
            log_failure(wait->owner, "access-token", 0, HTTP_CANNOT_START);
        wipe(json);
    } else {
        fail(wait, answer, "login");
    }
    wipe_and_put(root);
}

static void on_access_token(void *user, const struct http_answer *answer) {
    struct passwords_wait *wait = user;
    struct json_object *root = is_success(answer->status) ? parse(answer) : NULL;
    const char *token = token_value(root, "accessToken");
    if (token)
        finish(wait, PASSWORDS_OK, token, "");
    else
        fail(wait, answer, "access-token");
    wipe_and_put(root);
}

struct passwords_wait *passwords_ask(struct passwords *passwords, const char *username,
                                     const char *password, passwords_cb callback, void *user) {
    if (passwords->queued >= PASSWORDS_QUEUE)
        return NULL;
    struct passwords_wait *wait = calloc(1, sizeof(*wait));
    if (!wait)
        return NULL;
    wait->credentials =
        join((const char *const[]){"{\"username\":\"", username, "\",\"password\":\"", password,
                                   "\",\"type\":\"credentials\",\"clientType\":\"game\"}", NULL});
    if (!wait->credentials) {
        free(wait);
        return NULL;
    }
    wait->owner = passwords;
    wait->callback = callback;
    wait->user = user;
    DL_APPEND(passwords->queue, wait);
    passwords->queued++;
    start_next(passwords);
    return wait;
}

void passwords_cancel(struct passwords *passwords, struct passwords_wait *wait) {
    forget(wait);
    start_next(passwords);
}

struct passwords *passwords_new(struct http *http, const char *url) {
    struct passwords *passwords = calloc(1, sizeof(*passwords));
    if (passwords)
        *passwords = (struct passwords){.http = http, .url = url};
    return passwords;
}

void passwords_free(struct passwords *passwords) {
    if (!passwords)
        return;
    while (passwords->queue)
        forget(passwords->queue);
    while (passwords->running)
        forget(passwords->running);
    free(passwords);
}
