/*
 * crowd.h: the clients: connections, logins, and what goes over them. One epoll, one thread.
 *
 * The caller drives it: crowd_turn() waits for and handles what comes; crowd_connect() and
 * crowd_send() begin something. What is received goes to the checker.
 */
#ifndef HLCHAT_LOAD_CROWD_H
#define HLCHAT_LOAD_CROWD_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/bench/load/checker.h"
#include "tests/bench/load/histogram.h"
#include "tests/bench/load/options.h"

enum { CROWD_CODES = 8, CROWD_REASON_MAX = 160 };

struct crowd_closes {
    int code; /* of the close frame; 1006: there was none */
    uint32_t count;
};

struct crowd {
    uint32_t logged_in;                      /* now */
    uint32_t under_way;                      /* connections begun, not logged in yet */
    uint32_t begun;                          /* clients that have been connected, or tried to */
    uint32_t failed;                         /* could not connect or log in */
    uint64_t errors;                         /* messages answered by an error */
    uint64_t others;                         /* frames that are no message of this run */
    uint32_t stalled_out;                    /* stalled clients that the server closed */
    struct crowd_closes closes[CROWD_CODES]; /* of clients that were logged in and not stalled */
    char first_error[CROWD_REASON_MAX];      /* of any kind; empty: none */
    struct histogram login; /* from the begin of a connection to its login's answer */
    struct checker checker;

    const struct options *_options;
    struct crowd_client *_clients;
    struct crowd_client **_publishers;
    struct crowd_client **_unsent; /* publishers with something to be written */
    uint32_t _unsent_count;
    uint8_t *_received, *_frame;
    char *_text, *_marker; /* a message; the place in it of the marker */
    int _epoll;
};

/** CHAT_ENOMEM or CHAT_ESYS; then deinit is still to be called. */
int crowd_init(struct crowd *crowd, const struct options *options);
void crowd_deinit(struct crowd *crowd);

/** Begins the next client's connection, which goes on by itself up to its login. */
void crowd_connect(struct crowd *crowd);

/** Ends all clients that are not logged in: those that are take part. After the last
 * crowd_connect(), and not within a crowd_turn(). */
void crowd_give_up(struct crowd *crowd);

/** One more message, of the publishers in turns, that was due at `due_ns`. It is written by the
 * next crowd_turn(). 1, or 0 when no publisher is left, or CHAT_ENOMEM. */
int crowd_send(struct crowd *crowd, uint64_t due_ns);

/** Writes what is to be sent, waits until `until_ns` at most for something to come, and handles
 * some of it. CHAT_ENOMEM or CHAT_ESYS are possible. */
int crowd_turn(struct crowd *crowd, uint64_t until_ns);

/** The end of the run: what readers lack is counted in the checker. */
void crowd_finish(struct crowd *crowd);

/** Nanoseconds of the monotonic clock, as all times here. */
uint64_t crowd_now_ns(void);

#endif
