#include "ws-broker/dispatch.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include "ws-broker/chat.h"
#include "ws-broker/conn.h"

static const struct {
    handler_fn handle;
    bool wants_login;
} handlers[VERB_COUNT] = {
    [VERB_LOGIN] = {handle_login, false},
    [VERB_MESSAGE] = {handle_message, true},
    [VERB_HISTORY] = {handle_history, true},
    [VERB_SCHEDULER_START] = {handle_minigame, true},
    [VERB_SCHEDULER_STOP] = {handle_minigame, true},
    [VERB_SCHEDULER_INFO] = {handle_minigame, true},
    [VERB_ONLINE_PLAYERS] = {handle_minigame, true},
    [VERB_GAME_END] = {handle_minigame, true},
};

void dispatch_rate_error(char error[PROTO_ERROR_MAX], const char *what, int64_t wait_ms) {
    int64_t tenths = (wait_ms + 99) / 100;
    snprintf(error, PROTO_ERROR_MAX, "%s: wait %" PRId64 ".%" PRId64 " s", what, tenths / 10,
             tenths % 10);
}

static enum proto_refusal handle(struct chat *chat, struct conn *conn, const char *text, size_t len,
                                 char error[PROTO_ERROR_MAX]) {
    if (conn->dismissed) {
        snprintf(error, PROTO_ERROR_MAX, "the server restarts: this was not done, try again");
        return REFUSED_UNAVAILABLE;
    }
    int64_t wait_ms = rate_take(&conn->frames, &chat->frame_rate, chat->time.now_ms);
    if (wait_ms > 0) {
        dispatch_rate_error(error, "too many requests", wait_ms);
        return REFUSED_RATE;
    }
    struct proto_request request;
    enum proto_refusal refusal = proto_parse(chat->proto, text, len, &request, error);
    if (refusal)
        return refusal;
    if (handlers[request.verb].wants_login && conn->state != CONN_LOGGED_IN) {
        snprintf(error, PROTO_ERROR_MAX, "not logged in: send login first");
        refusal = REFUSED_NOT_LOGGED_IN;
    } else {
        refusal = handlers[request.verb].handle(chat, conn, &request, error);
    }
    proto_release(&request);
    return refusal;
}

void dispatch_text(struct chat *chat, struct conn *conn, const char *text, size_t len) {
    char error[PROTO_ERROR_MAX];
    if (conn->state == CONN_CLOSING)
        return;
    enum proto_refusal refusal = handle(chat, conn, text, len, error);
    if (refusal)
        chat_refuse(chat, conn, refusal, error);
    else if (!conn->login_pending && !conn->games_pending) /* else that is not known yet */
        conn->errors_in_row = 0;
}
