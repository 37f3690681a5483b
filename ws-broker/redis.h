/*
 * redis.h: one connection to Redis that comes back by itself; the only file with hiredis.
 *
 * Connects, says who we are, and is "up" once Redis has answered all of it and is new enough;
 * commands are pipelined, and each has a deadline. When anything goes wrong (refused, reset,
 * silence, a reply that cannot be) the connection is dropped: every pending command gets its
 * callback with NULL, then on_down is called, and after a pause of 50 ms to 1 s, growing and
 * random, it connects again, to the next address of the host if this one was never up. Never
 * blocks: names are resolved by libuv's threads, and the addresses known are used meanwhile. Loop
 * thread only.
 */
#ifndef HLCHAT_REDIS_H
#define HLCHAT_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "shared/redis_url.h"

struct redis;

/** A reply; lives only during the callback. */
struct redis_value;

enum redis_type {
    REDIS_NULL = 0,
    REDIS_TEXT = 1,
    REDIS_NUMBER = 2,
    REDIS_LIST = 3,
    REDIS_FAILED = 4
};

enum redis_type redis_value_type(const struct redis_value *value);
/** The text of REDIS_TEXT or REDIS_FAILED; else "". NUL-terminated, but may hold NUL inside. */
const char *redis_value_text(const struct redis_value *value, size_t *len);
int64_t redis_value_number(const struct redis_value *value);
/** Members of a REDIS_LIST; else 0. */
size_t redis_value_count(const struct redis_value *value);
const struct redis_value *redis_value_at(const struct redis_value *value, size_t index);
/** Whether it is an error that begins with this word ("READONLY"). */
bool redis_value_is_error(const struct redis_value *value, const char *word);

/** `reply` is NULL when the connection went away: nobody knows whether the command was done. */
typedef void (*redis_cb)(void *user, const struct redis_value *reply);

struct redis_events {
    void (*on_up)(void *user);
    void (*on_down)(void *user); /* only after on_up */
};

/** Who answers at the other end, while it is up. */
struct redis_server {
    char run_id[64];
    char client_id[24]; /* ours, as CLIENT KILL wants it */
    char client_addr[128];
};

/** `name` ("publish") goes to the log; it, `url` and `events` are borrowed. Connects at the next
 * turn. NULL: no memory. */
struct redis *redis_new(uv_loop_t *loop, const char *name, const struct redis_url *url,
                        const struct redis_events *events, void *user);

bool redis_is_up(const struct redis *redis);
const struct redis_server *redis_server(const struct redis *redis);

/** One argument of a command; a command has at most 64. */
struct redis_arg {
    const void *bytes;
    size_t len;
};

/**
 * Sends a command (copied). 0: the callback comes once, later. CHAT_EUNAVAILABLE: it is not up, and
 * no callback comes. When no reply comes within `timeout_ms` the connection is dropped. `callback`
 * may be NULL.
 */
int redis_send(struct redis *redis, const struct redis_arg *args, size_t count, int64_t timeout_ms,
               redis_cb callback, void *user);

/** As redis_send(), for arguments without NUL; the list ends with NULL. */
int redis_send_words(struct redis *redis, int64_t timeout_ms, redis_cb callback, void *user, ...)
    __attribute__((sentinel));

/** Drops the connection, at the next turn; it comes back by itself. `why` goes to the log. */
void redis_drop(struct redis *redis, const char *why);

/** For good: pending callbacks get NULL, on_down is not called. Run the loop on, then redis_free().
 */
void redis_stop(struct redis *redis);
void redis_free(struct redis *redis);

#endif
