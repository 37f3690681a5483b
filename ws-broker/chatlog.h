/*
 * chatlog.h: the one ordered log that is the chat.
 *
 * What is appended comes back to the follower in the log's order, the same for everybody who
 * follows. One implementation a file: chatlog_memory.c keeps the log in this process (one broker),
 * chatlog_redis.c in a Redis Stream (any number of them). Handlers see only this interface. Loop
 * thread only.
 */
#ifndef HLCHAT_CHATLOG_H
#define HLCHAT_CHATLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** What a log tells its owner; `user` is what was given with it. Only on_pending may be called from
 * inside chatlog_append(). */
struct chatlog_events {
    /** The next entry of the log: a message's JSON text, good until return. Not new: it was read
     * before, and comes again because of on_lost(), for the history only. */
    void (*on_entry)(void *user, const char *json, size_t len, bool is_new);
    /** How an append ended, once for each that was begun: CHAT_OK (its entry was or will be
     *  followed), CHAT_EUNAVAILABLE (not stored, never will be), CHAT_EUNCERTAIN (nobody knows; it
     *  may still appear, once). `tag` is the appender's. */
    void (*on_appended)(void *user, uint64_t tag, int status);
    /** There is something for chatlog_turn(): the loop must not sleep. Cheap, may be called often.
     */
    void (*on_pending)(void *user);
    /** Continuity is lost: entries are missing that clients have seen, or should have. What was
     * kept of the log is to be forgotten; on_entry follows for what the log has now, and whoever
     * was following must start again. NULL for a log that cannot lose any. */
    void (*on_lost)(void *user);
};

struct chatlog;

/** The operations of one implementation; see the functions below. */
struct chatlog_ops {
    int (*append)(struct chatlog *log, const char *json, size_t len, uint64_t tag);
    bool (*turn)(struct chatlog *log, size_t max_bytes);
    bool (*is_loaded)(const struct chatlog *log);
    bool (*is_ready)(const struct chatlog *log);
    bool (*is_settled)(const struct chatlog *log);
    uint64_t (*mark)(const struct chatlog *log);
    bool (*is_heard)(const struct chatlog *log, uint64_t mark);
    void (*stop)(struct chatlog *log);
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

/** Whether what the log held, at the start or at on_lost(), has been handed on: before that nobody
 * should log in. */
static inline bool chatlog_is_loaded(const struct chatlog *log) {
    return log->ops->is_loaded(log);
}

/** Whether this broker can publish and follow, now. */
static inline bool chatlog_is_ready(const struct chatlog *log) {
    return log->ops->is_ready(log);
}

/** Whether every append has ended. */
static inline bool chatlog_is_settled(const struct chatlog *log) {
    return log->ops->is_settled(log);
}

/** A place in the log, behind all that appends from here have stored until now. */
static inline uint64_t chatlog_mark(const struct chatlog *log) {
    return log->ops->mark(log);
}

/** Whether all in front of that place has come by on_entry(). */
static inline bool chatlog_is_heard(const struct chatlog *log, uint64_t mark) {
    return log->ops->is_heard(log, mark);
}

/** No events come after this; run the loop on, then chatlog_free(). */
static inline void chatlog_stop(struct chatlog *log) {
    log->ops->stop(log);
}

static inline void chatlog_free(struct chatlog *log) {
    if (log)
        log->ops->free(log);
}

enum {
    CHATLOG_QUEUE_ENTRIES = 10000, /* most entries that may wait to be stored or handed on */
    CHATLOG_QUEUE_BYTES = 4 << 20,
};

/** The log in memory; `events` and `user` are borrowed. NULL: no memory. */
struct chatlog *chatlog_memory_new(const struct chatlog_events *events, void *user);

#endif
