/* backlog.h: the order of the items, what they cost, and what is left of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "shared/status.h"
#include "tests/unit/cmocka.h"
#include "ws-broker/backlog.h"

static void add(struct backlog *backlog, enum backlog_kind kind, const char *text) {
    const struct backlog_item item = {.kind = kind, .len = strlen(text)};
    assert_int_equal(backlog_add(backlog, &item, text), CHAT_OK);
}

static void add_first(struct backlog *backlog, enum backlog_kind kind, const char *text) {
    const struct backlog_item item = {.kind = kind, .len = strlen(text)};
    assert_int_equal(backlog_add_first(backlog, &item, text), CHAT_OK);
}

/* The texts are these, first to last; they are taken off. */
static void assert_texts(struct backlog *backlog, const char *const *texts) {
    for (; *texts; texts++) {
        assert_non_null(backlog->first);
        assert_string_equal(backlog->first->text, *texts);
        backlog_pop(backlog);
    }
    assert_null(backlog->first);
    assert_int_equal(backlog->bytes, 0);
    backlog_pop(backlog);
}

static void test_order(void **state) {
    struct backlog backlog = {0};
    (void)state;
    add(&backlog, BACKLOG_FRAME, "1");
    add(&backlog, BACKLOG_FRAME, "2");
    add(&backlog, BACKLOG_REFUSAL, "3");
    add(&backlog, BACKLOG_FAILURE, "b"); /* older than these, */
    add(&backlog, BACKLOG_FAILURE, "c"); /* and younger than that */
    add_first(&backlog, BACKLOG_REFUSAL, "a");
    add(&backlog, BACKLOG_FRAME, "4");
    assert_texts(&backlog, (const char *const[]){"a", "b", "c", "1", "2", "3", "4", NULL});
    add(&backlog, BACKLOG_FAILURE, "b");
    add(&backlog, BACKLOG_FAILURE, "c");
    assert_texts(&backlog, (const char *const[]){"b", "c", NULL});
}

/* What an item says is kept; its text is a copy, of its length, with whatever is in it. */
static void test_items(void **state) {
    struct backlog backlog = {0};
    char text[] = "a\0b?";
    const struct backlog_item item = {
        .refusal = REFUSED_RATE, .is_counted = true, .came_ms = 77, .len = 3};
    (void)state;
    assert_int_equal(backlog_add(&backlog, &item, text), CHAT_OK);
    memset(text, '!', sizeof(text));
    assert_memory_equal(backlog.first->text, "a\0b", 4);
    assert_int_equal(backlog.first->len, 3);
    assert_int_equal(backlog.first->refusal, REFUSED_RATE);
    assert_true(backlog.first->is_counted);
    assert_int_equal(backlog.first->came_ms, 77);
    backlog_clear(&backlog);
    assert_null(backlog.first);
}

/* Even what has no text costs memory, and is counted. */
static void test_bytes(void **state) {
    struct backlog backlog = {0};
    (void)state;
    add(&backlog, BACKLOG_FRAME, "");
    size_t least = backlog.bytes;
    assert_true(least >= sizeof(struct backlog_item));
    add(&backlog, BACKLOG_FRAME, "12345");
    assert_int_equal(backlog.bytes, 2 * least + 5);
    backlog_pop(&backlog);
    assert_int_equal(backlog.bytes, least + 5);
    backlog_clear(&backlog);
    assert_int_equal(backlog.bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
