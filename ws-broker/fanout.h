/*
 * fanout.h: what each client is sent: one sequence of broadcasts and replies, from one shared ring.
 *
 * A broadcast is written once into the ring (ring.h); a joined client is a cursor into it. A reply
 * belongs to one client and takes its place among the broadcasts where it was made: everything
 * broadcast before it goes out before it. Nothing is sent by append or reply: at the end of the
 * loop turn fanout_turn_end() gives each client that is behind one span, or a few, of all that is
 * missing.
 *
 *   fanout_append ─> ring ─┐
 *                          ├─> fanout_turn_end ─> write(span) ─> the client's socket
 *   fanout_reply ─> queue ─┘        fanout_writable ─> (a choked client goes on)
 *
 * A client whose socket is full (choked) waits for fanout_writable() and costs the others nothing.
 * One that falls behind the ring's tail has lost its place: it leaves, and on_slow() is told.
 * Replies to a client that does not read are bounded: over FANOUT_REPLY_PAUSE queued bytes we stop
 * reading from it, until it is half empty again; when all clients together have FANOUT_REPLY_TOTAL
 * queued, any queued reply stops the reading.
 *
 * No I/O: bytes leave through `struct fanout_sink`. Loop thread only. Sink functions must not call
 * back into fanout, except that on_slow may call fanout_drop().
 */
#ifndef HLCHAT_FANOUT_H
#define HLCHAT_FANOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/metrics.h"
#include "ws-broker/frame.h"

enum {
    FANOUT_RING_BYTES = 4 << 20,   /* about 20,000 messages of 200 bytes */
    FANOUT_SPAN = 64 << 10,        /* most bytes in one write to a client that keeps up */
    FANOUT_SPAN_CHOKED = 16 << 10, /* most bytes in one write to one that was choked: what its
                                      socket refuses is copied */
    FANOUT_REPLY_PAUSE = 64 << 10, /* queued reply bytes of one client that stop reading from it */
    FANOUT_REPLY_TOTAL = 64 << 20, /* of all clients */
    FANOUT_QUIET_TURNS = 3, /* a flush waits at most so many turns for one without new messages */
};

/** How bytes reach a client; `peer` is what fanout_client_init() was given. */
struct fanout_sink {
    /** Whether the peer's socket still holds back bytes of an earlier write. */
    bool (*is_choked)(void *peer);
    /** Takes all `len` bytes (whole frames), sending or keeping them; < 0: the peer is dead and
     * gets nothing more. */
    int (*write)(void *peer, const uint8_t *bytes, size_t len);
    /** Asks for fanout_writable() once the socket takes bytes again. */
    void (*want_writable)(void *peer);
    /** Stops or resumes reading from the peer. */
    void (*set_reading)(void *peer, bool on);
    /** The peer has fallen behind the ring and has left; it is to be closed. */
    void (*on_slow)(void *peer);
};

struct fanout;
struct fanout_reply;

/** One client; embedded in its connection. Private but for `peer`. */
struct fanout_client {
    void *peer;
    struct fanout_reply *_first, *_last; /* replies not yet written */
    struct fanout_client *prev,
        *next;      /* list of clients with replies to look at (utlist's names) */
    size_t _queued; /* bytes of those replies */
    uint64_t _end;  /* broadcasts from this one on are not for it; see fanout_end() */
    uint32_t _slot; /* place in the array of joined clients, if it has joined */
    bool _choked, _listed, _paused, _dead;
};

/** `interval_ms`: FLUSH_INTERVAL_MS. The sink is borrowed. NULL: no memory. */
struct fanout *fanout_new(size_t ring_bytes, int interval_ms, const struct fanout_sink *sink);
/** All clients must have been dropped. */
void fanout_free(struct fanout *fanout);

void fanout_register_metrics(struct metrics *metrics);

/** Prepares a client that has not joined; it can get replies at once. */
void fanout_client_init(struct fanout_client *client, void *peer);

/** From now on the client gets broadcasts; the next one is its first. 0 or CHAT_ENOMEM. Joining
 * twice is allowed. */
int fanout_join(struct fanout *fanout, struct fanout_client *client);
/** No more broadcasts; queued replies still go out. */
void fanout_leave(struct fanout *fanout, struct fanout_client *client);
/** No more broadcasts than there were until now: these still go out, with the queued replies, and
 * then the client has left. */
void fanout_end(struct fanout *fanout, struct fanout_client *client);
/** Leaves and forgets queued replies: the client is about to go, or gone. May be called again. */
void fanout_drop(struct fanout *fanout, struct fanout_client *client);

/** Joined clients. */
size_t fanout_joined(const struct fanout *fanout);

/** Broadcasts one text frame (payload copied); 0 or CHAT_ERANGE (over an eighth of the ring). */
int fanout_append(struct fanout *fanout, const char *payload, size_t len);

/** How many more bytes may be appended in this turn without overrunning clients that keep up. */
size_t fanout_room(const struct fanout *fanout);

/** Unused bytes that a buffer given to fanout_reply() has before its text. */
enum { FANOUT_REPLY_HEADROOM = 48 };

/**
 * Queues a reply: `buffer` is malloc'ed and holds FANOUT_REPLY_HEADROOM unused bytes and then `len`
 * bytes of text. Takes ownership.
 */
void fanout_reply(struct fanout *fanout, struct fanout_client *client, char *buffer, size_t len);

/** Whether large replies should be refused because FANOUT_REPLY_TOTAL is reached. */
bool fanout_replies_full(const struct fanout *fanout);

/** Whether nothing is read from the client until it has read its replies; see
 * fanout_sink.set_reading. */
bool fanout_is_paused(const struct fanout_client *client);

/** Whether a client that has not joined, or was told to end, has been given all that it is to get.
 */
bool fanout_is_done(const struct fanout_client *client);

/** What is to happen next, see fanout_turn_end(). */
enum { FANOUT_QUIET = -1, FANOUT_AGAIN = 0 };

/**
 * Call after all I/O of a loop turn. Returns FANOUT_QUIET (nothing is pending), FANOUT_AGAIN (call
 * after the next turn, which must not sleep) or in how many milliseconds to call again at the
 * latest.
 */
int64_t fanout_turn_end(struct fanout *fanout, int64_t now_ms);

/** The client's socket takes bytes again. */
void fanout_writable(struct fanout *fanout, struct fanout_client *client);

#endif
