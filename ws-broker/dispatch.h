/*
 * dispatch.h: from a whole text to the handler of its verb.
 *
 * One table, verb -> handler and the state it wants. A handler (handle_<verb>.c) does the one thing
 * or says why not; the reply to a refusal, its count and its close are the same for all and happen
 * here. Loop thread only.
 */
#ifndef HLCHAT_DISPATCH_H
#define HLCHAT_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "ws-broker/proto.h"

struct chat;
struct games_answer;
struct metrics;
struct conn;

/** Handles one text frame of a client, or holds it back until its turn has come. The connection may
 * be closing on return, but is not gone. */
void dispatch_text(struct chat *chat, struct conn *conn, const char *text, size_t len);

/** Goes on with what was held back, as far as its turn has come and the client reads its replies.
 * True: something was done. */
bool dispatch_backlog(struct chat *chat, struct conn *conn);

/** Does what was asked; REFUSED_NOT, or why not with `error` filled. `request` is borrowed. */
typedef enum proto_refusal (*handler_fn)(struct chat *chat, struct conn *conn,
                                         const struct proto_request *request,
                                         char error[PROTO_ERROR_MAX]);

enum proto_refusal handle_login(struct chat *chat, struct conn *conn,
                                const struct proto_request *request, char error[PROTO_ERROR_MAX]);
enum proto_refusal handle_message(struct chat *chat, struct conn *conn,
                                  const struct proto_request *request, char error[PROTO_ERROR_MAX]);
enum proto_refusal handle_history(struct chat *chat, struct conn *conn,
                                  const struct proto_request *request, char error[PROTO_ERROR_MAX]);

enum proto_refusal handle_minigame(struct chat *chat, struct conn *conn,
                                   const struct proto_request *request,
                                   char error[PROTO_ERROR_MAX]);

/** The end of handle_minigame(), now or when the answer has come. */
enum proto_refusal handle_games_answer(struct chat *chat, struct conn *conn,
                                       const struct games_answer *answer,
                                       char error[PROTO_ERROR_MAX]);

/** Lets a connection in whose identity is known: broadcasts begin. 0, CHAT_EUNAVAILABLE (the log is
 * not whole) or CHAT_ENOMEM. */
int handle_login_enter(struct chat *chat, struct conn *conn, const struct identity_answer *answer);

/** The end of handle_login(), now or when the answer has come. */
enum proto_refusal handle_identity(struct chat *chat, struct conn *conn,
                                   const struct identity_answer *answer,
                                   char error[PROTO_ERROR_MAX]);

/** Metrics of handle_login.c. */
void handle_login_register_metrics(struct metrics *metrics);

/** "<what>: wait 1.2 s", the error of a request over a rate. */
void dispatch_rate_error(char error[PROTO_ERROR_MAX], const char *what, int64_t wait_ms);

#endif
