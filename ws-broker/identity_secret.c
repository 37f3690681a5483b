#include "ws-broker/identity_secret.h"

#include <stdlib.h>

#include "ws-broker/access.h"

struct secret_identity {
    struct identity base;
    const struct settings *settings;
};

const struct identity_answer identity_game_server = {
    .status = IDENTITY_ACCEPTED, .user_id = "game-server", .nickname = "game-server"};

static bool check(struct identity *identity, const struct identity_credentials *credentials,
                  uint64_t conn_id, struct identity_answer *answer) {
    static const struct identity_answer refused = {.status = IDENTITY_REFUSED,
                                                   .error = "the secret is wrong"};
    const struct settings *settings = ((struct secret_identity *)identity)->settings;
    const char *secret = settings->minigame_secret;
    (void)conn_id;
    bool is_right = access_is_open(settings) || access_secret_matches(secret, credentials->token);
    *answer = is_right ? identity_game_server : refused;
    return true;
}

static void release(struct identity *identity) {
    free(identity);
}

struct identity *identity_secret_new(const struct settings *settings) {
    static const struct identity_ops ops = {.check = check, .free = release};
    struct secret_identity *identity = calloc(1, sizeof(*identity));
    if (!identity)
        return NULL;
    identity->base.ops = &ops;
    identity->settings = settings;
    return &identity->base;
}
