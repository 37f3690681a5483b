/*
 * conn.h: what we know of one client's connection, and the assembling of its messages.
 *
 * Embedded in the transport's session (ws.c), which owns its life: conn_init() when the WebSocket
 * is open, conn_deinit() when it is gone. Asynchronous answers find a connection again by id
 * (conns.h), never by pointer. Pure; loop thread only.
 */
#ifndef HLCHAT_CONN_H
#define HLCHAT_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "shared/address.h"
#include "ws-broker/backlog.h"
#include "ws-broker/fanout.h"
#include "ws-broker/flood.h"
#include "ws-broker/rate.h"

struct chat;
struct user;

enum conn_state {
    CONN_NEW = 0,       /* connected, not logged in */
    CONN_LOGGED_IN = 1, /* receives broadcasts */
    CONN_CLOSING = 2,   /* its close is under way: whatever it sends is ignored */
};

struct conn {
    uint64_t id; /* unique in this process, never 0 */
    enum conn_state state;
    bool is_guess;      /* the pending login is counted by admission_guess_begin() */
    bool login_pending; /* its identity is being found out */
    bool is_waiting;    /* in its chat's list of those with a backlog */
    bool is_unread;     /* nothing is read from it: its backlog is full */
    uint8_t lane;       /* of the request that was begun last; see dispatch.c */
    uint16_t dismissed; /* a close code: it is closed with that once it has its answers; 0: no */
    uint32_t appends;   /* its messages that are being stored */
    uint64_t stored;    /* the log's mark behind what it last had stored, */
    int64_t stored_ms;  /* and when that was */
    uint8_t pings_unanswered;
    uint16_t errors_in_row; /* as of errors_ms: one is forgiven each second */
    int64_t errors_ms;
    uint16_t games_pending;    /* requests that games.h has not answered yet */
    uint16_t login_failures;   /* refused by identity before the first login */
    struct address_ip address; /* the client's, as told by a trusted proxy */
    struct chat *chat;         /* which one it has come to */
    struct user *user;         /* set while logged in; counted in users.h */
    struct rate frames;
    struct flood flood;
    uint64_t losses; /* the log's, when it logged in: with more by now it has missed something */
    int64_t login_deadline_ms; /* while CONN_NEW */
    int64_t next_ping_ms;
    int64_t expires_at; /* unix seconds; 0: its token is not looked at again */
    struct fanout_client out;
    struct backlog backlog;
    struct conn *prev_waiting, *next_waiting;

    char *_partial; /* a message of which only some fragments are here */
    size_t _partial_len, _partial_room;
    struct conn *prev, *next; /* list of all connections (utlist's names) */
    UT_hash_handle hh;        /* by id */
};

void conn_init(struct conn *conn, uint64_t id);
void conn_deinit(struct conn *conn);

/** Gets each whole message. `text` is good until it returns. */
typedef void (*conn_text_cb)(void *user, struct conn *conn, const char *text, size_t len);

/**
 * Takes the next bytes of a message; `final` says that they end it, and then `on_text` is called
 * once, before return, with the whole (without a copy when it came in one piece). 0; CHAT_ERANGE
 * when the message is over `max` bytes, CHAT_ENOMEM: what was collected is forgotten and the
 * connection is to be closed.
 */
int conn_feed(struct conn *conn, const char *bytes, size_t len, bool final, size_t max,
              conn_text_cb on_text, void *user);

#endif
