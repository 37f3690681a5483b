/*
 * identity_token.h: logins by access token, and, with the Heavenland account API, nicknames from
 * there and logins by username and password.
 *
 *   username, password ─> passwords.c ─> token ┐
 *                                   token ─────┴─> verifier.c ─> user id ─> accounts.c ─> nickname
 *
 * The second line's last step and the first line are there only with an account URL
 * (IDENTITY=heavenland). Each login has one deadline, IDENTITY_DEADLINE_MS, for all steps, and at
 * most IDENTITY_LOGINS_MAX are under way, of which IDENTITY_AT_SERVICE_MAX wait for the account
 * service: when it hangs, there is room for those who do not need it.
 */
#ifndef HLCHAT_IDENTITY_TOKEN_H
#define HLCHAT_IDENTITY_TOKEN_H

#include "ws-broker/identity.h"
#include "ws-broker/verifier.h"

#include <uv.h>

struct metrics;

enum {
    IDENTITY_DEADLINE_MS = 9000, /* looked at once a second: answered within 10 s */
    IDENTITY_LOGINS_MAX = 2000,
    IDENTITY_AT_SERVICE_MAX = 1500,
};

struct identity_token_options {
    struct verifier_options verifier; /* on_pending and user are filled in here */
    const char *account_url;          /* borrowed; NULL: the token is all */
};

void identity_token_register_metrics(struct metrics *metrics);

/** `loop`, `http`, `events` and texts are borrowed. NULL: no memory, or a key that cannot be used;
 * the reason was logged. */
struct identity *identity_token_new(const struct identity_token_options *options, uv_loop_t *loop,
                                    struct http *http, const struct identity_events *events,
                                    void *user);

/** Takes new policy, files and URL; see verifier_reload(). Logins under way go on. */
int identity_token_reload(struct identity *identity, const struct verifier_options *verifier,
                          char error[VERIFIER_ERROR_MAX]);

#endif
