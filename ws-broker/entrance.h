/*
 * entrance.h: what becomes of a request: a WebSocket that may come in, to which chat, or why not;
 * health; and what the game's backend asks of the games.
 *
 * Decides only; ws.c answers and lets in. Loop thread only.
 */
#ifndef HLCHAT_ENTRANCE_H
#define HLCHAT_ENTRANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "ws-broker/drain.h"
#include "ws-broker/rate.h"
#include "ws-broker/ws.h"

struct admission;
struct chat;
struct endpoint_answer;
struct metrics;
struct settings;

/** All borrowed. Zero it, and then set what has no underscore. */
struct entrance {
    const struct settings *settings;
    const struct drain *drain;
    struct admission *admission;
    struct chat *players;
    struct chat *game_servers; /* without a log there is no /minigame, nor what belongs to it */
    struct rate _webhooks;
};

void entrance_register_metrics(struct metrics *metrics);

/** A request on the players' side; see on_request in ws.h. With WS_ANSWERS_LATER the games were
 * asked, with the request's id as the tag. `now_ms` is of a clock that does not go back. */
enum ws_verdict entrance_ask(struct entrance *entrance, const struct ws_request *request,
                             int64_t now_ms, struct ws_client *client,
                             struct endpoint_answer *answer);

/** Whether there is a /minigame. */
bool entrance_has_minigame(const struct entrance *entrance);

#endif
