/*
 * passwords.h: an access token for a username and a password, by the account service's two steps:
 * POST <url>/idm/auth/login gives a refresh token, POST <url>/idm/auth/access-token an access token
 * for it, each with a 200 or a 201.
 *
 * At most PASSWORDS_IN_FLIGHT at a time and PASSWORDS_QUEUE waiting, apart from everything else: a
 * flood of passwords delays only passwords. All secrets are wiped after use. Loop thread only.
 */
#ifndef HLCHAT_PASSWORDS_H
#define HLCHAT_PASSWORDS_H

#include <stddef.h>

struct http;
struct passwords;
struct passwords_wait;

enum { PASSWORDS_IN_FLIGHT = 20, PASSWORDS_QUEUE = 500 };

enum passwords_result {
    PASSWORDS_OK = 0,
    PASSWORDS_REFUSED = 1, /* the service says no */
    PASSWORDS_DOWN = 2,    /* no answer, or none that means anything */
};

struct passwords_answer {
    enum passwords_result result;
    const char *token;  /* when OK; good until return */
    const char *detail; /* the service's errorMessage of a 4xx, fit to be shown, or "" */
};

typedef void (*passwords_cb)(void *user, const struct passwords_answer *answer);

/** `url` and `http` are borrowed. NULL: no memory. */
struct passwords *passwords_new(struct http *http, const char *url);
/** No callback comes after this. */
void passwords_free(struct passwords *passwords);

/** Begins (both texts are copied). The callback comes once, later, never before return. NULL: the
 * queue is full, or no memory. */
struct passwords_wait *passwords_ask(struct passwords *passwords, const char *username,
                                     const char *password, passwords_cb callback, void *user);
/** Forgets one whose callback has not come. */
void passwords_cancel(struct passwords *passwords, struct passwords_wait *wait);

#endif
