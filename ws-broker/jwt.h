/*
 * jwt.h: is this access token valid, and whose is it? (RFC 7519, RFC 8725)
 *
 * The algorithm comes from our settings, never from the token; the signature is checked before the
 * claims are read. Pure: keys and time are passed in.
 */
#ifndef HLCHAT_JWT_H
#define HLCHAT_JWT_H

#include <stddef.h>
#include <stdint.h>

#include "ws-broker/identity.h"
#include "ws-broker/keyring.h"

enum { JWT_MAX = 8192, JWT_LEEWAY_S = 30 };

/** What a token must be; texts are borrowed. */
struct jwt_policy {
    const char *algorithm;      /* "RS256", "RS384" or "RS512" */
    const char *audience;       /* must be among `aud` */
    const char *issuer;         /* must be `iss`; NULL: any */
    const char *nickname_claim; /* which claim holds the nickname */
};

struct jwt_claims {
    char sub[IDENTITY_ID_MAX + 1];
    char nickname[IDENTITY_NICKNAME_MAX + 1]; /* sub when the claim is missing or unfit */
    int64_t expires_at;                       /* unix seconds */
};

enum jwt_result {
    JWT_VALID = 0,
    JWT_INVALID = 1,
    JWT_UNKNOWN_KEY = 2, /* names a key that is not in the ring, and no unnamed one fits; or names
                            none, and none fits of a ring with a key set: a newer set might tell */
};

/**
 * Checks a token of `len` bytes at the time `now_s` (unix seconds). JWT_VALID fills `claims`; else
 * `*why` is a constant text for the log.
 */
enum jwt_result jwt_verify(const struct keyring *ring, const struct jwt_policy *policy,
                           const char *token, size_t len, int64_t now_s, struct jwt_claims *claims,
                           const char **why);

#endif
