#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ws-broker/identity.h"

enum { DEV_TOKEN_MAX = 64 };

static bool is_nickname(const char *token) {
    size_t len = strnlen(token, DEV_TOKEN_MAX + 1);
    if (len == 0 || len > DEV_TOKEN_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)token[i] < ' ' || token[i] == 0x7f)
            return false;
    return true;
}

static bool dev_check(struct identity *identity, const struct identity_credentials *credentials,
                      uint64_t conn_id, struct identity_answer *answer) {
    (void)identity;
    (void)conn_id;
    *answer = (struct identity_answer){.status = IDENTITY_REFUSED};
    if (!credentials->token) {
        snprintf(answer->error, sizeof(answer->error),
                 "this server takes no passwords: log in with a token");
    } else if (!is_nickname(credentials->token)) {
        snprintf(answer->error, sizeof(answer->error),
                 "token: on a development server it is your nickname, 1 to %d bytes without "
                 "control characters",
                 DEV_TOKEN_MAX);
    } else {
        answer->status = IDENTITY_ACCEPTED;
        snprintf(answer->user_id, sizeof(answer->user_id), "dev-%s", credentials->token);
        snprintf(answer->nickname, sizeof(answer->nickname), "%s", credentials->token);
    }
    return true;
}

struct identity *identity_dev(void) {
    static const struct identity_ops ops = {.check = dev_check};
    static struct identity identity = {&ops};
    return &identity;
}
