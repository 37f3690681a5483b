/*
 * redis_url.h: where a Redis is, as one text: redis://[user][:password]@host[:port][/db] or
 * unix://[user][:password]@/path[?db=N].
 *
 * Pure. The text is a secret: it may hold a password.
 */
#ifndef HLCHAT_REDIS_URL_H
#define HLCHAT_REDIS_URL_H

#include <stdbool.h>
#include <stdint.h>

enum { REDIS_URL_TEXT_MAX = 256 };

struct redis_url {
    bool is_unix;
    char host[REDIS_URL_TEXT_MAX]; /* name or address; the path for unix */
    uint16_t port;
    int db;
    char username[REDIS_URL_TEXT_MAX]; /* "": none */
    char password[REDIS_URL_TEXT_MAX]; /* "": none */
};

/**
 * Reads `text`; user and password may be percent-escaped. CHAT_EINVAL: it is not one; `*why` is
 * then a constant text that holds nothing of it.
 */
int redis_url_parse(const char *text, struct redis_url *out, const char **why);

#endif
