/*
 * chatlog_redis.h: the log as a Redis Stream that every broker follows; see chatlog.h for the
 * interface.
 *
 * Publishing (own connection): XADD <key> MAXLEN ~ <LOG_MAXLEN> * k <key of the entry> m <json>.
 * Each entry goes queued -> sent -> stored, failed or uncertain, exactly once: after a disconnect
 * the old connection is killed, the entries whose answer never came are looked for in the stream,
 * and only those that are not there are sent again, before anything new. Whoever reads drops an
 * entry whose k was seen before.
 *
 * Following (own connection): the whole stream from the start, then XREAD from the cursor. Every
 * few seconds an audit compares the stream's own count of entries with ours; when they differ, or
 * the stream is not the one we knew, it is read again from the start: what is new is handed on,
 * what is missing is said to be lost, and if it may have dropped what we had not read, whoever
 * follows must start again.
 */
#ifndef HLCHAT_CHATLOG_REDIS_H
#define HLCHAT_CHATLOG_REDIS_H

#include <uv.h>

#include "ws-broker/chatlog.h"

struct metrics;
struct redis;
struct redis_url;

enum { CHATLOG_KEY_MAX = 96 };

/** Which log: what its metrics are called. At most one of each. */
enum chatlog_which { CHATLOG_PLAYERS = 0, CHATLOG_MINIGAME = 1 };

struct chatlog_redis_options {
    const struct redis_url *url; /* borrowed */
    enum chatlog_which which;
    const char *key;   /* of the stream, copied; what else it keeps begins with it */
    int log_maxlen;    /* entries that the stream keeps, about */
    int history_limit; /* newest entries that must survive a reload */
    size_t entry_max;  /* bytes of the largest entry that is taken from the stream */
};

void chatlog_redis_register_metrics(struct metrics *metrics);

/** `events` are borrowed. NULL: no memory. */
struct chatlog *chatlog_redis_new(const struct chatlog_redis_options *options, uv_loop_t *loop,
                                  const struct chatlog_events *events, void *user);

/** 16 hexadecimal digits that name this process in Redis; good until the log is freed. */
const char *chatlog_redis_nonce(struct chatlog *log);

/** The mark (chatlog.h) behind the entry with this id, of a stream that others write to, too; 0: it
 * is no id. */
uint64_t chatlog_redis_mark(const char *id);

/** The connection that publishes, for what else this broker writes (presence.h); it is not always
 * up. */
struct redis *chatlog_redis_publisher(struct chatlog *log);

#endif
