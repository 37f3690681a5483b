#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shared/log.h"
#include "shared/status.h"
#include "ws-broker/admission.h"
#include "ws-broker/chat.h"
#include "ws-broker/conn.h"
#include "ws-broker/dispatch.h"
#include "ws-broker/fanout.h"
#include "ws-broker/presence.h"

static struct metric accepted = {.name = "hlchat_logins_total",
                                 .help = "Logins by how they ended",
                                 .labels = "result=\"accepted\""};
static struct metric refused = {.name = "hlchat_logins_total",
                                .help = "Logins by how they ended",
                                .labels = "result=\"refused\""};
static struct metric unavailable = {.name = "hlchat_logins_total",
                                    .help = "Logins by how they ended",
                                    .labels = "result=\"unavailable\""};

void handle_login_register_metrics(struct metrics *metrics) {
    metrics_register(metrics, &accepted);
    metrics_register(metrics, &refused);
    metrics_register(metrics, &unavailable);
}

/* Broadcasts begin here: "connected" is queued behind nothing, and everything appended from now on
 * comes after it. */
int handle_login_enter(struct chat *chat, struct conn *conn, const struct identity_answer *answer) {
    if (!chatlog_is_loaded(chat->log)) /* the history is not whole: it may have begun anew */
        return CHAT_EUNAVAILABLE;
    if (fanout_join(chat->fanout, &conn->out) != CHAT_OK)
        return CHAT_ENOMEM;
    conn->user = users_enter(&chat->users, answer->user_id, answer->nickname);
    if (!conn->user) {
        fanout_leave(chat->fanout, &conn->out);
        return CHAT_ENOMEM;
    }
    conn->state = CONN_LOGGED_IN;
    conn->losses = chat->losses;
    if (conn->user->connections == 1 && chat->presence)
        presence_enter(chat->presence, conn->user);
    return CHAT_OK;
}

/* With TOKEN_EXPIRY=session such a login would end within a second: a token's `exp` has some leeway
 * for clocks that differ, the end of a connection has none. */
static bool has_expired(const struct chat *chat, const struct identity_answer *answer) {
    return chat->close_expired && answer->status == IDENTITY_ACCEPTED && answer->expires_at != 0 &&
           answer->expires_at <= chat->time.unix_s;
}

enum proto_refusal handle_identity(struct chat *chat, struct conn *conn,
                                   const struct identity_answer *answer,
                                   char error[PROTO_ERROR_MAX]) {
    static const struct identity_answer expired = {.status = IDENTITY_REFUSED,
                                                   .error = IDENTITY_ERROR_TOKEN};
    if (has_expired(chat, answer))
        answer = &expired;
    bool was_guess = conn->is_guess;
    conn->login_pending = conn->is_guess = false;
    if (was_guess)
        admission_guess_end(chat->admission, &conn->address, answer->status == IDENTITY_REFUSED);
    conn->login_deadline_ms = chat->time.now_ms + chat->login_timeout_ms;

    if (answer->status == IDENTITY_UNAVAILABLE) {
        unavailable.value++;
        snprintf(error, PROTO_ERROR_MAX, "%s", answer->error);
        return REFUSED_UNAVAILABLE;
    }
    if (answer->status == IDENTITY_REFUSED) {
        refused.value++;
        if (!was_guess)
            admission_login_failed(chat->admission, &conn->address, chat->time.now_ms);
        if (conn->state == CONN_NEW)
            conn->login_failures++;
        snprintf(error, PROTO_ERROR_MAX, "%s", answer->error);
        return REFUSED_LOGIN;
    }
    if (conn->state == CONN_LOGGED_IN) {
        if (strcmp(conn->user->id, answer->user_id) != 0) {
            snprintf(error, PROTO_ERROR_MAX, "already logged in as another user");
            return REFUSED_LOGIN;
        }
    } else if (handle_login_enter(chat, conn, answer) != CHAT_OK) {
        snprintf(error, PROTO_ERROR_MAX, "the chat is unavailable: try again");
        return REFUSED_UNAVAILABLE;
    }
    conn->expires_at = chat->close_expired ? answer->expires_at : 0;
    accepted.value++;
    log_debug("login", "accepted", log_int("conn", (int64_t)conn->id));
    size_t len = 0;
    char *reply = proto_info_reply("connected", FANOUT_REPLY_HEADROOM, &len);
    chat_reply(chat, conn, reply, len);
    return REFUSED_NOT;
}

enum proto_refusal handle_login(struct chat *chat, struct conn *conn,
                                const struct proto_request *request, char error[PROTO_ERROR_MAX]) {
    if (!chatlog_is_loaded(chat->log)) {
        snprintf(error, PROTO_ERROR_MAX, "the chat is starting: try again");
        return REFUSED_UNAVAILABLE;
    }
    int64_t wait_s = admission_login_wait_s(chat->admission, &conn->address, chat->time.now_ms);
    if (wait_s > 0 && admission_is_guessing(chat->admission, &conn->address)) {
        /* They may all be right. */
        snprintf(error, PROTO_ERROR_MAX, "too many logins are waiting: try again");
        return REFUSED_UNAVAILABLE;
    }
    if (wait_s > 0) {
        snprintf(error, PROTO_ERROR_MAX,
                 "too many failed logins from your address: wait %" PRId64 " s", wait_s);
        return REFUSED_RATE;
    }
    conn->is_guess = !request->login.token; /* a token cannot be guessed */
    if (conn->is_guess)
        admission_guess_begin(chat->admission, &conn->address, chat->time.now_ms);
    struct identity_answer answer;
    conn->login_pending = true;
    if (!identity_check(chat->identity, &request->login, conn->id, &answer))
        return REFUSED_NOT;
    return handle_identity(chat, conn, &answer, error);
}
