#include "ws-broker/conns.h"

#include <utlist.h>

#include "ws-broker/conn.h"

enum { PINGS_UNANSWERED_MAX = 2 };

void conns_add(struct conns *conns, struct conn *conn) {
    DL_APPEND(conns->_list, conn);
    HASH_ADD(hh, conns->_by_id, id, sizeof(conn->id), conn);
}

void conns_remove(struct conns *conns, struct conn *conn) {
    DL_DELETE(conns->_list, conn);
    HASH_DEL(conns->_by_id, conn);
}

struct conn *conns_find(const struct conns *conns, uint64_t id) {
    struct conn *conn;
    HASH_FIND(hh, conns->_by_id, &id, sizeof(id), conn);
    return conn;
}

size_t conns_count(const struct conns *conns) {
    return HASH_COUNT(conns->_by_id);
}

void conns_each(struct conns *conns, conns_cb callback, void *user) {
    struct conn *conn, *next;
    DL_FOREACH_SAFE(conns->_list, conn, next) callback(user, conn);
}

void conns_tick(struct conns *conns, int64_t now_ms, int64_t now_s, int64_t ping_interval_ms,
                const struct conns_overdue *overdue, void *user) {
    struct conn *conn, *next;
    DL_FOREACH_SAFE(conns->_list, conn, next) {
        if (conn->state == CONN_CLOSING)
            continue;
        if (conn->state == CONN_NEW && !conn->login_pending && now_ms >= conn->login_deadline_ms) {
            overdue->on_login_timeout(user, conn);
            continue;
        }
        if (conn->expires_at > 0 && now_s >= conn->expires_at) {
            overdue->on_expired(user, conn);
            continue;
        }
        if (now_ms < conn->next_ping_ms)
            continue;
        conn->next_ping_ms = now_ms + ping_interval_ms;
        if (conn->is_unread) /* it may have answered */
            conn->pings_unanswered = 0;
        if (conn->pings_unanswered >= PINGS_UNANSWERED_MAX) {
            overdue->on_silent(user, conn);
            continue;
        }
        conn->pings_unanswered++;
        overdue->on_ping(user, conn);
    }
}
