/*
 * The games in Redis: games.lua decides, atomically, for all brokers. A request whose answer did
 * not come is sent again under the same name, and is done once: the script keeps its answer.
 */
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>

#include "shared/log.h"
#include "shared/status.h"
#include "ws-broker/games.h"
#include "ws-broker/redis.h"

enum {
    GIVE_UP_MS = 5000,
    REPLY_MS = 2000,
    RETRY_MS = 200,
    TICK_MS = 1000, /* how often we look whether somebody has started or stopped the scheduler */
    WAITING_MAX = 1000,
    KEY_MAX = 160,
    NAME_MAX_BYTES = 48,
    NUMBER_MAX = 24,
    ARGS_MAX = 64, /* of a command, see redis.h */
};

/* games.lua, put into the program by the linker. */
extern const char _binary_ws_broker_games_lua_start[], _binary_ws_broker_games_lua_end[];

struct redis_games;

/* A request that was not answered yet. */
struct request {
    struct request *prev, *next; /* utlist's names */
    struct redis_games *games;
    enum games_verb verb;
    uint64_t tag, number; /* number: of the request, for its name */
    int64_t give_up_ms, send_at_ms;
    bool is_sent;       /* and neither answered nor lost */
    bool was_uncertain; /* its answer was lost once */
    size_t count;
    char *texts[3 * MINIGAME_PLAYERS_MAX + 1]; /* what the script is given */
};

struct redis_games {
    struct games base;
    struct redis *redis;
    games_answer_cb on_answer;
    void *user;
    char nonce[20], maxlen[16];
    char scheduler[KEY_MAX], answer_prefix[KEY_MAX], log[KEY_MAX], balances[KEY_MAX],
        brokers[KEY_MAX];
    char game_prefix[KEY_MAX], online_prefix[KEY_MAX], names_prefix[KEY_MAX];
    uint64_t last_number;
    struct request *requests;
    size_t request_count;
    int64_t now_ms;
    int64_t tick_at_ms;
    bool is_ticking, was_failing, is_stopped;
};

static struct redis_games *redis_games(struct games *games) {
    return (struct redis_games *)games;
}

/* ---- one call of the script ------------------------------------------------------------------ */

static struct redis_arg word(const char *text) {
    return (struct redis_arg){text, strlen(text)};
}

static int call(struct redis_games *games, const char *verb, uint64_t number, char *const *texts,
                size_t text_count, redis_cb callback, void *user) {
    static const char *const script = _binary_ws_broker_games_lua_start;
    size_t script_len = (size_t)(_binary_ws_broker_games_lua_end - script);
    char name[NAME_MAX_BYTES], answer_key[KEY_MAX + NAME_MAX_BYTES], kept[NUMBER_MAX],
        players[NUMBER_MAX];
    snprintf(name, sizeof(name), "g%s-%" PRIu64, games->nonce, number);
    snprintf(answer_key, sizeof(answer_key), "%s%s", games->answer_prefix, name);
    snprintf(kept, sizeof(kept), "%d", MINIGAMES_KEPT);
    snprintf(players, sizeof(players), "%d", MINIGAME_PLAYERS_MAX);
    struct redis_arg args[ARGS_MAX] = {
        word("EVAL"),
        {script, script_len},
        word("5"),
        word(games->scheduler),
        word(games->log),
        word(games->balances),
        word(answer_key),
        word(games->brokers),
        word(verb),
        word(name),
        word(games->game_prefix),
        word(games->online_prefix),
        word(games->names_prefix),
        word(games->maxlen),
        word(kept),
        word(players),
    };
    enum { FIXED = 16 };
    _Static_assert(FIXED + 3 * MINIGAME_PLAYERS_MAX + 1 <= ARGS_MAX, "a game's end fits");
    for (size_t i = 0; i < text_count; i++)
        args[FIXED + i] = word(texts[i]);
    return redis_send(games->redis, args, FIXED + text_count, REPLY_MS, callback, user);
}

/* ---- the scheduler --------------------------------------------------------------------------- */

static void on_ticked(void *user, const struct redis_value *reply) {
    struct redis_games *games = user;
    games->is_ticking = false;
    if (redis_value_type(reply) == REDIS_LIST) {
        games->was_failing = false;
        int64_t due_in_ms = strtoll(redis_value_text(redis_value_at(reply, 1), NULL), NULL, 10);
        if (due_in_ms >= 0 && due_in_ms < TICK_MS)
            games->tick_at_ms = games->now_ms + due_in_ms;
    } else if (reply && !games->was_failing) {
        games->was_failing = true;
        log_warn("games", "cannot_tick", log_str("error", redis_value_text(reply, NULL)));
    }
}

static void tick(struct redis_games *games) {
    if (games->is_ticking || games->now_ms < games->tick_at_ms)
        return;
    games->tick_at_ms = games->now_ms + TICK_MS;
    games->is_ticking =
        call(games, "tick", ++games->last_number, NULL, 0, on_ticked, games) == CHAT_OK;
}

static void send_first(struct redis_games *games);

/* ---- answers --------------------------------------------------------------------------------- */

static void free_request(struct redis_games *games, struct request *request) {
    DL_DELETE(games->requests, request);
    games->request_count--;
    for (size_t i = 0; i < request->count; i++)
        free(request->texts[i]);
    free(request);
}

static void finish(struct redis_games *games, struct request *request,
                   const struct games_answer *given) {
    struct games_answer answer = *given;
    uint64_t tag = request->tag;
    answer.verb = request->verb;
    free_request(games, request);
    if (games->is_stopped)
        free(answer.text);
    else
        games->on_answer(games->user, tag, &answer);
    send_first(games);
}

/* Whether it changes nothing and is told to nobody but the asker. */
static bool is_question(enum games_verb verb) {
    return verb == GAMES_ONLINE || verb == GAMES_NEWEST;
}

static char *online_players(const struct redis_value *reply) {
    struct json_object *root = json_object_new_object(), *list = json_object_new_array();
    for (size_t i = 1; i < redis_value_count(reply); i++) {
        size_t len = 0;
        const char *id = redis_value_text(redis_value_at(reply, i), &len);
        json_object_array_add(list, json_object_new_string_len(id, (int)len));
    }
    json_object_object_add(root, "online_players", list);
    const char *text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN |
                                                                JSON_C_TO_STRING_NOSLASHESCAPE);
    char *copy = text ? strdup(text) : NULL;
    json_object_put(root);
    return copy;
}

/* Takes one field of a game's hash. */
static void take_field(struct minigame *game, const char *field, const char *text) {
    struct {
        const char *prefix;
        char *first;
        size_t size;
    } lists[] = {{"player", game->players[0].id, sizeof(game->players[0].id)},
                 {"nickname", game->players[0].nickname, sizeof(game->players[0].nickname)}};
    if (strcmp(field, "at") == 0)
        game->prepared_at = strtoll(text, NULL, 10);
    else if (strcmp(field, "offset") == 0)
        game->offset_s = strtoll(text, NULL, 10);
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
        size_t len = strlen(lists[i].prefix);
        size_t place =
            strncmp(field, lists[i].prefix, len) == 0 ? strtoul(field + len, NULL, 10) : 0;
        if (place < 1 || place > MINIGAME_PLAYERS_MAX)
            continue;
        snprintf(lists[i].first + (place - 1) * sizeof(struct minigame_player), lists[i].size, "%s",
                 text);
        if (place > game->count)
            game->count = place;
    }
}

static char *newest_game(const struct redis_value *reply) {
    struct minigame game = {
        .number = strtoll(redis_value_text(redis_value_at(reply, 1), NULL), NULL, 10)};
    for (size_t i = 2; i + 1 < redis_value_count(reply); i += 2)
        take_field(&game, redis_value_text(redis_value_at(reply, i), NULL),
                   redis_value_text(redis_value_at(reply, i + 1), NULL));
    return minigame_events(game.number > 0 ? &game : NULL);
}

static void on_replied(void *user, const struct redis_value *reply) {
    struct request *request = user;
    struct redis_games *games = request->games;
    const char *word_of = redis_value_text(redis_value_at(reply, 0), NULL);
    request->is_sent = false;
    if (!reply) { /* it is sent again; see send_first() */
        request->was_uncertain = true;
    } else if (redis_value_type(reply) != REDIS_LIST) {
        if (request->send_at_ms == 0) /* the first time */
            log_warn("games", "refused_by_redis", log_str("error", redis_value_text(reply, NULL)));
        request->send_at_ms = games->now_ms + RETRY_MS;
    } else if (strcmp(word_of, "done") != 0) {
        finish(games, request,
               &(struct games_answer){.status = GAMES_REFUSED,
                                      .error = redis_value_text(redis_value_at(reply, 1), NULL)});
    } else {
        char *text = request->verb == GAMES_ONLINE   ? online_players(reply)
                     : request->verb == GAMES_NEWEST ? newest_game(reply)
                                                     : NULL;
        bool is_missing = !text && is_question(request->verb);
        finish(games, request,
               &(struct games_answer){.status = is_missing ? GAMES_UNAVAILABLE : GAMES_DONE,
                                      .error = "the games are unavailable: try again",
                                      .text = text});
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static const char *const verbs[] = {
    [GAMES_START] = "start",   [GAMES_STOP] = "stop", [GAMES_INFO] = "info",
    [GAMES_UPDATE] = "update", [GAMES_END] = "end",   [GAMES_ONLINE] = "online",
    [GAMES_NEWEST] = "newest"};

/* One at a time, so that they are done in the order in which they came, whatever fails. */
static void send_first(struct redis_games *games) {
    struct request *request = games->requests;
    if (request && !request->is_sent && games->now_ms >= request->send_at_ms)
        request->is_sent = call(games, verbs[request->verb], request->number, request->texts,
                                request->count, on_replied, request) == CHAT_OK;
}

static void give_up(struct redis_games *games) {
    struct request *request, *next;
    DL_FOREACH_SAFE(games->requests, request, next) {
        if (games->now_ms < request->give_up_ms || request->is_sent)
            continue; /* what was sent is answered, or lost, within REPLY_MS */
        struct games_answer answer = {.status = GAMES_UNAVAILABLE,
                                      .error = "the games are unavailable: try again"};
        if (request->was_uncertain && !is_question(request->verb)) {
            answer.status = GAMES_UNCERTAIN;
            answer.error = "not confirmed: this may have been done, or not";
        }
        finish(games, request, &answer);
    }
}

static bool add_text(struct request *request, char *text) {
    if (text)
        request->texts[request->count++] = text;
    return text != NULL;
}

static bool add_number(struct request *request, int64_t number) {
    char text[NUMBER_MAX];
    snprintf(text, sizeof(text), "%" PRId64, number);
    return add_text(request, strdup(text));
}

static bool add_texts(struct request *request, const struct games_request *asked) {
    if (asked->verb == GAMES_START)
        return add_number(request, asked->period_s) && add_number(request, asked->offset_s);
    if (asked->verb != GAMES_END)
        return true;
    bool is_good = add_number(request, asked->number);
    for (size_t i = 0; i < asked->count && is_good; i++) {
        const struct minigame_place *place = &asked->places[i];
        int64_t won = minigame_won(asked->count, place->position);
        is_good = add_text(request, strdup(place->id)) && add_number(request, won) &&
                  add_text(request, minigame_payout(place->id, won));
    }
    return is_good;
}

static bool redis_ask(struct games *base, const struct games_request *asked, uint64_t tag,
                      struct games_answer *answer) {
    struct redis_games *games = redis_games(base);
    struct request *request =
        games->request_count < WAITING_MAX ? calloc(1, sizeof(*request)) : NULL;
    *answer = (struct games_answer){
        .verb = asked->verb, .status = GAMES_UNAVAILABLE, .error = "the games are busy: try again"};
    if (!request)
        return true;
    request->games = games;
    request->verb = asked->verb;
    request->tag = tag;
    request->number = ++games->last_number;
    request->give_up_ms = games->now_ms + GIVE_UP_MS;
    DL_APPEND(games->requests, request);
    games->request_count++;
    if (!add_texts(request, asked)) {
        free_request(games, request);
        return true;
    }
    send_first(games);
    return false;
}

static void redis_tick(struct games *base, int64_t now_ms, int64_t now_s) {
    struct redis_games *games = redis_games(base);
    (void)now_s; /* Redis' clock decides */
    games->now_ms = now_ms;
    give_up(games);
    send_first(games);
    tick(games);
}

static void games_redis_stop(struct games *base) {
    redis_games(base)->is_stopped = true;
}

static void games_redis_free(struct games *base) {
    struct redis_games *games = redis_games(base);
    while (games->requests)
        free_request(games, games->requests);
    free(games);
}

struct games *games_redis_new(const struct games_redis_options *options, games_answer_cb on_answer,
                              void *user) {
    static const struct games_ops ops = {redis_ask, redis_tick, games_redis_stop, games_redis_free};
    const char *chat = options->chat_name;
    uint64_t nonce = 0;
    struct redis_games *games = calloc(1, sizeof(*games));
    if (!games || getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce)) {
        free(games);
        return NULL;
    }
    games->base.ops = &ops;
    games->redis = options->redis;
    games->on_answer = on_answer;
    games->user = user;
    snprintf(games->nonce, sizeof(games->nonce), "%016" PRIx64, nonce);
    snprintf(games->maxlen, sizeof(games->maxlen), "%d", options->log_maxlen);
    snprintf(games->scheduler, KEY_MAX, "game:{%s}", chat);
    snprintf(games->answer_prefix, KEY_MAX, "game:{%s}:answer:", chat);
    snprintf(games->log, KEY_MAX, "game:{%s}:log", chat);
    snprintf(games->balances, KEY_MAX, "game:{%s}:balances", chat);
    snprintf(games->game_prefix, KEY_MAX, "game:{%s}:HLG-", chat);
    snprintf(games->brokers, KEY_MAX, "chat:{%s}:brokers", chat);
    snprintf(games->online_prefix, KEY_MAX, "chat:{%s}:on:", chat);
    snprintf(games->names_prefix, KEY_MAX, "chat:{%s}:names:", chat);
    return &games->base;
}
