/*
 * conns.h: all connections of this broker: found by id, and looked at once a second for what is
 * overdue.
 *
 * Holds pointers only; the transport owns the connections and removes each before it goes. Pure;
 * loop thread only.
 */
#ifndef HLCHAT_CONNS_H
#define HLCHAT_CONNS_H

#include <stddef.h>
#include <stdint.h>

struct conn;

/** Zero it to initialise. */
struct conns {
    struct conn *_list;
    struct conn *_by_id;
};

void conns_add(struct conns *conns, struct conn *conn);
void conns_remove(struct conns *conns, struct conn *conn);
/** NULL when it has left. */
struct conn *conns_find(const struct conns *conns, uint64_t id);
size_t conns_count(const struct conns *conns);

/** What to do with a connection. It may close it, but not remove it before return. */
typedef void (*conns_cb)(void *user, struct conn *conn);
void conns_each(struct conns *conns, conns_cb callback, void *user);

struct conns_overdue {
    conns_cb on_login_timeout; /* no login in time, and none is under way */
    conns_cb on_expired;       /* the token it logged in with has expired */
    conns_cb on_ping;          /* a ping is due */
    conns_cb on_silent;        /* two pings were not answered */
};

/** Call about once a second. `now_s` is unix time. */
void conns_tick(struct conns *conns, int64_t now_ms, int64_t now_s, int64_t ping_interval_ms,
                const struct conns_overdue *overdue, void *user);

#endif
