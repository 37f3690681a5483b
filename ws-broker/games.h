/*
 * games.h: the one scheduler, the games and the balances that all game servers of the cluster
 * share.
 *
 * Every broker ticks, and whichever finds the next game due prepares it: no broker leads. What a
 * request changes and what the group is told of it happen together or not at all; the telling is an
 * entry of the group's log (chatlog.h), so that everybody sees it in one order. games_memory.c
 * keeps all in this process; games_redis.c leaves every decision to games.lua, in Redis. Loop
 * thread only.
 */
#ifndef HLCHAT_GAMES_H
#define HLCHAT_GAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ws-broker/minigame.h"

struct chatlog;
struct redis;
struct users;

enum games_verb {
    GAMES_START = 0, /* the scheduler; a game is prepared at once */
    GAMES_STOP = 1,
    GAMES_INFO = 2,
    GAMES_UPDATE = 3, /* tell the group that events have changed */
    GAMES_END = 4,    /* pay for a game */
    GAMES_ONLINE = 5, /* who is online */
    GAMES_NEWEST = 6, /* the newest game */
};

/** Texts are borrowed for the call. */
struct games_request {
    enum games_verb verb;
    int64_t period_s, offset_s;          /* GAMES_START: 1..MINIGAME_SECONDS_MAX */
    int64_t number;                      /* GAMES_END: of the game */
    const struct minigame_place *places; /* GAMES_END: 1..MINIGAME_PLAYERS_MAX, all different */
    size_t count;
};

enum games_status {
    GAMES_DONE = 0,
    GAMES_REFUSED = 1,     /* it cannot be; nothing has changed */
    GAMES_UNAVAILABLE = 2, /* nothing has changed; the same may work later */
    GAMES_UNCERTAIN = 3,   /* nobody knows whether it was done */
};

struct games_answer {
    enum games_verb verb;
    enum games_status status;
    const char *error; /* unless done: for a person; good until return */
    uint64_t told;     /* when done: the log's mark behind what the group was told; 0: nothing */
    char *text;        /* GAMES_ONLINE, GAMES_NEWEST when done: JSON, NUL-terminated; free() it */
};

/** The answer to a request that was not answered at once; `tag` is the asker's. */
typedef void (*games_answer_cb)(void *user, uint64_t tag, const struct games_answer *answer);

struct games;

/** The operations of one implementation; see the functions below. */
struct games_ops {
    bool (*ask)(struct games *games, const struct games_request *request, uint64_t tag,
                struct games_answer *answer);
    void (*tick)(struct games *games, int64_t now_ms, int64_t now_s);
    void (*stop)(struct games *games);
    void (*free)(struct games *games);
};

/** First member of every implementation. */
struct games {
    const struct games_ops *ops;
};

/** True: `answer` is filled. False: it comes later, once, within about seven seconds, by the
 * callback, and never before return. */
static inline bool games_ask(struct games *games, const struct games_request *request, uint64_t tag,
                             struct games_answer *answer) {
    return games->ops->ask(games, request, tag, answer);
}

/** Prepares a game that is due. Call a few times a second; `now_ms` is of any clock that does not
 * go back, `now_s` unix time. */
static inline void games_tick(struct games *games, int64_t now_ms, int64_t now_s) {
    games->ops->tick(games, now_ms, now_s);
}

/** No answers come after this. Before the log is stopped. */
static inline void games_stop(struct games *games) {
    games->ops->stop(games);
}

/** After the log is stopped. */
static inline void games_free(struct games *games) {
    if (games)
        games->ops->free(games);
}

/** In memory. `log` is the group's, `online` the users of this broker; both borrowed. NULL: no
 * memory. */
struct games *games_memory_new(struct chatlog *log, const struct users *online);

struct games_redis_options {
    struct redis *redis;   /* borrowed; not always up */
    const char *chat_name; /* borrowed */
    int log_maxlen;        /* entries that the group's log keeps, about */
};

/** In Redis. NULL: no memory. */
struct games *games_redis_new(const struct games_redis_options *options, games_answer_cb on_answer,
                              void *user);

#endif
