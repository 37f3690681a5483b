/* chatlog.h as chatlog_memory.c keeps it: order, when the owner is told what, and the bounds. */
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

/* What the log told, as "a +1 b +2 ": entries, and the tags of finished appends. */
struct owner {
    struct chatlog *log;
    char told[512];
    unsigned entries, pending;
    size_t bytes;
    bool inside_append;
};

static void note(struct owner *owner, const char *text, size_t len) {
    size_t used = strlen(owner->told);
    if (used + len + 2 < sizeof(owner->told))
        snprintf(owner->told + used, sizeof(owner->told) - used, "%.*s ", (int)len, text);
}

static void on_entry(void *user, const char *json, size_t len, bool is_new) {
    struct owner *owner = user;
    assert_true(is_new);
    assert_false(owner->inside_append);
    owner->entries++;
    owner->bytes += len;
    note(owner, json, len);
}

static void on_appended(void *user, uint64_t tag, int status) {
    struct owner *owner = user;
    char text[32];
    assert_false(owner->inside_append);
    assert_int_equal(status, CHAT_OK);
    note(owner, text, (size_t)snprintf(text, sizeof(text), "+%d", (int)tag));
}

static void on_pending(void *user) {
    ((struct owner *)user)->pending++;
}

static int make_log(void **state) {
    static const struct chatlog_events events = {on_entry, on_appended, on_pending, NULL};
    struct owner *owner = calloc(1, sizeof(*owner));
    if (!owner)
        return -1;
    owner->log = chatlog_memory_new(&events, owner);
    *state = owner;
    return owner->log ? 0 : -1;
}

static int free_log(void **state) {
    chatlog_free(((struct owner *)*state)->log);
    free(*state);
    return 0;
}

static int append(struct owner *owner, const char *json, uint64_t tag) {
    owner->inside_append = true;
    int status = chatlog_append(owner->log, json, strlen(json), tag);
    owner->inside_append = false;
    return status;
}

static void check_told(struct owner *owner, const char *want) {
    assert_string_equal(owner->told, want);
    owner->told[0] = '\0';
}

static void test_empty(void **state) {
    struct owner *owner = *state;
    assert_true(chatlog_is_ready(owner->log));
    assert_false(chatlog_turn(owner->log, 1000));
    check_told(owner, "");
    assert_int_equal(owner->pending, 0);
}

/* Nothing is told before the turn; then all, in the order of the appends. */
static void test_order(void **state) {
    struct owner *owner = *state;
    assert_int_equal(append(owner, "a", 1), CHAT_OK);
    assert_int_equal(append(owner, "b", 2), CHAT_OK);
    assert_int_equal(append(owner, "c", 1), CHAT_OK);
    check_told(owner, "");
    assert_true(owner->pending > 0);
    assert_false(chatlog_turn(owner->log, 1000));
    check_told(owner, "a +1 b +2 c +1 ");
    assert_false(chatlog_turn(owner->log, 1000));
    check_told(owner, "");
}

/* Every append after the log was empty must wake the loop. */
static void test_pending_each_time(void **state) {
    struct owner *owner = *state;
    for (unsigned i = 1; i < 5; i++) {
        assert_int_equal(append(owner, "x", 1), CHAT_OK);
        assert_int_equal(owner->pending, i);
        assert_false(chatlog_turn(owner->log, 1000));
    }
}

static void test_text_is_copied(void **state) {
    struct owner *owner = *state;
    char json[] = "abc";
    assert_int_equal(append(owner, json, 1), CHAT_OK);
    memset(json, '?', 3);
    chatlog_turn(owner->log, 1000);
    check_told(owner, "abc +1 ");
}

/* A turn hands on as much as there is room for, but one entry at least. */
static void test_turn_is_bounded(void **state) {
    struct owner *owner = *state;
    for (uint64_t tag = 1; tag <= 5; tag++)
        assert_int_equal(append(owner, "xxxxxxxxxx", tag), CHAT_OK);
    assert_true(chatlog_turn(owner->log, 0));
    check_told(owner, "xxxxxxxxxx +1 ");
    assert_true(chatlog_turn(owner->log, 19));
    check_told(owner, "xxxxxxxxxx +2 ");
    assert_true(chatlog_turn(owner->log, 20));
    check_told(owner, "xxxxxxxxxx +3 xxxxxxxxxx +4 ");
    assert_false(chatlog_turn(owner->log, 10));
    check_told(owner, "xxxxxxxxxx +5 ");
}

/* A mark is behind what was appended before it. */
static void test_marks(void **state) {
    struct owner *owner = *state;
    uint64_t before = chatlog_mark(owner->log);
    assert_true(chatlog_is_heard(owner->log, before));
    assert_int_equal(append(owner, "a", 1), CHAT_OK);
    assert_int_equal(append(owner, "b", 1), CHAT_OK);
    uint64_t both = chatlog_mark(owner->log);
    assert_int_equal(append(owner, "c", 1), CHAT_OK);
    assert_true(chatlog_turn(owner->log, 1));
    assert_true(chatlog_is_heard(owner->log, before));
    assert_false(chatlog_is_heard(owner->log, both));
    assert_true(chatlog_turn(owner->log, 1));
    assert_true(chatlog_is_heard(owner->log, both));
    assert_false(chatlog_is_heard(owner->log, chatlog_mark(owner->log)));
}

static void test_queue_of_entries_is_full(void **state) {
    struct owner *owner = *state;
    for (int i = 0; i < CHATLOG_QUEUE_ENTRIES; i++)
        assert_int_equal(append(owner, "x", 1), CHAT_OK);
    assert_int_equal(append(owner, "x", 2), CHAT_EBUSY);
    assert_true(chatlog_is_ready(owner->log));
    assert_true(chatlog_turn(owner->log, 1)); /* room for one again */
    assert_int_equal(append(owner, "x", 1), CHAT_OK);
    assert_int_equal(append(owner, "x", 2), CHAT_EBUSY);
    assert_false(chatlog_turn(owner->log, SIZE_MAX));
    assert_int_equal(owner->entries, CHATLOG_QUEUE_ENTRIES + 1); /* the refused never come */
}

static void test_queue_of_bytes_is_full(void **state) {
    struct owner *owner = *state;
    static char json[(1 << 20) + 1];
    memset(json, 'x', sizeof(json) - 1);
    for (int i = 0; i < CHATLOG_QUEUE_BYTES >> 20; i++)
        assert_int_equal(append(owner, json, 1), CHAT_OK);
    assert_int_equal(append(owner, "x", 2), CHAT_EBUSY);
    assert_true(chatlog_turn(owner->log, 1));
    assert_int_equal(append(owner, "x", 1), CHAT_OK);
    assert_int_equal(append(owner, json, 2), CHAT_EBUSY);
    assert_false(chatlog_turn(owner->log, SIZE_MAX));
    assert_int_equal(owner->bytes, CHATLOG_QUEUE_BYTES + 1);
}

/* What waits is freed with the log; a sanitizer would tell. */
static void test_freed_with_entries(void **state) {
    assert_int_equal(append(*state, "left behind", 1), CHAT_OK);
    chatlog_free(NULL);
}

#define LOG_TEST(test) cmocka_unit_test_setup_teardown(test, make_log, free_log)

int main(void) {
    const struct CMUnitTest tests[] = {
        LOG_TEST(test_empty),
        LOG_TEST(test_order),
        LOG_TEST(test_pending_each_time),
        LOG_TEST(test_text_is_copied),
        LOG_TEST(test_turn_is_bounded),
        LOG_TEST(test_marks),
        LOG_TEST(test_queue_of_entries_is_full),
        LOG_TEST(test_queue_of_bytes_is_full),
        LOG_TEST(test_freed_with_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
