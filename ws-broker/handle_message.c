#include <stdio.h>

#include "shared/status.h"
#include "ws-broker/chat.h"
#include "ws-broker/conn.h"
#include "ws-broker/dispatch.h"

enum proto_refusal handle_message(struct chat *chat, struct conn *conn,
                                  const struct proto_request *request,
                                  char error[PROTO_ERROR_MAX]) {
    int64_t wait_ms = rate_take_late(&conn->user->messages, &chat->message_rate, chat->time.came_ms,
                                     chat->time.now_ms);
    if (wait_ms > 0) {
        dispatch_rate_error(error, "too many messages, this one was not sent", wait_ms);
        return REFUSED_RATE;
    }
    /* Who and when are ours to say, whatever the client sent. */
    struct proto_message message = {
        .user_id = conn->user->id,
        .timestamp = chat->time.unix_s,
        .text = request->message.text,
        .text_len = request->message.text_len,
        .channel = request->message.channel,
        .nickname = conn->user->nickname,
    };
    size_t len = 0;
    const char *json = proto_message_json(chat->proto, &message, &len);
    int status = json ? chatlog_append(chat->log, json, len, conn->id) : CHAT_ENOMEM;
    if (status == CHAT_OK) {
        conn->appends++;
        return REFUSED_NOT;
    }
    snprintf(error, PROTO_ERROR_MAX, "the chat is %s: the message was not sent, try again",
             status == CHAT_EBUSY ? "busy" : "unavailable");
    return REFUSED_UNAVAILABLE;
}
