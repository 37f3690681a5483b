/*
 * The games in memory, of one broker: every request is decided at once. What the group is told goes
 * into its log first, and only then is anything changed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <uthash.h>

#include "shared/status.h"
#include "ws-broker/chatlog.h"
#include "ws-broker/games.h"
#include "ws-broker/users.h"

enum { FRAME_MAX = 128 };

struct balance {
    char id[IDENTITY_ID_MAX + 1];
    int64_t hundredths;
    UT_hash_handle hh;
};

struct memory_games {
    struct games base;
    struct chatlog *log;
    const struct users *online;
    bool has_started, is_running;
    int64_t period_s, offset_s;
    int64_t due_ms, now_ms, now_s;         /* as of the last tick */
    int64_t newest;                        /* number of the newest game; 0: none yet */
    struct minigame games[MINIGAMES_KEPT]; /* game n is at n % MINIGAMES_KEPT */
    struct balance *balances;
};

static struct memory_games *memory_games(struct games *games) {
    return (struct memory_games *)games;
}

static int tell(struct memory_games *games, const char *frame) {
    return chatlog_append(games->log, frame, strlen(frame), 0);
}

static struct games_answer refused(const char *why) {
    return (struct games_answer){.status = GAMES_REFUSED, .error = why};
}

static struct games_answer unavailable(void) {
    return (struct games_answer){.status = GAMES_UNAVAILABLE,
                                 .error = "the games are unavailable: try again"};
}

static struct games_answer done_if(int status) {
    return status == CHAT_OK ? (struct games_answer){.status = GAMES_DONE} : unavailable();
}

/* The game of this number, or NULL: there is none, or none any more. */
static struct minigame *find_game(struct memory_games *games, int64_t number) {
    struct minigame *game = &games->games[number % MINIGAMES_KEPT];
    return number > 0 && game->number == number ? game : NULL;
}

/* ---- preparing a game ------------------------------------------------------------------------ */

static uint32_t random_below(uint32_t limit) {
    uint32_t number = 0;
    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        return 0;
    return number % limit;
}

/* Some of those who are online, each as likely as any other: a reservoir. */
static void pick_players(const struct users *online, struct minigame *game) {
    uint32_t met = 0;
    const struct user *user, *next;
    HASH_ITER(hh, online->_by_id, user, next) {
        if (user->connections == 0)
            continue;
        uint32_t at =
            game->count < MINIGAME_PLAYERS_MAX ? (uint32_t)game->count++ : random_below(met + 1);
        met++;
        if (at >= MINIGAME_PLAYERS_MAX)
            continue;
        struct minigame_player *player = &game->players[at];
        snprintf(player->id, sizeof(player->id), "%s", user->id);
        snprintf(player->nickname, sizeof(player->nickname), "%s", user->nickname);
    }
}

static int prepare(struct memory_games *games, int64_t offset_s) {
    if (tell(games, "{\"info\":\"update\"}") != CHAT_OK)
        return CHAT_EBUSY;
    int64_t number = games->newest + 1;
    struct minigame *game = &games->games[number % MINIGAMES_KEPT];
    *game = (struct minigame){.number = number, .prepared_at = games->now_s, .offset_s = offset_s};
    pick_players(games->online, game);
    games->newest = number;
    return CHAT_OK;
}

static void memory_tick(struct games *base, int64_t now_ms, int64_t now_s) {
    struct memory_games *games = memory_games(base);
    games->now_ms = now_ms;
    games->now_s = now_s;
    if (games->is_running && now_ms >= games->due_ms && prepare(games, games->offset_s) == CHAT_OK)
        games->due_ms = minigame_next_ms(games->due_ms, games->period_s, now_ms);
}

/* ---- requests -------------------------------------------------------------------------------- */

static struct games_answer start(struct memory_games *games, const struct games_request *request) {
    if (prepare(games, request->offset_s) != CHAT_OK)
        return unavailable();
    games->has_started = games->is_running = true;
    games->period_s = request->period_s;
    games->offset_s = request->offset_s;
    games->due_ms = games->now_ms + request->period_s * 1000;
    if (tell(games, "{\"info\":\"scheduler is running\"}") == CHAT_OK)
        return (struct games_answer){.status = GAMES_DONE};
    return (struct games_answer){.status = GAMES_UNCERTAIN,
                                 .error = "the scheduler is running, but could not say so"};
}

static struct games_answer stop(struct memory_games *games) {
    if (!games->has_started)
        return refused("the scheduler was never started: send scheduler_start first");
    struct games_answer answer = done_if(tell(games, "{\"info\":\"scheduler is stopped\"}"));
    games->is_running = games->is_running && answer.status != GAMES_DONE;
    return answer;
}

static struct games_answer info(struct memory_games *games) {
    char frame[FRAME_MAX] = "{\"info\":\"scheduler is not running\"}";
    if (games->is_running)
        snprintf(frame, sizeof(frame),
                 "{\"info\":\"scheduler is running\",\"period\":%" PRId64 ",\"offset\":%" PRId64
                 "}",
                 games->period_s, games->offset_s);
    return done_if(tell(games, frame));
}

static bool plays(const struct minigame *game, const char *id) {
    for (size_t i = 0; i < game->count; i++)
        if (strcmp(game->players[i].id, id) == 0)
            return true;
    return false;
}

/* The balance of this player, made if there is none. NULL: no memory. */
static struct balance *balance_of(struct memory_games *games, const char *id) {
    struct balance *balance;
    HASH_FIND_STR(games->balances, id, balance);
    if (balance)
        return balance;
    balance = calloc(1, sizeof(*balance));
    if (!balance)
        return NULL;
    memcpy(balance->id, id, strnlen(id, IDENTITY_ID_MAX));
    HASH_ADD_STR(games->balances, id, balance);
    return balance;
}

/* The frame that tells of the payout; NULL: no memory. */
static char *balance_update(struct memory_games *games, const struct games_request *request) {
    char *frame = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&frame, &len);
    if (!out)
        return NULL;
    bool failed = fputs("{\"action\":\"balance_update\",\"data\":[", out) < 0;
    for (size_t i = 0; i < request->count && !failed; i++) {
        int64_t won = minigame_won(request->count, request->places[i].position);
        const struct balance *balance = balance_of(games, request->places[i].id);
        char *line = balance ? minigame_payout(request->places[i].id, won) : NULL;
        char money[MINIGAME_MONEY_MAX];
        failed = !line;
        if (!failed)
            minigame_money(balance->hundredths + won, money);
        failed = failed || fprintf(out, "%s%s%s}", i > 0 ? "," : "", line, money) < 0;
        free(line);
    }
    failed = failed || fputs("]}", out) < 0;
    if (fclose(out) == 0 && !failed)
        return frame;
    free(frame);
    return NULL;
}

static struct games_answer end(struct memory_games *games, const struct games_request *request) {
    static char error[64];
    struct minigame *game = find_game(games, request->number);
    if (!games->has_started)
        return refused("the scheduler was never started: send scheduler_start first");
    if (!game)
        return refused("id: there is no such game");
    if (game->has_ended)
        return refused("id: this game has ended already");
    for (size_t i = 0; i < request->count; i++) {
        if (plays(game, request->places[i].id))
            continue;
        snprintf(error, sizeof(error), "leaderboard[%zu].id: not a player of this game", i);
        return refused(error);
    }
    char *frame = balance_update(games, request);
    struct games_answer answer = done_if(frame ? tell(games, frame) : CHAT_ENOMEM);
    free(frame);
    if (answer.status != GAMES_DONE)
        return answer;
    game->has_ended = true;
    for (size_t i = 0; i < request->count; i++)
        balance_of(games, request->places[i].id)->hundredths +=
            minigame_won(request->count, request->places[i].position);
    return answer;
}

static struct games_answer with_text(char *text) {
    return text ? (struct games_answer){.status = GAMES_DONE, .text = text} : unavailable();
}

static char *online_players(const struct users *online) {
    size_t count = 0;
    const char **ids = calloc(users_online(online) + 1, sizeof(*ids));
    const struct user *user, *next;
    if (!ids)
        return NULL;
    HASH_ITER(hh, online->_by_id, user, next) {
        if (user->connections > 0)
            ids[count++] = user->id;
    }
    char *text = minigame_online(ids, count);
    free(ids);
    return text;
}

static struct games_answer decide(struct memory_games *games, const struct games_request *request) {
    switch (request->verb) {
    case GAMES_START:
        return start(games, request);
    case GAMES_STOP:
        return stop(games);
    case GAMES_INFO:
        return info(games);
    case GAMES_UPDATE:
        return done_if(tell(games, "{\"info\":\"update\"}"));
    case GAMES_END:
        return end(games, request);
    case GAMES_ONLINE:
        return with_text(online_players(games->online));
    case GAMES_NEWEST:
        return with_text(minigame_events(find_game(games, games->newest)));
    }
    return unavailable();
}

static bool memory_ask(struct games *base, const struct games_request *request, uint64_t tag,
                       struct games_answer *answer) {
    (void)tag;
    *answer = decide(memory_games(base), request);
    answer->verb = request->verb;
    answer->told = answer->text ? 0 : chatlog_mark(memory_games(base)->log);
    return true;
}

static void memory_stop(struct games *base) {
    (void)base;
}

static void memory_free(struct games *base) {
    struct memory_games *games = memory_games(base);
    struct balance *balance, *next;
    HASH_ITER(hh, games->balances, balance, next) {
        HASH_DEL(games->balances, balance);
        free(balance);
    }
    free(games);
}

struct games *games_memory_new(struct chatlog *log, const struct users *online) {
    static const struct games_ops ops = {memory_ask, memory_tick, memory_stop, memory_free};
    struct memory_games *games = calloc(1, sizeof(*games));
    if (!games)
        return NULL;
    games->base.ops = &ops;
    games->log = log;
    games->online = online;
    return &games->base;
}
