/*
 * proto.h: protocol v1 as text: requests parsed and checked, replies and broadcasts written, close
 * codes. See docs/protocol.md, which is the contract.
 *
 * Pure: no I/O, no state but the parser's memory. One proto per loop thread.
 */
#ifndef HLCHAT_PROTO_H
#define HLCHAT_PROTO_H

#include <stddef.h>
#include <stdint.h>

#include "ws-broker/identity.h"
#include "ws-broker/minigame.h"

struct json_object;
struct proto;

enum {
    PROTO_TOKEN_MAX = 8192,       /* bytes of an access token */
    PROTO_CREDENTIAL_MAX = 256,   /* bytes of a username, of a password */
    PROTO_CHANNEL_MAX = 64,       /* bytes of a channel name */
    PROTO_DEPTH_MAX = 32,         /* objects and lists in each other */
    PROTO_ERROR_MAX = 256,        /* bytes of an error text with its NUL */
    PROTO_ERROR_LIMIT = 50,       /* errors in a row that close a connection, */
    PROTO_ERROR_FORGET_MS = 1000, /* of which one is forgotten after so long */
};

/** Who speaks: players on /chat, or game servers on /minigame. */
enum proto_side { PROTO_CHAT = 0, PROTO_MINIGAME = 1 };

enum proto_verb {
    VERB_LOGIN = 0,
    VERB_MESSAGE = 1,
    VERB_HISTORY = 2,
    VERB_SCHEDULER_START = 3,
    VERB_SCHEDULER_STOP = 4,
    VERB_SCHEDULER_INFO = 5,
    VERB_ONLINE_PLAYERS = 6,
    VERB_GAME_END = 7,
    VERB_COUNT = 8,
};

/** Why a request was refused; what is counted, and what decides whether it counts. The text says it
 * to a person. */
enum proto_refusal {
    REFUSED_NOT = 0,
    REFUSED_MALFORMED = 1, /* not JSON, not an object, no action, wrong type or range */
    REFUSED_UNKNOWN_ACTION = 2,
    REFUSED_NOT_LOGGED_IN = 3,
    REFUSED_LOGIN = 4, /* credentials refused, or a login that cannot be now */
    REFUSED_RATE = 5,
    REFUSED_UNAVAILABLE = 6, /* busy, or a part is down: the same request may work later */
    REFUSED_MINIGAME = 7,    /* understood, but the games are not so: no such game, and the like */
    REFUSED_COUNT = 8,
};

/** The refusal's label in metrics and logs. */
const char *proto_refusal_name(enum proto_refusal refusal);

/** A request that was understood. Texts are NUL-terminated, without NUL inside, and good until
 * proto_release(). */
struct proto_request {
    enum proto_verb verb;
    union {
        struct identity_credentials login;
        struct {
            const char *text;
            size_t text_len;
            const char *channel;     /* NULL: none */
            char channel_number[24]; /* what `channel` points to when it came as a number */
        } message;
        struct {
            uint64_t limit; /* as asked, at most INT64_MAX; the caller clamps it */
            uint64_t offset;
        } history;
        struct {
            int64_t period_s, offset_s; /* 1..MINIGAME_SECONDS_MAX */
        } scheduler;
        struct {
            int64_t number; /* of the game; 0: there can be no such game */
            size_t count;   /* 1..MINIGAME_PLAYERS_MAX; no player and no position twice */
            struct minigame_place places[MINIGAME_PLAYERS_MAX];
        } game_end;
    };
    struct json_object *_root;
};

/** Knows the requests of one side; `message_max` is MESSAGE_MAX_BYTES. NULL: no memory. */
struct proto *proto_new(enum proto_side side, size_t message_max);
void proto_free(struct proto *proto);

/**
 * Parses a text frame. REFUSED_NOT: `request` is filled and needs proto_release(). Anything else:
 * `error` holds the reason for a person (never what the client sent), nothing is to be released.
 */
enum proto_refusal proto_parse(struct proto *proto, const char *text, size_t len,
                               struct proto_request *request, char error[PROTO_ERROR_MAX]);
/** Also wipes credentials from memory. */
void proto_release(struct proto_request *request);

/** The parts of a message, in the order in which they are sent. */
struct proto_message {
    const char *user_id;
    int64_t timestamp; /* unix seconds */
    const char *text;
    size_t text_len;
    const char *channel; /* NULL: none */
    const char *nickname;
};

/** The message's JSON, `*len` bytes, in memory of `proto`, good until the next call. NULL: no
 * memory. */
const char *proto_message_json(struct proto *proto, const struct proto_message *message,
                               size_t *len);

/** {"error":"<text>"}, malloc'ed behind `headroom` unused bytes. NULL: no memory. */
char *proto_error_reply(const char *text, size_t headroom, size_t *len);
/** {"info":"<text>"}, likewise. */
char *proto_info_reply(const char *text, size_t headroom, size_t *len);

/** Close codes we send; docs/protocol.md has their meaning for a client. None from 1012 to 3999:
 * many client libraries take such a one for a protocol error, or report none. */
enum proto_close {
    CLOSE_RESTART = 1001,
    CLOSE_BINARY = 1003,
    CLOSE_ERRORS = 1008,
    CLOSE_TOO_BIG = 1009,
    CLOSE_INTERNAL = 1011,
    CLOSE_SLOW = 4001,
    CLOSE_TOKEN_EXPIRED = 4002,
    CLOSE_LOGIN_TIMEOUT = 4003,
    CLOSE_LOST = 4004,     /* it has missed messages */
    CLOSE_OVERLOAD = 4005, /* no memory */
    CLOSE_LOGIN_ATTEMPTS = 4501,
};

/** The reason text that goes with a code (at most 123 bytes). */
const char *proto_close_reason(int code);

#endif
