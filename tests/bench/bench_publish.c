/*
 * bench_publish.c: what one message costs on its way into the chat, with the log in memory, before
 * it is sent to anybody: from the text of its frame to the log (parse, validate, rate limits,
 * encode, append), and from the log to the ring and the history. Each figure is CPU time, the
 * median of ROUNDS rounds. A message that is not accepted ends the program: what is refused costs
 * less.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ws-broker/admission.h"
#include "ws-broker/chat.h"
#include "ws-broker/conn.h"
#include "ws-broker/dispatch.h"
#include "ws-broker/fanout.h"

enum { ROUNDS = 15, TURNS = 400, MESSAGES = 64 /* in one turn of the loop */, GOAL_US = 8 };

static struct chat chat;
static uint64_t accepted; /* messages, up to the ring and the history */

static void must(bool done) {
    if (!done)
        abort();
}

static bool is_choked(void *peer) {
    (void)peer;
    return false;
}

static int write_nothing(void *peer, const uint8_t *bytes, size_t len) {
    (void)peer;
    (void)bytes;
    (void)len;
    return 0;
}

static void ignore(void *peer) {
    (void)peer;
}

static void ignore_reading(void *peer, bool on) {
    (void)peer;
    (void)on;
}

static void on_entry(void *user, const char *json, size_t len, bool is_new) {
    accepted++;
    chat_entry(user, json, len, is_new);
}

static void on_appended(void *user, uint64_t tag, int status) {
    chat_appended(user, tag, status);
}

static void close_conn(void *user, struct conn *conn, int code) {
    (void)user;
    (void)conn;
    (void)code;
    abort();
}

static double used_us(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec * 1e6 + (double)used.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void turn(void) {
    bool more;
    do
        more = chatlog_turn(chat.log, fanout_room(chat.fanout));
    while (fanout_turn_end(chat.fanout, chat.time.now_ms) != FANOUT_QUIET || more);
}

static double median(double values[ROUNDS]) {
    qsort(values, ROUNDS, sizeof(*values), compare);
    return values[ROUNDS / 2];
}

static void bench(struct conn *conn, const char *what, size_t text_len) {
    char text[4096];
    double append_us[ROUNDS], turn_us[ROUNDS];
    uint64_t before = accepted;
    char *filler = malloc(text_len + 1);
    must(filler != NULL);
    memset(filler, 'x', text_len);
    filler[text_len] = '\0';
    int len =
        snprintf(text, sizeof(text),
                 "{\"action\":\"message\",\"message\":\"%s\",\"channel\":\"General\"}", filler);
    free(filler);
    for (int i = 0; i < ROUNDS; i++) {
        append_us[i] = turn_us[i] = 0;
        for (int j = 0; j < TURNS; j++) {
            chat.time.now_ms++;
            double began = used_us();
            for (int k = 0; k < MESSAGES; k++)
                dispatch_text(&chat, conn, text, (size_t)len);
            double appended = used_us();
            turn();
            append_us[i] += appended - began;
            turn_us[i] += used_us() - appended;
        }
        append_us[i] /= TURNS * MESSAGES;
        turn_us[i] /= TURNS * MESSAGES;
    }
    must(accepted - before == ROUNDS * TURNS * MESSAGES);
    printf("%-18s %14.2f %14.2f %8d\n", what, median(append_us), median(turn_us), GOAL_US);
}

int main(void) {
    static const struct fanout_sink sink = {is_choked, write_nothing, ignore, ignore_reading,
                                            ignore};
    static const struct chatlog_events events = {on_entry, on_appended, ignore, NULL};
    static const char login[] = "{\"action\":\"login\",\"token\":\"Hero\"}";
    static struct admission admission = {.max_clients = 10};
    static struct conn conn;
    chat = (struct chat){
        .proto = proto_new(PROTO_CHAT, 2048),
        .fanout = fanout_new(FANOUT_RING_BYTES, 0, &sink),
        .history = history_new(100),
        .log = chatlog_memory_new(&events, &chat),
        .identity = identity_dev(),
        .admission = &admission,
        .frame_rate = {.per_second = 1000000, .burst = 1000000},
        .message_rate = {.per_second = 1000000, .burst = 1000000},
        .login_timeout_ms = 120000,
        .login_attempts = 5,
        .time = {.now_ms = 1000, .unix_s = 1666259380},
        .close = close_conn,
        .user = &chat,
    };
    must(chat.proto && chat.fanout && chat.history && chat.log);
    conn_init(&conn, 1);
    chat_open(&chat, &conn);
    dispatch_text(&chat, &conn, login, strlen(login));
    turn();
    must(conn.state == CONN_LOGGED_IN);
    printf("%-18s %14s %14s %8s\n", "CPU us per message", "text to log", "log to ring", "goal");
    bench(&conn, "80 bytes of text", 80);
    bench(&conn, "2000 bytes of text", 2000);
    return 0;
}
