/*
 * verifier.h: verifies access tokens, a few in each loop turn, with keys that it keeps up to date.
 *
 * Keys come from PEM files (read at start and at a reload) and from a JSON Web Key Set's URL (asked
 * at start, once an hour or, after a failure, a minute, and when a token names a key that is not
 * there, or names none and fits none, then at most once a minute; while there is no key at all,
 * every five seconds). A token that may be valid with newer keys waits for them. Loop thread only.
 */
#ifndef HLCHAT_VERIFIER_H
#define HLCHAT_VERIFIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ws-broker/jwt.h"

struct http;
struct verifier;
struct verifier_wait;

enum verifier_result {
    VERIFIER_VALID = 0,
    VERIFIER_INVALID = 1,
    VERIFIER_UNAVAILABLE = 2, /* the keys could not be had */
};

/** `claims` are good until return, and NULL unless valid. */
typedef void (*verifier_cb)(void *user, enum verifier_result result,
                            const struct jwt_claims *claims);

struct verifier_options {
    struct jwt_policy policy;       /* texts borrowed */
    const char *pem_files;          /* for settings_next_file(), or NULL */
    const char *jwks_url;           /* or NULL */
    struct http *http;              /* for jwks_url */
    void (*on_pending)(void *user); /* verifier_turn() has something to do */
    void *user;
};

enum { VERIFIER_ERROR_MAX = 512 };

/** NULL: no memory, or a file without a fit key; the reason was logged. */
struct verifier *verifier_new(const struct verifier_options *options, int64_t now_ms);

/** Whether verifier_new() can use these files. CHAT_EINVAL: `error` says which it cannot. */
int verifier_check_files(const char *pem_files, char error[VERIFIER_ERROR_MAX]);

/** Reads the files again, and has the key set fetched anew; that of the same URL is used meanwhile.
 * Texts are borrowed, in place of the old ones. CHAT_EINVAL: a file cannot be used, `error` says
 * which; then nothing has changed. */
int verifier_reload(struct verifier *verifier, const struct jwt_policy *policy,
                    const char *pem_files, const char *jwks_url, int64_t now_ms,
                    char error[VERIFIER_ERROR_MAX]);
/** No callback comes after this. */
void verifier_free(struct verifier *verifier);

/** Queues a token (copied, wiped afterwards). The callback comes once, from verifier_turn(). NULL:
 * no memory. */
struct verifier_wait *verifier_submit(struct verifier *verifier, const char *token,
                                      verifier_cb callback, void *user);
/** Forgets a token whose callback has not come. */
void verifier_cancel(struct verifier *verifier, struct verifier_wait *wait);

/** Verifies up to 20 waiting tokens, about 1 ms. True: more wait. */
bool verifier_turn(struct verifier *verifier, int64_t now_ms, int64_t now_s);

/** Asks for keys when it is time. Call about once a second. */
void verifier_tick(struct verifier *verifier, int64_t now_ms);

#endif
