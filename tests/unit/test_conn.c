/* conn.h: pieces of messages in, whole messages out, and a ceiling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "tests/unit/secret_watch.h"
#include "ws-broker/conn.h"

enum { MAX = 100 };

/* What came up: the last text and how many there were. */
struct heard {
    struct conn conn;
    char text[4 * MAX];
    size_t len;
    unsigned texts;
};

static void on_text(void *user, struct conn *conn, const char *text, size_t len) {
    struct heard *heard = user;
    assert_ptr_equal(conn, &heard->conn);
    assert_true(len <= sizeof(heard->text));
    if (len > 0)
        memcpy(heard->text, text, len);
    heard->len = len;
    heard->texts++;
}

static int make_conn(void **state) {
    struct heard *heard = calloc(1, sizeof(*heard));
    if (!heard)
        return -1;
    conn_init(&heard->conn, 7);
    *state = heard;
    return 0;
}

static int free_conn(void **state) {
    conn_deinit(&((struct heard *)*state)->conn);
    free(*state);
    return 0;
}

/* From memory of just that size, so that a sanitizer sees a read beyond it. */
static int feed(struct heard *heard, const char *bytes, size_t len, bool final) {
    char *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    int status = conn_feed(&heard->conn, copy, len, final, MAX, on_text, heard);
    free(copy);
    return status;
}

static void check_heard(struct heard *heard, unsigned texts, const char *text, size_t len) {
    assert_int_equal(heard->texts, texts);
    assert_int_equal(heard->len, len);
    assert_memory_equal(heard->text, text, len);
}

static const char *message(size_t len) {
    static char text[4 * MAX];
    for (size_t i = 0; i < len; i++)
        text[i] = (char)('a' + i % 26);
    return text;
}

static void test_starts_new(void **state) {
    struct heard *heard = *state;
    assert_int_equal(heard->conn.id, 7);
    assert_int_equal(heard->conn.state, CONN_NEW);
    assert_ptr_equal(heard->conn.out.peer, &heard->conn);
    assert_true(fanout_is_done(&heard->conn.out));
}

/* At 0, 1, the ceiling and one above: whole, in two, and one byte at a time. */
static void test_whole(void **state) {
    static const size_t lens[] = {0, 1, 2, MAX - 1, MAX};
    struct heard *heard = *state;
    for (unsigned i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        assert_int_equal(feed(heard, message(lens[i]), lens[i], true), CHAT_OK);
        check_heard(heard, i + 1, message(lens[i]), lens[i]);
    }
    assert_int_equal(feed(heard, message(MAX + 1), MAX + 1, true), CHAT_ERANGE);
    assert_int_equal(heard->texts, sizeof(lens) / sizeof(*lens));
}

static void test_two_pieces_at_every_place(void **state) {
    struct heard *heard = *state;
    for (unsigned cut = 0; cut <= MAX; cut++) {
        assert_int_equal(feed(heard, message(MAX), cut, false), CHAT_OK);
        assert_int_equal(heard->texts, cut);
        assert_int_equal(feed(heard, message(MAX) + cut, MAX - cut, true), CHAT_OK);
        check_heard(heard, cut + 1, message(MAX), MAX);
    }
}

static void test_byte_by_byte(void **state) {
    static const size_t lens[] = {1, 2, MAX - 1, MAX};
    struct heard *heard = *state;
    for (unsigned i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        for (size_t at = 0; at < lens[i]; at++)
            assert_int_equal(feed(heard, message(lens[i]) + at, 1, at == lens[i] - 1), CHAT_OK);
        check_heard(heard, i + 1, message(lens[i]), lens[i]);
    }
    for (size_t at = 0; at < MAX; at++)
        assert_int_equal(feed(heard, message(MAX) + at, 1, false), CHAT_OK);
    assert_int_equal(feed(heard, "x", 1, true), CHAT_ERANGE);
    assert_int_equal(heard->texts, sizeof(lens) / sizeof(*lens));
}

/* Fragments may be empty, the last one too. */
static void test_empty_pieces(void **state) {
    struct heard *heard = *state;
    assert_int_equal(feed(heard, "", 0, false), CHAT_OK);
    assert_int_equal(feed(heard, "", 0, false), CHAT_OK);
    assert_int_equal(feed(heard, "ab", 2, false), CHAT_OK);
    assert_int_equal(feed(heard, "", 0, false), CHAT_OK);
    assert_int_equal(feed(heard, "", 0, true), CHAT_OK);
    check_heard(heard, 1, "ab", 2);
    assert_int_equal(feed(heard, "", 0, false), CHAT_OK);
    assert_int_equal(feed(heard, "", 0, true), CHAT_OK);
    check_heard(heard, 2, "", 0);
    assert_int_equal(feed(heard, "", 0, false), CHAT_OK);
    assert_int_equal(feed(heard, "cd", 2, true), CHAT_OK);
    check_heard(heard, 3, "cd", 2);
}

/* The ceiling counts all pieces together, and holds before the end is here. */
static void test_too_big_is_known_early(void **state) {
    struct heard *heard = *state;
    assert_int_equal(feed(heard, message(MAX), MAX, false), CHAT_OK);
    assert_int_equal(feed(heard, "x", 1, false), CHAT_ERANGE);
    assert_int_equal(heard->texts, 0);
}

static void test_huge_piece(void **state) {
    struct heard *heard = *state;
    assert_int_equal(feed(heard, "a", 1, false), CHAT_OK);
    assert_int_equal(conn_feed(&heard->conn, "x", SIZE_MAX, true, MAX, on_text, heard),
                     CHAT_ERANGE);
    assert_int_equal(heard->texts, 0);
}

/* What was collected is forgotten with the error, not put before the next message. */
static void test_too_big_is_forgotten(void **state) {
    struct heard *heard = *state;
    assert_int_equal(feed(heard, message(MAX), MAX, false), CHAT_OK);
    assert_int_equal(feed(heard, message(MAX), MAX, true), CHAT_ERANGE);
    assert_int_equal(feed(heard, "next", 4, true), CHAT_OK);
    check_heard(heard, 1, "next", 4);
}

/* The connection goes with half a message: free_conn, and a sanitizer, find nothing left. */
static void test_goes_half_way(void **state) {
    assert_int_equal(feed(*state, "half", 4, false), CHAT_OK);
}

#if defined(__SANITIZE_ADDRESS__)
static void test_secrets_are_wiped(void **state) {
    (void)state;
    print_message("[  SKIPPED ] the address sanitizer owns the allocator\n");
    skip();
}
#else

static void collect(struct heard *heard, const char *piece, size_t len, bool final) {
    assert_int_equal(conn_feed(&heard->conn, piece, len, final, MAX, on_text, heard), CHAT_OK);
}

/* What is collected may hold a token: nothing of it is left, not where it was before it grew
 * either. */
static void test_secrets_are_wiped(void **state) {
    struct heard *heard = *state;
    secret_watch_start("CANARY");
    collect(heard, "CANARY", 6, false);
    for (int i = 0; i < 9; i++)
        collect(heard, "0123456789", 10, i == 8);
    assert_int_equal(heard->texts, 1);
    collect(heard, "CANARY", 6, false);
    assert_int_equal(conn_feed(&heard->conn, "x", MAX, false, MAX, on_text, heard), CHAT_ERANGE);
    collect(heard, "CANARY", 6, false);
    conn_deinit(&heard->conn);
    assert_int_equal(secret_watch_stop(), 0);
}
#endif

#define CONN_TEST(test) cmocka_unit_test_setup_teardown(test, make_conn, free_conn)

int main(void) {
    const struct CMUnitTest tests[] = {
        CONN_TEST(test_starts_new),
        CONN_TEST(test_whole),
        CONN_TEST(test_two_pieces_at_every_place),
        CONN_TEST(test_byte_by_byte),
        CONN_TEST(test_empty_pieces),
        CONN_TEST(test_too_big_is_known_early),
        CONN_TEST(test_huge_piece),
        CONN_TEST(test_too_big_is_forgotten),
        CONN_TEST(test_goes_half_way),
        CONN_TEST(test_secrets_are_wiped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
