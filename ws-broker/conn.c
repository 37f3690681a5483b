#include "ws-broker/conn.h"

#include <stdlib.h>
#include <string.h>

#include "shared/status.h"

void conn_init(struct conn *conn, uint64_t id) {
    conn->id = id;
    conn->state = CONN_NEW;
    fanout_client_init(&conn->out, conn);
}

static void forget_partial(struct conn *conn) {
    if (conn->_partial) /* it may have held a token */
        explicit_bzero(conn->_partial, conn->_partial_len);
    free(conn->_partial);
    conn->_partial = NULL;
    conn->_partial_len = conn->_partial_room = 0;
}

void conn_deinit(struct conn *conn) {
    forget_partial(conn);
}

/* Room for `len` bytes in all, which is at most `max`. */
static int make_room(struct conn *conn, size_t len, size_t max) {
    if (len <= conn->_partial_room && conn->_partial)
        return CHAT_OK;
    size_t room = 2 * len + 1 < max ? 2 * len + 1 : max + 1;
    char *grown = malloc(room);
    if (!grown)
        return CHAT_ENOMEM;
    size_t kept = conn->_partial_len;
    if (kept > 0) /* not realloc(), which would leave a copy behind */
        memcpy(grown, conn->_partial, kept);
    forget_partial(conn);
    conn->_partial = grown;
    conn->_partial_len = kept;
    conn->_partial_room = room;
    return CHAT_OK;
}

int conn_feed(struct conn *conn, const char *bytes, size_t len, bool final, size_t max,
              conn_text_cb on_text, void *user) {
    if (len > max - conn->_partial_len) {
        forget_partial(conn);
        return CHAT_ERANGE;
    }
    if (final && conn->_partial_len == 0) {
        on_text(user, conn, bytes, len);
        return CHAT_OK;
    }
    if (make_room(conn, conn->_partial_len + len, max) != CHAT_OK) {
        forget_partial(conn);
        return CHAT_ENOMEM;
    }
    memcpy(conn->_partial + conn->_partial_len, bytes, len);
    conn->_partial_len += len;
    if (final) {
        on_text(user, conn, conn->_partial, conn->_partial_len);
        forget_partial(conn);
    }
    return CHAT_OK;
}
