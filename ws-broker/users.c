#include "ws-broker/users.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static void free_user(struct users *users, struct user *user) {
    HASH_DEL(users->_by_id, user);
    free(user->nickname);
    free(user);
}

struct user *users_enter(struct users *users, const char *id, const char *nickname) {
    struct user *user;
    HASH_FIND_STR(users->_by_id, id, user);
    bool is_same = user && strcmp(user->nickname, nickname) == 0;
    char *name = is_same ? NULL : strdup(nickname);
    if (!is_same && !name)
        return NULL;
    if (!user) {
        size_t len = strlen(id);
        user = calloc(1, sizeof(*user) + len + 1);
        if (!user) {
            free(name);
            return NULL;
        }
        memcpy(user->id, id, len);
        HASH_ADD_STR(users->_by_id, id, user);
    }
    if (name) {
        free(user->nickname);
        user->nickname = name;
    }
    if (user->connections++ == 0)
        users->_online++;
    return user;
}

static void forget_if_idle(struct users *users, struct user *user, const struct rate_limit *limit,
                           int64_t now_ms) {
    if (user->connections > 0 || !rate_is_full(&user->messages, limit, now_ms))
        return;
    free_user(users, user);
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
    HASH_ITER(hh, users->_by_id, user, next) free_user(users, user);
    users->_online = 0;
}
