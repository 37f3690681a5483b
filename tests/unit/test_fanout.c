/*
 * fanout.h: what each client is sent, and when. The sink is made of peers that record every byte
 * and can be choked, die or fall behind; the last tests compare each peer's stream with the one
 * that a simple model expects.
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
#include "ws-broker/fanout.h"

enum {
    RING = 64 << 10, /* the smallest */
    FRAME_MAX = RING / 8,
    PEERS = 40,
};

/* ---- the sink ---- */

/* A client and its socket. */
struct peer {
    struct fanout_client client;
    uint8_t *got; /* all bytes written to it */
    size_t len, capacity;
    unsigned writes;
    size_t longest_write;
    bool choked;        /* its socket is full */
    size_t choke_after; /* bytes that it takes before it chokes; 0: any number */
    bool dies;          /* its next write fails */
    bool dead;          /* and has failed */
    bool keeps_place;   /* on_slow does not drop it */
    bool wants_writable, reading;
    unsigned slow, read_changes;
};

static struct fanout *fanout;
static struct peer peers[PEERS];

static bool is_choked(void *user) {
    return ((struct peer *)user)->choked;
}

static int write_bytes(void *user, const uint8_t *bytes, size_t len) {
    struct peer *peer = user;
    assert_false(peer->choked); /* never into a full socket */
    assert_int_equal(peer->slow, 0);
    assert_true(len > 0);
    peer->writes++;
    assert_false(peer->dead);
    if (peer->dies) {
        peer->dead = true;
        return CHAT_EUNAVAILABLE;
    }
    if (peer->len + len > peer->capacity) {
        peer->capacity = 2 * (peer->len + len);
        peer->got = realloc(peer->got, peer->capacity);
        assert_non_null(peer->got);
    }
    memcpy(peer->got + peer->len, bytes, len);
    peer->len += len;
    if (len > peer->longest_write)
        peer->longest_write = len;
    if (peer->choke_after > 0) {
        peer->choked = len >= peer->choke_after;
        peer->choke_after -= peer->choked ? peer->choke_after : len;
    }
    return CHAT_OK;
}

static void want_writable(void *user) {
    ((struct peer *)user)->wants_writable = true;
}

static void set_reading(void *user, bool on) {
    struct peer *peer = user;
    assert_true(peer->reading != on); /* told changes only */
    peer->reading = on;
    peer->read_changes++;
}

static void on_slow(void *user) {
    struct peer *peer = user;
    peer->slow++;
    if (!peer->keeps_place)
        fanout_drop(fanout, &peer->client);
}

static const struct fanout_sink sink = {is_choked, write_bytes, want_writable, set_reading,
                                        on_slow};

static int make_fanout_every(int interval_ms) {
    fanout = fanout_new(RING, interval_ms, &sink);
    for (int i = 0; i < PEERS; i++) {
        peers[i] = (struct peer){.reading = true};
        fanout_client_init(&peers[i].client, &peers[i]);
    }
    return fanout ? 0 : -1;
}

static int make_fanout(void **state) {
    (void)state;
    return make_fanout_every(0);
}

static int make_fanout_100ms(void **state) {
    (void)state;
    return make_fanout_every(100);
}

static int free_fanout(void **state) {
    (void)state;
    for (int i = 0; i < PEERS; i++) {
        fanout_drop(fanout, &peers[i].client);
        free(peers[i].got);
    }
    assert_int_equal(fanout_joined(fanout), 0);
    fanout_free(fanout);
    return 0;
}

/* ---- words of the tests ---- */

static void join(struct peer *peer) {
    assert_int_equal(fanout_join(fanout, &peer->client), CHAT_OK);
}

static void broadcast(const char *text) {
    assert_int_equal(fanout_append(fanout, text, strlen(text)), CHAT_OK);
}

static void broadcast_bytes(size_t frame_len) {
    static const char zeros[FRAME_MAX];
    assert_true(frame_len >= 130 && frame_len <= FRAME_MAX); /* the header has 4 bytes */
    assert_int_equal(fanout_append(fanout, zeros, frame_len - 4), CHAT_OK);
}

static void reply_bytes(struct peer *peer, const char *text, size_t len) {
    char *buffer = malloc(FANOUT_REPLY_HEADROOM + len);
    assert_non_null(buffer);
    if (text)
        memcpy(buffer + FANOUT_REPLY_HEADROOM, text, len);
    fanout_reply(fanout, &peer->client, buffer, len);
}

static void reply(struct peer *peer, const char *text) {
    reply_bytes(peer, text, strlen(text));
}

/* A reply that makes a frame of `frame_len` bytes. */
static void reply_frame(struct peer *peer, size_t frame_len) {
    size_t header_len = frame_len <= 127 ? 2 : frame_len <= UINT16_MAX + 4 ? 4 : 10;
    char *buffer = malloc(FANOUT_REPLY_HEADROOM + frame_len - header_len);
    assert_non_null(buffer);
    fanout_reply(fanout, &peer->client, buffer, frame_len - header_len);
}

/* Loop turns, without anything new between them, until nothing is pending. */
static void settle(int64_t now_ms) {
    for (int turn = 0; turn < 10; turn++)
        if (fanout_turn_end(fanout, now_ms) == FANOUT_QUIET)
            return;
    fail_msg("still pending after 10 quiet turns");
}

/* The socket has room again. */
static void unchoke(struct peer *peer) {
    peer->choked = false;
    if (peer->wants_writable) {
        peer->wants_writable = false;
        fanout_writable(fanout, &peer->client);
    }
}

static void unchoke_until_done(struct peer *peer) {
    do
        unchoke(peer);
    while (peer->wants_writable);
}

/* Reads one frame at `at`; returns its payload and sets *len. Only whole text frames are sent. */
static const uint8_t *payload_at(const struct peer *peer, size_t at, size_t *len) {
    const uint8_t *bytes = peer->got + at;
    size_t left = peer->len - at, header_len = 2;
    assert_true(left >= 2);
    assert_int_equal(bytes[0], 0x81);
    *len = bytes[1];
    if (bytes[1] == 126) {
        assert_true(left >= 4);
        *len = (size_t)(bytes[2] << 8 | bytes[3]);
        header_len = 4;
    } else if (bytes[1] == 127) {
        assert_true(left >= 10);
        *len = 0;
        for (int i = 2; i < 10; i++)
            *len = *len << 8 | bytes[i];
        header_len = 10;
    }
    assert_true(left - header_len >= *len);
    return bytes + header_len;
}

/* What the peer got since it was last asked, as "one two three". */
static void check_got(struct peer *peer, const char *want) {
    char texts[1024] = "";
    size_t used = 0, len = 0;
    for (size_t at = 0; at < peer->len;) {
        const uint8_t *payload = payload_at(peer, at, &len);
        assert_true(used + len + 2 < sizeof(texts));
        used += (size_t)snprintf(texts + used, sizeof(texts) - used, "%s%.*s", used ? " " : "",
                                 (int)len, (const char *)payload);
        at = (size_t)(payload + len - peer->got);
    }
    assert_string_equal(texts, want);
    peer->len = 0;
}

/* ---- order ---- */

static void test_broadcast_reaches_all_joined(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    broadcast("a");
    broadcast("b");
    check_got(&peers[0], ""); /* nothing is sent by append */
    settle(0);
    check_got(&peers[0], "a b");
    check_got(&peers[1], "a b");
    check_got(&peers[2], "");
    assert_int_equal(peers[0].writes, 1); /* in one span */
}

static void test_nothing_to_do(void **state) {
    (void)state;
    join(&peers[0]);
    assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_QUIET);
    assert_int_equal(fanout_turn_end(fanout, 1), FANOUT_QUIET);
    assert_int_equal(peers[0].writes, 0);
    fanout_writable(fanout, &peers[0].client); /* a writeable event that nobody asked for */
    assert_int_equal(peers[0].writes, 0);
}

static void test_reply_without_joining(void **state) {
    (void)state;
    broadcast("a");
    reply(&peers[0], "1");
    reply(&peers[0], "2");
    assert_false(fanout_is_done(&peers[0].client));
    assert_int_equal(peers[0].writes, 0); /* nothing is sent by reply */
    settle(0);
    check_got(&peers[0], "1 2");
    assert_true(fanout_is_done(&peers[0].client));
}

static void test_empty_texts(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("");
    reply(&peers[0], "");
    settle(0);
    assert_int_equal(peers[0].len, 4);
    assert_memory_equal(peers[0].got, "\x81\x00\x81\x00", 4);
}

static void test_reply_keeps_its_place(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    broadcast("a");
    reply(&peers[0], "1");
    broadcast("b");
    broadcast("c");
    reply(&peers[0], "2");
    reply(&peers[0], "3");
    broadcast("d");
    settle(0);
    check_got(&peers[0], "a 1 b c 2 3 d");
    check_got(&peers[1], "a b c d");
}

static void test_reply_keeps_its_place_in_a_choked_client(void **state) {
    (void)state;
    join(&peers[0]);
    peers[0].choked = true;
    broadcast("a");
    settle(0);
    reply(&peers[0], "1");
    settle(0);
    broadcast("b");
    settle(0);
    reply(&peers[0], "2");
    settle(0);
    broadcast("c");
    settle(0);
    check_got(&peers[0], "");
    unchoke_until_done(&peers[0]);
    check_got(&peers[0], "a 1 b 2 c");
}

/* A reply goes out with its turn; a flush that still waits does not hold it back. */
static void test_reply_does_not_wait(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    broadcast("a");
    reply(&peers[0], "1");
    broadcast("b");
    assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_AGAIN);
    check_got(&peers[0], "a 1 b");
    check_got(&peers[1], "");
    settle(0);
    check_got(&peers[0], "");
    check_got(&peers[1], "a b");
}

static void test_payload_sizes(void **state) {
    static const size_t lens[] = {0, 1, 125, 126, 127, 4000, FRAME_MAX - 4};
    static char text[FRAME_MAX];
    (void)state;
    memset(text, 'x', sizeof(text));
    join(&peers[0]);
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        assert_int_equal(fanout_append(fanout, text, lens[i]), CHAT_OK);
        reply_bytes(&peers[0], text, lens[i]);
    }
    settle(0);
    size_t at = 0, len = 0;
    for (size_t i = 0; i < 2 * sizeof(lens) / sizeof(*lens); i++) {
        const uint8_t *payload = payload_at(&peers[0], at, &len);
        assert_int_equal(len, lens[i / 2]);
        assert_memory_equal(payload, text, len);
        at = (size_t)(payload + len - peers[0].got);
    }
    assert_int_equal(at, peers[0].len);
}

/* A history reply may be larger than 64 KB: the third form of header. */
static void test_large_reply(void **state) {
    static char text[100000];
    size_t len = 0;
    (void)state;
    memset(text, 'x', sizeof(text));
    reply_bytes(&peers[0], text, sizeof(text));
    settle(0);
    const uint8_t *payload = payload_at(&peers[0], 0, &len);
    assert_int_equal(len, sizeof(text));
    assert_memory_equal(payload, text, len);
    assert_int_equal(peers[0].len, sizeof(text) + 10);
    assert_true(peers[0].reading); /* over the bound for a moment, and out again */
}

static void test_append_refuses_too_large(void **state) {
    static const char zeros[FRAME_MAX];
    (void)state;
    join(&peers[0]);
    assert_int_equal(fanout_append(fanout, zeros, FRAME_MAX - 3), CHAT_ERANGE);
    assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_QUIET);
    assert_int_equal(fanout_append(fanout, zeros, FRAME_MAX - 4), CHAT_OK);
    settle(0);
    assert_int_equal(peers[0].len, FRAME_MAX);
}

/* ---- who gets what ---- */

static void test_join_begins_with_the_next(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    join(&peers[1]); /* the flush of "a" is still to come */
    broadcast("b");
    settle(0);
    check_got(&peers[0], "a b");
    check_got(&peers[1], "b");
}

static void test_join_twice(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    join(&peers[0]);
    assert_int_equal(fanout_joined(fanout), 1);
    settle(0);
    check_got(&peers[0], "a"); /* its place was kept */
}

static void test_leave_ends_broadcasts_not_replies(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    settle(0);
    broadcast("b");
    reply(&peers[0], "1");
    fanout_leave(fanout, &peers[0].client);
    broadcast("c");
    reply(&peers[0], "2");
    settle(0);
    check_got(&peers[0], "a 1 2");
    fanout_leave(fanout, &peers[0].client); /* not joined: nothing */
    assert_int_equal(fanout_joined(fanout), 0);
}

static void test_end_gives_what_was_until_then(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    reply(&peers[0], "1");
    broadcast("b");
    fanout_end(fanout, &peers[0].client);
    broadcast("c");
    fanout_end(fanout, &peers[0].client); /* the first one stands */
    assert_false(fanout_is_done(&peers[0].client));
    settle(0);
    check_got(&peers[0], "a 1 b");
    assert_true(fanout_is_done(&peers[0].client));
    assert_int_equal(fanout_joined(fanout), 0);
    broadcast("d");
    settle(0);
    check_got(&peers[0], "");
}

static void test_end_of_who_is_up_to_date_or_never_joined(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    settle(0);
    fanout_end(fanout, &peers[0].client);
    fanout_end(fanout, &peers[1].client);
    assert_true(fanout_is_done(&peers[1].client));
    settle(0);
    check_got(&peers[0], "a");
    assert_true(fanout_is_done(&peers[0].client));
}

static void test_end_of_a_choked_client(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    peers[0].choked = true;
    broadcast("a");
    settle(0);
    fanout_end(fanout, &peers[0].client);
    broadcast("b");
    settle(0);
    assert_false(fanout_is_done(&peers[0].client));
    unchoke_until_done(&peers[0]);
    check_got(&peers[0], "a");
    check_got(&peers[1], "a b");
    assert_true(fanout_is_done(&peers[0].client));
    assert_int_equal(fanout_joined(fanout), 1);
}

static void test_leave_and_join_again(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    fanout_leave(fanout, &peers[0].client);
    broadcast("b");
    join(&peers[0]);
    broadcast("c");
    settle(0);
    check_got(&peers[0], "c");
}

static void test_drop_forgets_all(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    broadcast("a");
    reply(&peers[0], "1");
    fanout_drop(fanout, &peers[0].client);
    assert_true(fanout_is_done(&peers[0].client));
    assert_int_equal(fanout_joined(fanout), 1);
    reply(&peers[0], "2"); /* freed, not sent */
    fanout_drop(fanout, &peers[0].client);
    settle(0);
    assert_int_equal(peers[0].writes, 0);
    check_got(&peers[1], "a");
}

/* A choked client is dropped while its writeable event is on the way. */
static void test_drop_while_choked(void **state) {
    (void)state;
    join(&peers[0]);
    peers[0].choked = true;
    broadcast("a");
    settle(0);
    assert_true(peers[0].wants_writable);
    fanout_drop(fanout, &peers[0].client);
    unchoke(&peers[0]);
    assert_int_equal(peers[0].writes, 0);
}

/* Whoever leaves, in whatever order, the others get everything once. */
static void test_leave_in_every_order(void **state) {
    (void)state;
    for (int order = 0; order < 120; order++) {
        bool gone[5] = {false};
        for (int i = 0; i < 5; i++)
            join(&peers[i]);
        int code = order;
        for (int left = 5; left > 0; left--) {
            int nth = code % left, who = 0;
            code /= left;
            while (gone[who] || nth-- > 0)
                who++;
            broadcast("x");
            gone[who] = true;
            fanout_leave(fanout, &peers[who].client);
            assert_int_equal(fanout_joined(fanout), left - 1);
            settle(0);
            for (int i = 0; i < 5; i++)
                check_got(&peers[i], gone[i] ? "" : "x");
        }
    }
}

static void test_dead_peer_gets_nothing_more(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    peers[0].dies = true;
    reply(&peers[0], "1");
    reply(&peers[0], "2");
    broadcast("a");
    settle(0);
    broadcast("b");
    reply(&peers[0], "3");
    settle(0);
    fanout_writable(fanout, &peers[0].client);
    assert_int_equal(peers[0].writes, 1);
    check_got(&peers[1], "a b");
}

/* ---- choked and slow clients ---- */

static void test_choked_client_costs_others_nothing(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    peers[0].choked = true;
    for (int i = 0; i < 5; i++) {
        broadcast("x");
        settle(0);
    }
    check_got(&peers[0], "");
    check_got(&peers[1], "x x x x x");
    unchoke_until_done(&peers[0]);
    check_got(&peers[0], "x x x x x");
    broadcast("y"); /* and is one of those that keep up again */
    settle(0);
    check_got(&peers[0], "y");
}

/* A writeable event may come although the socket is still full. */
static void test_writable_but_still_choked(void **state) {
    (void)state;
    join(&peers[0]);
    peers[0].choked = true;
    broadcast("a");
    settle(0);
    peers[0].wants_writable = false;
    fanout_writable(fanout, &peers[0].client);
    assert_int_equal(peers[0].writes, 0);
    assert_true(peers[0].wants_writable); /* asked again */
    unchoke_until_done(&peers[0]);
    check_got(&peers[0], "a");
}

static void test_chokes_between_two_pieces(void **state) {
    (void)state;
    join(&peers[0]);
    peers[0].choke_after = 1;
    broadcast("a");
    reply(&peers[0], "1");
    broadcast("b");
    settle(0);
    check_got(&peers[0], "a");
    assert_true(peers[0].wants_writable);
    unchoke_until_done(&peers[0]);
    check_got(&peers[0], "1 b");
}

/* Who keeps up gets up to 64 KB at once, who was choked at most 16 KB a time. */
static void test_length_of_writes(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    peers[1].choked = true;
    for (int i = 0; i < 15; i++) /* 60 KB; the quarter that a flush may have pending goes at once */
        broadcast_bytes(4 << 10);
    settle(0);
    assert_int_equal(peers[0].len, 60 << 10);
    assert_int_equal(peers[0].writes, 1);
    unchoke_until_done(&peers[1]);
    assert_int_equal(peers[1].len, 60 << 10);
    assert_int_equal(peers[1].writes, 4);
    assert_int_equal(peers[1].longest_write, FANOUT_SPAN_CHOKED);
}

static void test_lag_beyond_the_ring(void **state) {
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    peers[0].choked = true;
    reply(&peers[0], "1");
    for (int i = 0; i < 9; i++) {
        broadcast_bytes(FRAME_MAX);
        settle(0);
    }
    broadcast("x");
    settle(0);
    assert_int_equal(peers[0].slow, 1); /* at once: its socket may never take a byte again */
    assert_int_equal(fanout_joined(fanout), 1);
    unchoke(&peers[0]);
    assert_int_equal(peers[0].writes, 0);
    broadcast("y");
    reply(&peers[0], "2");
    settle(0);
    unchoke(&peers[0]);
    assert_int_equal(peers[0].slow, 1); /* told once */
    assert_int_equal(peers[0].writes, 0);
    assert_int_equal(peers[1].len, 9 * FRAME_MAX + 6);
}

/* The ring holds exactly so much, and a client that lags by it loses nothing. */
static void test_lag_of_a_whole_ring(void **state) {
    (void)state;
    join(&peers[0]);
    peers[0].choked = true;
    for (int i = 0; i < 8; i++) {
        broadcast_bytes(FRAME_MAX);
        settle(0);
    }
    unchoke_until_done(&peers[0]);
    assert_int_equal(peers[0].slow, 0);
    assert_int_equal(peers[0].len, RING);
}

/* A reply that waits for its turn does not save a client that lost its place. */
static void test_lag_before_a_reply(void **state) {
    (void)state;
    join(&peers[0]);
    peers[0].choked = true;
    broadcast("lost");
    reply(&peers[0], "1");
    settle(0);
    for (int i = 0; i < 9; i++) {
        broadcast_bytes(FRAME_MAX);
        settle(0);
    }
    unchoke(&peers[0]);
    assert_int_equal(peers[0].slow, 1);
    assert_int_equal(peers[0].writes, 0);
}

/* Clients that keep up and yet lag too far: a turn brought more than there was fanout_room(). All
 * leave during one flush. */
static void test_all_fall_behind_in_one_flush(void **state) {
    (void)state;
    for (int i = 0; i < PEERS; i++) {
        join(&peers[i]);
        peers[i].keeps_place = i % 3 == 0; /* on_slow may drop, or leave that for later */
    }
    for (int i = 0; i < 10; i++)
        broadcast_bytes(FRAME_MAX);
    settle(0);
    for (int i = 0; i < PEERS; i++) {
        assert_int_equal(peers[i].slow, 1);
        assert_int_equal(peers[i].writes, 0);
    }
    assert_int_equal(fanout_joined(fanout), 0);
}

/* During one flush some fall behind, some die, some choke: all others are served once. */
static void test_flush_with_losses(void **state) {
    (void)state;
    for (int i = 0; i < PEERS / 2; i++) {
        join(&peers[i]);
        peers[i].choked = i % 2 == 0;
    }
    for (int i = 0; i < 5; i++) {
        broadcast_bytes(FRAME_MAX);
        settle(0);
    }
    for (int i = PEERS / 2; i < PEERS; i++) {
        join(&peers[i]);
        peers[i].dies = i % 3 == 0;
        peers[i].choked = i % 3 == 1;
    }
    for (int i = 0; i < PEERS; i++)
        peers[i].len = 0;
    for (int i = 0; i < 4; i++)
        broadcast_bytes(FRAME_MAX);
    settle(0);
    for (int i = 0; i < PEERS; i++) {
        bool behind = i < PEERS / 2 && i % 2 == 0, dead = i >= PEERS / 2 && i % 3 == 0;
        if (peers[i].choked)
            unchoke_until_done(&peers[i]);
        assert_int_equal(peers[i].slow, behind);
        assert_int_equal(peers[i].len, behind || dead ? 0 : 4 * FRAME_MAX);
    }
}

/* ---- replies are bounded ---- */

static void test_reading_stops_and_resumes(void **state) {
    (void)state;
    enum { KB = 1 << 10, COUNT = FANOUT_REPLY_PAUSE / KB };
    peers[0].choked = true;
    for (int i = 0; i < COUNT; i++)
        reply_frame(&peers[0], KB);
    assert_true(peers[0].reading); /* the bound is reached, not passed */
    reply_frame(&peers[0], 2);
    assert_false(peers[0].reading);
    settle(0);
    reply_frame(&peers[0], KB);
    settle(0);
    assert_int_equal(peers[0].read_changes, 1);

    /* Until it is half empty again. */
    unchoke(&peers[0]);
    size_t queued = COUNT * KB + 2 + KB;
    while (peers[0].len < queued) {
        assert_int_equal(peers[0].reading, queued - peers[0].len <= FANOUT_REPLY_PAUSE / 2);
        unchoke(&peers[0]);
    }
    assert_int_equal(peers[0].read_changes, 2);
    assert_int_equal(peers[0].len, queued);
}

/* When all clients together have too much queued, any queued reply stops the reading. */
static void test_total_of_replies(void **state) {
    (void)state;
    peers[0].choked = peers[1].choked = true;
    reply_frame(&peers[0], FANOUT_REPLY_TOTAL - 2);
    assert_false(fanout_replies_full(fanout));
    reply_frame(&peers[0], 2);
    assert_true(fanout_replies_full(fanout));
    assert_false(peers[0].reading);

    reply(&peers[1], "1");
    assert_false(peers[1].reading);
    settle(0);
    unchoke_until_done(&peers[1]);
    check_got(&peers[1], "1");
    assert_true(peers[1].reading); /* has none queued any more */

    assert_true(fanout_replies_full(fanout));
    fanout_drop(fanout, &peers[0].client);
    assert_false(fanout_replies_full(fanout));
    peers[1].choked = true;
    reply(&peers[1], "2");
    assert_true(peers[1].reading);
}

/* Those that stopped only because of the total go on reading once they are served. */
static void test_total_is_passed_by_another(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++)
        peers[i].choked = true;
    reply_frame(&peers[0], FANOUT_REPLY_TOTAL);
    reply(&peers[1], "1");
    reply(&peers[1], "2");
    settle(0);
    assert_false(peers[1].reading);
    fanout_drop(fanout, &peers[0].client);
    unchoke(&peers[1]);
    assert_true(peers[1].reading);
    unchoke_until_done(&peers[1]);
    check_got(&peers[1], "1 2");
}

/* ---- when a flush happens ---- */

static void test_flush_waits_for_quiet(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_AGAIN);
    check_got(&peers[0], "");
    assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_QUIET); /* a turn without news */
    check_got(&peers[0], "a");
    assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_QUIET);
    assert_int_equal(peers[0].writes, 1);
}

static void test_flush_waits_so_many_turns(void **state) {
    (void)state;
    join(&peers[0]);
    for (int round = 0; round < 3; round++) {
        for (int turn = 0; turn < FANOUT_QUIET_TURNS; turn++) {
            broadcast("x");
            assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_AGAIN);
            check_got(&peers[0], "");
        }
        broadcast("y");
        assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_QUIET);
        check_got(&peers[0], "x x x y");
    }
}

static void test_quarter_of_the_ring_flushes_at_once(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast_bytes(FRAME_MAX);
    assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_AGAIN);
    broadcast_bytes(FRAME_MAX);
    assert_int_equal(fanout_turn_end(fanout, 0), FANOUT_QUIET);
    assert_int_equal(peers[0].len, 2 * FRAME_MAX);
}

/* The interval holds from one flush to the next; after a long pause there is no delay. */
static void test_flush_interval(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    settle(1000);
    check_got(&peers[0], "a");

    broadcast("b");
    assert_int_equal(fanout_turn_end(fanout, 1001), 99);
    broadcast("c");
    assert_int_equal(fanout_turn_end(fanout, 1099), 1);
    check_got(&peers[0], "");
    settle(1100);
    check_got(&peers[0], "b c");

    assert_int_equal(fanout_turn_end(fanout, 1150), FANOUT_QUIET);
    broadcast("d");
    settle(1200);
    check_got(&peers[0], "d");
}

/* The loop's clock may begin at 0: the first flush has none before it to keep its distance from. */
static void test_interval_before_the_first_flush(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    settle(1);
    check_got(&peers[0], "a");
}

static void test_interval_does_not_hold_a_quarter(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    settle(1000);
    peers[0].len = 0;
    broadcast_bytes(FRAME_MAX);
    assert_int_equal(fanout_turn_end(fanout, 1001), 99);
    broadcast_bytes(FRAME_MAX);
    assert_int_equal(fanout_turn_end(fanout, 1002), FANOUT_QUIET);
    assert_int_equal(peers[0].len, 2 * FRAME_MAX);
}

static void test_interval_does_not_hold_replies(void **state) {
    (void)state;
    join(&peers[0]);
    broadcast("a");
    settle(1000);
    broadcast("b");
    reply(&peers[0], "1");
    assert_int_equal(fanout_turn_end(fanout, 1001), 99);
    check_got(&peers[0], "a b 1");
}

/* Room shrinks with what is pending, and a flush gives it back. */
static void test_room(void **state) {
    (void)state;
    join(&peers[0]);
    size_t room = fanout_room(fanout);
    assert_in_range(room, 1, RING / 4);
    broadcast_bytes(1000);
    assert_int_equal(fanout_room(fanout), room - 1000);
    broadcast_bytes(FRAME_MAX);
    broadcast_bytes(FRAME_MAX);
    assert_int_equal(fanout_room(fanout), 0);
    settle(0);
    assert_int_equal(fanout_room(fanout), room);
}

/* Who appends no more than there is room for, for ever, overruns nobody who keeps up. */
static void test_room_overruns_nobody(void **state) {
    size_t total = 0;
    (void)state;
    join(&peers[0]);
    join(&peers[1]);
    for (int turn = 0; turn < 1000; turn++) {
        peers[1].choked = turn % 2 == 0; /* misses every other turn */
        while (fanout_room(fanout) >= 3000) {
            broadcast_bytes(3000);
            total += 3000;
        }
        fanout_turn_end(fanout, turn);
        if (turn % 2 == 1)
            unchoke_until_done(&peers[1]);
    }
    settle(1000);
    unchoke_until_done(&peers[1]);
    assert_true(total > 3000000);
    assert_int_equal(peers[0].len, total);
    assert_int_equal(peers[1].len, total);
}

/* ---- against a model ---- */

enum { ITEMS_MAX = 20000 };

/* What the model expects one client to get: frames in order. A broadcast is told by its sequence
 * number, a reply by one of its own. */
struct expected {
    struct item {
        uint32_t number;
        uint32_t frame_len;
        bool is_reply;
    } item[ITEMS_MAX];
    size_t count;
    size_t seen;   /* items that the peer has got and that were compared */
    size_t at;     /* in its bytes */
    size_t queued; /* bytes of replies not yet seen */
    bool joined, gone;
};

static struct expected expected[PEERS];
static uint64_t random_state;

static uint32_t random_below(uint32_t n) { /* xorshift: the same everywhere */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 11) % n);
}

static size_t make_text(char *text, const char *what, uint32_t number, size_t len) {
    int used = snprintf(text, 32, "%s%u.", what, number);
    if ((size_t)used > len)
        len = (size_t)used;
    memset(text + used, 'a' + (int)(number % 26), len - (size_t)used);
    return len;
}

static uint32_t frame_len_of(size_t len) {
    return (uint32_t)(len + (len < 126 ? 2 : len < 65536 ? 4 : 10));
}

static void expect(struct expected *want, bool is_reply, uint32_t number, size_t len) {
    assert_true(want->count < ITEMS_MAX);
    want->item[want->count++] = (struct item){number, frame_len_of(len), is_reply};
    if (is_reply)
        want->queued += frame_len_of(len);
}

/* Compares all that the peer has got since the last look with what it should have got. */
static void look(const struct peer *peer, struct expected *want) {
    while (want->at < peer->len) {
        char prefix[32];
        size_t len = 0;
        const uint8_t *payload = payload_at(peer, want->at, &len);
        assert_true(want->seen < want->count);
        const struct item *item = &want->item[want->seen++];
        int used =
            snprintf(prefix, sizeof(prefix), "%c%u.", item->is_reply ? 'r' : 'b', item->number);
        assert_int_equal(frame_len_of(len), item->frame_len);
        assert_memory_equal(payload, prefix, (size_t)used);
        for (size_t i = (size_t)used; i < len; i++)
            if (payload[i] != 'a' + item->number % 26)
                fail_msg("frame %s is damaged at byte %zu", prefix, i);
        if (item->is_reply)
            want->queued -= item->frame_len;
        want->at += item->frame_len;
    }
    /* Reading stops above the bound, is on again at half of it, between both is as it was. */
    if (!want->gone && want->queued > FANOUT_REPLY_PAUSE)
        assert_false(peer->reading);
    if (!want->gone && want->queued <= FANOUT_REPLY_PAUSE / 2)
        assert_true(peer->reading);
}

/* Broadcasts that were not yet given out never will be; only replies are still to come. */
static void expect_no_more_broadcasts(struct expected *want) {
    size_t kept = want->seen;
    for (size_t i = want->seen; i < want->count; i++)
        if (want->item[i].is_reply)
            want->item[kept++] = want->item[i];
    want->count = kept;
    want->joined = false;
}

static void expect_nothing_more(struct expected *want) {
    want->count = want->seen;
    want->joined = false;
    want->gone = true;
}

/* It may be called slow only when it has missed what the ring no longer holds. */
static void check_slow(const struct peer *peer, struct expected *want) {
    size_t lag = 0, frames = 0;
    if (!peer->slow || want->gone)
        return;
    for (size_t i = want->seen; i < want->count; i++)
        if (!want->item[i].is_reply)
            lag += want->item[i].frame_len, frames++;
    assert_true(lag > RING || frames > RING / 64);
    expect_nothing_more(want);
}

/* Compares one peer with its model, and has both forget it when it has gone. */
static void check_peer(struct peer *peer, struct expected *want) {
    look(peer, want);
    check_slow(peer, want);
    if (peer->dead && !want->gone) {
        fanout_drop(fanout, &peer->client);
        expect_nothing_more(want);
    }
}

/* Somebody new in the place of a peer that has gone. */
static void come_again(struct peer *peer, struct expected *want) {
    peer->len = 0;
    peer->choke_after = 0;
    peer->slow = peer->writes = 0;
    peer->choked = peer->dies = peer->dead = peer->wants_writable = false;
    peer->reading = true;
    fanout_client_init(&peer->client, peer);
    want->count = want->seen = want->at = want->queued = 0;
    want->gone = false;
}

static void one_step(int peers_used, uint32_t step, int64_t now_ms) {
    static char text[40000];
    uint32_t who = random_below((uint32_t)peers_used);
    struct peer *peer = &peers[who];
    struct expected *want = &expected[who];
    uint32_t dice = random_below(100);
    size_t len = 0;

    if (dice < 40) {
        len = make_text(text, "b", step, random_below(random_below(20) ? 400 : FRAME_MAX - 8));
        assert_int_equal(fanout_append(fanout, text, len), CHAT_OK);
        for (int i = 0; i < peers_used; i++)
            if (expected[i].joined)
                expect(&expected[i], false, step, len);
    } else if (dice < 55) {
        len = make_text(text, "r", step,
                        random_below(random_below(10) ? 300 : (uint32_t)sizeof(text) - 1));
        reply_bytes(peer, text, len);
        if (!want->gone)
            expect(want, true, step, len);
    } else if (dice < 62) {
        if (want->gone)
            come_again(peer, want);
        join(peer);
        want->joined = true;
    } else if (dice < 63) {
        fanout_leave(fanout, &peer->client);
        expect_no_more_broadcasts(want);
    } else if (dice < 64 && step % 4 == 0) {
        peer->dies = true;
    } else if (dice < 65 && step % 4 == 0) {
        fanout_drop(fanout, &peer->client);
        expect_nothing_more(want);
    } else if (dice < 70) {
        peer->choke_after = 1 + random_below(20000);
    } else if (dice < 85) {
        unchoke(peer);
    } else {
        fanout_turn_end(fanout, now_ms);
    }
}

static void run_model(uint64_t seed, int peers_used, int interval_ms) {
    void *state = NULL;
    random_state = seed;
    memset(expected, 0, sizeof(expected));
    assert_int_equal(make_fanout_every(interval_ms), 0);
    for (uint32_t step = 1; step < 12000; step++) {
        one_step(peers_used, step, step / 10);
        size_t joined = 0;
        for (int i = 0; i < peers_used; i++) {
            check_peer(&peers[i], &expected[i]);
            joined += expected[i].joined;
        }
        assert_int_equal(fanout_joined(fanout), joined);
    }
    /* All sockets empty: now everybody has got everything. */
    settle(100000);
    for (int i = 0; i < peers_used; i++) {
        peers[i].choke_after = 0;
        unchoke_until_done(&peers[i]);
    }
    settle(100001);
    for (int i = 0; i < peers_used; i++) {
        unchoke_until_done(&peers[i]);
        check_peer(&peers[i], &expected[i]);
        assert_int_equal(expected[i].seen, expected[i].count);
    }
    free_fanout(&state);
}

static void test_model(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++)
        run_model(seed * 0x9e3779b97f4a7c15u, seed % 3 == 0 ? PEERS : (int)seed,
                  seed % 4 == 0 ? 20 : 0);
}

#define FANOUT_TEST(test)   cmocka_unit_test_setup_teardown(test, make_fanout, free_fanout)
#define INTERVAL_TEST(test) cmocka_unit_test_setup_teardown(test, make_fanout_100ms, free_fanout)

/* ---- metrics ---- */

/* The value of a sample. */
static unsigned long metric(const char *name) {
    struct metrics metrics = {0};
    size_t len = 0;
    fanout_register_metrics(&metrics);
    char *text = metrics_text(&metrics, &len), line[80];
    snprintf(line, sizeof(line), "\n%s ", name);
    const char *at = strstr(text, line);
    assert_non_null(at);
    unsigned long value = strtoul(at + strlen(line), NULL, 10);
    free(text);
    return value;
}

/* Messages are counted, not spans of them. */
static void test_metrics(void **state) {
    static const char *const names[] = {"hlchat_deliveries_total", "hlchat_sent_bytes_total",
                                        "hlchat_replies_total", "hlchat_flush_messages_sum"};
    unsigned long before[4];
    (void)state;
    for (int i = 0; i < 4; i++)
        before[i] = metric(names[i]);
    join(&peers[0]);
    join(&peers[1]);
    for (int i = 0; i < 5; i++)
        broadcast("text");
    reply(&peers[0], "reply");
    settle(0);
    assert_int_equal(metric(names[0]) - before[0], 10);
    assert_int_equal(metric(names[1]) - before[1], peers[0].len + peers[1].len);
    assert_int_equal(metric(names[2]) - before[2], 1);
    assert_int_equal(metric(names[3]) - before[3], 5);

    peers[0].choked = true;
    reply(&peers[0], "reply");
    settle(0);
    assert_int_equal(metric("hlchat_queued_reply_bytes"), 2 + 5);
    unchoke_until_done(&peers[0]);
    assert_int_equal(metric("hlchat_queued_reply_bytes"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FANOUT_TEST(test_broadcast_reaches_all_joined),
        FANOUT_TEST(test_nothing_to_do),
        FANOUT_TEST(test_reply_without_joining),
        FANOUT_TEST(test_empty_texts),
        FANOUT_TEST(test_reply_keeps_its_place),
        FANOUT_TEST(test_reply_keeps_its_place_in_a_choked_client),
        FANOUT_TEST(test_reply_does_not_wait),
        FANOUT_TEST(test_payload_sizes),
        FANOUT_TEST(test_large_reply),
        FANOUT_TEST(test_append_refuses_too_large),
        FANOUT_TEST(test_join_begins_with_the_next),
        FANOUT_TEST(test_join_twice),
        FANOUT_TEST(test_leave_ends_broadcasts_not_replies),
        FANOUT_TEST(test_end_gives_what_was_until_then),
        FANOUT_TEST(test_end_of_who_is_up_to_date_or_never_joined),
        FANOUT_TEST(test_end_of_a_choked_client),
        FANOUT_TEST(test_leave_and_join_again),
        FANOUT_TEST(test_drop_forgets_all),
        FANOUT_TEST(test_drop_while_choked),
        FANOUT_TEST(test_leave_in_every_order),
        FANOUT_TEST(test_dead_peer_gets_nothing_more),
        FANOUT_TEST(test_choked_client_costs_others_nothing),
        FANOUT_TEST(test_writable_but_still_choked),
        FANOUT_TEST(test_chokes_between_two_pieces),
        FANOUT_TEST(test_length_of_writes),
        FANOUT_TEST(test_lag_beyond_the_ring),
        FANOUT_TEST(test_lag_of_a_whole_ring),
        FANOUT_TEST(test_lag_before_a_reply),
        FANOUT_TEST(test_all_fall_behind_in_one_flush),
        FANOUT_TEST(test_flush_with_losses),
        FANOUT_TEST(test_reading_stops_and_resumes),
        FANOUT_TEST(test_total_of_replies),
        FANOUT_TEST(test_total_is_passed_by_another),
        FANOUT_TEST(test_flush_waits_for_quiet),
        FANOUT_TEST(test_flush_waits_so_many_turns),
        FANOUT_TEST(test_quarter_of_the_ring_flushes_at_once),
        FANOUT_TEST(test_room),
        FANOUT_TEST(test_room_overruns_nobody),
        INTERVAL_TEST(test_flush_interval),
        INTERVAL_TEST(test_interval_before_the_first_flush),
        INTERVAL_TEST(test_interval_does_not_hold_a_quarter),
        INTERVAL_TEST(test_interval_does_not_hold_replies),
        FANOUT_TEST(test_metrics),
        cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
