/*
 * identity.h: the question "who is this?", asked once per login.
 *
 * One implementation a file (identity_dev.c); broker.c picks it by the setting IDENTITY. Loop
 * thread only.
 */
#ifndef HLCHAT_IDENTITY_H
#define HLCHAT_IDENTITY_H

#include <stddef.h>

/** Longest user id and nickname, bytes of UTF-8 without the NUL. */
enum { IDENTITY_ID_MAX = 128, IDENTITY_NICKNAME_MAX = 128, IDENTITY_ERROR_MAX = 160 };

/** What a client logs in with: a token, or else a username and a password. Borrowed for the call;
 * texts without NUL inside. */
struct identity_credentials {
    const char *token; /* NULL: username and password */
    const char *username;
    const char *password;
};

enum identity_status {
    IDENTITY_ACCEPTED = 0,
    IDENTITY_REFUSED = 1, /* counts as a failed login */
};

struct identity_answer {
    enum identity_status status;
    char user_id[IDENTITY_ID_MAX + 1];        /* when accepted */
    char nickname[IDENTITY_NICKNAME_MAX + 1]; /* when accepted */
    char error[IDENTITY_ERROR_MAX + 1];       /* when refused: a text for the client */
};

/** Who is this? `answer` is filled before return. */
typedef void (*identity_check_fn)(const struct identity_credentials *credentials,
                                  struct identity_answer *answer);

/** For development: the token is the nickname (1..64 bytes without control characters), the user id
 * is dev-<token>. Passwords are refused. */
void identity_dev_check(const struct identity_credentials *credentials,
                        struct identity_answer *answer);

#endif
