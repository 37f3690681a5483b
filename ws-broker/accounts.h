/*
 * accounts.h: nicknames by user id, from the account service: GET <url>/idm/accounts/<user id>.
 *
 * Asks once however many wait for the same user, at most ACCOUNTS_IN_FLIGHT at a time, and
 * remembers: a nickname for 300 s, and for an hour when the service fails; that there is no such
 * account (a 404 with an errorMessage) for 30 s. It fails from an answer that means nothing, or
 * none at all, until the next one that means something, at most 5 s. Loop thread only.
 */
#ifndef HLCHAT_ACCOUNTS_H
#define HLCHAT_ACCOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct accounts;
struct accounts_wait;
struct http;
struct http_answer;

enum {
    ACCOUNTS_IN_FLIGHT = 44,     /* with PASSWORDS_IN_FLIGHT 64 requests to the service */
    ACCOUNTS_CACHED_MAX = 50000, /* users remembered */
    ACCOUNTS_DETAIL_MAX = 100,   /* bytes of the service's own words */
};

enum accounts_result {
    ACCOUNTS_FOUND = 0,
    ACCOUNTS_MISSING = 1, /* there is no such account */
    ACCOUNTS_DENIED = 2,  /* the service does not accept the token */
    ACCOUNTS_DOWN = 3,    /* no answer, or none that means anything */
    ACCOUNTS_UNKNOWN = 4, /* nothing is remembered: to be asked */
};

struct accounts_answer {
    enum accounts_result result;
    const char *nickname; /* when found; good until return */
    const char *detail;   /* the service's errorMessage of a 4xx, fit to be shown, or "" */
};

typedef void (*accounts_cb)(void *user, const struct accounts_answer *answer);

/** `url` and `http` are borrowed. NULL: no memory. */
struct accounts *accounts_new(struct http *http, const char *url);
/** No callback comes after this. */
void accounts_free(struct accounts *accounts);

/**
 * What is remembered and fresh, or all there is while the service fails: ACCOUNTS_FOUND with
 * `*nickname` (good until the next call), ACCOUNTS_MISSING or ACCOUNTS_UNKNOWN.
 */
enum accounts_result accounts_remembered(struct accounts *accounts, const char *user_id,
                                         int64_t now_ms, const char **nickname);

/** The nickname that was known at most an hour ago, for when the service does not answer; NULL:
 * none. Good until the next call. */
const char *accounts_stale(struct accounts *accounts, const char *user_id, int64_t now_ms);

/**
 * Asks for the account, or joins those who wait for the same. The token of the first of them is
 * sent along; when the service does not accept it, those who came with the same are told so, and it
 * is asked again with the next one's. Both texts are copied, and the token's copies are wiped at
 * the end. The callback comes once, later, never before return, and does not ask again from inside.
 * NULL: no memory.
 */
struct accounts_wait *accounts_ask(struct accounts *accounts, const char *user_id,
                                   const char *token, accounts_cb callback, void *user);
/** Leaves those who wait. */
void accounts_cancel(struct accounts *accounts, struct accounts_wait *wait);

/** Copies the service's errorMessage into `out` when it is fit to be shown; else "". False: it is
 * no JSON object, so something else has answered. A 2xx is not looked at: it may hold secrets. */
bool accounts_error_text(const struct http_answer *answer, char out[ACCOUNTS_DETAIL_MAX + 1]);

#endif
