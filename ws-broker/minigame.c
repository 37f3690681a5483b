#include "ws-broker/minigame.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POOL = 1000, POOL_PER_PLAYER = 100, NUMBER_DIGITS_MAX = 15 };

int64_t minigame_number(const char *id) {
    if (strncmp(id, "HLG-", 4) != 0)
        return 0;
    id += 4;
    size_t len = strspn(id, "0123456789");
    if (len == 0 || len > NUMBER_DIGITS_MAX || id[len] != '\0' || id[0] == '0')
        return 0;
    return strtoll(id, NULL, 10);
}

int64_t minigame_next_ms(int64_t due_ms, int64_t period_s, int64_t now_ms) {
    int64_t period_ms = period_s * 1000;
    return due_ms + period_ms * ((now_ms - due_ms) / period_ms + 1);
}

int64_t minigame_won(size_t count, int64_t position) {
    static const int64_t percent[] = {36, 26, 18, 12, 8}; /* of the pool, by position from 1 on */
    if (position < 1 || position > (int64_t)(sizeof(percent) / sizeof(*percent)))
        return 0;
    /* A hundredth is one percent of one: the pool in whole units x percent. */
    return (POOL + POOL_PER_PLAYER * (int64_t)count) * percent[position - 1];
}

const char *minigame_repeat(const struct minigame_place *places, size_t count, size_t *index) {
    for (*index = 1; *index < count; (*index)++)
        for (size_t i = 0; i < *index; i++) {
            if (strcmp(places[*index].id, places[i].id) == 0)
                return "id";
            if (places[*index].position == places[i].position)
                return "position";
        }
    return NULL;
}

void minigame_money(int64_t hundredths, char out[MINIGAME_MONEY_MAX]) {
    const char *sign = hundredths < 0 ? "-" : "";
    int64_t amount = hundredths < 0 ? -hundredths : hundredths;
    int64_t rest = amount % 100;
    if (rest % 10 == 0)
        snprintf(out, MINIGAME_MONEY_MAX, "%s%" PRId64 ".%" PRId64, sign, amount / 100, rest / 10);
    else
        snprintf(out, MINIGAME_MONEY_MAX, "%s%" PRId64 ".%02" PRId64, sign, amount / 100, rest);
}

/* The library's text of a value, copied; the value is released. */
static char *take_text(struct json_object *value) {
    const char *text = value ? json_object_to_json_string_ext(
                                   value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
                             : NULL;
    char *copy = text ? strdup(text) : NULL;
    json_object_put(value);
    return copy;
}

char *minigame_payout(const char *player_id, int64_t won) {
    char money[MINIGAME_MONEY_MAX], *text = NULL;
    char *id = take_text(json_object_new_string(player_id));
    minigame_money(won, money);
    if (!id || asprintf(&text, "{\"id\":%s,\"won\":%s,\"balance\":", id, money) < 0)
        text = NULL;
    free(id);
    return text;
}

char *minigame_online(const char *const *ids, size_t count) {
    struct json_object *root = json_object_new_object(), *list = json_object_new_array();
    for (size_t i = 0; i < count; i++)
        json_object_array_add(list, json_object_new_string(ids[i]));
    json_object_object_add(root, "online_players", list);
    return take_text(root);
}

static struct json_object *players_json(const struct minigame *game) {
    struct json_object *players = json_object_new_array();
    for (size_t i = 0; i < game->count; i++) {
        struct json_object *player = json_object_new_object();
        json_object_object_add(player, "id", json_object_new_string(game->players[i].id));
        json_object_object_add(player, "nickname",
                               json_object_new_string(game->players[i].nickname));
        json_object_object_add(player, "paragonAddress", json_object_new_string("string"));
        json_object_array_add(players, player);
    }
    return players;
}

char *minigame_events(const struct minigame *game) {
    if (!game)
        return strdup("[]");
    char *players = take_text(players_json(game)), *text = NULL;
    /* What is fixed here is fixed for the game's backend, which this stands in for. */
    if (!players ||
        asprintf(&text,
                 "[{\"id\":\"HLG-%" PRId64 "\",\"miniGame\":\"%s\",\"parameters\":[{"
                 "\"startsAt\":%" PRId64 ",\"registrationStartsAt\":%" PRId64
                 ",\"registrationEndsAt\":%" PRId64
                 ",\"currency\":\"HTO\",\"entryFee\":200,\"rewardPool\":50000}],"
                 "\"settings\":{\"numberOfLaps\":20,\"numberOfPlayers\":10,\"map\":\"some map\"},"
                 "\"players\":%s,\"results\":null,\"policyLink\":\"string\"}]",
                 game->number, game->number % 2 == 1 ? "boomer" : "speedspinner",
                 game->prepared_at + game->offset_s, game->prepared_at, game->prepared_at,
                 players) < 0)
        text = NULL;
    free(players);
    return text;
}
