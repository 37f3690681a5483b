#include "ws-broker/passwords.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "shared/log.h"
#include "ws-broker/accounts.h"
#include "ws-broker/http.h"

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
};

static void on_refresh_token(void *user, const struct http_answer *answer);
static void on_access_token(void *user, const struct http_answer *answer);

/* Frees a text that was secret. */
static void wipe(char *text) {
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
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
            log_error("passwords", "no_memory");
    }
}

static void finish(struct passwords_wait *wait, enum passwords_result result, const char *token,
                   const struct http_answer *http) {
    struct passwords *passwords = wait->owner;
    passwords_cb callback = wait->callback;
    void *user = wait->user;
    char detail[ACCOUNTS_DETAIL_MAX + 1];
    accounts_error_detail(http, detail);
    struct passwords_answer answer = {.result = result, .token = token, .detail = detail};
    wait->request = NULL;
    forget(wait);
    callback(user, &answer);
    start_next(passwords);
}

/* Any 4xx is the service saying no, but "try again later" is not. */
static bool is_refusal(int status) {
    return status >= 400 && status < 500 && status != 408 && status != 429;
}

static void fail(struct passwords_wait *wait, const struct http_answer *answer, const char *step) {
    bool refused = is_refusal(answer->status);
    if (!refused)
        log_warn("passwords", "step_failed", log_str("step", step),
                 log_int("status", answer->status), log_str("error", answer->error));
    finish(wait, refused ? PASSWORDS_REFUSED : PASSWORDS_DOWN, NULL, answer);
}

/* The text at root.key.value of a 200; NULL: it is not there. `*root` is to be put. */
static const char *token_value(const struct http_answer *answer, const char *key,
                               struct json_object **root) {
    struct json_object *object = NULL, *value = NULL;
    *root = answer->status == 200 ? json_tokener_parse(answer->body) : NULL;
    if (!json_object_is_type(*root, json_type_object) ||
        !json_object_object_get_ex(*root, key, &object) ||
        !json_object_is_type(object, json_type_object) ||
        !json_object_object_get_ex(object, "value", &value) ||
        !json_object_is_type(value, json_type_string) || json_object_get_string_len(value) == 0)
        return NULL;
    return json_object_get_string(value);
}

/* Frees an answer that held a secret. */
static void put_secret(struct json_object *root, const char *secret) {
    if (secret)
        explicit_bzero((char *)(uintptr_t)secret, strlen(secret));
    json_object_put(root);
}

static void on_refresh_token(void *user, const struct http_answer *answer) {
    struct passwords_wait *wait = user;
    struct json_object *root;
    const char *token = token_value(answer, "refreshToken", &root);
    wait->request = NULL;
    if (!token) {
        json_object_put(root);
        fail(wait, answer, "login");
        return;
    }
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "refreshToken", json_object_new_string(token));
    const char *json = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN);
    wait->request = post(wait, "/idm/auth/access-token", json, on_access_token);
    if (!wait->request)
        log_error("passwords", "no_memory");
    explicit_bzero((char *)(uintptr_t)json, strlen(json));
    json_object_put(body);
    put_secret(root, token);
}

static void on_access_token(void *user, const struct http_answer *answer) {
    struct passwords_wait *wait = user;
    struct json_object *root;
    const char *token = token_value(answer, "accessToken", &root);
    if (token) {
        finish(wait, PASSWORDS_OK, token, answer);
    } else {
        fail(wait, answer, "access-token");
    }
    put_secret(root, token);
}

struct passwords_wait *passwords_ask(struct passwords *passwords, const char *username,
                                     const char *password, passwords_cb callback, void *user) {
    if (passwords->queued >= PASSWORDS_QUEUE)
        return NULL;
    struct passwords_wait *wait = calloc(1, sizeof(*wait));
    if (!wait)
        return NULL;
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "username", json_object_new_string(username));
    json_object_object_add(body, "password", json_object_new_string(password));
    json_object_object_add(body, "type", json_object_new_string("credentials"));
    json_object_object_add(body, "clientType", json_object_new_string("game"));
    const char *json = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN);
    wait->credentials = strdup(json);
    explicit_bzero((char *)(uintptr_t)json, strlen(json));
    json_object_put(body);
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
