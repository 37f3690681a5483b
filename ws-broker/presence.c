#include "ws-broker/presence.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/metrics.h"
#include "shared/status.h"
#include "ws-broker/redis.h"
#include "ws-broker/users.h"

enum {
    LEASE_S = 30,
    REFRESH_MS = 10000,
    REPLY_MS = 2000,
    KEY_MAX = 128,
    SILENT_S = 20, /* a broker that has not refreshed for so long is taken off the list, and not
                      counted: right again within a lease */
    SOME_MAX = 48, /* users in one command */
};

struct presence {
    struct redis *redis;
    const struct users *users;
    char prefix[KEY_MAX]; /* chat:{<chat>}:on: */
    char key[KEY_MAX];    /* our own set */
    char names[KEY_MAX];  /* and their nicknames, when they are wanted */
    char brokers[KEY_MAX];
    char nonce[32];
    int64_t refreshed_ms;
    bool with_names;
    bool is_written; /* our set is in Redis as it should be, as far as we know */
};

static struct metric online_all = {.name = "hlchat_users_online_all",
                                   .help = "Distinct users logged in to any broker of the chat",
                                   .type = METRIC_GAUGE};

void presence_register_metrics(struct metrics *metrics) {
    metrics_register(metrics, &online_all);
}

static struct redis_arg word(const char *text) {
    return (struct redis_arg){text, strlen(text)};
}

/* To a command that changes our set: refused or lost, it is written anew at the next refresh. */
static void on_changed(void *user, const struct redis_value *reply) {
    struct presence *presence = user;
    if (!reply || redis_value_type(reply) == REDIS_FAILED)
        presence->is_written = false;
}

/* Whether it was sent. */
static bool change(struct presence *presence, const struct redis_arg *args, size_t count) {
    if (redis_send(presence->redis, args, count, REPLY_MS, on_changed, presence) == CHAT_OK)
        return true;
    presence->is_written = false;
    return false;
}

static bool keep_alive(struct presence *presence, redis_cb callback) {
    char lease[8];
    snprintf(lease, sizeof(lease), "%d", LEASE_S);
    const struct redis_arg args[] = {word("EXPIRE"), word(presence->names), word(lease)};
    if (presence->with_names && !change(presence, args, 3))
        return false;
    return redis_send_words(presence->redis, REPLY_MS, callback, presence, "EXPIRE", presence->key,
                            lease, NULL) == CHAT_OK;
}

static bool write_name(struct presence *presence, const struct user *user) {
    const struct redis_arg args[] = {word("HSET"), word(presence->names), word(user->id),
                                     word(user->nickname)};
    return !presence->with_names || change(presence, args, 4);
}

/* The whole set, some users at a time. */
static bool write_users(struct presence *presence) {
    struct redis_arg args[SOME_MAX + 2] = {word("SADD"), word(presence->key)};
    size_t count = 2;
    const struct user *user, *next;
    HASH_ITER(hh, presence->users->_by_id, user, next) {
        if (user->connections == 0)
            continue;
        if (!write_name(presence, user))
            return false;
        args[count++] = word(user->id);
        if (count == sizeof(args) / sizeof(*args)) {
            if (!change(presence, args, count))
                return false;
            count = 2;
        }
    }
    return count == 2 || change(presence, args, count);
}

/* In place of what is there, which may list users who have left: in one transaction, so that nobody
   is missing meanwhile, and a Redis that refuses it keeps what it has. */
static void write_all(struct presence *presence) {
    const struct redis_arg begin[] = {word("MULTI")}, end[] = {word("EXEC")};
    const struct redis_arg clear[] = {word("DEL"), word(presence->key), word(presence->names)};
    if (!redis_is_up(presence->redis))
        return;
    presence->is_written = true;
    if (!change(presence, begin, 1) || !change(presence, clear, 3) || !write_users(presence) ||
        !keep_alive(presence, NULL) || !change(presence, end, 1))
        redis_drop(presence->redis, "no memory"); /* rather than stay in the transaction */
}

static void on_kept_alive(void *user, const struct redis_value *reply) {
    struct presence *presence = user;
    /* The set is gone, as after FLUSHALL; or it was empty, then writing it costs nothing. */
    if (redis_value_type(reply) == REDIS_NUMBER && redis_value_number(reply) == 0)
        write_all(presence);
}

static void on_counted(void *user, const struct redis_value *reply) {
    (void)user;
    if (redis_value_type(reply) == REDIS_NUMBER)
        online_all.value = (uint64_t)redis_value_number(reply);
}

/* One script, so that time is Redis' own, whatever the brokers' clocks say, and only the number
   comes back. */
static void refresh(struct presence *presence) {
    static const char script[] = "local now = redis.call('TIME')[1] "
                                 "redis.call('ZADD', KEYS[1], now, ARGV[1]) "
                                 "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2]) "
                                 "local sets = redis.call('ZRANGE', KEYS[1], 0, -1) "
                                 "for i, name in ipairs(sets) do sets[i] = ARGV[3] .. name end "
                                 "return #redis.call('SUNION', unpack(sets))";
    char silent[8];
    snprintf(silent, sizeof(silent), "%d", SILENT_S);
    if (presence->is_written)
        keep_alive(presence, on_kept_alive);
    else
        write_all(presence);
    redis_send_words(presence->redis, REPLY_MS, on_counted, presence, "EVAL", script, "1",
                     presence->brokers, presence->nonce, silent, presence->prefix, NULL);
}

void presence_tick(struct presence *presence, int64_t now_ms) {
    if (!redis_is_up(presence->redis)) {
        presence->is_written = false; /* and at once when it is back */
        presence->refreshed_ms = 0;
        return;
    }
    if (presence->refreshed_ms != 0 && now_ms - presence->refreshed_ms < REFRESH_MS)
        return;
    presence->refreshed_ms = now_ms;
    refresh(presence);
}

void presence_enter(struct presence *presence, const struct user *user) {
    const struct redis_arg args[] = {word("SADD"), word(presence->key), word(user->id)};
    write_name(presence, user);
    change(presence, args, 3);
    keep_alive(presence, NULL); /* this may have made the set */
}

void presence_leave(struct presence *presence, const struct user *user) {
    const struct redis_arg set[] = {word("SREM"), word(presence->key), word(user->id)};
    const struct redis_arg names[] = {word("HDEL"), word(presence->names), word(user->id)};
    change(presence, set, 3);
    if (presence->with_names)
        change(presence, names, 3);
}

struct presence *presence_new(struct redis *redis, const struct users *users, const char *chat_name,
                              const char *nonce, bool with_names) {
    struct presence *presence = calloc(1, sizeof(*presence));
    if (!presence)
        return NULL;
    presence->redis = redis;
    presence->users = users;
    snprintf(presence->nonce, sizeof(presence->nonce), "%s", nonce);
    snprintf(presence->prefix, sizeof(presence->prefix), "chat:{%s}:on:", chat_name);
    snprintf(presence->key, sizeof(presence->key), "chat:{%s}:on:%s", chat_name, nonce);
    presence->with_names = with_names;
    snprintf(presence->names, sizeof(presence->names), "chat:{%s}:names:%s", chat_name, nonce);
    snprintf(presence->brokers, sizeof(presence->brokers), "chat:{%s}:brokers", chat_name);
    return presence;
}

void presence_stop(struct presence *presence) {
    redis_send_words(presence->redis, REPLY_MS, NULL, NULL, "DEL", presence->key, presence->names,
                     NULL);
    redis_send_words(presence->redis, REPLY_MS, NULL, NULL, "ZREM", presence->brokers,
                     presence->nonce, NULL);
}

void presence_free(struct presence *presence) {
    free(presence);
}
