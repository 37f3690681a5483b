#include "ws-broker/chat.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "shared/log.h"
#include "shared/status.h"
#include "ws-broker/admission.h"
#include "ws-broker/conn.h"
#include "ws-broker/dispatch.h"
#include "ws-broker/fanout.h"
#include "ws-broker/presence.h"

enum { HEAR_MS = 5000 }; /* one's own messages are waited for as long as for an error */

static struct metric messages = {.name = "hlchat_messages_total",
                                 .help = "Messages of the chat that this broker has followed"};
static struct metric refusals[REFUSED_COUNT];
static struct metric held_bytes = {.name = "hlchat_held_request_bytes",
                                   .help = "Bytes of requests that wait for earlier ones' answers",
                                   .type = METRIC_GAUGE};

void chat_register_metrics(struct metrics *metrics) {
    static char labels[REFUSED_COUNT][40];
    metrics_register(metrics, &messages);
    metrics_register(metrics, &held_bytes);
    for (int i = REFUSED_NOT + 1; i < REFUSED_COUNT; i++) {
        snprintf(labels[i], sizeof(labels[i]), "reason=\"%s\"",
                 proto_refusal_name((enum proto_refusal)i));
        refusals[i] = (struct metric){.name = "hlchat_refusals_total",
                                      .help = "Requests answered by an error",
                                      .labels = labels[i]};
        metrics_register(metrics, &refusals[i]);
    }
}

/* ---- what waits ------------------------------------------------------------------------------ */

bool chat_has_heard(const struct chat *chat, const struct conn *conn) {
    return chatlog_is_heard(chat->log, conn->stored) ||
           chat->time.now_ms - conn->stored_ms >= HEAR_MS;
}

bool chat_is_quiet(const struct chat *chat, const struct conn *conn) {
    return !conn->login_pending && conn->appends == 0 && conn->games_pending == 0 &&
           chat_has_heard(chat, conn);
}

/* A backlog goes on when a login is answered, and when replies are read; before that there is no
 * use in looking at it. */
static void list_waiting(struct chat *chat, struct conn *conn) {
    bool is_waiting = conn->backlog.first && !conn->login_pending && !fanout_is_paused(&conn->out);
    if (is_waiting && !conn->is_waiting)
        DL_APPEND2(chat->waiting, conn, prev_waiting, next_waiting);
    else if (!is_waiting && conn->is_waiting)
        DL_DELETE2(chat->waiting, conn, prev_waiting, next_waiting);
    conn->is_waiting = is_waiting;
}

/* After a change of the backlog, which had so many bytes before. */
static void account_backlog(struct chat *chat, struct conn *conn, size_t before) {
    size_t bytes = conn->backlog.bytes;
    chat->backlog_bytes += bytes - before;
    held_bytes.value += bytes - before;
    list_waiting(chat, conn);
    bool stop = bytes > (conn->is_unread ? BACKLOG_PAUSE / 2 : BACKLOG_PAUSE) ||
                (bytes > 0 && chat->backlog_bytes >= BACKLOG_TOTAL);
    if (stop == conn->is_unread || conn->state == CONN_CLOSING)
        return;
    conn->is_unread = stop;
    chat->set_reading(chat->user, conn, !stop);
}

void chat_drop_held(struct chat *chat, struct conn *conn) {
    size_t before = conn->backlog.bytes;
    backlog_pop(&conn->backlog);
    account_backlog(chat, conn, before);
}

static void close_without_memory(struct chat *chat, struct conn *conn) {
    log_error("chat", "no_memory", log_int("conn", (int64_t)conn->id));
    chat->close(chat->user, conn, CLOSE_OVERLOAD);
}

void chat_hold(struct chat *chat, struct conn *conn, const struct backlog_item *item,
               const char *text) {
    size_t before = conn->backlog.bytes;
    if (backlog_add(&conn->backlog, item, text) == CHAT_OK)
        account_backlog(chat, conn, before);
    else
        close_without_memory(chat, conn);
}

void chat_hold_first(struct chat *chat, struct conn *conn, const struct backlog_item *item,
                     const char *text) {
    size_t before = conn->backlog.bytes;
    if (backlog_add_first(&conn->backlog, item, text) == CHAT_OK)
        account_backlog(chat, conn, before);
    else
        close_without_memory(chat, conn);
}

/* ---- who is here ----------------------------------------------------------------------------- */

void chat_open(struct chat *chat, struct conn *conn) {
    conn->login_deadline_ms = chat->time.now_ms + chat->login_timeout_ms;
    conns_add(&chat->conns, conn);
}

void chat_gone(struct chat *chat, struct conn *conn) {
    size_t held = conn->backlog.bytes;
    fanout_drop(chat->fanout, &conn->out);
    backlog_clear(&conn->backlog);
    conn->state = CONN_CLOSING;
    account_backlog(chat, conn, held);
    conns_remove(&chat->conns, conn);
    if (conn->is_guess)
        admission_guess_end(chat->admission, &conn->address, true);
    if (conn->login_pending && chat->identity)
        identity_forget(chat->identity, conn->id);
    if (conn->user && conn->user->connections == 1 && chat->presence)
        presence_leave(chat->presence, conn->user);
    if (conn->user)
        users_leave(&chat->users, conn->user, &chat->message_rate, chat->time.now_ms);
    conn->user = NULL;
}

static bool has_lost(const struct chat *chat, const struct conn *conn) {
    return conn->state == CONN_LOGGED_IN && conn->losses != chat->losses;
}

static void close_if_answered(struct chat *chat, struct conn *conn) {
    if (conn->dismissed && !conn->backlog.first && chat_is_quiet(chat, conn))
        chat->close(chat->user, conn, has_lost(chat, conn) ? CLOSE_LOST : conn->dismissed);
}

void chat_dismiss(struct chat *chat, struct conn *conn, int code) {
    conn->dismissed = (uint16_t)code;
    close_if_answered(chat, conn);
}

struct dismiss_some {
    struct chat *chat;
    size_t most;
    int code;
};

static void dismiss_if_more(void *user, struct conn *conn) {
    struct dismiss_some *state = user;
    if (conn->state == CONN_CLOSING)
        return;
    if (conn->dismissed) {
        close_if_answered(state->chat, conn);
    } else if (state->most > 0) {
        state->most--;
        chat_dismiss(state->chat, conn, state->code);
    }
}

size_t chat_dismiss_some(struct chat *chat, size_t most, int code) {
    struct dismiss_some state = {chat, most, code};
    conns_each(&chat->conns, dismiss_if_more, &state);
    return most - state.most;
}

void chat_reply(struct chat *chat, struct conn *conn, char *buffer, size_t len) {
    if (!buffer) {
        close_without_memory(chat, conn);
        return;
    }
    fanout_reply(chat->fanout, &conn->out, buffer, len);
}

/* Old clients send keep-alives of their own making, some of them no JSON: at their pace they are
 * forgotten before they add up. */
static unsigned count_error(struct conn *conn, int64_t now_ms) {
    int64_t forgotten = (now_ms - conn->errors_ms) / PROTO_ERROR_FORGET_MS;
    if (forgotten >= conn->errors_in_row) {
        conn->errors_in_row = 0;
        conn->errors_ms = now_ms;
    } else {
        conn->errors_in_row = (uint16_t)(conn->errors_in_row - forgotten);
        conn->errors_ms += forgotten * PROTO_ERROR_FORGET_MS;
    }
    return ++conn->errors_in_row;
}

void chat_refuse(struct chat *chat, struct conn *conn, enum proto_refusal refusal,
                 const char *text) {
    refusals[refusal].value++;
    log_debug("chat", "refused", log_int("conn", (int64_t)conn->id),
              log_str("reason", proto_refusal_name(refusal)), log_str("error", text));
    size_t len = 0;
    char *reply = proto_error_reply(text, FANOUT_REPLY_HEADROOM, &len);
    chat_reply(chat, conn, reply, len);
    /* Who is too fast has been told to wait, what is unavailable is no fault of the client, and one
     * that is on its way out has a reason to close already. */
    if (conn->dismissed || refusal == REFUSED_UNAVAILABLE)
        return;
    if (refusal == REFUSED_RATE) {
        if (flood_charge(&conn->flood, FLOOD_REFUSED, chat->time.now_ms))
            chat->close(chat->user, conn, CLOSE_ERRORS);
        return;
    }
    if (conn->login_failures >= chat->login_attempts)
        chat->close(chat->user, conn, CLOSE_LOGIN_ATTEMPTS);
    else if (count_error(conn, chat->time.now_ms) >= PROTO_ERROR_LIMIT)
        chat->close(chat->user, conn, CLOSE_ERRORS);
}

void chat_refuse_late(struct chat *chat, struct conn *conn, enum proto_refusal refusal,
                      const char *text) {
    const struct backlog_item *first = conn->backlog.first;
    struct backlog_item item = {.kind = BACKLOG_FAILURE, .refusal = refusal, .len = strlen(text)};
    if (chat_has_heard(chat, conn) && !(first && first->kind == BACKLOG_FAILURE))
        chat_refuse(chat, conn, refusal, text);
    else
        chat_hold(chat, conn, &item, text);
}

bool chat_turn(struct chat *chat) {
    struct conn *conn, *next;
    bool is_done = false;
    if (!chat_has_work(chat))
        return false;
    chat->has_news = false;
    DL_FOREACH_SAFE2(chat->waiting, conn, next, next_waiting) {
        is_done = dispatch_backlog(chat, conn) || is_done;
        list_waiting(chat, conn);
        close_if_answered(chat, conn);
    }
    return is_done;
}

bool chat_has_work(const struct chat *chat) {
    return chat->waiting && chat->has_news;
}

void chat_replies_read(struct chat *chat, struct conn *conn) {
    list_waiting(chat, conn);
    chat->has_news = true;
}

void chat_tick(struct chat *chat) {
    chat->has_news = true; /* time has passed */
}

/* Its login or its request is answered: what is behind that may go on. */
static void answered(struct chat *chat, struct conn *conn) {
    list_waiting(chat, conn);
    chat->has_news = true;
    close_if_answered(chat, conn);
}

void chat_identified(struct chat *chat, uint64_t conn_id, const struct identity_answer *answer) {
    char error[PROTO_ERROR_MAX];
    struct conn *conn = conns_find(&chat->conns, conn_id);
    if (!conn || conn->state == CONN_CLOSING)
        return;
    enum proto_refusal refusal = handle_identity(chat, conn, answer, error);
    if (refusal)
        chat_refuse(chat, conn, refusal, error);
    else
        conn->errors_in_row = 0;
    answered(chat, conn);
}

void chat_games_answered(struct chat *chat, uint64_t conn_id, const struct games_answer *answer) {
    char error[PROTO_ERROR_MAX];
    struct conn *conn = conns_find(&chat->conns, conn_id);
    if (!conn || conn->state == CONN_CLOSING)
        return;
    conn->games_pending--;
    enum proto_refusal refusal = handle_games_answer(chat, conn, answer, error);
    if (refusal)
        chat_refuse_late(chat, conn, refusal, error);
    else
        conn->errors_in_row = 0;
    answered(chat, conn);
}

void chat_appended(struct chat *chat, uint64_t conn_id, int status) {
    struct conn *conn = conns_find(&chat->conns, conn_id);
    if (!conn)
        return;
    conn->appends--;
    if (status == CHAT_OK) {
        conn->stored = chatlog_mark(chat->log);
        conn->stored_ms = chat->time.now_ms;
    }
    if (conn->state == CONN_CLOSING)
        return;
    if (status != CHAT_OK)
        chat_refuse_late(chat, conn, REFUSED_UNAVAILABLE,
                         status == CHAT_EUNCERTAIN
                             ? "not confirmed: the message may still appear, once"
                             : "the chat is unavailable: the message was not sent, try again");
    chat->has_news = true;
    close_if_answered(chat, conn);
}

void chat_entry(struct chat *chat, const char *json, size_t len, bool is_new) {
    if (history_append(chat->history, json, len) != CHAT_OK)
        log_error("chat", "history_lost_entry", log_str("error", "no memory"));
    chat->has_news = true;
    if (!is_new)
        return;
    if (!chat->games)
        messages.value++;
    if (fanout_append(chat->fanout, json, len) != CHAT_OK)
        log_error("chat", "entry_too_large", log_int("bytes", (int64_t)len));
}

/* Nothing from behind the gap: it would look as if there were none. */
static void stop_broadcasts(void *user, struct conn *conn) {
    fanout_leave(((struct chat *)user)->fanout, &conn->out);
}

void chat_lost(struct chat *chat) {
    history_clear(chat->history);
    chat->losses++;
    conns_each(&chat->conns, stop_broadcasts, chat);
}

struct close_lost {
    struct chat *chat;
    size_t most;
    bool more;
};

static void close_if_lost(void *user, struct conn *conn) {
    struct close_lost *state = user;
    if (!has_lost(state->chat, conn))
        return;
    if (state->most == 0) {
        state->more = true;
        return;
    }
    state->most--;
    state->chat->close(state->chat->user, conn, CLOSE_LOST);
}

bool chat_close_lost(struct chat *chat, size_t most) {
    struct close_lost state = {chat, most, false};
    conns_each(&chat->conns, close_if_lost, &state);
    return state.more;
}
