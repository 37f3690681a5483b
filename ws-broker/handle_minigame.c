#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ws-broker/chat.h"
#include "ws-broker/conn.h"
#include "ws-broker/dispatch.h"
#include "ws-broker/fanout.h"
#include "ws-broker/games.h"

static struct games_request games_request(const struct proto_request *request) {
    switch (request->verb) {
    case VERB_SCHEDULER_START:
        return (struct games_request){.verb = GAMES_START,
                                      .period_s = request->scheduler.period_s,
                                      .offset_s = request->scheduler.offset_s};
    case VERB_SCHEDULER_STOP:
        return (struct games_request){.verb = GAMES_STOP};
    case VERB_ONLINE_PLAYERS:
        return (struct games_request){.verb = GAMES_ONLINE};
    case VERB_GAME_END:
        return (struct games_request){.verb = GAMES_END,
                                      .number = request->game_end.number,
                                      .places = request->game_end.places,
                                      .count = request->game_end.count};
    default:
        return (struct games_request){.verb = GAMES_INFO};
    }
}

/* What is done is told by the group's log, to all; only what was asked for comes back here. */
enum proto_refusal handle_games_answer(struct chat *chat, struct conn *conn,
                                       const struct games_answer *answer,
                                       char error[PROTO_ERROR_MAX]) {
    if (answer->status != GAMES_DONE) {
        snprintf(error, PROTO_ERROR_MAX, "%s", answer->error);
        return answer->status == GAMES_REFUSED ? REFUSED_MINIGAME : REFUSED_UNAVAILABLE;
    }
    if (answer->told) {
        conn->stored = answer->told;
        conn->stored_ms = chat->time.now_ms;
    }
    if (!answer->text)
        return REFUSED_NOT;
    if (fanout_replies_full(chat->fanout)) {
        snprintf(error, PROTO_ERROR_MAX, "the games are busy: try again");
        return REFUSED_UNAVAILABLE;
    }
    size_t len = strlen(answer->text);
    char *reply = malloc(FANOUT_REPLY_HEADROOM + len);
    if (reply)
        memcpy(reply + FANOUT_REPLY_HEADROOM, answer->text, len);
    chat_reply(chat, conn, reply, len);
    return REFUSED_NOT;
}

enum proto_refusal handle_minigame(struct chat *chat, struct conn *conn,
                                   const struct proto_request *request,
                                   char error[PROTO_ERROR_MAX]) {
    struct games_request asked = games_request(request);
    struct games_answer answer;
    games_tick(chat->games, chat->time.now_ms,
               chat->time.unix_s); /* it shall know what time it is */
    if (!games_ask(chat->games, &asked, conn->id, &answer)) {
        conn->games_pending++;
        return REFUSED_NOT;
    }
    enum proto_refusal refusal = handle_games_answer(chat, conn, &answer, error);
    free(answer.text);
    return refusal;
}
