/* redis_url.h: what is understood, and that a refusal repeats nothing of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/redis_url.h"
#include "shared/status.h"

static void test_understood(void **state) {
    static const struct {
        const char *text;
        struct redis_url want;
    } cases[] = {
        {"redis://127.0.0.1:6379", {.host = "127.0.0.1", .port = 6379}},
        {"redis://redis.example.org", {.host = "redis.example.org", .port = 6379}},
        {"redis://h/", {.host = "h", .port = 6379}},
        {"redis://h:1/15", {.host = "h", .port = 1, .db = 15}},
        {"redis://[::1]:6380/2", {.host = "::1", .port = 6380, .db = 2}},
        {"redis://[::1]", {.host = "::1", .port = 6379}},
        {"redis://:pass@h", {.host = "h", .port = 6379, .password = "pass"}},
        {"redis://me:p%40s%2fs@h:65535",
         {.host = "h", .port = 65535, .username = "me", .password = "p@s/s"}},
        {"redis://me:p@ss@h", {.host = "h", .port = 6379, .username = "me", .password = "p@ss"}},
        {"unix:///run/redis.sock", {.is_unix = true, .host = "/run/redis.sock"}},
        {"unix://me:pass@/run/r%20s?db=3",
         {.is_unix = true, .host = "/run/r s", .db = 3, .username = "me", .password = "pass"}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct redis_url got;
        const char *why = NULL;
        assert_int_equal(redis_url_parse(cases[i].text, &got, &why), CHAT_OK);
        assert_int_equal(got.is_unix, cases[i].want.is_unix);
        assert_string_equal(got.host, cases[i].want.host);
        assert_int_equal(got.port, cases[i].want.port);
        assert_int_equal(got.db, cases[i].want.db);
        assert_string_equal(got.username, cases[i].want.username);
        assert_string_equal(got.password, cases[i].want.password);
    }
}

static void test_refused(void **state) {
    static const char *const texts[] = {
        "",
        "secret",
        "http://secret",
        "rediss://:secret@h",
        "redis://",
        "redis://:secret@",
        "redis://:secret@:1",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:secret",
        "redis://h:",
        "redis://h/16",
        "redis://h/secret",
        "redis://h/1/2",
        "redis://:%zz@h",
        "redis://:sec%0",
        "redis://:secret%00@h",
        "unix://secret",
        "unix://",
        "unix:///p?db=16",
        "unix:///p?secret=1",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct redis_url got;
        const char *why = NULL;
        if (redis_url_parse(texts[i], &got, &why) != CHAT_EINVAL)
            fail_msg("understood: %s", texts[i]);
        assert_non_null(why);
        assert_null(strstr(why, "secret"));
    }
}

static void test_ceilings(void **state) {
    char text[2 * REDIS_URL_TEXT_MAX], password[REDIS_URL_TEXT_MAX + 1];
    struct redis_url got;
    const char *why;
    (void)state;
    for (size_t len = REDIS_URL_TEXT_MAX - 1; len <= REDIS_URL_TEXT_MAX; len++) {
        memset(password, 'x', len);
        password[len] = '\0';
        snprintf(text, sizeof(text), "redis://:%s@h", password);
        assert_int_equal(redis_url_parse(text, &got, &why),
                         len < REDIS_URL_TEXT_MAX ? CHAT_OK : CHAT_EINVAL);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_understood),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_ceilings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
