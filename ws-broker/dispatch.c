#include "ws-broker/dispatch.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ws-broker/chat.h"
#include "ws-broker/conn.h"
#include "ws-broker/fanout.h"

/*
 * A connection's requests are answered in their order. Those of one lane are so by themselves: what
 * goes by the log comes back in its order, and so do the answers to questions. One of these may be
 * begun behind others of its lane that are not answered yet; all else waits for their answers.
 */
enum lane { LANE_NONE = 0, LANE_LOG = 1, LANE_QUESTIONS = 2 };

static const struct {
    handler_fn handle;
    bool wants_login;
    enum lane lane;
} handlers[VERB_COUNT] = {
    [VERB_LOGIN] = {handle_login, false, LANE_NONE},
    [VERB_MESSAGE] = {handle_message, true, LANE_LOG},
    [VERB_HISTORY] = {handle_history, true, LANE_NONE},
    [VERB_SCHEDULER_START] = {handle_minigame, true, LANE_LOG},
    [VERB_SCHEDULER_STOP] = {handle_minigame, true, LANE_LOG},
    [VERB_SCHEDULER_INFO] = {handle_minigame, true, LANE_LOG},
    [VERB_ONLINE_PLAYERS] = {handle_minigame, true, LANE_QUESTIONS},
    [VERB_GAME_END] = {handle_minigame, true, LANE_LOG},
};

void dispatch_rate_error(char error[PROTO_ERROR_MAX], const char *what, int64_t wait_ms) {
    int64_t tenths = (wait_ms + 99) / 100;
    snprintf(error, PROTO_ERROR_MAX, "%s: wait %" PRId64 ".%" PRId64 " s", what, tenths / 10,
             tenths % 10);
}

/* Does what was asked, unless that has to wait. */
static enum proto_refusal perform(struct chat *chat, struct conn *conn,
                                  const struct proto_request *request, bool *waits,
                                  char error[PROTO_ERROR_MAX]) {
    enum lane lane = handlers[request->verb].lane;
    if (handlers[request->verb].wants_login && conn->state != CONN_LOGGED_IN) {
        snprintf(error, PROTO_ERROR_MAX, "not logged in: send login first");
        return REFUSED_NOT_LOGGED_IN;
    }
    *waits = (lane == LANE_NONE || lane != conn->lane) && !chat_is_quiet(chat, conn);
    if (*waits)
        return REFUSED_NOT;
    conn->lane = (uint8_t)lane;
    return handlers[request->verb].handle(chat, conn, request, error);
}

/* Handles a frame: as it comes, or as it was held back. With `*waits` it was not handled. */
static enum proto_refusal handle(struct chat *chat, struct conn *conn, struct backlog_item *frame,
                                 const char *text, bool *waits, char error[PROTO_ERROR_MAX]) {
    int64_t wait_ms = frame->is_counted ? 0
                                        : rate_take_late(&conn->frames, &chat->frame_rate,
                                                         frame->came_ms, chat->time.now_ms);
    if (wait_ms > 0) {
        dispatch_rate_error(error, "too many requests", wait_ms);
        return REFUSED_RATE;
    }
    struct proto_request request;
    frame->is_counted = true;
    enum proto_refusal refusal = proto_parse(chat->proto, text, frame->len, &request, error);
    if (refusal)
        return refusal;
    chat->time.came_ms = frame->came_ms;
    refusal = perform(chat, conn, &request, waits, error);
    proto_release(&request);
    return refusal;
}

static void answer(struct chat *chat, struct conn *conn, enum proto_refusal refusal,
                   const char *error) {
    if (refusal && !chat_is_quiet(chat, conn)) {
        struct backlog_item item = {
            .kind = BACKLOG_REFUSAL, .refusal = refusal, .len = strlen(error)};
        chat_hold_first(chat, conn, &item, error);
    } else if (refusal) {
        chat_refuse(chat, conn, refusal, error);
    } else if (!conn->login_pending && !conn->games_pending) { /* else that is not known yet */
        conn->errors_in_row = 0;
    }
}

static void dismiss(struct chat *chat, struct conn *conn) {
    static const char error[] = "the server restarts: this was not done, try again";
    static const struct backlog_item item = {
        .kind = BACKLOG_REFUSAL, .refusal = REFUSED_UNAVAILABLE, .len = sizeof(error) - 1};
    if (conn->backlog.first || !chat_is_quiet(chat, conn))
        chat_hold(chat, conn, &item, error);
    else
        chat_refuse(chat, conn, REFUSED_UNAVAILABLE, error);
}

void dispatch_text(struct chat *chat, struct conn *conn, const char *text, size_t len) {
    char error[PROTO_ERROR_MAX];
    struct backlog_item frame = {.kind = BACKLOG_FRAME, .came_ms = chat->time.now_ms, .len = len};
    if (conn->state == CONN_CLOSING)
        return;
    if (conn->dismissed) {
        dismiss(chat, conn);
        return;
    }
    bool waits = conn->backlog.first || conn->login_pending;
    enum proto_refusal refusal =
        waits ? REFUSED_NOT : handle(chat, conn, &frame, text, &waits, error);
    if (waits)
        chat_hold(chat, conn, &frame, text);
    else
        answer(chat, conn, refusal, error);
}

/* Goes on with the first item. False: its turn has not come. */
static bool go_on(struct chat *chat, struct conn *conn, struct backlog_item *item) {
    char error[PROTO_ERROR_MAX];
    bool waits = false;
    if (item->kind == BACKLOG_FAILURE)
        waits = !chat_has_heard(chat, conn);
    else if (item->kind == BACKLOG_REFUSAL || item->is_counted) /* that had to wait before */
        waits = !chat_is_quiet(chat, conn);
    enum proto_refusal refusal = REFUSED_NOT;
    if (!waits && item->kind == BACKLOG_FRAME)
        refusal = handle(chat, conn, item, item->text, &waits, error);
    if (waits)
        return false;
    if (item->kind == BACKLOG_FRAME) {
        chat_drop_held(chat, conn);
        answer(chat, conn, refusal, error);
    } else {
        chat_refuse(chat, conn, item->refusal, item->text);
        chat_drop_held(chat, conn);
    }
    return true;
}

bool dispatch_backlog(struct chat *chat, struct conn *conn) {
    bool is_done = false;
    while (conn->backlog.first && conn->state != CONN_CLOSING && !conn->login_pending &&
           !fanout_is_paused(&conn->out) && go_on(chat, conn, conn->backlog.first))
        is_done = true;
    return is_done;
}
