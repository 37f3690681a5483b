/*
 * ws.h: WebSockets and the little HTTP beside them; the only file with libwebsockets.
 *
 * Takes accepted descriptors, hands up requests (to be answered or let in), whole texts and
 * departures, and writes bytes that are already WebSocket frames. It owns the connections' memory:
 * a conn is good from on_open until on_gone has returned. Loop thread only.
 *
 * Closing is never done inside a library callback, where libwebsockets under libuv loses the close
 * frame, but from a list that a timer drains: see ws_close().
 */
#ifndef HLCHAT_WS_H
#define HLCHAT_WS_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "ws-broker/conn.h"
#include "ws-broker/endpoints.h"
#include "ws-broker/fanout.h"

struct ws;

/** Which of our sockets a connection came in by. */
enum ws_side { WS_PLAYERS = 0, WS_OPS = 1 };

struct ws_request {
    enum ws_side side;
    const char *path; /* without the query */
    bool is_get;      /* GET or HEAD */
    bool is_head;
    bool is_upgrade;           /* wants to become a WebSocket */
    struct address_ip peer;    /* who is connected to us */
    const char *forwarded_for; /* X-Forwarded-For, or NULL */
    const char *authorization; /* Authorization, or NULL; wiped after the call */
    uint64_t id;               /* for ws_answer(); unlike that of any connection */
};

/** Who is let in, and to where. */
struct ws_client {
    struct address_ip address;
    struct chat *chat;
    struct fanout *fanout; /* of that chat */
    bool is_known;         /* the handshake has said who it is: it need not log in */
};

/** What becomes of a request. */
enum ws_verdict {
    WS_LET_IN = 0,        /* an upgrade; `client` is filled */
    WS_ANSWERED = 1,      /* `answer` is filled */
    WS_ANSWERS_LATER = 2, /* not an upgrade; ws_answer() follows */
};

/** What goes up; `user` is ws_new()'s. */
struct ws_events {
    /** Somebody asks for something. */
    enum ws_verdict (*on_request)(void *user, const struct ws_request *request,
                                  struct ws_client *client, struct endpoint_answer *answer);
    /** A WebSocket is open; conn->address and conn->chat are as on_request said. */
    void (*on_open)(void *user, struct conn *conn, bool is_known);
    conn_text_cb on_text;
    /** The client has read its replies, after so many had waited that it was not read. */
    void (*on_replies_read)(void *user, struct conn *conn);
    /** It has gone. `code` is the close code we asked for, or 0: the client or the network did it.
     * The conn is freed after return. */
    void (*on_gone)(void *user, struct conn *conn, int code);
};

/**
 * `frame_max` is FRAME_MAX_BYTES. The file limit must be final before this call: tables are sized
 * by it. Events are borrowed. NULL: the reason was logged.
 */
struct ws *ws_new(uv_loop_t *loop, size_t frame_max, const struct ws_events *events, void *user);

/** How a fanout reaches the connections of a ws; peers are struct conn. */
extern const struct fanout_sink ws_sink;

/** Takes over an accepted descriptor; it is closed if that fails. */
void ws_adopt(struct ws *ws, enum ws_side side, int fd);

/**
 * Closes with a code: from now on the connection is CONN_CLOSING. What was broadcast until now, is
 * queued, or is held back by the socket goes first, for at most 10 s, then the close frame, then at
 * most 5 s for the peer's. A connection that has not gone by then is cut (it sees 1006). on_gone
 * comes later, never before return. A second call is ignored.
 */
void ws_close(struct ws *ws, struct conn *conn, int code);

/** Stops or resumes reading from it, for a reason other than that its replies wait (fanout.h); a
 * closing one is read again. */
void ws_set_reading(struct conn *conn, bool on);

/** As ws_close(), for a client that does not stop sending: what it should have read by then is not
 * waited for longer than 0.2 s. */
void ws_close_soon(struct ws *ws, struct conn *conn, int code);

/** All bytes that were read from its connection; 0: that is not known (it is a unix socket). */
uint64_t ws_received(struct conn *conn);

/** The answer to a request that was to get it later; if it has gone, nothing happens. */
void ws_answer(struct ws *ws, uint64_t request_id, const struct endpoint_answer *answer);

/** Whether any request waits for ws_answer(), or for its client to take the answer. */
bool ws_is_answering(const struct ws *ws);

/** Sends a ping, unless the socket is choked (then the peer would not see it anyway). */
void ws_ping(struct conn *conn);

/** First step of the end: releases the library once all connections have gone or are given up. Not
 * from one of our events. Run the loop on. */
void ws_stop(struct ws *ws);
/** Second step, when the loop has nothing left to run: then run the loop once more before closing
 * it. */
void ws_free(struct ws *ws);

#endif
