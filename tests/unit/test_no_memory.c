/*
 * Memory that runs out, at every place in turn: the allocator of this program fails at the nth
 * call, for n from 1 until nothing fails any more. Whatever fails must say so, leave things as they
 * were and lose no memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "ws-broker/chatlog.h"
#include "ws-broker/conn.h"
#include "ws-broker/fanout.h"
#include "ws-broker/history.h"
#include "ws-broker/proto.h"
#include "ws-broker/ring.h"

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

/* ---- the allocator: glibc's own, with a countdown ---- */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void __libc_free(void *memory);

static long fail_in; /* the allocation that fails, counted from 1; 0: none */
static bool failed;
static long blocks; /* allocated and not yet freed */

static bool is_out_of_memory(void) {
    if (fail_in == 0 || --fail_in > 0)
        return false;
    failed = true;
    return true;
}

static void *counted(void *memory) {
    blocks += memory != NULL;
    return memory;
}

void *malloc(size_t size) {
    return is_out_of_memory() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
    return is_out_of_memory() ? NULL : counted(__libc_calloc(count, size));
}

void *realloc(void *memory, size_t size) {
    if (is_out_of_memory())
        return NULL;
    void *grown = __libc_realloc(memory, size);
    return memory ? grown : counted(grown);
}

void free(void *memory) {
    blocks -= memory != NULL;
    __libc_free(memory);
}

/* Runs `attempt` again and again, until it met no failure; it gets whether it did by `failed`. */
static void at_every_place(void (*attempt)(void)) {
    long n = 0;
    do {
        long before = blocks;
        fail_in = ++n;
        failed = false;
        attempt();
        fail_in = 0;
        assert_int_equal(blocks, before);
    } while (failed && n < 1000);
    assert_true(n > 1 && n < 1000); /* it does allocate, and it comes to an end */
}

/* ---- what is tried ---- */

static void try_constructors(void) {
    static const struct chatlog_events no_events;
    static const struct fanout_sink no_sink;
    struct proto *a = proto_new(PROTO_CHAT, 2048);
    struct history *b = a ? history_new(100) : NULL;
    struct ring *c = b ? ring_new(0) : NULL;
    struct fanout *d = c ? fanout_new(0, 0, &no_sink) : NULL;
    struct chatlog *e = d ? chatlog_memory_new(&no_events, NULL) : NULL;
    assert_int_equal(e == NULL, failed);
    proto_free(a);
    history_free(b);
    ring_free(c);
    fanout_free(d);
    chatlog_free(e);
}

static void test_constructors(void **state) {
    (void)state;
    at_every_place(try_constructors);
}

/* Not more than this: json-c does not tell when its output buffer could not grow. Parsing is not
 * tried at all, for there it crashes. */
static void try_message_json(void) {
    static const struct proto_message message = {.user_id = "HL1",
                                                 .timestamp = 1,
                                                 .text = "a message too long to be held in place",
                                                 .text_len = 38,
                                                 .channel = "General",
                                                 .nickname = "Hero"};
    static const char want[] = "{\"user_id\":\"HL1\",\"timestamp\":1,"
                               "\"message\":\"a message too long to be held in place\","
                               "\"channel\":\"General\",\"nickname\":\"Hero\"}";
    size_t len = 0;
    struct proto *writer = proto_new(PROTO_CHAT, 2048);
    const char *json = writer ? proto_message_json(writer, &message, &len) : NULL;
    assert_true(json || failed);
    if (!failed)
        assert_string_equal(json, want);
    proto_free(writer);
}

static void test_message_json(void **state) {
    (void)state;
    at_every_place(try_message_json);
}

static void try_error_reply(void) {
    size_t len = 0;
    char *reply = proto_error_reply("an error that a person may read", 48, &len);
    assert_true(reply || failed);
    if (!failed)
        assert_memory_equal(reply + 48, "{\"error\":\"an error that a person may read\"}", len);
    free(reply);
}

static void test_error_reply(void **state) {
    (void)state;
    at_every_place(try_error_reply);
}

static void try_history(void) {
    size_t len = 0;
    struct history *history = history_new(2);
    if (history) {
        int status = history_append(history, "{}", 2);
        assert_int_equal(status, failed ? CHAT_ENOMEM : CHAT_OK);
        char *reply = history_reply(history, &(struct history_part){1, 0, SIZE_MAX}, 0, &len);
        if (reply) {
            const char *expected = status == CHAT_OK ? "{\"history\":[{}]}" : "{\"history\":[]}";
            assert_int_equal(len, strlen(expected));
            assert_memory_equal(reply, expected, len);
        }
        assert_true(reply || failed);
        free(reply);
    }
    history_free(history);
}

static void test_history(void **state) {
    (void)state;
    at_every_place(try_history);
}

static void on_text(void *user, struct conn *conn, const char *text, size_t len) {
    (void)conn;
    assert_int_equal(len, 4);
    assert_memory_equal(text, "text", len);
    *(bool *)user = true;
}

/* A message in two pieces comes up whole, or the connection is to be closed. */
static void try_conn_feed(void) {
    struct conn conn = {0};
    bool heard = false;
    conn_init(&conn, 1);
    int status = conn_feed(&conn, "te", 2, false, 100, on_text, &heard);
    if (status == CHAT_OK)
        status = conn_feed(&conn, "xt", 2, true, 100, on_text, &heard);
    assert_int_equal(status, failed ? CHAT_ENOMEM : CHAT_OK);
    assert_int_equal(heard, !failed);
    conn_deinit(&conn);
}

static void test_conn_feed(void **state) {
    (void)state;
    at_every_place(try_conn_feed);
}

static void on_entry(void *user, const char *json, size_t len, bool is_new) {
    (void)json;
    (void)is_new;
    *(size_t *)user += len;
}

static void on_appended(void *user, uint64_t tag, int status) {
    (void)user;
    (void)tag;
    assert_int_equal(status, CHAT_OK);
}

static void on_pending(void *user) {
    (void)user;
}

static void try_chatlog(void) {
    static const struct chatlog_events events = {on_entry, on_appended, on_pending, NULL};
    size_t followed = 0;
    struct chatlog *chatlog = chatlog_memory_new(&events, &followed);
    if (chatlog) {
        int status = chatlog_append(chatlog, "{}", 2, 1);
        assert_int_equal(status, failed ? CHAT_ENOMEM : CHAT_OK);
        chatlog_turn(chatlog, 100);
        assert_int_equal(followed, failed ? 0 : 2); /* nothing was stored */
    }
    chatlog_free(chatlog);
}

static void test_chatlog(void **state) {
    (void)state;
    at_every_place(try_chatlog);
}

/* Joining needs room in the array: who finds none has not joined, the others are as they were. */
static void try_join(void) {
    static const struct fanout_sink no_sink;
    static struct fanout_client clients[200];
    size_t in = 0;
    struct fanout *fanout = fanout_new(0, 0, &no_sink);
    for (size_t i = 0; fanout && i < 200; i++) {
        fanout_client_init(&clients[i], NULL);
        if (fanout_join(fanout, &clients[i]) == CHAT_OK)
            in++;
        assert_int_equal(fanout_joined(fanout), in);
    }
    assert_int_equal(in == 200, !failed);
    for (size_t i = 0; fanout && i < 200; i++)
        fanout_drop(fanout, &clients[i]);
    fanout_free(fanout);
}

static void test_join(void **state) {
    (void)state;
    at_every_place(try_join);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constructors), cmocka_unit_test(test_message_json),
        cmocka_unit_test(test_error_reply),  cmocka_unit_test(test_history),
        cmocka_unit_test(test_conn_feed),    cmocka_unit_test(test_chatlog),
        cmocka_unit_test(test_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
