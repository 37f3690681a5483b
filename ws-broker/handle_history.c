#include <stdio.h>

#include "ws-broker/chat.h"
#include "ws-broker/conn.h"
#include "ws-broker/dispatch.h"
#include "ws-broker/fanout.h"

enum proto_refusal handle_history(struct chat *chat, struct conn *conn,
                                  const struct proto_request *request,
                                  char error[PROTO_ERROR_MAX]) {
    if (fanout_replies_full(chat->fanout)) {
        snprintf(error, PROTO_ERROR_MAX, "the chat is busy: ask for the history again");
        return REFUSED_UNAVAILABLE;
    }
    size_t len = 0;
    /* The history holds no more than HISTORY_LIMIT, which clamps the request's limit. */
    struct history_part part = {.limit = request->history.limit,
                                .offset = request->history.offset,
                                .max_bytes = chat->history_max_bytes};
    char *reply = history_reply(chat->history, &part, FANOUT_REPLY_HEADROOM, &len);
    chat_reply(chat, conn, reply, len);
    return REFUSED_NOT;
}
