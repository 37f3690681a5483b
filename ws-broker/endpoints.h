/*
 * endpoints.h: what the broker says over plain HTTP: health, readiness, metrics, and why an upgrade
 * is refused.
 *
 * Pure: a path and the state of things in, an answer out. Every refusal is JSON of the shape
 * {"error":"<text>"}.
 */
#ifndef HLCHAT_ENDPOINTS_H
#define HLCHAT_ENDPOINTS_H

#include <stdbool.h>
#include <stddef.h>

#include "ws-broker/admission.h"

struct metrics;

struct endpoint_answer {
    int status;          /* HTTP */
    const char *type;    /* Content-Type */
    const char *headers; /* more header lines, each with its CR LF, or "" */
    const char *body;
    char *to_free; /* what free() gets after the body was sent, or NULL */
};

/** What readiness is made of. */
struct endpoint_state {
    bool draining; /* existing clients stay, new ones should go elsewhere */
    bool ready;    /* can publish and follow */
};

/** Whether `path` (without its query) is where WebSockets of players are served: /chat, /chat/. */
bool endpoint_is_chat(const char *path);

/** GET or HEAD of any path on the players' port: /healthz, /readyz, else an error. */
struct endpoint_answer endpoint_get(const char *path, const struct endpoint_state *state);

/** GET or HEAD of any path on the operators' port: /metrics, else an error. */
struct endpoint_answer endpoint_get_ops(const char *path, const struct metrics *metrics);

/** Any other method. */
struct endpoint_answer endpoint_wrong_method(void);

/** An upgrade to a path where there is no WebSocket. */
struct endpoint_answer endpoint_not_found(void);

/** An upgrade while the broker sends its clients away. */
struct endpoint_answer endpoint_restarting(void);

/** An upgrade that admission refused. */
struct endpoint_answer endpoint_refused(enum admission_result why);

#endif
