/*
 * identity.h: the question "who is this?", asked once per login.
 *
 * Of players: identity_dev.c (development: anybody is anybody) or identity_token.c (access tokens
 * of any OpenID provider; with the Heavenland account API also nicknames from there, and username
 * and password); broker.c picks one by the setting IDENTITY. Of game servers: identity_secret.c.
 * Loop thread only.
 */
#ifndef HLCHAT_IDENTITY_H
#define HLCHAT_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Longest user id, nickname and error, bytes of UTF-8 without the NUL. */
enum { IDENTITY_ID_MAX = 128, IDENTITY_NICKNAME_MAX = 128, IDENTITY_ERROR_MAX = 200 };

/** What a client is told of a token that is no good, or not any more. */
#define IDENTITY_ERROR_TOKEN "the access token is expired or invalid"

/** What a client logs in with: a token, or else a username and a password. Borrowed for the call;
 * texts without NUL inside. */
struct identity_credentials {
    const char *token; /* NULL: username and password */
    const char *username;
    const char *password;
};

enum identity_status {
    IDENTITY_ACCEPTED = 0,
    IDENTITY_REFUSED = 1,     /* counts as a failed login */
    IDENTITY_UNAVAILABLE = 2, /* nobody's fault who logs in: the same may work later */
};

struct identity_answer {
    enum identity_status status;
    char user_id[IDENTITY_ID_MAX + 1];        /* when accepted */
    char nickname[IDENTITY_NICKNAME_MAX + 1]; /* when accepted */
    int64_t expires_at;                       /* when accepted: unix seconds; 0: never */
    char error[IDENTITY_ERROR_MAX + 1];       /* else: a text for the client */
};

/** What an identity tells its owner; never from inside identity_check(). */
struct identity_events {
    /** The answer to the login that this connection began. */
    void (*on_answer)(void *user, uint64_t conn_id, const struct identity_answer *answer);
    /** There is work for identity_turn(): the loop must not sleep. */
    void (*on_pending)(void *user);
};

struct identity;

/** The operations of one implementation; see the functions below. All but check may be NULL. */
struct identity_ops {
    bool (*check)(struct identity *identity, const struct identity_credentials *credentials,
                  uint64_t conn_id, struct identity_answer *answer);
    void (*forget)(struct identity *identity, uint64_t conn_id);
    bool (*turn)(struct identity *identity);
    void (*tick)(struct identity *identity);
    void (*free)(struct identity *identity);
};

/** First member of every implementation. */
struct identity {
    const struct identity_ops *ops;
};

/**
 * Who is this? True: `answer` is filled. False: it comes later, once, by on_answer(), unless
 * identity_forget() is called before. A connection asks one question at a time.
 */
static inline bool identity_check(struct identity *identity,
                                  const struct identity_credentials *credentials, uint64_t conn_id,
                                  struct identity_answer *answer) {
    return identity->ops->check(identity, credentials, conn_id, answer);
}

/** The connection has left: its answer is not wanted any more. */
static inline void identity_forget(struct identity *identity, uint64_t conn_id) {
    if (identity->ops->forget)
        identity->ops->forget(identity, conn_id);
}

/** Does a bounded piece of the work that waits. Call at the end of each loop turn. True: more
 * waits. */
static inline bool identity_turn(struct identity *identity) {
    return identity->ops->turn ? identity->ops->turn(identity) : false;
}

/** Looks for what is overdue. Call about once a second. */
static inline void identity_tick(struct identity *identity) {
    if (identity->ops->tick)
        identity->ops->tick(identity);
}

/** No answers come after this. */
static inline void identity_free(struct identity *identity) {
    if (identity && identity->ops->free)
        identity->ops->free(identity);
}

/** For development: the token is the nickname (1..64 bytes without control characters), the user id
 * is dev-<token>. Passwords are refused. */
struct identity *identity_dev(void);

#endif
