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
    conn->_partial_len = 0;
}

void conn_deinit(struct conn *conn) {
    forget_partial(conn);
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
    /* Messages that come in pieces are rare and short: growing by what came is enough. */
    size_t grown_len = conn->_partial_len + len;
    char *grown = malloc(grown_len + 1);
    if (!grown) {
        forget_partial(conn);
        return CHAT_ENOMEM;
    }
    if (conn->_partial) /* not realloc(), which would leave a copy behind */
        memcpy(grown, conn->_partial, conn->_partial_len);
    memcpy(grown + conn->_partial_len, bytes, len);
    forget_partial(conn);
    conn->_partial = grown;
    conn->_partial_len = grown_len;
    if (final) {
        on_text(user, conn, conn->_partial, conn->_partial_len);
        forget_partial(conn);
    }
    return CHAT_OK;
}
