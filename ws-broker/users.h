/*
 * users.h: the users logged in to this broker, each counted once however many connections it has.
 *
 * A user's message rate outlives its connections until its bucket is full again, so that
 * reconnecting gains nothing. Pure; loop thread only.
 */
#ifndef HLCHAT_USERS_H
#define HLCHAT_USERS_H

#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "ws-broker/rate.h"

struct user {
    struct rate messages;
    unsigned connections;
    UT_hash_handle hh; /* by id */
    char *nickname;
    char id[]; /* most are much shorter than they may be */
};

/** Zero it to initialise. */
struct users {
    struct user *_by_id;
    size_t _online;
};

/** The user of this id, made if there is none, with one connection more and this nickname from now
 * on. NULL: no memory. */
struct user *users_enter(struct users *users, const char *id, const char *nickname);
/** One connection less. The user may be gone on return. */
void users_leave(struct users *users, struct user *user, const struct rate_limit *limit,
                 int64_t now_ms);
/** Forgets users without connections whose bucket is full again. Call now and then. */
void users_tick(struct users *users, const struct rate_limit *limit, int64_t now_ms);
/** Distinct users with a connection. */
size_t users_online(const struct users *users);
/** Frees all; no user may be used afterwards. */
void users_clear(struct users *users);

#endif
