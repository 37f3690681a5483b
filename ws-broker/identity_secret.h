/*
 * identity_secret.h: game servers, which log in with the one secret that all of them share; see
 * identity.h for the interface.
 */
#ifndef HLCHAT_IDENTITY_SECRET_H
#define HLCHAT_IDENTITY_SECRET_H

#include "ws-broker/identity.h"

/** Whoever has shown the secret, or needs none: all game servers are one user. */
extern const struct identity_answer identity_game_server;

/** `secret` is borrowed; NULL: whoever is let in at all needs none, and any is right. NULL: no
 * memory. */
struct identity *identity_secret_new(const char *secret);

#endif
