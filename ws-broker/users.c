#include "ws-broker/users.h"

#include <stdlib.h>
#include <string.h>

struct user *users_enter(struct users *users, const char *id, const char *nickname) {
    struct user *user;
    HASH_FIND_STR(users->_by_id, id, user);
    if (!user) {
        user = calloc(1, sizeof(*user));
        if (!user)
            return NULL;
        memcpy(user->id, id, strnlen(id, IDENTITY_ID_MAX));
        HASH_ADD_STR(users->_by_id, id, user);
    }
    size_t len = strnlen(nickname, IDENTITY_NICKNAME_MAX);
    memcpy(user->nickname, nickname, len);
    user->nickname[len] = '\0';
    if (user->connections++ == 0)
        users->_online++;
    return user;
}

static void forget_if_idle(struct users *users, struct user *user, const struct rate_limit *limit,
                           int64_t now_ms) {
    if (user->connections > 0 || !rate_is_full(&user->messages, limit, now_ms))
        return;
    HASH_DEL(users->_by_id, user);
    free(user);
}

void users_leave(struct users *users, struct user *user, const struct rate_limit *limit,
                 int64_t now_ms) {
    if (--user->connections == 0)
        users->_online--;
    forget_if_idle(users, user, limit, now_ms);
}

void users_tick(struct users *users, const struct rate_limit *limit, int64_t now_ms) {
    if (HASH_COUNT(users->_by_id) == users->_online)
        return;
    struct user *user, *next;
    HASH_ITER(hh, users->_by_id, user, next) forget_if_idle(users, user, limit, now_ms);
}

size_t users_online(const struct users *users) {
    return users->_online;
}

void users_clear(struct users *users) {
    struct user *user, *next;
    HASH_ITER(hh, users->_by_id, user, next) {
        HASH_DEL(users->_by_id, user);
        free(user);
    }
    users->_online = 0;
}
