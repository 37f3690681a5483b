/* minigame.h: the payout table, the grid of times, ids, and how games and money are written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "ws-broker/minigame.h"

static void test_payout_table(void **state) {
    /* Hundredths for 1, 2, 5 and 10 players, by position. */
    static const struct {
        int64_t position, one, two, five, ten;
    } rows[] = {{1, 39600, 43200, 54000, 72000},
                {2, 28600, 31200, 39000, 52000},
                {3, 19800, 21600, 27000, 36000},
                {4, 13200, 14400, 18000, 24000},
                {5, 8800, 9600, 12000, 16000},
                {6, 0, 0, 0, 0},
                {10, 0, 0, 0, 0},
                {INT64_MAX, 0, 0, 0, 0},
                {0, 0, 0, 0, 0},
                {-1, 0, 0, 0, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        assert_int_equal(minigame_won(1, rows[i].position), rows[i].one);
        assert_int_equal(minigame_won(2, rows[i].position), rows[i].two);
        assert_int_equal(minigame_won(5, rows[i].position), rows[i].five);
        assert_int_equal(minigame_won(10, rows[i].position), rows[i].ten);
    }
}

/* The shares are the whole pool. */
static void test_all_of_the_pool_is_paid(void **state) {
    (void)state;
    for (size_t count = 5; count <= MINIGAME_PLAYERS_MAX; count++) {
        int64_t paid = 0;
        for (int64_t position = 1; position <= (int64_t)count; position++)
            paid += minigame_won(count, position);
        assert_int_equal(paid, 100 * (1000 + 100 * (int64_t)count));
    }
}

static void test_money(void **state) {
    static const struct {
        int64_t hundredths;
        const char *text;
    } rows[] = {{0, "0.0"},        {43200, "432.0"},
                {43250, "432.5"},  {43205, "432.05"},
                {43255, "432.55"}, {5, "0.05"},
                {50, "0.5"},       {-43205, "-432.05"},
                {-5, "-0.05"},     {9007199254740991, "90071992547409.91"}};
    char text[MINIGAME_MONEY_MAX];
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        minigame_money(rows[i].hundredths, text);
        assert_string_equal(text, rows[i].text);
    }
}

static void test_repeats(void **state) {
    static const struct minigame_place good[] = {{"a", 3}, {"b", 1}, {"A", 2}},
                                       same_id[] = {{"a", 1}, {"b", 2}, {"a", 3}},
                                       same_position[] = {{"a", 1}, {"b", 1}, {"a", 3}};
    size_t index = 0;
    (void)state;
    assert_null(minigame_repeat(good, 3, &index));
    assert_null(minigame_repeat(good, 1, &index));
    assert_string_equal(minigame_repeat(same_id, 3, &index), "id");
    assert_int_equal(index, 2);
    assert_string_equal(minigame_repeat(same_position, 3, &index), "position");
    assert_int_equal(index, 1);
}

static void test_numbers(void **state) {
    static const char *const bad[] = {"",        "HLG-",    "HLG-0",  "HLG-01",
                                      "HLG--1",  "HLG-1 ",  " HLG-1", "hlg-1",
                                      "HLG-1:x", "HLG-1.0", "log",    "HLG-9999999999999999"};
    (void)state;
    assert_int_equal(minigame_number("HLG-1"), 1);
    assert_int_equal(minigame_number("HLG-120"), 120);
    assert_int_equal(minigame_number("HLG-999999999999999"), 999999999999999);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(minigame_number(bad[i]), 0);
}

static void test_back_on_the_grid(void **state) {
    (void)state;
    assert_int_equal(minigame_next_ms(1000, 10, 1000), 11000);
    assert_int_equal(minigame_next_ms(1000, 10, 1001), 11000);
    assert_int_equal(minigame_next_ms(1000, 10, 10999), 11000);
    assert_int_equal(minigame_next_ms(1000, 10, 11000), 21000);
    assert_int_equal(minigame_next_ms(1000, 10, 1000000), 1001000);
    assert_int_equal(minigame_next_ms(0, MINIGAME_SECONDS_MAX, 1), 86400000);
}

static void assert_payout(const char *id, int64_t won, const char *expected) {
    char *text = minigame_payout(id, won);
    assert_string_equal(text, expected);
    free(text);
}

static void test_payout_lines(void **state) {
    (void)state;
    assert_payout("HL1", 43200, "{\"id\":\"HL1\",\"won\":432.0,\"balance\":");
    assert_payout("a\"/\\\n", 0, "{\"id\":\"a\\\"/\\\\\\n\",\"won\":0.0,\"balance\":");
}

static void test_events(void **state) {
    static const struct minigame game = {.number = 2,
                                         .prepared_at = 1000,
                                         .offset_s = 300,
                                         .count = 2,
                                         .players = {{"HL1", "Hero"}, {"HL2", "\"/ž"}}};
    char *none = minigame_events(NULL), *one = minigame_events(&game);
    (void)state;
    assert_string_equal(none, "[]");
    assert_string_equal(
        one, "[{\"id\":\"HLG-2\",\"miniGame\":\"speedspinner\",\"parameters\":[{\"startsAt\":1300,"
             "\"registrationStartsAt\":1000,\"registrationEndsAt\":1000,\"currency\":\"HTO\","
             "\"entryFee\":200,\"rewardPool\":50000}],\"settings\":{\"numberOfLaps\":20,"
             "\"numberOfPlayers\":10,\"map\":\"some map\"},\"players\":["
             "{\"id\":\"HL1\",\"nickname\":\"Hero\",\"paragonAddress\":\"string\"},"
             "{\"id\":\"HL2\",\"nickname\":\"\\\"/ž\",\"paragonAddress\":\"string\"}],"
             "\"results\":null,\"policyLink\":\"string\"}]");
    free(none);
    free(one);
}

/* docs/minigame.md says how long it can be. */
static void test_longest_events(void **state) {
    struct minigame game = {.number = 999999999999999,
                            .prepared_at = 9999999999,
                            .offset_s = MINIGAME_SECONDS_MAX,
                            .count = MINIGAME_PLAYERS_MAX};
    (void)state;
    for (size_t i = 0; i < game.count; i++) {
        memset(game.players[i].id, '"', IDENTITY_ID_MAX);
        memset(game.players[i].nickname, '"', IDENTITY_NICKNAME_MAX);
    }
    char *text = minigame_events(&game);
    assert_in_range(strlen(text), 4096, 8192);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_payout_table),   cmocka_unit_test(test_all_of_the_pool_is_paid),
        cmocka_unit_test(test_money),          cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_numbers),        cmocka_unit_test(test_back_on_the_grid),
        cmocka_unit_test(test_payout_lines),   cmocka_unit_test(test_events),
        cmocka_unit_test(test_longest_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
