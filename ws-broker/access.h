/*
 * access.h: who may come to /minigame and call the webhook: by a secret, or by address.
 *
 * Pure. Refusing is up to the caller, and so is counting wrong secrets.
 */
#ifndef HLCHAT_ACCESS_H
#define HLCHAT_ACCESS_H

#include "shared/settings.h"

/** Whether `given` is the secret; takes as long whatever is wrong with it. Either may be NULL:
 * false. */
bool access_secret_matches(const char *secret, const char *given);

/** Whether an Authorization header (or NULL) is "Bearer <secret>". */
bool access_is_bearer(const char *secret, const char *authorization);

/** Whether there is a /minigame at all: in development always, else with MINIGAME_SECRET or
 * MINIGAME_ALLOW_FROM. */
bool access_has_minigame(const struct settings *settings);

/** Whether nobody has to show anything: in development, with neither of them. */
bool access_is_open(const struct settings *settings);

enum access_result {
    ACCESS_KNOWN = 0,        /* it has shown the secret, or needs none */
    ACCESS_MUST_LOG_IN = 1,  /* with the secret, in its first frame */
    ACCESS_WRONG_SECRET = 2, /* 401 */
    ACCESS_FORBIDDEN = 3,    /* 403: its address is not allowed, and no secret would help */
};

/** A game server connects; `authorization` is its header, or NULL. */
enum access_result access_ask(const struct settings *settings, const struct address_ip *address,
                              const char *authorization);

#endif
