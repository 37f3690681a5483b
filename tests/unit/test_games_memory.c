/* games_memory.c: the scheduler by a made-up clock, what is told and when nothing may change. The
 * log is a list of what was appended. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "ws-broker/chatlog.h"
#include "ws-broker/games.h"
#include "ws-broker/users.h"

#define UPDATE "{\"info\":\"update\"}\n"

static char told[4096]; /* a line for each frame */
static bool is_full;
static int frames_left; /* until the log is full; 0: it will not be */
static struct users online;
static struct games *games;

static int append(struct chatlog *log, const char *json, size_t len, uint64_t tag) {
    (void)log, (void)tag;
    if (is_full)
        return CHAT_EBUSY;
    is_full = frames_left > 0 && --frames_left == 0;
    size_t used = strlen(told);
    snprintf(told + used, sizeof(told) - used, "%.*s\n", (int)len, json);
    return CHAT_OK;
}

static uint64_t mark(const struct chatlog *log) {
    (void)log;
    return 1;
}

static const struct chatlog_ops ops = {.append = append, .mark = mark};
static struct chatlog chatlog = {&ops};

static int set_up(void **state) {
    (void)state;
    told[0] = '\0';
    is_full = false;
    frames_left = 0;
    games = games_memory_new(&chatlog, &online);
    games_tick(games, 1000, 5000);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    games_free(games);
    users_clear(&online);
    return 0;
}

static struct games_answer ask(const struct games_request *request) {
    struct games_answer answer;
    assert_true(games_ask(games, request, 1, &answer));
    assert_int_equal(answer.verb, request->verb);
    return answer;
}

static enum games_status start(int64_t period_s) {
    return ask(&(struct games_request){.verb = GAMES_START, .period_s = period_s, .offset_s = 3})
        .status;
}

static void assert_told(const char *frames) {
    assert_string_equal(told, frames);
    told[0] = '\0';
}

static void test_grid(void **state) {
    (void)state;
    assert_int_equal(start(10), GAMES_DONE);
    assert_told(UPDATE "{\"info\":\"scheduler is running\"}\n");
    games_tick(games, 10999, 5010);
    assert_told("");
    games_tick(games, 11005, 5010);
    assert_told(UPDATE);
    games_tick(games, 20999, 5020);
    assert_told("");
    /* Late by more than three periods: one, and back on the grid. */
    games_tick(games, 55000, 5054);
    assert_told(UPDATE);
    games_tick(games, 60999, 5060);
    assert_told("");
    games_tick(games, 61000, 5060);
    assert_told(UPDATE);
    assert_int_equal(ask(&(struct games_request){.verb = GAMES_STOP}).status, GAMES_DONE);
    assert_told("{\"info\":\"scheduler is stopped\"}\n");
    games_tick(games, 100000, 5100);
    assert_told("");
}

static void test_a_full_log_changes_nothing(void **state) {
    struct minigame_place place = {"ann", 1};
    const struct games_request end = {.verb = GAMES_END, .number = 1, .places = &place, .count = 1};
    (void)state;
    users_enter(&online, "ann", "Ann");
    assert_int_equal(start(10), GAMES_DONE);
    told[0] = '\0';
    is_full = true;
    assert_int_equal(start(20), GAMES_UNAVAILABLE);
    assert_int_equal(ask(&(struct games_request){.verb = GAMES_STOP}).status, GAMES_UNAVAILABLE);
    assert_int_equal(ask(&end).status, GAMES_UNAVAILABLE);
    games_tick(games, 11000, 5010); /* due, and made up for at once when there is room again */
    is_full = false;
    games_tick(games, 11100, 5010);
    assert_told(UPDATE);
    assert_int_equal(ask(&(struct games_request){.verb = GAMES_INFO}).status, GAMES_DONE);
    assert_told("{\"info\":\"scheduler is running\",\"period\":10,\"offset\":3}\n");
    assert_int_equal(ask(&end).status, GAMES_DONE);
    assert_told("{\"action\":\"balance_update\",\"data\":["
                "{\"id\":\"ann\",\"won\":396.0,\"balance\":396.0}]}\n");
    assert_int_equal(ask(&end).status, GAMES_REFUSED);
    assert_told("");
}

static void test_old_games_are_forgotten(void **state) {
    struct minigame_place place = {"ann", 1};
    struct games_request end = {.verb = GAMES_END, .places = &place, .count = 1};
    (void)state;
    users_enter(&online, "ann", "Ann");
    for (int i = 0; i < MINIGAMES_KEPT + 1; i++) {
        assert_int_equal(start(10), GAMES_DONE);
        told[0] = '\0';
    }
    end.number = 1;
    assert_string_equal(ask(&end).error, "id: there is no such game");
    end.number = 2;
    assert_int_equal(ask(&end).status, GAMES_DONE);
    end.number = MINIGAMES_KEPT + 2; /* not yet */
    assert_string_equal(ask(&end).error, "id: there is no such game");
}

/* docs/minigame.md says how long they can be: ten players, of the longest ids, each character of
 * which is sent as two. */
static void test_longest_frames(void **state) {
    static char ids[MINIGAME_PLAYERS_MAX][IDENTITY_ID_MAX + 1];
    struct minigame_place places[MINIGAME_PLAYERS_MAX];
    const struct games_request end = {
        .verb = GAMES_END, .number = 1, .places = places, .count = MINIGAME_PLAYERS_MAX};
    (void)state;
    for (int i = 0; i < MINIGAME_PLAYERS_MAX; i++) {
        memset(ids[i], '"', IDENTITY_ID_MAX - 1);
        ids[i][IDENTITY_ID_MAX - 1] = (char)('0' + i);
        places[i] = (struct minigame_place){ids[i], i + 1};
        users_enter(&online, ids[i], "nickname");
    }
    struct games_answer answer = ask(&(struct games_request){.verb = GAMES_ONLINE});
    assert_int_equal(strlen(answer.text), 21 + 10 * (2 * IDENTITY_ID_MAX - 1 + 3) - 1);
    free(answer.text);
    assert_int_equal(start(10), GAMES_DONE);
    told[0] = '\0';
    assert_int_equal(ask(&end).status, GAMES_DONE);
    assert_in_range(strlen(told), 2048, 4096 - 200); /* balances may have 18 digits more each */
}

/* It was started: only that nobody could be told. */
static void test_a_start_that_could_not_be_told(void **state) {
    (void)state;
    frames_left = 1;
    assert_int_equal(start(10), GAMES_UNCERTAIN);
    assert_told(UPDATE);
    is_full = false;
    games_tick(games, 11000, 5010);
    assert_told(UPDATE);
}

/* The texts of one question are the test's, until the next one. */
static const char *text_of(enum games_verb verb) {
    static char *text;
    free(text);
    text = ask(&(struct games_request){.verb = verb}).text;
    assert_non_null(text);
    return text;
}

/* Users are remembered for a while after they have left, for the rate of their messages. */
static void test_who_has_left_plays_no_more(void **state) {
    static const struct rate_limit slow = {.per_second = 1, .burst = 1};
    struct minigame_place place = {"bob", 1};
    const struct games_request end = {.verb = GAMES_END, .number = 1, .places = &place, .count = 1};
    (void)state;
    users_enter(&online, "ann", "Ann");
    struct user *bob = users_enter(&online, "bob", "Bob");
    assert_int_equal(rate_take(&bob->messages, &slow, 1000), 0);
    users_leave(&online, bob, &slow, 1000);
    assert_int_equal(start(10), GAMES_DONE);
    assert_string_equal(text_of(GAMES_ONLINE), "{\"online_players\":[\"ann\"]}");
    assert_non_null(strstr(text_of(GAMES_NEWEST), "\"ann\""));
    assert_null(strstr(text_of(GAMES_NEWEST), "\"bob\""));
    assert_string_equal(ask(&end).error, "leaderboard[0].id: not a player of this game");
}

/* Of eleven one stays out, and each of them sometimes: that one never does in 400 games is as good
 * as impossible. */
static void test_everybody_plays_sometimes_and_not_always(void **state) {
    char id[24];
    bool has_played[MINIGAME_PLAYERS_MAX + 1] = {0}, was_out[MINIGAME_PLAYERS_MAX + 1] = {0};
    (void)state;
    for (int i = 0; i <= MINIGAME_PLAYERS_MAX; i++) {
        snprintf(id, sizeof(id), "player %d", i);
        users_enter(&online, id, id);
    }
    for (int game = 0; game < 400; game++) {
        assert_int_equal(start(10), GAMES_DONE);
        told[0] = '\0';
        const char *players = text_of(GAMES_NEWEST);
        for (int i = 0; i <= MINIGAME_PLAYERS_MAX; i++) {
            snprintf(id, sizeof(id), "\"player %d\"", i);
            *(strstr(players, id) ? &has_played[i] : &was_out[i]) = true;
        }
    }
    for (int i = 0; i <= MINIGAME_PLAYERS_MAX; i++)
        assert_true(has_played[i] && was_out[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_grid, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_full_log_changes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_old_games_are_forgotten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_longest_frames, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_start_that_could_not_be_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_who_has_left_plays_no_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_everybody_plays_sometimes_and_not_always, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
