/*
 * minigame.h: the rules of the minigames: when the next one is due, what a place pays, and how
 * games and payouts are written.
 *
 * Money is in hundredths. Pure; games_memory.c and games.lua (through games_redis.c) play by them.
 */
#ifndef HLCHAT_MINIGAME_H
#define HLCHAT_MINIGAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ws-broker/identity.h"

enum {
    MINIGAME_PLAYERS_MAX = 10, /* of one game */
    MINIGAME_SECONDS_MAX = 86400,
    MINIGAME_PERIOD_S = 600, /* defaults of scheduler_start */
    MINIGAME_OFFSET_S = 300,
    MINIGAMES_KEPT = 1000, /* newest games that can still be ended */
    MINIGAME_MONEY_MAX = 24,
};

struct minigame_player {
    char id[IDENTITY_ID_MAX + 1];
    char nickname[IDENTITY_NICKNAME_MAX + 1];
};

struct minigame {
    int64_t number;      /* from 1 on: its id is HLG-<number> */
    int64_t prepared_at; /* unix seconds */
    int64_t offset_s;    /* from then until it starts */
    bool has_ended;
    size_t count;
    struct minigame_player players[MINIGAME_PLAYERS_MAX];
};

/** One line of a leaderboard. */
struct minigame_place {
    const char *id; /* of the player */
    int64_t position;
};

/** Reads the number of "HLG-<number>"; 0: that is no game's id. */
int64_t minigame_number(const char *id);

/** The first moment of the grid `due_ms` + n x `period_s` that is after `now_ms`, which is `due_ms`
 * or later: whatever was missed is not made up for. */
int64_t minigame_next_ms(int64_t due_ms, int64_t period_s, int64_t now_ms);

/** What this position of a leaderboard with `count` players pays, in hundredths. */
int64_t minigame_won(size_t count, int64_t position);

/** What stands twice on a leaderboard, "id" or "position", and in `*index` the second place that
 * has it. NULL: nothing does. */
const char *minigame_repeat(const struct minigame_place *places, size_t count, size_t *index);

/** Hundredths as a JSON number with one or two decimals: 432.0, 0.25. */
void minigame_money(int64_t hundredths, char out[MINIGAME_MONEY_MAX]);

/** {"id":<id>,"won":<won>,"balance": as text that only misses the balance and a brace. malloc'ed;
 * NULL: no memory. */
char *minigame_payout(const char *player_id, int64_t won);

/** {"online_players":[<id>,...]}. malloc'ed, NUL-terminated; NULL: no memory. */
char *minigame_online(const char *const *ids, size_t count);

/** The answer of GET /api/gaming/events: a list with this game, or an empty one for NULL.
 * malloc'ed, NUL-terminated; NULL: no memory. */
char *minigame_events(const struct minigame *game);

#endif
