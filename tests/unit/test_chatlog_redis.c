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

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "ws-broker/chatlog_redis.h"
#include "ws-broker/redis.h"

/* ---- an allocator without room for what is large ---- */

enum { LARGE = 100000 };

#if !defined(__SANITIZE_ADDRESS__) /* which has one of its own */
static bool is_full;

void *__libc_malloc(size_t size);

void *malloc(size_t size) {
    return is_full && size >= LARGE ? NULL : __libc_malloc(size);
}
#endif

/* ---- redis.h ---- */

struct redis_value {
    enum redis_type type;
    const char *text;
    size_t count;
    const struct redis_value *items;
};

struct command {
    char name[16], third[64], last[64]; /* its first, third and last word */
    redis_cb callback;
    void *user;
};

struct redis {
    const struct redis_events *events;
    void *user;
    bool is_up;
    struct command sent[32]; /* those with a callback and without an answer */
    size_t count;
};

static struct redis links[2]; /* publish, follow */
static struct redis_server server;

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
    assert_in_range(redis->count, 0, sizeof(redis->sent) / sizeof(*redis->sent) - 1);
    struct command *command = &redis->sent[redis->count++];
    *command = (struct command){.callback = callback, .user = user};
    snprintf(command->name, sizeof(command->name), "%s", (const char *)args[0].bytes);
    if (count > 2)
        snprintf(command->third, sizeof(command->third), "%s", (const char *)args[2].bytes);
    snprintf(command->last, sizeof(command->last), "%.*s", (int)args[count - 1].len,
             (const char *)args[count - 1].bytes);
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

static uint64_t appended; /* the tag of the last that ended; all end well here */

static void on_appended(void *user, uint64_t tag, int status) {
    (void)user;
    assert_int_equal(status, CHAT_OK);
    appended = tag;
}

static void on_pending(void *user) {
    (void)user;
}

static const struct chatlog_events events = {
    .on_entry = on_entry, .on_appended = on_appended, .on_pending = on_pending};
static const struct chatlog_redis_options options = {
    .key = "chat:{main}", .log_maxlen = 100, .history_limit = 10, .entry_max = 2 * LARGE};

static void go_up(struct redis *redis) {
    redis->is_up = true;
    redis->events->on_up(redis->user);
}

static void go_down(struct redis *redis) {
    redis->is_up = false;
    redis->count = 0;
    redis->events->on_down(redis->user);
}

static struct chatlog *start(uv_loop_t *loop) {
    handed[0] = '\0';
    snprintf(server.run_id, sizeof(server.run_id), "1");
    assert_int_equal(uv_loop_init(loop), 0);
    struct chatlog *log = chatlog_redis_new(&options, loop, &events, NULL);
    go_up(&links[0]);
    go_up(&links[1]);
    return log;
}

static void stop(struct chatlog *log, uv_loop_t *loop) {
    chatlog_stop(log);
    uv_run(loop, UV_RUN_DEFAULT);
    chatlog_free(log);
    assert_int_equal(uv_loop_close(loop), 0);
}

/* The first such command that waits for an answer; NULL: there is none. */
static struct command *find(struct redis *redis, const char *name) {
    for (size_t i = 0; i < redis->count; i++)
        if (strcmp(redis->sent[i].name, name) == 0)
            return &redis->sent[i];
    return NULL;
}

/* The same, run until there is one. */
static struct command *await(uv_loop_t *loop, struct redis *redis, const char *name) {
    while (!find(redis, name))
        uv_run(loop, UV_RUN_ONCE);
    return find(redis, name);
}

static void answer(struct redis *redis, const char *name, const struct redis_value *value) {
    struct command *command = find(redis, name), done;
    assert_non_null(command);
    done = *command;
    memmove(command, command + 1, (size_t)(&redis->sent[--redis->count] - command) * sizeof(done));
    done.callback(done.user, value);
}

#define TEXT(of)  ((struct redis_value){REDIS_TEXT, of, 0, NULL})
#define LIST(...) LIST_OF(((const struct redis_value[]){__VA_ARGS__}))
#define LIST_OF(array)                                                                             \
    ((struct redis_value){REDIS_LIST, NULL, sizeof(array) / sizeof(*(array)), array})
#define ENTRY(id, key, json) LIST(TEXT(id), LIST(TEXT("k"), TEXT(key), TEXT("m"), TEXT(json)))

#define FAILED(text) ((struct redis_value){REDIS_FAILED, text, 0, NULL})

static void answer_audit(const struct redis_value *info, const struct redis_value *entries) {
    const struct redis_value reply = LIST(*info, *entries);
    answer(&links[1], "MULTI", &TEXT("OK"));
    answer(&links[1], "XINFO", &TEXT("QUEUED"));
    answer(&links[1], "XRANGE", &TEXT("QUEUED"));
    answer(&links[1], "EXEC", &reply);
}

static void answer_no_stream(void) {
    answer_audit(&FAILED("ERR no such key"), &(struct redis_value){REDIS_LIST, NULL, 0, NULL});
}

/* What there was no memory for is read again; nothing is left out, nothing comes twice. */
static void test_no_memory(void **state) {
#if defined(__SANITIZE_ADDRESS__)
    (void)state;
    print_message("[  SKIPPED ] the address sanitizer owns the allocator\n");
    skip();
#else
    static char large[LARGE + 8]; /* {  ...  "m":2} */
    uv_loop_t loop;
    (void)state;
    memset(large, ' ', LARGE);
    large[0] = '{';
    memcpy(large + LARGE, "\"m\":2}", 7);
    const struct redis_value entries =
        LIST(ENTRY("5-0", "k-1", "{\"m\":1}"), ENTRY("6-0", "k-2", large),
             ENTRY("7-0", "k-3", "{\"m\":3}"));
    const struct redis_value info =
        LIST(TEXT("entries-added"), TEXT("a number"), TEXT("last-generated-id"), TEXT("7-0"));
    struct chatlog *log = start(&loop);
    assert_string_equal(find(&links[1], "XRANGE")->third, "0-0");
    is_full = true;
    answer_audit(&info, &entries);
    is_full = false;
    assert_false(chatlog_is_loaded(log));
    chatlog_turn(log, SIZE_MAX);
    assert_string_equal(handed, "1");
    assert_string_equal(await(&loop, &links[1], "XRANGE")->third, "5-0");
    answer_audit(&info, &entries);
    assert_true(chatlog_is_loaded(log));
    chatlog_turn(log, SIZE_MAX);
    assert_string_equal(handed, "123");
    stop(log, &loop);
#endif
}

/* An entry is stored again while a new one is under way: each gets its own answer. */
static void test_stored_again_among_new_ones(void **state) {
    uv_loop_t loop;
    (void)state;
    struct chatlog *log = start(&loop);
    answer_no_stream();
    assert_int_equal(chatlog_append(log, "{\"m\":1}", 7, 11), CHAT_OK);
    answer(&links[0], "XADD", &TEXT("5-0"));
    assert_int_equal(appended, 11);

    /* Another server, without that one. */
    go_down(&links[0]);
    go_down(&links[1]);
    snprintf(server.run_id, sizeof(server.run_id), "2");
    go_up(&links[0]);
    assert_int_equal(chatlog_append(log, "{\"m\":2}", 7, 22), CHAT_OK);
    go_up(&links[1]);
    answer_no_stream();
    assert_string_equal(find(&links[0], "XADD")->last, "{\"m\":2}");
    answer(&links[0], "XADD", &FAILED("OOM"));
    assert_string_equal(find(&links[0], "XADD")->last, "5-0"); /* the mark */
    answer(&links[0], "XADD", &TEXT("6-0"));
    assert_int_equal(appended, 11);
    assert_string_equal(await(&loop, &links[0], "XADD")->last, "{\"m\":2}");
    answer(&links[0], "XADD", &TEXT("7-0"));
    assert_int_equal(appended, 22);
    stop(log, &loop);
}

/* A mark is a place in the stream, whoever wrote there; it is heard when all in front of it has
 * been handed on. */
static void test_marks(void **state) {
    uv_loop_t loop;
    (void)state;
    struct chatlog *log = start(&loop);
    answer_no_stream();
    assert_true(chatlog_is_heard(log, chatlog_mark(log)));
    assert_int_equal(chatlog_append(log, "{\"m\":1}", 7, 11), CHAT_OK);
    answer(&links[0], "XADD", &TEXT("5-0"));
    uint64_t own = chatlog_mark(log), script = chatlog_redis_mark("5-1");
    assert_int_equal(own, chatlog_redis_mark("5-0"));
    assert_true(own < script && script < chatlog_redis_mark("6-0"));
    assert_int_equal(chatlog_redis_mark(""), 0);
    assert_true(chatlog_redis_mark("5-99999999999") < chatlog_redis_mark("6-0"));
    assert_false(chatlog_is_heard(log, own));

    chatlog_turn(log, SIZE_MAX); /* asks for more */
    const struct redis_value entries =
        LIST(ENTRY("5-0", "k-1", "{\"m\":1}"), ENTRY("5-1", "k-2", "{\"m\":2}"),
             ENTRY("6-0", "k-1", "{\"m\":1}")); /* a repeat, which is not handed on */
    const struct redis_value reply = LIST(LIST(TEXT("chat:{main}"), entries));
    await(&loop, &links[1], "XREAD");
    answer(&links[1], "XREAD", &reply);
    assert_false(chatlog_is_heard(log, own));
    assert_true(chatlog_turn(log, 1));
    assert_true(chatlog_is_heard(log, own));
    assert_false(chatlog_is_heard(log, script));
    assert_false(chatlog_turn(log, 1));
    assert_true(chatlog_is_heard(log, chatlog_redis_mark("6-0")));
    assert_false(chatlog_is_heard(log, chatlog_redis_mark("6-1")));
    stop(log, &loop);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_memory),
                                       cmocka_unit_test(test_stored_again_among_new_ones),
                                       cmocka_unit_test(test_marks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
