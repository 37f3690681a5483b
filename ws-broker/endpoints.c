#include "ws-broker/endpoints.h"

#include <string.h>

#include "shared/metrics.h"

#define JSON_TYPE "application/json"
#define TEXT_TYPE "text/plain; charset=utf-8"

static struct endpoint_answer json_error(int status, const char *headers, const char *body) {
    return (struct endpoint_answer){
        .status = status, .type = JSON_TYPE, .headers = headers, .body = body};
}

static struct endpoint_answer text(int status, const char *body) {
    return (struct endpoint_answer){
        .status = status, .type = TEXT_TYPE, .headers = "", .body = body};
}

bool endpoint_is_chat(const char *path) {
    return strcmp(path, "/chat") == 0 || strcmp(path, "/chat/") == 0;
}

bool endpoint_is_minigame(const char *path) {
    return strcmp(path, "/minigame") == 0 || strcmp(path, "/minigame/") == 0;
}

bool endpoint_is_live(const char *path, enum games_verb *verb) {
    *verb = strcmp(path, "/api/gaming/events") == 0 ? GAMES_NEWEST : GAMES_UPDATE;
    return *verb == GAMES_NEWEST || strcmp(path, "/api/webhook/minigame") == 0;
}

struct endpoint_answer endpoint_live(const struct games_answer *answer) {
    if (answer->status == GAMES_UNCERTAIN)
        return json_error(503, "Retry-After: 1\r\n",
                          "{\"error\":\"not confirmed: this may have been done, or not\"}");
    if (answer->status != GAMES_DONE)
        return json_error(503, "Retry-After: 1\r\n",
                          "{\"error\":\"the games are unavailable: try again\"}");
    return (struct endpoint_answer){.status = 200,
                                    .type = JSON_TYPE,
                                    .headers = "",
                                    .body = answer->text ? answer->text : "",
                                    .to_free = answer->text};
}

struct endpoint_answer endpoint_unauthorized(void) {
    return json_error(401, "WWW-Authenticate: Bearer\r\n",
                      "{\"error\":\"the secret is missing or wrong\"}");
}

struct endpoint_answer endpoint_forbidden(void) {
    return json_error(403, "", "{\"error\":\"not from your address\"}");
}

struct endpoint_answer endpoint_too_often(void) {
    return json_error(429, "Retry-After: 1\r\n", "{\"error\":\"too many requests: wait\"}");
}

struct endpoint_answer endpoint_starting(void) {
    return json_error(503, "Retry-After: 1\r\n",
                      "{\"error\":\"the server is starting: try again\"}");
}

struct endpoint_answer endpoint_not_found(void) {
    return json_error(404, "", "{\"error\":\"not found\"}");
}

struct endpoint_answer endpoint_get(const char *path, const struct endpoint_state *state) {
    if (strcmp(path, "/healthz") == 0)
        return text(200, "alive\n");
    if (strcmp(path, "/readyz") == 0)
        /* 404 is how HAProxy's disable-on-404 is told that existing clients stay. */
        return state->draining ? text(404, "draining\n")
               : state->ready  ? text(200, "ready\n")
                               : text(503, "cannot publish or follow\n");
    if (endpoint_is_chat(path) || (endpoint_is_minigame(path) && state->has_minigame))
        return json_error(426, "Upgrade: websocket\r\n",
                          "{\"error\":\"this is a WebSocket: upgrade required\"}");
    return endpoint_not_found();
}

struct endpoint_answer endpoint_get_ops(const char *path, const struct metrics *metrics) {
    if (strcmp(path, "/metrics") != 0)
        return endpoint_not_found();
    size_t len = 0;
    char *body = metrics_text(metrics, &len);
    if (!body)
        return json_error(503, "", "{\"error\":\"out of memory\"}");
    return (struct endpoint_answer){.status = 200,
                                    .type = "text/plain; version=0.0.4; charset=utf-8",
                                    .headers = "",
                                    .body = body,
                                    .to_free = body};
}

struct endpoint_answer endpoint_wrong_method(void) {
    return json_error(405, "Allow: GET, HEAD\r\n", "{\"error\":\"method not allowed\"}");
}

struct endpoint_answer endpoint_restarting(void) {
    return json_error(503, "Retry-After: 2\r\n", "{\"error\":\"the server restarts\"}");
}

struct endpoint_answer endpoint_only_get(void) {
    return json_error(405, "Allow: GET\r\n", "{\"error\":\"method not allowed\"}");
}

struct endpoint_answer endpoint_no_body(void) {
    return json_error(413, "", "{\"error\":\"a body is not allowed here\"}");
}

struct endpoint_answer endpoint_bad_subprotocol(void) {
    return json_error(400, "",
                      "{\"error\":\"Sec-WebSocket-Protocol: names of 1 to 62 bytes, 126 in all\"}");
}

struct endpoint_answer endpoint_no_host(void) {
    return json_error(400, "", "{\"error\":\"the header Host is missing\"}");
}

struct endpoint_answer endpoint_no_key(void) {
    return json_error(400, "", "{\"error\":\"the header Sec-WebSocket-Key is missing\"}");
}

/* Not 429, at which some libraries' reconnect loops end. */
struct endpoint_answer endpoint_refused(enum admission_result why) {
    switch (why) {
    case ADMISSION_ADDRESS:
        return json_error(503, "Retry-After: 5\r\n",
                          "{\"error\":\"too many connections from your address\"}");
    case ADMISSION_RATE:
        return json_error(503, "Retry-After: 5\r\n",
                          "{\"error\":\"your address connects too often\"}");
    case ADMISSION_OK:
    case ADMISSION_FULL:
        break;
    }
    return json_error(503, "Retry-After: 5\r\n", "{\"error\":\"the server is full\"}");
}
