/*
 * What a real Redis cannot be brought to do: here its connection (redis.h) is a few lines that the
 * test answers for. All else about the log is shown by tests/e2e and tests/chaos.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/status.h"
#include "ws-broker/chatlog_redis.h"
#include "ws-broker/redis.h"

#if defined(__SANITIZE_ADDRESS__)
/* The sanitizer has an allocator of its own. */
static void test_sanitizer(void **state) {
    (void)state;
    print_message("[  SKIPPED ] the address sanitizer owns the allocator\n");
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sanitizer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else

/* ---- an allocator without room for what is large ---- */

enum { LARGE = 100000 };

void *__libc_malloc(size_t size);
static bool is_full;

void *malloc(size_t size) {
    return is_full && size >= LARGE ? NULL : __libc_malloc(size);
}

/* ---- redis.h ---- */

struct redis_value {
    enum redis_type type;
    const char *text;
    size_t count;
    const struct redis_value *items;
};

struct redis {
    const struct redis_events *events;
    void *user;
    bool is_up;
    redis_cb on_reply; /* of the last command that somebody waits for */
    void *reply_user;
    char name[16], cursor[32]; /* its first and last word */
};

static struct redis links[2]; /* publish, follow */
static const struct redis_server server = {.run_id = "1"};

enum redis_type redis_value_type(const struct redis_value *value) {
    return value ? value->type : REDIS_NULL;
}

const char *redis_value_text(const struct redis_value *value, size_t *len) {
    const char *text = value && value->text ? value->text : "";
    if (len)
        *len = strlen(text);
    return text;
}

int64_t redis_value_number(const struct redis_value *value) {
    (void)value;
    return 0;
}

size_t redis_value_count(const struct redis_value *value) {
    return value ? value->count : 0;
}

const struct redis_value *redis_value_at(const struct redis_value *value, size_t index) {
    return index < redis_value_count(value) ? &value->items[index] : NULL;
}

bool redis_value_is_error(const struct redis_value *value, const char *word) {
    (void)value, (void)word;
    return false;
}

struct redis *redis_new(uv_loop_t *loop, const char *name, const struct redis_url *url,
                        const struct redis_events *events, void *user) {
    struct redis *redis = &links[strcmp(name, "follow") == 0];
    (void)loop, (void)url;
    *redis = (struct redis){.events = events, .user = user};
    return redis;
}

bool redis_is_up(const struct redis *redis) {
    return redis->is_up;
}

const struct redis_server *redis_server(const struct redis *redis) {
    (void)redis;
    return &server;
}

int redis_send(struct redis *redis, const struct redis_arg *args, size_t count, int64_t timeout_ms,
               redis_cb callback, void *user) {
    (void)timeout_ms;
    if (!callback)
        return CHAT_OK;
    redis->on_reply = callback;
    redis->reply_user = user;
    snprintf(redis->name, sizeof(redis->name), "%s", (const char *)args[0].bytes);
    snprintf(redis->cursor, sizeof(redis->cursor), "%s", (const char *)args[count - 1].bytes);
    return CHAT_OK;
}

int redis_send_words(struct redis *redis, int64_t timeout_ms, redis_cb callback, void *user, ...) {
    struct redis_arg args[64];
    size_t count = 0;
    va_list words;
    va_start(words, user);
    for (const char *word; (word = va_arg(words, const char *));)
        args[count++] = (struct redis_arg){word, strlen(word)};
    va_end(words);
    return redis_send(redis, args, count, timeout_ms, callback, user);
}

void redis_drop(struct redis *redis, const char *why) {
    (void)redis, (void)why;
    fail();
}

void redis_stop(struct redis *redis) {
    redis->is_up = false;
}

void redis_free(struct redis *redis) {
    (void)redis;
}

/* ---- a log that follows ---- */

static char handed[8]; /* what each message holds, in their order */

static void on_entry(void *user, const char *json, size_t len, bool is_new) {
    char letter[2] = {json[len - 2], '\0'};
    (void)user;
    assert_true(is_new);
    strncat(handed, letter, sizeof(handed) - strlen(handed) - 1);
}

static void on_pending(void *user) {
    (void)user;
}

static void go_up(struct redis *redis) {
    redis->is_up = true;
    redis->events->on_up(redis->user);
}

#define TEXT(of)  ((struct redis_value){REDIS_TEXT, of, 0, NULL})
#define LIST(...) LIST_OF(((const struct redis_value[]){__VA_ARGS__}))
#define LIST_OF(array)                                                                             \
    ((struct redis_value){REDIS_LIST, NULL, sizeof(array) / sizeof(*(array)), array})
#define ENTRY(id, key, json) LIST(TEXT(id), LIST(TEXT("k"), TEXT(key), TEXT("m"), TEXT(json)))

/* The answer to a read. */
static void answer(const struct redis_value *entries) {
    const struct redis_value reply = LIST(LIST(TEXT("key"), *entries));
    redis_cb callback = links[1].on_reply;
    assert_non_null(callback);
    assert_string_equal(links[1].name, "XREAD");
    links[1].on_reply = NULL;
    callback(links[1].reply_user, &reply);
}

/* What there was no memory for is read again; nothing is left out, nothing comes twice. */
static void test_no_memory(void **state) {
    static const struct chatlog_events events = {.on_entry = on_entry, .on_pending = on_pending};
    static const struct chatlog_redis_options options = {
        .chat_name = "main", .log_maxlen = 100, .history_limit = 10, .entry_max = 2 * LARGE};
    static char large[LARGE + 8]; /* {  ...  "m":2} */
    uv_loop_t loop;
    (void)state;
    memset(large, ' ', LARGE);
    large[0] = '{';
    memcpy(large + LARGE, "\"m\":2}", 7);
    const struct redis_value entries =
        LIST(ENTRY("5-0", "k-1", "{\"m\":1}"), ENTRY("6-0", "k-2", large),
             ENTRY("7-0", "k-3", "{\"m\":3}"));
    const struct redis_value rest = {REDIS_LIST, NULL, 2, entries.items + 1};

    assert_int_equal(uv_loop_init(&loop), 0);
    struct chatlog *log = chatlog_redis_new(&options, &loop, &events, NULL);
    go_up(&links[0]);
    go_up(&links[1]);
    assert_string_equal(links[1].cursor, "0-0");
    is_full = true;
    answer(&entries);
    is_full = false;
    assert_false(chatlog_is_loaded(log));
    while (!links[1].on_reply) {
        chatlog_turn(log, SIZE_MAX);
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_string_equal(links[1].cursor, "5-0");
    assert_string_equal(handed, "1");
    answer(&rest);
    assert_true(chatlog_is_loaded(log));
    chatlog_turn(log, SIZE_MAX);
    assert_string_equal(handed, "123");

    chatlog_stop(log);
    uv_run(&loop, UV_RUN_DEFAULT);
    chatlog_free(log);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
