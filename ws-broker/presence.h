/*
 * presence.h: who is online, over all brokers.
 *
 * Each broker keeps a set of its users in Redis, chat:{<chat>}:on:<nonce>, which expires 30 s after
 * the broker last said that it lives (every 10 s); chat:{<chat>}:brokers lists the brokers by when
 * that was, by Redis' clock. Who is online is the union of their sets, counted every 10 s. A broker
 * that died is forgotten within a lease. Beside the set the users' nicknames are kept, if they are
 * wanted, in chat:{<chat>}:names:<nonce>. Nothing here is waited for: while Redis is away changes
 * are left out, and the set is written anew when it is back, or at the next refresh when a change
 * was refused or lost. Loop thread only.
 */
#ifndef HLCHAT_PRESENCE_H
#define HLCHAT_PRESENCE_H

#include <stdbool.h>
#include <stdint.h>

struct metrics;
struct presence;
struct redis;
struct user;
struct users;

void presence_register_metrics(struct metrics *metrics);

/** `redis` and `users` are borrowed; `nonce` names this process; `with_names`: nicknames are wanted
 * (games.h). NULL: no memory. */
struct presence *presence_new(struct redis *redis, const struct users *users, const char *chat_name,
                              const char *nonce, bool with_names);
/** Says goodbye if Redis is up; before its connection is stopped. */
void presence_stop(struct presence *presence);
/** After its connection is stopped. */
void presence_free(struct presence *presence);

/** The user's first connection to this broker has logged in; its last has left. */
void presence_enter(struct presence *presence, const struct user *user);
void presence_leave(struct presence *presence, const struct user *user);

/** Call about once a second. */
void presence_tick(struct presence *presence, int64_t now_ms);

#endif
