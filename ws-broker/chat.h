/*
 * chat.h: the parts of one chat that a request needs, and the two ways in which it answers.
 *
 * There are two: the players' on /chat, and the game servers' on /minigame, which has no messages
 * and no history of its own but the scheduler and the games.
 *
 * broker.c makes and wires the parts; dispatch.c and the handlers use them. Loop thread only.
 */
#ifndef HLCHAT_CHAT_H
#define HLCHAT_CHAT_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/metrics.h"
#include "ws-broker/backlog.h"
#include "ws-broker/chatlog.h"
#include "ws-broker/conns.h"
#include "ws-broker/history.h"
#include "ws-broker/identity.h"
#include "ws-broker/proto.h"
#include "ws-broker/rate.h"
#include "ws-broker/users.h"

struct admission;
struct conn;
struct fanout;
struct games;
struct games_answer;
struct presence;

/** When the event that is being handled came. */
struct chat_time {
    int64_t now_ms; /* of a clock that does not go back */
    int64_t unix_s;
    int64_t came_ms; /* when the frame that is being handled came: it may have waited */
};

struct chat {
    struct proto *proto;
    struct fanout *fanout;
    struct history *history;
    struct chatlog *log;
    struct identity *identity; /* NULL at the very end, while the last connections are cut */
    struct admission *admission;
    struct users users;
    struct presence *presence; /* NULL with the log in memory: users are all there are */
    struct games *games;       /* NULL in the players' chat */
    struct conns conns;

    struct rate_limit frame_rate;   /* per connection */
    struct rate_limit message_rate; /* per user */
    size_t history_max_bytes;       /* of a history reply */
    int64_t login_timeout_ms;
    int login_attempts;
    bool close_expired; /* TOKEN_EXPIRY=session */

    uint64_t losses; /* how often the log has lost entries */

    struct conn *waiting; /* connections with a backlog that may go on at any time */
    bool has_news;        /* for them, maybe */
    size_t backlog_bytes; /* of all */

    struct chat_time time; /* of the event that is being handled */

    /** Closes the connection politely: queued replies first. It may not be gone on return, but gets
     * no more texts. */
    void (*close)(void *user, struct conn *conn, int code);
    /** Stops or resumes reading from it. */
    void (*set_reading)(void *user, struct conn *conn, bool on);
    void *user;
};

void chat_register_metrics(struct metrics *metrics);

/** A client has come: it has LOGIN_TIMEOUT_S to log in. */
void chat_open(struct chat *chat, struct conn *conn);
/** A client has gone, whoever closed: nothing of it is kept. */
void chat_gone(struct chat *chat, struct conn *conn);

/** Closes the connection with `code` once it has the answers that it waits for (to a login, for
 * messages that are being stored) and its own messages. Until then whatever it sends is answered by
 * an error. */
void chat_dismiss(struct chat *chat, struct conn *conn, int code);
/** Dismisses up to `most` of those that were not yet, and returns how many; and looks after the
 * others, so call it now and then until all have gone. */
size_t chat_dismiss_some(struct chat *chat, size_t most, int code);

/** Sends {"error":text} and counts it: `refusal` in the metrics, and what is the client's own fault
 * towards PROTO_ERROR_LIMIT, which closes. */
void chat_refuse(struct chat *chat, struct conn *conn, enum proto_refusal refusal,
                 const char *text);
/** The same for a request that was begun, whose answer has come now: not before the messages of
 * this client that were stored before. */
void chat_refuse_late(struct chat *chat, struct conn *conn, enum proto_refusal refusal,
                      const char *text);
/** Sends a reply made behind FANOUT_REPLY_HEADROOM bytes; NULL (no memory) closes the connection: a
 * reply is never left out in silence. */
void chat_reply(struct chat *chat, struct conn *conn, char *buffer, size_t len);

/** Whether the client's messages that are stored have been broadcast to it, or should have been 5 s
 * ago. */
bool chat_has_heard(const struct chat *chat, const struct conn *conn);
/** Whether that is so and all of its requests have ended: an answer made now is in its place. */
bool chat_is_quiet(const struct chat *chat, const struct conn *conn);
/** Keeps what is not to be done or sent before that, at the end of the backlog or in front; for
 * dispatch_backlog(). */
void chat_hold(struct chat *chat, struct conn *conn, const struct backlog_item *item,
               const char *text);
void chat_hold_first(struct chat *chat, struct conn *conn, const struct backlog_item *item,
                     const char *text);
/** Forgets the first of it. */
void chat_drop_held(struct chat *chat, struct conn *conn);
/** Goes on with the backlogs whose turn has come. Call at the end of each loop turn, behind
 * chatlog_turn(). True: something was done. */
bool chat_turn(struct chat *chat);
/** Whether chat_turn() has something to look at. */
bool chat_has_work(const struct chat *chat);
/** Replies to the client do not keep us from reading any more. */
void chat_replies_read(struct chat *chat, struct conn *conn);
/** Call about once a second. */
void chat_tick(struct chat *chat);

/** The answer to a login that was not answered at once; see identity.h. */
void chat_identified(struct chat *chat, uint64_t conn_id, const struct identity_answer *answer);
/** The answer to a request of a game server that was not answered at once; see games.h. */
void chat_games_answered(struct chat *chat, uint64_t conn_id, const struct games_answer *answer);
/** How an append that a client began has ended; see chatlog.h. */
void chat_appended(struct chat *chat, uint64_t conn_id, int status);
/** The next entry of the log: into the history and, when it is new, out to everybody. */
void chat_entry(struct chat *chat, const char *json, size_t len, bool is_new);
/** The log has lost entries, see chatlog.h: the history starts anew, and all clients that are here
 * are to be closed, a few at a time by chat_close_lost(). */
void chat_lost(struct chat *chat);
/** Closes up to `most` of them, so that they do not all come back at once. True: more are left. */
bool chat_close_lost(struct chat *chat, size_t most);

#endif
