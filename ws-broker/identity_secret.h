/*
 * identity_secret.h: game servers, which log in with the one secret that all of them share; see
 * identity.h for the interface.
 */
#ifndef HLCHAT_IDENTITY_SECRET_H
#define HLCHAT_IDENTITY_SECRET_H

#include "ws-broker/identity.h"

struct settings;

/** Whoever has shown the secret, or needs none: all game servers are one user. */
extern const struct identity_answer identity_game_server;

/** By MINIGAME_SECRET as it is at that moment; in an open group (access.h) any is right. `settings`
 * are borrowed. NULL: no memory. */
struct identity *identity_secret_new(const struct settings *settings);

#endif
