/*
 * The games in Redis: games.lua decides, atomically, for all brokers. A request whose answer did
 * not come is sent again under the same name, and is done once: the script keeps its answer.
 *
 * What changes something goes one at a time. Questions wait beside it: one call answers all that
 * were asked before it was sent, so that they cost Redis little, however many ask.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>

#include "shared/log.h"
#include "shared/status.h"
#include "ws-broker/chatlog_redis.h"
#include "ws-broker/games.h"
#include "ws-broker/redis.h"

enum {
    GIVE_UP_MS = 5000,
    REPLY_MS = 2000,
    RETRY_MS = 200,
    TICK_MS = 1000, /* how often we look whether somebody has started or stopped the scheduler */
    WAITING_MAX = 1000, /* in each queue */
    KEY_MAX = 160,
    NAME_MAX_BYTES = 48,
    NUMBER_MAX = 24,
    ARGS_MAX = 64, /* of a command, see redis.h */
};

/* games.lua, put into the program by the linker. */
extern const char _binary_ws_broker_games_lua_start[], _binary_ws_broker_games_lua_end[];

struct redis_games;

/* Requests that were not answered yet, the oldest first. */
struct queue {
    struct redis_games *games;
    struct request *requests;
    size_t count;
    int64_t send_at_ms; /* not before */
    bool is_sent;       /* the first one, or all that are marked: neither answered nor lost */
};

struct request {
    struct request *prev, *next; /* utlist's names */
    enum games_verb verb;
    uint64_t tag, number; /* number: of the request, for its name */
    int64_t give_up_ms;
    bool is_sent;
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
    struct queue changes, online, newest;
    int64_t now_ms;
    int64_t tick_at_ms;
    bool is_ticking, is_scheduled, was_failing, is_stopped;
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
        int64_t due_in_ms = strtoll(redis_value_text(redis_value_at(reply, 1), NULL), NULL, 10);
        games->was_failing = false;
        if (games->is_scheduled && due_in_ms == -2)
            log_error("games", "scheduler_gone", log_str("hint", "Redis has lost it: start it"));
        games->is_scheduled = due_in_ms != -2;
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

/* ---- answers --------------------------------------------------------------------------------- */

static void send_next(struct queue *queue);

static struct queue *queue_of(struct redis_games *games, enum games_verb verb) {
    return verb == GAMES_ONLINE   ? &games->online
           : verb == GAMES_NEWEST ? &games->newest
                                  : &games->changes;
}

static bool is_question(enum games_verb verb) {
    return verb == GAMES_ONLINE || verb == GAMES_NEWEST;
}

static void free_request(struct queue *queue, struct request *request) {
    DL_DELETE(queue->requests, request);
    queue->count--;
    for (size_t i = 0; i < request->count; i++)
        free(request->texts[i]);
    free(request);
}

static void finish(struct queue *queue, struct request *request, const struct games_answer *given) {
    struct redis_games *games = queue->games;
    struct games_answer answer = *given;
    uint64_t tag = request->tag;
    answer.verb = request->verb;
    free_request(queue, request);
    if (games->is_stopped)
        free(answer.text);
    else
        games->on_answer(games->user, tag, &answer);
}

/* It was not done, or nobody knows: a call of it that had no answer may have done it. */
static void finish_undone(struct queue *queue, struct request *request) {
    static const struct games_answer unavailable = {.status = GAMES_UNAVAILABLE,
                                                    .error =
                                                        "the games are unavailable: try again"},
                                     uncertain = {
                                         .status = GAMES_UNCERTAIN,
                                         .error = "not confirmed: this may have been done, or not"};
    bool nobody_knows = request->was_uncertain && !is_question(request->verb);
    finish(queue, request, nobody_knows ? &uncertain : &unavailable);
}

static char *online_players(const struct redis_value *reply) {
    size_t count = redis_value_count(reply);
    const char **ids = calloc(count, sizeof(*ids));
    for (size_t i = 1; ids && i < count; i++)
        ids[i - 1] = redis_value_text(redis_value_at(reply, i), NULL);
    char *text = ids ? minigame_online(ids, count - 1) : NULL;
    free(ids);
    return text;
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

/* Whether the same request may work a moment later; the script has changed nothing. */
static bool may_pass(const struct redis_value *reply) {
    static const char *const words[] = {"LOADING", "READONLY",   "MASTERDOWN", "OOM",
                                        "MISCONF", "NOREPLICAS", "BUSY",       "NOAUTH"};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        if (redis_value_is_error(reply, words[i]))
            return true;
    return false;
}

/* The answer to one of those that were asked by this call. */
static struct games_answer answer_of(enum games_verb verb, const struct redis_value *reply) {
    struct games_answer answer = {.status = GAMES_DONE};
    if (strcmp(redis_value_text(redis_value_at(reply, 0), NULL), "done") != 0) {
        answer.status = GAMES_REFUSED;
        answer.error = redis_value_text(redis_value_at(reply, 1), NULL);
    } else if (is_question(verb)) {
        answer.text = verb == GAMES_ONLINE ? online_players(reply) : newest_game(reply);
        answer.status = answer.text ? GAMES_DONE : GAMES_UNAVAILABLE;
        answer.error = "the games are unavailable: try again";
    } else {
        answer.told = chatlog_redis_mark(redis_value_text(redis_value_at(reply, 1), NULL));
    }
    return answer;
}

static void on_replied(void *user, const struct redis_value *reply) {
    struct queue *queue = user;
    struct redis_games *games = queue->games;
    struct request *request, *next;
    queue->is_sent = false;
    if (reply && redis_value_type(reply) != REDIS_LIST) {
        if (queue->send_at_ms == 0)
            log_warn("games", "refused_by_redis", log_str("error", redis_value_text(reply, NULL)));
        queue->send_at_ms = games->now_ms + RETRY_MS;
    } else if (reply) {
        queue->send_at_ms = 0;
    }
    DL_FOREACH_SAFE(queue->requests, request, next) {
        if (!request->is_sent)
            break;
        request->is_sent = false;
        if (!reply) {
            request->was_uncertain = true; /* and is sent again */
        } else if (redis_value_type(reply) == REDIS_LIST) {
            struct games_answer answer = answer_of(request->verb, reply);
            finish(queue, request, &answer);
        } else if (!may_pass(reply)) {
            finish_undone(queue, request);
        }
    }
    send_next(queue);
}

/* ---- requests -------------------------------------------------------------------------------- */

static const char *const verbs[] = {
    [GAMES_START] = "start",   [GAMES_STOP] = "stop", [GAMES_INFO] = "info",
    [GAMES_UPDATE] = "update", [GAMES_END] = "end",   [GAMES_ONLINE] = "online",
    [GAMES_NEWEST] = "newest"};

/* The first one; of questions, all. */
static void send_next(struct queue *queue) {
    struct redis_games *games = queue->games;
    struct request *first = queue->requests, *request;
    if (!first || queue->is_sent || games->now_ms < queue->send_at_ms || games->is_stopped)
        return;
    queue->is_sent = call(games, verbs[first->verb], first->number, first->texts, first->count,
                          on_replied, queue) == CHAT_OK;
    DL_FOREACH(queue->requests, request) {
        request->is_sent = queue->is_sent && (request == first || is_question(first->verb));
    }
}

static void give_up(struct queue *queue) {
    struct request *request, *next;
    DL_FOREACH_SAFE(queue->requests, request, next) {
        /* What was sent is answered, or lost, within REPLY_MS. */
        if (queue->games->now_ms >= request->give_up_ms && !request->is_sent)
            finish_undone(queue, request);
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
    struct queue *queue = queue_of(games, asked->verb);
    struct request *request = queue->count < WAITING_MAX ? calloc(1, sizeof(*request)) : NULL;
    *answer = (struct games_answer){
        .verb = asked->verb, .status = GAMES_UNAVAILABLE, .error = "the games are busy: try again"};
    if (!request)
        return true;
    request->verb = asked->verb;
    request->tag = tag;
    request->number = ++games->last_number;
    request->give_up_ms = games->now_ms + GIVE_UP_MS;
    DL_APPEND(queue->requests, request);
    queue->count++;
    if (!add_texts(request, asked)) {
        free_request(queue, request);
        return true;
    }
    send_next(queue);
    return false;
}

static void redis_tick(struct games *base, int64_t now_ms, int64_t now_s) {
    struct redis_games *games = redis_games(base);
    struct queue *queues[] = {&games->changes, &games->online, &games->newest};
    (void)now_s; /* Redis' clock decides */
    games->now_ms = now_ms;
    for (size_t i = 0; i < sizeof(queues) / sizeof(*queues); i++) {
        give_up(queues[i]);
        send_next(queues[i]);
    }
    tick(games);
}

static void games_redis_stop(struct games *base) {
    redis_games(base)->is_stopped = true;
}

static void games_redis_free(struct games *base) {
    struct redis_games *games = redis_games(base);
    struct queue *queues[] = {&games->changes, &games->online, &games->newest};
    for (size_t i = 0; i < sizeof(queues) / sizeof(*queues); i++)
        while (queues[i]->requests)
            free_request(queues[i], queues[i]->requests);
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
    games->changes.games = games->online.games = games->newest.games = games;
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
