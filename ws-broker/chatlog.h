/*
 * chatlog.h: the one ordered log that is the chat.
 *
 * What is appended comes back to the follower in the log's order, the same for everybody who
 * follows. One implementation a file: chatlog_memory.c keeps the log in this process (one broker).
 * Handlers and the broker see only this interface. Loop thread only.
 */
#ifndef HLCHAT_CHATLOG_H
#define HLCHAT_CHATLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** What a log tells its owner; `user` is what was given with it. None is called from inside
 * chatlog_append(). */
struct chatlog_events {
    /** The next entry of the log: a message's JSON text, good until return. */
    void (*on_entry)(void *user, const char *json, size_t len);
    /** How an append ended, once for each that was begun: CHAT_OK (its entry was or will be
     * followed), CHAT_EUNAVAILABLE (not stored, never will be), CHAT_EUNCERTAIN (nobody knows; it
     * may still appear, once). `tag` is the appender's. */
    void (*on_appended)(void *user, uint64_t tag, int status);
    /** There is something for chatlog_turn(): the loop must not sleep. Cheap, may be called often.
     */
    void (*on_pending)(void *user);
};

struct chatlog;

/** The operations of one implementation; see the functions below. */
struct chatlog_ops {
    int (*append)(struct chatlog *log, const char *json, size_t len, uint64_t tag);
    bool (*turn)(struct chatlog *log, size_t max_bytes);
    bool (*is_ready)(const struct chatlog *log);
    void (*free)(struct chatlog *log);
};

/** First member of every implementation. */
struct chatlog {
    const struct chatlog_ops *ops;
};

/**
 * Begins to append a message (copied). 0: on_appended() follows, later, once. CHAT_EBUSY (a bounded
 * queue is full), CHAT_EUNAVAILABLE, CHAT_ENOMEM: it does not, and nothing was stored.
 */
static inline int chatlog_append(struct chatlog *log, const char *json, size_t len, uint64_t tag) {
    return log->ops->append(log, json, len, tag);
}

/** Hands on entries that wait, at most about `max_bytes` of them (one at least). Call at the end of
 * each loop turn. True: more wait. */
static inline bool chatlog_turn(struct chatlog *log, size_t max_bytes) {
    return log->ops->turn(log, max_bytes);
}

/** Whether this broker can publish and follow. */
static inline bool chatlog_is_ready(const struct chatlog *log) {
    return log->ops->is_ready(log);
}

static inline void chatlog_free(struct chatlog *log) {
    if (log)
        log->ops->free(log);
}

enum {
    CHATLOG_QUEUE_ENTRIES = 10000, /* most entries that may wait to be handed on */
    CHATLOG_QUEUE_BYTES = 4 << 20,
};

/** The log in memory; `events` and `user` are borrowed. NULL: no memory. */
struct chatlog *chatlog_memory_new(const struct chatlog_events *events, void *user);

#endif
