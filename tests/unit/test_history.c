/* history.h: what is kept, and every way to ask for a part of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "ws-broker/history.h"

/* A history that keeps `limit`, after messages 1..count. */
static struct history *history_of(size_t limit, int count) {
    struct history *history = history_new(limit);
    assert_non_null(history);
    for (int i = 1; i <= count; i++) {
        char json[16];
        int len = snprintf(json, sizeof(json), "{\"n\":%d}", i);
        assert_int_equal(history_append(history, json, (size_t)len), CHAT_OK);
    }
    return history;
}

/* The reply holds messages `newest` down to `oldest`; 0, 0: none. */
static void check_reply(const struct history *history, uint64_t limit, uint64_t offset, int newest,
                        int oldest) {
    char want[4096] = "{\"history\":[";
    size_t used = strlen(want), len = 0;
    for (int i = newest; newest > 0 && i >= oldest; i--)
        used += (size_t)snprintf(want + used, sizeof(want) - used, "%s{\"n\":%d}",
                                 i == newest ? "" : ",", i);
    snprintf(want + used, sizeof(want) - used, "]}");

    for (size_t headroom = 0; headroom <= 48; headroom += 48) {
        const struct history_part part = {limit, offset, SIZE_MAX};
        char *reply = history_reply(history, &part, headroom, &len);
        assert_non_null(reply);
        assert_int_equal(len, strlen(want));
        assert_memory_equal(reply + headroom, want, len);
        free(reply);
    }
}

static void test_empty(void **state) {
    struct history *history = history_of(10, 0);
    (void)state;
    check_reply(history, 10, 0, 0, 0);
    check_reply(history, 10, 5, 0, 0);
    check_reply(history, 0, 0, 0, 0);
    history_free(history);
}

static void test_keeps_none(void **state) {
    struct history *history = history_of(0, 3);
    (void)state;
    check_reply(history, 10, 0, 0, 0);
    history_free(history);
}

static void test_keeps_one(void **state) {
    struct history *history = history_of(1, 3);
    (void)state;
    check_reply(history, 10, 0, 3, 3);
    check_reply(history, 10, 1, 0, 0);
    history_free(history);
}

/* Limits and offsets on 4 messages of 5 kept, on 5, and on 12 of which 5 are left. */
static void test_parts(void **state) {
    static const struct {
        int count;
        uint64_t limit, offset;
        int newest, oldest;
    } cases[] = {
        {4, 10, 0, 4, 1},
        {4, 4, 0, 4, 1},
        {4, 3, 0, 4, 2},
        {4, 0, 0, 0, 0},
        {4, 10, 3, 1, 1},
        {4, 10, 4, 0, 0},
        {5, 5, 0, 5, 1},
        {5, 1, 4, 1, 1},
        {12, 10, 0, 12, 8},
        {12, 2, 0, 12, 11},
        {12, 2, 2, 10, 9},
        {12, 2, 4, 8, 8},
        {12, 2, 5, 0, 0},
        {12, 0, 2, 0, 0},
        {12, UINT64_MAX, 0, 12, 8},
        {12, UINT64_MAX, 1, 11, 8},
        {12, UINT64_MAX, UINT64_MAX, 0, 0},
        {12, 1, UINT64_MAX, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct history *history = history_of(5, cases[i].count);
        check_reply(history, cases[i].limit, cases[i].offset, cases[i].newest, cases[i].oldest);
        history_free(history);
    }
}

/* Each place is used again and again, by longer and shorter texts. */
static void test_long_run(void **state) {
    struct history *history = history_new(3);
    static char json[5000];
    (void)state;
    memset(json, 'x', sizeof(json));
    srand(3);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(history_append(history, json, (size_t)rand() % sizeof(json)), CHAT_OK);
    for (int i = 1; i <= 3; i++)
        assert_int_equal(history_append(history, json, (size_t)i), CHAT_OK);
    size_t len = 0;
    char *reply = history_reply(history, &(struct history_part){9, 0, SIZE_MAX}, 0, &len);
    assert_int_equal(len, strlen("{\"history\":[xxx,xx,x]}"));
    assert_memory_equal(reply, "{\"history\":[xxx,xx,x]}", len);
    free(reply);
    history_free(history);
}

/* As many of the newest as fit, to the byte; and one, so that whoever asks on by offset gets on. */
static void test_bytes(void **state) {
    static const struct {
        size_t max_bytes;
        uint64_t limit, offset;
        const char *want;
    } cases[] = {
        {27, 9, 0, "{\"history\":[1,22,333,4444]}"},
        {26, 9, 0, "{\"history\":[1,22,333]}"},
        {22, 9, 0, "{\"history\":[1,22,333]}"},
        {21, 9, 0, "{\"history\":[1,22]}"},
        {18, 9, 0, "{\"history\":[1,22]}"},
        {17, 9, 0, "{\"history\":[1]}"},
        {15, 9, 0, "{\"history\":[1]}"},
        {0, 9, 0, "{\"history\":[1]}"},
        {0, 0, 0, "{\"history\":[]}"},
        {17, 9, 2, "{\"history\":[333]}"},
        {20, 9, 1, "{\"history\":[22,333]}"},
        {19, 9, 1, "{\"history\":[22]}"},
        {0, 9, 3, "{\"history\":[4444]}"},
        {0, 9, 4, "{\"history\":[]}"},
        {27, 2, 0, "{\"history\":[1,22]}"},
    };
    static const char *const oldest_first[] = {"4444", "333", "22", "1"};
    struct history *history = history_new(5);
    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(history_append(history, oldest_first[i], strlen(oldest_first[i])),
                         CHAT_OK);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const struct history_part part = {cases[i].limit, cases[i].offset, cases[i].max_bytes};
        size_t len = 0;
        char *reply = history_reply(history, &part, 0, &len);
        assert_non_null(reply);
        if (len != strlen(cases[i].want) || memcmp(reply, cases[i].want, len) != 0)
            fail_msg("case %zu: %.*s", i, (int)len, reply);
        free(reply);
    }
    history_free(history);
}

/* The caller's text may change after the call. */
static void test_text_is_copied(void **state) {
    struct history *history = history_new(2);
    char json[] = "{\"n\":1}";
    (void)state;
    assert_int_equal(history_append(history, json, sizeof(json) - 1), CHAT_OK);
    memset(json, '?', sizeof(json) - 1);
    check_reply(history, 1, 0, 1, 1);
    history_free(history);
    history_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),     cmocka_unit_test(test_keeps_none),
        cmocka_unit_test(test_keeps_one), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_long_run),  cmocka_unit_test(test_text_is_copied),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
