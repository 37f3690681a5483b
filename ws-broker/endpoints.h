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
#include "ws-broker/games.h"

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
    bool has_minigame;
};

/** Whether `path` (without its query) is where WebSockets of players are served: /chat, /chat/. */
bool endpoint_is_chat(const char *path);

/** Whether `path` is where WebSockets of game servers are served: /minigame, /minigame/. */
bool endpoint_is_minigame(const char *path);

/** Whether `path` asks something of the games; `verb` is set then: GAMES_UPDATE for
 * /api/webhook/minigame, GAMES_NEWEST for /api/gaming/events. */
bool endpoint_is_live(const char *path, enum games_verb *verb);

/** The answer to it; takes over `answer->text`. */
struct endpoint_answer endpoint_live(const struct games_answer *answer);

/** Whoever must show a secret has shown a wrong one, or none. */
struct endpoint_answer endpoint_unauthorized(void);

/** A game server's address is not among those that may connect. */
struct endpoint_answer endpoint_forbidden(void);

/** This came too often. */
struct endpoint_answer endpoint_too_often(void);

/** What is asked for is not there yet. */
struct endpoint_answer endpoint_starting(void);

/** GET or HEAD of any path on the players' port: /healthz, /readyz, else an error. */
struct endpoint_answer endpoint_get(const char *path, const struct endpoint_state *state);

/** GET or HEAD of any path on the operators' port: /metrics, else an error. */
struct endpoint_answer endpoint_get_ops(const char *path, const struct metrics *metrics);

/** Any other method. */
struct endpoint_answer endpoint_wrong_method(void);

/** Another method than GET where only that will do. */
struct endpoint_answer endpoint_only_get(void);

/** A request with a body. */
struct endpoint_answer endpoint_no_body(void);

/** An upgrade without the header Host. */
struct endpoint_answer endpoint_no_host(void);

/** An upgrade without the header Sec-WebSocket-Key. */
struct endpoint_answer endpoint_no_key(void);

/** An upgrade that offers as its first subprotocol what is no name of one. */
struct endpoint_answer endpoint_bad_subprotocol(void);

/** A path where there is nothing, or no WebSocket. */
struct endpoint_answer endpoint_not_found(void);

/** An upgrade while the broker sends its clients away. */
struct endpoint_answer endpoint_restarting(void);

/** An upgrade that admission refused. */
struct endpoint_answer endpoint_refused(enum admission_result why);

#endif
