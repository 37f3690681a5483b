/*
 * dispatch.h, chat.h and the handlers with their real parts: parser, fan-out, history, users and
 * the log in memory. Only the socket is made up (what is written to a client is kept as texts) and
 * the clock. A test reads like a conversation: say() what a client sends, turn() the loop, hears()
 * what it gets.
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
#include "ws-broker/admission.h"
#include "ws-broker/chat.h"
#include "ws-broker/conn.h"
#include "ws-broker/dispatch.h"
#include "ws-broker/fanout.h"
#include "ws-broker/games.h"

enum { CLIENTS = 4, HISTORY_LIMIT = 5, LOGIN_ATTEMPTS = 5, LOGIN_TIMEOUT_MS = 120000 };

static const int64_t now_s = 1666259380;

struct client {
    struct conn conn;
    char *got; /* bytes of frames */
    size_t len, heard;
    bool choked, unread;
    int close_code;
};

static struct chat chat;
static struct admission admission;
static struct client clients[CLIENTS];
static struct client *const ann = &clients[0], *const bob = &clients[1], *const eve = &clients[2];

/* ---- the made-up socket and its end ---- */

static bool is_choked(void *peer) {
    return ((struct client *)peer)->choked;
}

static int write_bytes(void *peer, const uint8_t *bytes, size_t len) {
    struct client *client = peer;
    client->got = realloc(client->got, client->len + len);
    assert_non_null(client->got);
    memcpy(client->got + client->len, bytes, len);
    client->len += len;
    return CHAT_OK;
}

static void want_writable(void *peer) {
    (void)peer;
}

static void set_reading(void *peer, bool on) {
    if (on)
        chat_replies_read(&chat, &((struct client *)peer)->conn);
}

static void on_slow(void *peer) {
    (void)peer;
    fail_msg("nobody is slow here");
}

static const struct fanout_sink sink = {is_choked, write_bytes, want_writable, set_reading,
                                        on_slow};

/* As ws_close() does it: what was broadcast or queued until now still goes; the first code stands.
 */
static void close_conn(void *user, struct conn *conn, int code) {
    struct client *client = (struct client *)(void *)conn;
    assert_ptr_equal(user, &chat);
    if (client->close_code == 0)
        client->close_code = code;
    conn->state = CONN_CLOSING;
    fanout_end(chat.fanout, &conn->out);
}

static void set_conn_reading(void *user, struct conn *conn, bool on) {
    struct client *client = (struct client *)(void *)conn;
    assert_ptr_equal(user, &chat);
    assert_true(client->unread == on); /* only changes are told */
    client->unread = !on;
}

static void on_entry(void *user, const char *json, size_t len, bool is_new) {
    chat_entry(user, json, len, is_new);
}

static void on_appended(void *user, uint64_t tag, int status) {
    chat_appended(user, tag, status);
}

static void on_pending(void *user) {
    assert_ptr_equal(user, &chat);
}

/* An identity that answers later: chat_identified() is what it says in the end. */
struct slow_identity {
    struct identity base;
    unsigned asked;
    uint64_t forgotten; /* the last connection whose answer is not wanted any more */
};

static bool slow_check(struct identity *base, const struct identity_credentials *credentials,
                       uint64_t conn_id, struct identity_answer *answer) {
    (void)credentials;
    (void)conn_id;
    (void)answer;
    ((struct slow_identity *)base)->asked++;
    return false;
}

static void slow_forget(struct identity *base, uint64_t conn_id) {
    ((struct slow_identity *)base)->forgotten = conn_id;
}

static const struct identity_ops slow_ops = {.check = slow_check, .forget = slow_forget};

static struct slow_identity slow;

/* A log far away: what it has loaded, stored and given back is for the test to say. */
struct far_log {
    struct chatlog base;
    bool is_loaded;
    uint64_t stored, heard;
};

static int far_append(struct chatlog *log, const char *json, size_t len, uint64_t tag) {
    (void)log, (void)json, (void)len, (void)tag;
    return CHAT_OK;
}

static bool far_turn(struct chatlog *log, size_t max_bytes) {
    (void)log, (void)max_bytes;
    return false;
}

static bool far_is_loaded(const struct chatlog *log) {
    return ((const struct far_log *)log)->is_loaded;
}

static uint64_t far_mark(const struct chatlog *log) {
    return ((const struct far_log *)log)->stored;
}

static bool far_is_heard(const struct chatlog *log, uint64_t mark) {
    return ((const struct far_log *)log)->heard >= mark;
}

static void far_free(struct chatlog *log) {
    (void)log;
}

static const struct chatlog_ops far_ops = {.append = far_append,
                                           .turn = far_turn,
                                           .is_loaded = far_is_loaded,
                                           .mark = far_mark,
                                           .is_heard = far_is_heard,
                                           .free = far_free};

static struct far_log far;

static void use_far_log(void) {
    chatlog_free(chat.log);
    far = (struct far_log){.base.ops = &far_ops, .is_loaded = true};
    chat.log = &far.base;
}

/* Games that are decided elsewhere: chat_games_answered() is what is said of them in the end. */
struct far_games {
    struct games base;
    int64_t ticked_ms, asked_ms; /* when it was last told the time, and what it knew when asked */
};

static bool far_ask(struct games *base, const struct games_request *request, uint64_t tag,
                    struct games_answer *answer) {
    struct far_games *games = (struct far_games *)base;
    (void)request, (void)tag, (void)answer;
    games->asked_ms = games->ticked_ms;
    return false;
}

static void far_tick(struct games *base, int64_t now_ms, int64_t unix_s) {
    (void)unix_s;
    ((struct far_games *)base)->ticked_ms = now_ms;
}

static const struct games_ops far_games_ops = {.ask = far_ask, .tick = far_tick};

static struct far_games far_games;

static void open_client(struct client *client, uint64_t id) {
    *client = (struct client){0};
    conn_init(&client->conn, id);
    chat_open(&chat, &client->conn);
}

static int make_chat(void **state) {
    static const struct chatlog_events events = {on_entry, on_appended, on_pending, NULL};
    (void)state;
    admission = (struct admission){.max_clients = 100};
    slow = (struct slow_identity){.base.ops = &slow_ops};
    chat = (struct chat){
        .proto = proto_new(PROTO_CHAT, 2048),
        .fanout = fanout_new(FANOUT_RING_BYTES, 0, &sink),
        .history = history_new(HISTORY_LIMIT),
        .log = chatlog_memory_new(&events, &chat),
        .identity = identity_dev(),
        .admission = &admission,
        .history_max_bytes = SIZE_MAX,
        .login_timeout_ms = LOGIN_TIMEOUT_MS,
        .login_attempts = LOGIN_ATTEMPTS,
        .time = {.now_ms = 1000, .unix_s = now_s},
        .close = close_conn,
        .set_reading = set_conn_reading,
        .user = &chat,
    };
    for (unsigned i = 0; i < CLIENTS; i++)
        open_client(&clients[i], i + 1);
    return chat.proto && chat.fanout && chat.history && chat.log ? 0 : -1;
}

static void goes(struct client *client) {
    if (conns_find(&chat.conns, client->conn.id))
        chat_gone(&chat, &client->conn);
    conn_deinit(&client->conn);
    free(client->got);
    client->got = NULL;
    client->len = client->heard = 0;
}

static int free_chat(void **state) {
    (void)state;
    for (unsigned i = 0; i < CLIENTS; i++)
        goes(&clients[i]);
    assert_int_equal(conns_count(&chat.conns), 0);
    assert_int_equal(users_online(&chat.users), 0);
    chatlog_free(chat.log);
    history_free(chat.history);
    fanout_free(chat.fanout);
    proto_free(chat.proto);
    users_clear(&chat.users);
    admission_clear(&admission);
    return 0;
}

/* ---- words of the conversation ---- */

static void say(struct client *client, const char *text) {
    dispatch_text(&chat, &client->conn, text, strlen(text));
}

/* The end of a loop turn, and as many more as it takes until nothing is pending. */
static void turn(void) {
    bool more;
    do {
        more = chatlog_turn(chat.log, fanout_room(chat.fanout));
        more = chat_turn(&chat) || more;
    } while (fanout_turn_end(chat.fanout, chat.time.now_ms) != FANOUT_QUIET || more ||
             chat_has_work(&chat));
}

/* The next text that the client gets, or "" when there is none; good until the next call. */
static const char *next_text(struct client *client) {
    static char text[70000];
    const uint8_t *frame = (const uint8_t *)client->got + client->heard;
    size_t header = 2, len;
    if (client->heard == client->len)
        return "";
    assert_int_equal(frame[0], 0x81);
    len = frame[1];
    if (len == 126) {
        header = 4;
        len = (size_t)(frame[2] << 8 | frame[3]);
    }
    assert_true(len < 127 || header == 4);
    assert_true(client->heard + header + len <= client->len);
    snprintf(text, sizeof(text), "%.*s", (int)len, (const char *)frame + header);
    client->heard += header + len;
    return text;
}

static void hears(struct client *client, const char *text) {
    assert_string_equal(next_text(client), text);
}

static void hears_nothing(struct client *client) {
    hears(client, "");
}

/* An error whose text begins so. */
static void hears_error(struct client *client, const char *begins) {
    char want[300];
    int len = snprintf(want, sizeof(want), "{\"error\":\"%s", begins);
    const char *text = next_text(client);
    if (strncmp(text, want, (size_t)len) != 0)
        fail_msg("%s instead of %s...", text, want);
}

static void login(struct client *client, const char *name) {
    char text[200];
    snprintf(text, sizeof(text), "{\"action\":\"login\",\"token\":\"%s\"}", name);
    say(client, text);
    turn();
    hears(client, "{\"info\":\"connected\"}");
}

/* As the group of game servers has it: Ann is one of them. */
static void use_far_games(void) {
    proto_free(chat.proto);
    chat.proto = proto_new(PROTO_MINIGAME, 2048);
    assert_non_null(chat.proto);
    far_games = (struct far_games){.base.ops = &far_games_ops};
    chat.games = &far_games.base;
    login(ann, "Ann");
}

/* The value of a sample of the metrics. */
static unsigned long metric(void (*register_them)(struct metrics *), const char *name) {
    struct metrics metrics = {0};
    size_t name_len = strlen(name), len = 0;
    register_them(&metrics);
    char *text = metrics_text(&metrics, &len), *line = text;
    while (line && (strncmp(line, name, name_len) != 0 || line[name_len] != ' '))
        line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL;
    assert_non_null(line);
    unsigned long value = strtoul(line + name_len, NULL, 10);
    free(text);
    return value;
}

static const char *const hi = "{\"action\":\"message\",\"message\":\"hi\"}";
static const char *const ann_says_hi = "{\"user_id\":\"dev-Ann\",\"timestamp\":1666259380,"
                                       "\"message\":\"hi\",\"nickname\":\"Ann\"}";
static const char *const hi_is_history =
    "{\"history\":[{\"user_id\":\"dev-Ann\",\"timestamp\":1666259380,"
    "\"message\":\"hi\",\"nickname\":\"Ann\"}]}";
static const char *const history = "{\"action\":\"history\"}";

/* An append that this client has begun ends. */
static void append_ends(struct client *client, int status) {
    client->conn.appends++;
    chat_appended(&chat, client->conn.id, status);
}
static const char *const refused = "{\"action\":\"login\",\"token\":\"\\u0001\"}";

/* ---- states ---- */

static void test_login_first(void **state) {
    (void)state;
    say(ann, hi);
    say(ann, "{\"action\":\"history\"}");
    turn();
    hears_error(ann, "not logged in");
    hears_error(ann, "not logged in");
    hears_nothing(ann);
    login(ann, "Ann");
    say(ann, "{\"action\":\"history\"}");
    turn();
    hears(ann, "{\"history\":[]}");
}

static void test_login(void **state) {
    (void)state;
    login(ann, "Ann");
    assert_int_equal(ann->conn.state, CONN_LOGGED_IN);
    assert_string_equal(ann->conn.user->id, "dev-Ann");
    assert_int_equal(users_online(&chat.users), 1);
    assert_int_equal(fanout_joined(chat.fanout), 1);
}

static void test_login_again(void **state) {
    (void)state;
    login(ann, "Ann");
    login(ann, "Ann"); /* the same user: fine */
    assert_int_equal(users_online(&chat.users), 1);
    assert_int_equal(ann->conn.user->connections, 1);
    say(ann, "{\"action\":\"login\",\"token\":\"Bob\"}");
    say(ann, refused);
    say(ann, "{\"action\":\"login\"}");
    turn();
    hears_error(ann, "already logged in as another user");
    hears_error(ann, "token: ");
    hears_error(ann, "login: ");
    say(ann, hi); /* nothing has changed */
    turn();
    hears(ann, ann_says_hi);
    assert_int_equal(ann->close_code, 0);
}

/* A client that is logged in may be refused as often as it likes: it is not guessing its way in. */
static void test_refused_logins_of_the_logged_in(void **state) {
    (void)state;
    login(ann, "Ann");
    for (int i = 0; i < 2 * LOGIN_ATTEMPTS; i++)
        say(ann, refused);
    turn();
    assert_int_equal(ann->close_code, 0);
}

static void test_login_failures_are_bounded(void **state) {
    (void)state;
    for (int i = 0; i < LOGIN_ATTEMPTS; i++) {
        assert_int_equal(ann->close_code, 0);
        say(ann, refused);
        say(bob, i == LOGIN_ATTEMPTS - 1 ? "{\"action\":\"login\",\"token\":\"Bob\"}" : refused);
    }
    assert_int_equal(ann->close_code, CLOSE_LOGIN_ATTEMPTS);
    say(ann, "{\"action\":\"login\",\"token\":\"Ann\"}"); /* too late: it is ignored */
    turn();
    for (int i = 0; i < LOGIN_ATTEMPTS; i++)
        hears_error(ann, "token: "); /* each was answered, the last one too */
    hears_nothing(ann);
    assert_int_equal(bob->close_code, 0); /* made it with the last attempt */
    assert_int_equal(bob->conn.state, CONN_LOGGED_IN);
}

/* A login that could not be understood is an error, not a failed attempt. */
static void test_malformed_logins_are_no_attempts(void **state) {
    (void)state;
    for (int i = 0; i < 2 * LOGIN_ATTEMPTS; i++)
        say(ann, "{\"action\":\"login\",\"token\":5}");
    assert_int_equal(ann->close_code, 0);
}

static void test_passwords(void **state) {
    (void)state;
    say(ann, "{\"action\":\"login\",\"username\":\"ann\",\"password\":\"swordfish\"}");
    turn();
    hears_error(ann, "this server takes no passwords");
}

static void test_each_answered_attempt_restarts_the_deadline(void **state) {
    (void)state;
    assert_int_equal(ann->conn.login_deadline_ms, 1000 + LOGIN_TIMEOUT_MS);
    chat.time.now_ms = 60000;
    say(ann, hi); /* no attempt */
    assert_int_equal(ann->conn.login_deadline_ms, 1000 + LOGIN_TIMEOUT_MS);
    say(ann, refused);
    assert_int_equal(ann->conn.login_deadline_ms, 60000 + LOGIN_TIMEOUT_MS);
}

static void test_closing_is_deaf(void **state) {
    (void)state;
    login(ann, "Ann");
    login(bob, "Bob");
    close_conn(&chat, &ann->conn, CLOSE_RESTART);
    say(ann, hi);
    say(ann, "nonsense");
    turn();
    hears_nothing(ann);
    hears_nothing(bob);
}

static void test_user_of_two_connections(void **state) {
    (void)state;
    login(ann, "Ann");
    login(bob, "Ann");
    assert_int_equal(users_online(&chat.users), 1);
    goes(ann);
    assert_int_equal(users_online(&chat.users), 1);
    say(bob, hi);
    turn();
    hears(bob, ann_says_hi);
}

/* ---- logins that take a while ---- */

static const struct identity_answer ann_is_ann = {
    .user_id = "dev-Ann", .nickname = "Ann", .expires_at = 1666259999};
static const struct identity_answer nobody = {.status = IDENTITY_REFUSED, .error = "who are you?"};
static const struct identity_answer no_service = {.status = IDENTITY_UNAVAILABLE,
                                                  .error = "the account service is down"};

static const char *const ask = "{\"action\":\"login\",\"token\":\"t\"}";

static void test_login_takes_a_while(void **state) {
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    turn();
    hears_nothing(ann);
    assert_true(ann->conn.login_pending); /* the login deadline does not count now */

    chat.time.now_ms = 90000;
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    turn();
    hears(ann, "{\"info\":\"connected\"}");
    assert_false(ann->conn.login_pending);
    say(ann, hi);
    turn();
    hears(ann, ann_says_hi);
}

static void test_slow_login_is_refused(void **state) {
    (void)state;
    chat.identity = &slow.base;
    for (int i = 0; i < LOGIN_ATTEMPTS; i++) {
        assert_int_equal(ann->close_code, 0);
        chat.time.now_ms += 1000;
        say(ann, ask);
        chat_identified(&chat, ann->conn.id, &nobody);
        assert_int_equal(ann->conn.login_deadline_ms, chat.time.now_ms + LOGIN_TIMEOUT_MS);
        turn();
        hears_error(ann, "who are you?");
    }
    assert_int_equal(ann->close_code, CLOSE_LOGIN_ATTEMPTS);
}

static unsigned long unavailable_logins(void) {
    return metric(handle_login_register_metrics, "hlchat_logins_total{result=\"unavailable\"}");
}

/* Nobody's fault who logs in: it may try again as often as it takes. */
static void test_service_is_down(void **state) {
    (void)state;
    chat.identity = &slow.base;
    admission.login_failures_per_minute = 2;
    unsigned long before = unavailable_logins();
    for (int i = 0; i < 2 * PROTO_ERROR_LIMIT; i++) {
        say(ann, ask);
        chat_identified(&chat, ann->conn.id, &no_service);
        turn();
        hears_error(ann, "the account service is down");
    }
    assert_int_equal(ann->close_code, 0);
    assert_int_equal(unavailable_logins(), before + 2 * PROTO_ERROR_LIMIT);
}

/* That an answer comes later makes no success of it: errors in a row they are all the same. */
static void test_slow_refusals_close(void **state) {
    (void)state;
    login(ann, "Ann");
    chat.identity = &slow.base;
    for (int i = 0; i < PROTO_ERROR_LIMIT; i++) {
        assert_int_equal(ann->close_code, 0);
        say(ann, ask);
        chat_identified(&chat, ann->conn.id, &nobody);
    }
    assert_int_equal(ann->close_code, CLOSE_ERRORS);
}

static void test_leaves_while_logging_in(void **state) {
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    goes(ann);
    assert_int_equal(slow.forgotten, ann->conn.id);
    chat_identified(&chat, ann->conn.id, &ann_is_ann); /* found missing by its id */
    goes(bob);
    assert_int_equal(slow.forgotten, ann->conn.id); /* Bob had asked nothing */
    assert_int_equal(users_online(&chat.users), 0);
}

static void test_closes_while_logging_in(void **state) {
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    close_conn(&chat, &ann->conn, CLOSE_RESTART);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    turn();
    hears_nothing(ann);
    assert_int_equal(ann->conn.state, CONN_CLOSING);
    assert_int_equal(users_online(&chat.users), 0);
    assert_int_equal(fanout_joined(chat.fanout), 0);
}

/* Only with TOKEN_EXPIRY=session does a connection end with its token; a new login renews it. */
static void test_expiry(void **state) {
    struct identity_answer renewed = ann_is_ann;
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    assert_int_equal(ann->conn.expires_at, 0);

    chat.close_expired = true;
    say(bob, ask);
    chat_identified(&chat, bob->conn.id, &ann_is_ann);
    assert_int_equal(bob->conn.expires_at, ann_is_ann.expires_at);
    say(bob, ask);
    chat_identified(&chat, bob->conn.id, &nobody); /* changes nothing */
    assert_int_equal(bob->conn.expires_at, ann_is_ann.expires_at);
    renewed.expires_at += 3600;
    say(bob, ask);
    chat_identified(&chat, bob->conn.id, &renewed);
    assert_int_equal(bob->conn.expires_at, renewed.expires_at);
}

/* A token that is valid only by the leeway for clocks would be closed at once, and a client would
 * come again and again with it. */
static void test_expired_within_the_leeway(void **state) {
    static const char error[] = "{\"error\":\"the access token is expired or invalid\"}";
    struct identity_answer expired = ann_is_ann;
    (void)state;
    chat.identity = &slow.base;
    admission.login_failures_per_minute = 2;
    expired.expires_at = now_s;
    say(eve, ask);
    chat_identified(&chat, eve->conn.id, &expired); /* TOKEN_EXPIRY=login: good */
    turn();
    hears(eve, "{\"info\":\"connected\"}");

    chat.close_expired = true;
    say(ann, ask);
    chat_identified(&chat, ann->conn.id, &expired);
    turn();
    hears(ann, error);
    assert_int_equal(ann->conn.login_failures, 1);
    assert_int_equal(ann->conn.state, CONN_NEW);
    expired.expires_at = now_s + 1;
    say(ann, ask);
    chat_identified(&chat, ann->conn.id, &expired);
    turn();
    hears(ann, "{\"info\":\"connected\"}");

    expired.expires_at = now_s; /* as a renewal it changes nothing */
    say(ann, ask);
    chat_identified(&chat, ann->conn.id, &expired);
    turn();
    hears(ann, error);
    assert_int_equal(ann->conn.expires_at, now_s + 1);
    say(bob, ask); /* both counted for the address */
    turn();
    hears(bob, "{\"error\":\"too many failed logins from your address: wait 30 s\"}");
}

/* All connections of an address together have so many failures; then they wait, without a close
 * and without asking. */
static void test_failures_per_address(void **state) {
    (void)state;
    chat.identity = &slow.base;
    admission.login_failures_per_minute = 2;
    for (int i = 0; i < 2; i++) {
        say(&clients[i], ask);
        chat_identified(&chat, clients[i].conn.id, &nobody);
    }
    say(eve, ask);
    turn();
    hears(eve, "{\"error\":\"too many failed logins from your address: wait 30 s\"}");
    assert_int_equal(slow.asked, 2);
    chat.time.now_ms += 30000;
    say(eve, ask);
    assert_int_equal(slow.asked, 3);
}

/* A password counts as a failure from when it is tried, so that many at once do not pass the limit
 * together; it is given back when it was right, and not when its connection goes away. */
static void test_passwords_under_way_count(void **state) {
    static const char *const guess =
        "{\"action\":\"login\",\"username\":\"ann\",\"password\":\"swordfish\"}";
    (void)state;
    chat.identity = &slow.base;
    admission.login_failures_per_minute = 3;
    say(ann, guess);
    chat_identified(&chat, ann->conn.id, &nobody);
    say(bob, guess);
    say(eve, guess);
    assert_int_equal(slow.asked, 3); /* the wrong one counts once */
    say(ann, guess);
    turn();
    hears_error(ann, "who are you?");
    hears(ann, "{\"error\":\"too many logins are waiting: try again\"}");

    chat_identified(&chat, eve->conn.id, &ann_is_ann);
    goes(bob);
    say(ann, guess);
    assert_int_equal(slow.asked, 4);
    chat_identified(&chat, ann->conn.id, &nobody);
    say(ann, guess);
    turn();
    hears_error(ann, "who are you?");
    hears_error(ann, "too many failed logins from your address");
}

/* Nobody comes in before the history is there. */
static void test_login_while_the_log_is_loading(void **state) {
    (void)state;
    use_far_log();
    chat.identity = &slow.base;
    say(ann, ask);
    far.is_loaded = false; /* it begins anew, meanwhile */
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    say(ann, ask);
    turn();
    hears(ann, "{\"error\":\"the chat is unavailable: try again\"}");
    hears(ann, "{\"error\":\"the chat is starting: try again\"}");
    assert_int_equal(ann->conn.state, CONN_NEW);
    assert_int_equal(users_online(&chat.users), 0);
    far.is_loaded = true;
    say(ann, ask);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    turn();
    hears(ann, "{\"info\":\"connected\"}");
}

/* ---- messages ---- */

static void test_message_reaches_all_logged_in(void **state) {
    (void)state;
    login(ann, "Ann");
    login(bob, "Bob");
    say(ann, hi);
    hears_nothing(ann); /* not before the end of the turn */
    turn();
    hears(ann, ann_says_hi);
    hears(bob, ann_says_hi);
    hears_nothing(eve);
}

/* Who and when are the server's to say; where is the client's. */
static void test_spoofed_fields(void **state) {
    (void)state;
    login(ann, "Ann");
    say(ann, "{\"action\":\"message\",\"message\":\"hi\",\"user_id\":\"dev-Bob\",\"timestamp\":1,"
             "\"nickname\":\"Bob\",\"channel\":10.0,\"extra\":[1]}");
    turn();
    hears(ann, "{\"user_id\":\"dev-Ann\",\"timestamp\":1666259380,\"message\":\"hi\","
               "\"channel\":\"10\",\"nickname\":\"Ann\"}");
}

static void test_largest_message(void **state) {
    static char text[3000], want[3000];
    (void)state;
    login(ann, "Ann");
    char body[2049];
    memset(body, 'x', sizeof(body) - 1);
    body[2048] = '\0';
    snprintf(text, sizeof(text), "{\"action\":\"message\",\"message\":\"%s\"}", body);
    snprintf(want, sizeof(want),
             "{\"user_id\":\"dev-Ann\",\"timestamp\":1666259380,\"message\":\"%s\","
             "\"nickname\":\"Ann\"}",
             body);
    say(ann, text);
    turn();
    hears(ann, want);
    snprintf(text, sizeof(text), "{\"action\":\"message\",\"message\":\"%sx\"}", body);
    say(ann, text);
    turn();
    hears_error(ann, "message: a string of 1 to 2048 bytes");
}

/* Replies and broadcasts are one sequence: a history reply holds what was broadcast before it. */
static void test_history_in_its_place(void **state) {
    (void)state;
    login(ann, "Ann");
    login(bob, "Bob");
    say(ann, hi);
    say(ann,
        "{\"action\":\"history\"}"); /* in the same turn, in which the message is not out yet */
    say(bob, "{\"action\":\"history\"}");
    turn();
    hears(ann, ann_says_hi);
    hears(ann, hi_is_history);
    hears(bob, "{\"history\":[]}"); /* who waits for nothing is answered at once */
    hears(bob, ann_says_hi);
}

static void test_history_is_clamped(void **state) {
    (void)state;
    login(ann, "Ann");
    for (int i = 0; i < HISTORY_LIMIT + 3; i++) {
        say(ann, hi);
        turn();
        hears(ann, ann_says_hi);
    }
    say(ann, "{\"action\":\"history\",\"limit\":9223372036854775807}");
    say(ann, "{\"action\":\"history\",\"limit\":9,\"offset\":4}");
    say(ann, "{\"action\":\"history\",\"limit\":0}");
    say(ann, "{\"action\":\"history\",\"offset\":1e300}");
    turn();
    assert_int_equal(strlen(next_text(ann)), strlen("{\"history\":[]}") + HISTORY_LIMIT - 1 +
                                                 HISTORY_LIMIT * strlen(ann_says_hi));
    assert_int_equal(strlen(next_text(ann)), strlen("{\"history\":[]}") + strlen(ann_says_hi));
    hears(ann, "{\"history\":[]}");
    hears(ann, "{\"history\":[]}");
}

/* The history is too large to be queued without end: it is refused while too much waits. */
static void test_history_while_replies_are_full(void **state) {
    (void)state;
    login(ann, "Ann");
    eve->choked = true;
    chat_reply(&chat, &eve->conn, malloc(FANOUT_REPLY_HEADROOM + FANOUT_REPLY_TOTAL),
               FANOUT_REPLY_TOTAL);
    say(ann, "{\"action\":\"history\"}");
    turn();
    hears_error(ann, "the chat is busy");
    goes(eve);
    open_client(eve, 30);
    say(ann, "{\"action\":\"history\"}");
    turn();
    hears(ann, "{\"history\":[]}");
}

/* ---- when the log does not take it ---- */

static void test_queue_is_full(void **state) {
    (void)state;
    login(ann, "Ann");
    for (int i = 0; i < CHATLOG_QUEUE_ENTRIES; i++)
        assert_int_equal(chatlog_append(chat.log, "{}", 2, 0), CHAT_OK);
    say(ann, hi);
    assert_int_equal(fanout_turn_end(chat.fanout, chat.time.now_ms), FANOUT_QUIET);
    hears_error(ann, "the chat is busy: the message was not sent");
    turn();
    for (int i = 0; i < CHATLOG_QUEUE_ENTRIES; i++)
        hears(ann, "{}");
    hears_nothing(ann); /* what got an error is seen by nobody */
    say(ann, hi);
    turn();
    hears(ann, ann_says_hi);
}

/* It is no fault of who sends, so that counts neither for nor against. */
static void test_queue_stays_full(void **state) {
    (void)state;
    login(ann, "Ann");
    for (int i = 0; i < CHATLOG_QUEUE_ENTRIES; i++)
        assert_int_equal(chatlog_append(chat.log, "{}", 2, 0), CHAT_OK);
    for (int i = 0; i < PROTO_ERROR_LIMIT - 1; i++) {
        say(ann, "nonsense");
        say(ann, hi);
        append_ends(ann, CHAT_EUNAVAILABLE);
    }
    assert_int_equal(ann->close_code, 0);
    say(ann, "nonsense");
    assert_int_equal(ann->close_code, CLOSE_ERRORS);
    turn();
}

/* The store may say no long after it said "begun"; the two answers differ, and a client that has
 * left meanwhile is nobody. */
static void test_append_ends_badly(void **state) {
    (void)state;
    login(ann, "Ann");
    append_ends(ann, CHAT_OK);
    turn();
    hears_nothing(ann);
    append_ends(ann, CHAT_EUNAVAILABLE);
    append_ends(ann, CHAT_EUNCERTAIN);
    turn();
    hears_error(ann, "the chat is unavailable: the message was not sent");
    hears_error(ann, "not confirmed");
    chat_appended(&chat, 12345, CHAT_EUNAVAILABLE);
    close_conn(&chat, &ann->conn, CLOSE_RESTART);
    append_ends(ann, CHAT_EUNCERTAIN);
    turn();
    hears_nothing(ann);
}

/* A message outlives its sender. */
static void test_sender_leaves(void **state) {
    (void)state;
    login(ann, "Ann");
    login(bob, "Bob");
    say(ann, hi);
    goes(ann);
    turn();
    hears(bob, ann_says_hi);
}

/* ---- requests are answered in their order ---- */

static const char *const nonsense = "nonsense";

/* What comes behind a login waits for its answer, and is handled as if it had come after that. */
static void test_frames_behind_a_login(void **state) {
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    say(ann, history);
    say(ann, hi);
    say(ann, nonsense);
    say(ann, history);
    turn();
    hears_nothing(ann);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    turn();
    hears(ann, "{\"info\":\"connected\"}");
    hears(ann, "{\"history\":[]}");
    hears(ann, ann_says_hi);
    hears_error(ann, "not JSON");
    hears(ann, hi_is_history);
    hears_nothing(ann);
    assert_int_equal(slow.asked, 1);
    assert_int_equal(chat.backlog_bytes, 0);
}

static void test_frames_behind_a_refused_login(void **state) {
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    say(ann, hi);
    say(ann, ask);
    say(ann, hi);
    assert_int_equal(slow.asked, 1);
    chat_identified(&chat, ann->conn.id, &nobody);
    turn();
    hears_error(ann, "who are you?");
    hears_error(ann, "not logged in");
    hears_nothing(ann);
    assert_int_equal(slow.asked, 2);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    turn();
    hears(ann, "{\"info\":\"connected\"}");
    hears(ann, ann_says_hi);
    hears_nothing(ann);
}

/* The attempts are counted one by one. */
static void test_logins_in_one_write(void **state) {
    (void)state;
    chat.identity = &slow.base;
    for (int i = 0; i < 2 * LOGIN_ATTEMPTS; i++)
        say(ann, ask);
    for (int i = 0; i < LOGIN_ATTEMPTS; i++) {
        assert_int_equal(ann->close_code, 0);
        chat_identified(&chat, ann->conn.id, &nobody);
        turn();
    }
    assert_int_equal(ann->close_code, CLOSE_LOGIN_ATTEMPTS);
    assert_int_equal(slow.asked, LOGIN_ATTEMPTS);
}

/* The log's next entry comes, the one that was stored as this. */
static void comes(uint64_t place) {
    far.heard = place;
    chat_entry(&chat, ann_says_hi, strlen(ann_says_hi), true);
}

static void is_stored(struct client *client, uint64_t place) {
    far.stored = place;
    chat_appended(&chat, client->conn.id, CHAT_OK);
}

static void test_nothing_overtakes_own_messages(void **state) {
    (void)state;
    use_far_log();
    login(ann, "Ann");
    login(bob, "Bob");
    say(ann, hi);
    say(ann, hi);
    assert_int_equal(ann->conn.appends, 2); /* nobody waits for an answer to go on talking */
    say(ann, history);
    say(ann, nonsense);
    say(ann, hi);
    say(bob, history);
    turn();
    hears_nothing(ann);
    hears(bob, "{\"history\":[]}");
    is_stored(ann, 1);
    comes(1);
    turn();
    hears(ann, ann_says_hi);
    is_stored(ann, 2);
    turn();
    hears_nothing(ann);
    comes(2);
    turn();
    hears(ann, ann_says_hi);
    char want[300];
    snprintf(want, sizeof(want), "{\"history\":[%s,%s]}", ann_says_hi, ann_says_hi);
    hears(ann, want);
    hears_error(ann, "not JSON");
    hears_nothing(ann);
    assert_int_equal(ann->conn.appends, 1);
}

/* It may be followed before it is known to be stored. */
static void test_heard_before_it_is_stored(void **state) {
    (void)state;
    use_far_log();
    login(ann, "Ann");
    say(ann, hi);
    say(ann, history);
    comes(1);
    turn();
    hears(ann, ann_says_hi);
    hears_nothing(ann);
    is_stored(ann, 1);
    turn();
    hears(ann, hi_is_history);
}

static void test_every_refusal_waits(void **state) {
    static const struct {
        const char *frame, *error;
    } cases[] = {
        {"nonsense", "not JSON"},
        {"[]", "not a JSON object"},
        {"{\"action\":\"dance\"}", "unknown action"},
        {"{\"action\":\"message\"}", "message: a string"},
        {"{\"action\":\"login\",\"token\":\"Eve\"}", "already logged in"},
        {"{\"action\":\"login\"}", "login: a token is missing"},
        {"{\"action\":\"history\",\"limit\":-1}", "limit"},
    };
    (void)state;
    use_far_log();
    login(ann, "Ann");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        say(ann, hi);
        is_stored(ann, i + 1);
        say(ann, cases[i].frame);
        turn();
        hears_nothing(ann);
        comes(i + 1);
        turn();
        hears(ann, ann_says_hi);
        hears_error(ann, cases[i].error);
        hears_nothing(ann);
    }
}

static void test_rate_errors_wait(void **state) {
    (void)state;
    use_far_log();
    chat.message_rate = (struct rate_limit){.per_second = 5, .burst = 2};
    chat.frame_rate = (struct rate_limit){.per_second = 10, .burst = 4};
    login(ann, "Ann");
    say(ann, hi);
    say(ann, hi);
    say(ann, hi);
    say(ann, hi); /* the connection's fifth frame */
    is_stored(ann, 1);
    is_stored(ann, 2);
    comes(1);
    turn();
    hears(ann, ann_says_hi);
    hears_nothing(ann);
    chat.time.now_ms += 150;
    comes(2);
    turn();
    hears(ann, ann_says_hi);
    hears_error(ann, "too many messages, this one was not sent: wait 0.2 s");
    hears_error(ann, "too many requests: wait 0.1 s");
    hears_nothing(ann);
}

/* Who kept to the rate is not over it because all of it is handled at once. */
static void test_waiting_is_not_too_fast(void **state) {
    (void)state;
    chat.message_rate = (struct rate_limit){.per_second = 5, .burst = 1};
    chat.frame_rate = (struct rate_limit){.per_second = 5, .burst = 2};
    chat.identity = &slow.base;
    say(ann, ask);
    for (int i = 0; i < 20; i++) {
        chat.time.now_ms += 200;
        say(ann, hi);
    }
    say(ann, hi);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    turn();
    hears(ann, "{\"info\":\"connected\"}");
    for (int i = 0; i < 20; i++)
        hears(ann, ann_says_hi);
    hears_error(ann, "too many messages, this one was not sent: wait 0.2 s");
    hears_nothing(ann);
}

/* Answers to appends come in between: behind the messages that were stored before them, in front of
 * what was asked for after them. */
static void test_failures_in_their_place(void **state) {
    (void)state;
    use_far_log();
    login(ann, "Ann");
    for (int i = 0; i < 4; i++)
        say(ann, hi);
    say(ann, nonsense);
    is_stored(ann, 1);
    chat_appended(&chat, ann->conn.id, CHAT_EUNAVAILABLE);
    chat_appended(&chat, ann->conn.id, CHAT_EUNCERTAIN);
    turn();
    hears_nothing(ann);
    comes(1);
    turn();
    hears(ann, ann_says_hi);
    hears_error(ann, "the chat is unavailable: the message was not sent");
    hears_error(ann, "not confirmed");
    hears_nothing(ann);
    chat_appended(&chat, ann->conn.id, CHAT_EUNAVAILABLE);
    turn();
    hears_error(ann, "the chat is unavailable: the message was not sent");
    hears_error(ann, "not JSON");
    hears_nothing(ann);
}

/* A message that was stored and does not come is not waited for without end. */
static void test_own_message_does_not_come(void **state) {
    (void)state;
    use_far_log();
    login(ann, "Ann");
    say(ann, hi);
    say(ann, history);
    is_stored(ann, 1);
    chat.time.now_ms += 4999;
    chat_tick(&chat);
    turn();
    hears_nothing(ann);
    chat.time.now_ms += 1;
    turn();
    hears_nothing(ann); /* nobody has said that time has passed */
    chat_tick(&chat);
    turn();
    hears(ann, "{\"history\":[]}");
}

static void test_backlog_is_bounded(void **state) {
    (void)state;
    chat.identity = &slow.base;
    size_t before = metric(chat_register_metrics, "hlchat_held_request_bytes");
    say(ann, ask);
    assert_false(ann->unread);
    int frames = 0;
    for (; !ann->unread; frames++)
        say(ann, history);
    size_t bytes = chat.backlog_bytes;
    assert_in_range(bytes, BACKLOG_PAUSE, BACKLOG_PAUSE + 200);
    assert_int_equal(bytes, ann->conn.backlog.bytes);
    assert_int_equal(metric(chat_register_metrics, "hlchat_held_request_bytes"), before + bytes);
    say(ann, ask); /* one that was under way */
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    turn();
    assert_false(ann->unread);
    hears(ann, "{\"info\":\"connected\"}");
    for (int i = 0; i < frames; i++)
        hears(ann, "{\"history\":[]}");
    hears_nothing(ann); /* the second login waits for its answer */
    assert_int_equal(slow.asked, 2);
    assert_int_equal(chat.backlog_bytes, 0);
}

/* What is held back is not answered into the blue: replies that are not read stop it, as they stop
 * the reading. */
static void test_backlog_of_one_that_does_not_read(void **state) {
    enum { REQUESTS = 100 };
    static char large[FANOUT_REPLY_PAUSE / 4];
    (void)state;
    memset(large, ' ', sizeof(large));
    large[0] = '{';
    large[sizeof(large) - 1] = '}';
    assert_int_equal(history_append(chat.history, large, sizeof(large)), CHAT_OK);
    chat.identity = &slow.base;
    ann->choked = true;
    say(ann, ask);
    for (int i = 0; i < REQUESTS; i++)
        say(ann, history);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    for (int i = 0; i < 5; i++)
        turn();
    assert_in_range(metric(fanout_register_metrics, "hlchat_queued_reply_bytes"),
                    FANOUT_REPLY_PAUSE, FANOUT_REPLY_PAUSE + 2 * sizeof(large));
    assert_non_null(ann->conn.backlog.first);
    assert_null(chat.waiting);

    ann->choked = false;
    for (int i = 0; i < 100; i++)
        fanout_writable(chat.fanout, &ann->conn.out);
    turn();
    hears(ann, "{\"info\":\"connected\"}");
    for (int i = 0; i < REQUESTS; i++)
        assert_int_equal(strlen(next_text(ann)), sizeof(large) + 14);
    hears_nothing(ann);
}

/* Reading goes on when half of it is done. */
static void test_backlog_half_empty(void **state) {
    char text[BACKLOG_PAUSE / 4 + 1];
    (void)state;
    memset(text, ' ', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    memcpy(text, ask, strlen(ask));
    chat.identity = &slow.base;
    chat.login_attempts = 100;
    for (int i = 0; i < 5; i++)
        say(ann, text); /* one of them is asked at once */
    assert_true(ann->unread);
    for (int left = 3; left >= 0; left--) {
        chat_identified(&chat, ann->conn.id, &nobody);
        turn();
        assert_true(ann->unread == (left > 1));
    }
}

static void test_backlogs_of_all_are_bounded(void **state) {
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    say(bob, ask);
    say(bob, history);
    assert_false(bob->unread);
    size_t others = BACKLOG_TOTAL - chat.backlog_bytes;
    chat.backlog_bytes += others;
    say(ann, hi);
    assert_true(ann->unread);
    chat.backlog_bytes -= others;
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    turn();
    assert_false(ann->unread);
    goes(bob);
    assert_int_equal(chat.backlog_bytes, 0);
}

static void test_leaves_with_a_backlog(void **state) {
    (void)state;
    use_far_log();
    login(ann, "Ann");
    login(bob, "Bob");
    for (int i = 0; i < 2; i++) {
        say(clients + i, hi);
        say(clients + i, history);
    }
    goes(ann);
    goes(bob);
    assert_int_equal(chat.backlog_bytes, 0);
    assert_null(chat.waiting);
    comes(1);
    turn();
}

static void test_closes_with_a_backlog(void **state) {
    (void)state;
    use_far_log();
    login(ann, "Ann");
    say(ann, hi);
    for (int i = 0; i < PROTO_ERROR_LIMIT + 5; i++)
        say(ann, nonsense);
    say(ann, history);
    is_stored(ann, 1);
    comes(1);
    turn();
    assert_int_equal(ann->close_code, CLOSE_ERRORS);
    hears(ann, ann_says_hi);
    for (int i = 0; i < PROTO_ERROR_LIMIT; i++)
        hears_error(ann, "not JSON");
    hears_nothing(ann);
}

/* What came before the broker began to stop is done and answered; then it is closed. */
static void test_dismissed_with_a_backlog(void **state) {
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    say(ann, history);
    say(ann, hi);
    say(ann, history);
    chat_dismiss(&chat, &ann->conn, CLOSE_RESTART);
    say(ann, history);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    assert_int_equal(ann->close_code, 0);
    turn();
    hears(ann, "{\"info\":\"connected\"}");
    hears(ann, "{\"history\":[]}");
    hears(ann, ann_says_hi);
    hears(ann, hi_is_history);
    hears_error(ann, "the server restarts");
    hears_nothing(ann);
    assert_int_equal(ann->close_code, CLOSE_RESTART);
}

/* ---- the log has lost entries ---- */

/* Who was here gets nothing from behind the gap, and is closed, some at a time; who comes after it
 * stays. */
static void test_lost_entries(void **state) {
    (void)state;
    login(ann, "Ann");
    login(bob, "Bob");
    say(ann, hi);
    turn();
    hears(ann, ann_says_hi);
    hears(bob, ann_says_hi);
    chat_lost(&chat);
    say(ann, hi);
    say(ann, "{\"action\":\"history\"}");
    login(eve, "Eve");
    hears(eve, ann_says_hi);
    hears(ann, hi_is_history);
    hears_nothing(ann);
    hears_nothing(bob);

    assert_true(chat_close_lost(&chat, 1));
    assert_int_equal(ann->close_code, CLOSE_LOST);
    assert_int_equal(bob->close_code, 0);
    assert_false(chat_close_lost(&chat, 1));
    assert_int_equal(bob->close_code, CLOSE_LOST);
    assert_false(chat_close_lost(&chat, 1));
    assert_int_equal(eve->close_code, 0);
    assert_int_equal(clients[3].close_code, 0);
}

/* That it has to load the history again matters more to a client than why it was closed first. */
static void test_dismissed_after_a_loss(void **state) {
    (void)state;
    login(ann, "Ann");
    chat_lost(&chat);
    login(bob, "Bob");
    chat_dismiss_some(&chat, CLIENTS, CLOSE_RESTART);
    assert_int_equal(ann->close_code, CLOSE_LOST);
    assert_int_equal(bob->close_code, CLOSE_RESTART);
    assert_int_equal(eve->close_code, CLOSE_RESTART);
}

/* ---- dismissed: closed once it has its answers ---- */

static void test_dismissed_with_nothing_to_wait_for(void **state) {
    (void)state;
    login(ann, "Ann");
    login(bob, "Bob");
    say(ann, hi);
    turn();
    hears(bob, ann_says_hi);
    chat_dismiss(&chat, &bob->conn, CLOSE_RESTART);
    chat_dismiss(&chat, &eve->conn, CLOSE_RESTART);
    assert_int_equal(bob->close_code, CLOSE_RESTART);
    assert_int_equal(eve->close_code, CLOSE_RESTART);
    say(ann, hi);
    turn();
    hears_nothing(bob);
    assert_int_equal(fanout_joined(chat.fanout), 1);
}

static void test_dismissed_with_messages_under_way(void **state) {
    (void)state;
    login(ann, "Ann");
    say(ann, hi);
    say(ann, hi);
    chat_dismiss(&chat, &ann->conn, CLOSE_RESTART);
    for (int i = 0; i < 2 * PROTO_ERROR_LIMIT; i++)
        say(ann, hi);
    assert_int_equal(ann->close_code, 0);
    turn();
    assert_int_equal(ann->close_code, CLOSE_RESTART);
    hears(ann, ann_says_hi);
    hears(ann, ann_says_hi);
    for (int i = 0; i < 2 * PROTO_ERROR_LIMIT; i++)
        hears_error(ann, "the server restarts");
    hears_nothing(ann);
}

static void test_dismissed_while_a_message_fails(void **state) {
    (void)state;
    login(ann, "Ann");
    say(ann, hi);
    chat_dismiss(&chat, &ann->conn, CLOSE_RESTART);
    chat_appended(&chat, ann->conn.id, CHAT_EUNAVAILABLE);
    assert_int_equal(ann->close_code, CLOSE_RESTART);
    assert_int_equal(fanout_turn_end(chat.fanout, chat.time.now_ms), FANOUT_QUIET);
    hears_error(ann, "the chat is unavailable: the message was not sent");
    hears_nothing(ann);
}

/* Its own message, stored already, comes back before the close; but that is not waited for long. */
static void test_dismissed_before_its_message_comes_back(void **state) {
    (void)state;
    use_far_log();
    login(ann, "Ann");
    login(bob, "Bob");
    say(ann, hi);
    say(bob, hi);
    far.stored = 1;
    chat_appended(&chat, ann->conn.id, CHAT_OK);
    far.stored = 2;
    chat_appended(&chat, bob->conn.id, CHAT_OK);
    chat_dismiss_some(&chat, CLIENTS, CLOSE_RESTART);
    assert_int_equal(ann->close_code, 0);
    far.heard = 1;
    chat.time.now_ms += 4999;
    chat_dismiss_some(&chat, 0, CLOSE_RESTART);
    assert_int_equal(ann->close_code, CLOSE_RESTART);
    assert_int_equal(bob->close_code, 0);
    chat.time.now_ms += 1;
    chat_dismiss_some(&chat, 0, CLOSE_RESTART);
    assert_int_equal(bob->close_code, CLOSE_RESTART);
}

static void test_dismissed_while_logging_in(void **state) {
    (void)state;
    chat.identity = &slow.base;
    say(ann, ask);
    say(bob, ask);
    chat_dismiss(&chat, &ann->conn, CLOSE_RESTART);
    chat_dismiss(&chat, &bob->conn, CLOSE_RESTART);
    assert_int_equal(ann->close_code, 0);
    chat_identified(&chat, ann->conn.id, &ann_is_ann);
    chat_identified(&chat, bob->conn.id, &no_service);
    assert_int_equal(ann->close_code, CLOSE_RESTART);
    assert_int_equal(bob->close_code, CLOSE_RESTART);
    turn();
    hears(ann, "{\"info\":\"connected\"}");
    hears_error(bob, "the account service is down");
}

static void test_dismissed_some_at_a_time(void **state) {
    (void)state;
    login(ann, "Ann");
    say(ann, hi);
    chat_dismiss_some(&chat, 0, CLOSE_RESTART);
    assert_int_equal(ann->conn.dismissed, 0);
    for (unsigned count = 1; count <= CLIENTS; count++) {
        unsigned dismissed = 0;
        chat_dismiss_some(&chat, 1, CLOSE_RESTART); /* Ann, who still waits, is counted once */
        for (unsigned i = 0; i < CLIENTS; i++)
            dismissed += clients[i].conn.dismissed == CLOSE_RESTART;
        assert_int_equal(dismissed, count);
    }
    chat_dismiss_some(&chat, 1, CLOSE_RESTART);
    turn();
    assert_int_equal(ann->close_code, CLOSE_RESTART);
}

/* ---- game servers ---- */

static const char *const who_is_online = "{\"action\":\"online_players\"}";

static void answer(struct client *client, enum games_status status, char *text) {
    const struct games_answer games_answer = {
        .verb = GAMES_ONLINE, .status = status, .error = "not now", .text = text};
    chat_games_answered(&chat, client->conn.id, &games_answer);
}

static void test_games_are_asked_with_the_time(void **state) {
    (void)state;
    use_far_games();
    chat.time.now_ms = 7777;
    say(ann, who_is_online);
    assert_int_equal(far_games.asked_ms, 7777);
    answer(ann, GAMES_DONE, (char[]){"{\"online_players\":[]}"});
    turn();
    hears(ann, "{\"online_players\":[]}");
}

static void test_late_refusals_of_games_close(void **state) {
    (void)state;
    use_far_games();
    for (int i = 0; i < PROTO_ERROR_LIMIT; i++) {
        assert_int_equal(ann->close_code, 0);
        say(ann, who_is_online);
        answer(ann, GAMES_REFUSED, NULL);
    }
    assert_int_equal(ann->close_code, CLOSE_ERRORS);
}

/* Nobody's fault who asks. */
static void test_games_are_down(void **state) {
    (void)state;
    use_far_games();
    for (int i = 0; i < 2 * PROTO_ERROR_LIMIT; i++) {
        say(ann, who_is_online);
        answer(ann, i % 2 ? GAMES_UNAVAILABLE : GAMES_UNCERTAIN, NULL);
    }
    assert_int_equal(ann->close_code, 0);
}

static void test_games_while_replies_are_full(void **state) {
    (void)state;
    use_far_games();
    eve->choked = true;
    chat_reply(&chat, &eve->conn, malloc(FANOUT_REPLY_HEADROOM + FANOUT_REPLY_TOTAL),
               FANOUT_REPLY_TOTAL);
    say(ann, who_is_online);
    answer(ann, GAMES_DONE, (char[]){"{\"online_players\":[]}"});
    turn();
    hears_error(ann, "the games are busy");
}

static void test_dismissed_while_games_are_asked(void **state) {
    (void)state;
    use_far_games();
    say(ann, who_is_online);
    chat_dismiss(&chat, &ann->conn, CLOSE_RESTART);
    assert_int_equal(ann->close_code, 0);
    answer(ann, GAMES_DONE, (char[]){"{\"online_players\":[]}"});
    chat_dismiss_some(&chat, 0, CLOSE_RESTART);
    assert_int_equal(ann->close_code, CLOSE_RESTART);
    turn();
    hears(ann, "{\"online_players\":[]}");
}

static const char *const stop_it = "{\"action\":\"scheduler_stop\"}";

/* What is decided elsewhere is answered in its order: what the group is told by the log, and
 * questions; and who asks for the one behind the other waits. */
static void test_games_in_order(void **state) {
    struct games_answer done = {.verb = GAMES_STOP, .status = GAMES_DONE, .told = 7};
    const struct games_answer not_so = {
        .verb = GAMES_STOP, .status = GAMES_REFUSED, .error = "never started"};
    (void)state;
    use_far_log();
    use_far_games();
    say(ann, stop_it);
    say(ann, stop_it);
    assert_int_equal(ann->conn.games_pending, 2);
    say(ann, who_is_online);
    say(ann, who_is_online);
    say(ann, nonsense);
    assert_int_equal(ann->conn.games_pending, 2);
    chat_games_answered(&chat, ann->conn.id, &done);
    chat_games_answered(&chat, ann->conn.id, &not_so);
    turn();
    hears_nothing(ann);
    comes(7);
    turn();
    hears(ann, ann_says_hi); /* what the group was told */
    hears_error(ann, "never started");
    hears_nothing(ann);
    assert_int_equal(ann->conn.games_pending, 2);
    for (int i = 0; i < 2; i++)
        answer(ann, GAMES_DONE, (char[]){"{\"online_players\":[]}"});
    turn();
    hears(ann, "{\"online_players\":[]}");
    hears(ann, "{\"online_players\":[]}");
    hears_error(ann, "not JSON");
    hears_nothing(ann);
}

/* What the group is told is no message of the chat. */
static void test_frames_of_games_are_no_messages(void **state) {
    static const char *const name = "hlchat_messages_total";
    (void)state;
    unsigned long before = metric(chat_register_metrics, name);
    chat_entry(&chat, "{}", 2, true);
    chat_entry(&chat, "{}", 2, false); /* from before the start, or known already */
    assert_int_equal(metric(chat_register_metrics, name), before + 1);
    use_far_games();
    chat_entry(&chat, "{}", 2, true);
    assert_int_equal(metric(chat_register_metrics, name), before + 1);
}

/* ---- errors ---- */

static void test_errors_in_a_row_close(void **state) {
    (void)state;
    for (int i = 0; i < PROTO_ERROR_LIMIT; i++) {
        assert_int_equal(ann->close_code, 0);
        say(ann, "nonsense");
    }
    assert_int_equal(ann->close_code, CLOSE_ERRORS);
    turn();
    for (int i = 0; i < PROTO_ERROR_LIMIT; i++)
        hears_error(ann, "not JSON");
    hears_nothing(ann);
}

static void test_success_forgives_errors(void **state) {
    (void)state;
    login(ann, "Ann");
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < PROTO_ERROR_LIMIT - 1; i++)
            say(ann, "nonsense");
        say(ann, "{\"action\":\"history\"}");
    }
    assert_int_equal(ann->close_code, 0);
}

/* Old clients send keep-alives of their own making. */
static void test_keep_alives(void **state) {
    static const char *const pings[] = {"{\"action\":\"ping\"}", "{\"type\":\"ping\"}", "{}",
                                        "ping", ""};
    (void)state;
    login(ann, "Ann");
    for (int i = 0; i < 5 * PROTO_ERROR_LIMIT; i++) {
        say(ann, pings[i % 5]);
        say(eve, pings[i % 5]);
        chat.time.now_ms += PROTO_ERROR_FORGET_MS;
    }
    assert_int_equal(ann->close_code, 0);
    assert_int_equal(eve->close_code, 0);
    for (int i = 0; i < PROTO_ERROR_LIMIT - 1; i++)
        say(ann, pings[i % 5]);
    assert_int_equal(ann->close_code, 0);
    say(ann, pings[0]);
    assert_int_equal(ann->close_code, CLOSE_ERRORS);
}

/* Of those that come faster than they are forgotten, the rest adds up. */
static void test_errors_are_forgotten_one_by_one(void **state) {
    int count = 0;
    (void)state;
    for (; !ann->close_code && count < 1000; count++) {
        chat.time.now_ms += PROTO_ERROR_FORGET_MS / 2;
        say(ann, "nonsense");
    }
    assert_in_range(count, 2 * PROTO_ERROR_LIMIT - 4, 2 * PROTO_ERROR_LIMIT);
}

static void test_unknown_actions_of_others(void **state) {
    (void)state;
    for (int i = 0; i < PROTO_ERROR_LIMIT; i++) {
        assert_int_equal(eve->close_code, 0);
        say(eve, "{\"action\":\"ping\"}");
    }
    assert_int_equal(eve->close_code, CLOSE_ERRORS);
}

/* No memory for a reply: the client is told by its close, not left waiting. */
static void test_reply_without_memory(void **state) {
    (void)state;
    chat_reply(&chat, &ann->conn, NULL, 0);
    assert_int_equal(ann->close_code, CLOSE_OVERLOAD);
}

/* ---- rates ---- */

static void test_rate_of_messages(void **state) {
    (void)state;
    chat.message_rate = (struct rate_limit){.per_second = 5, .burst = 3};
    login(ann, "Ann");
    for (int i = 0; i < 4; i++)
        say(ann, hi);
    turn();
    for (int i = 0; i < 3; i++)
        hears(ann, ann_says_hi);
    hears(ann, "{\"error\":\"too many messages, this one was not sent: wait 0.2 s\"}");
    hears_nothing(ann);
    chat.time.now_ms += 199;
    say(ann, hi);
    turn();
    hears(ann, "{\"error\":\"too many messages, this one was not sent: wait 0.1 s\"}");
    chat.time.now_ms += 1;
    say(ann, hi);
    turn();
    hears(ann, ann_says_hi);
}

/* It is the user's, not the connection's: neither a second one nor a new one gains anything. */
static void test_rate_of_messages_is_per_user(void **state) {
    (void)state;
    chat.message_rate = (struct rate_limit){.per_second = 1, .burst = 2};
    login(ann, "Ann");
    login(bob, "Ann");
    say(ann, hi);
    say(bob, hi);
    say(ann, hi);
    say(bob, hi);
    turn();
    for (int i = 0; i < 2; i++) {
        hears(ann, ann_says_hi);
        hears(bob, ann_says_hi);
    }
    hears_error(ann, "too many messages");
    hears_error(bob, "too many messages");
    goes(ann);
    goes(bob);
    users_tick(&chat.users, &chat.message_rate, chat.time.now_ms + 100);
    login(eve, "Ann");
    say(eve, hi);
    turn();
    hears_error(eve, "too many messages");
}

static void test_rate_of_frames(void **state) {
    (void)state;
    chat.frame_rate = (struct rate_limit){.per_second = 10, .burst = 2};
    login(ann, "Ann");
    say(ann, "nonsense");
    say(ann, "{\"action\":\"history\"}");
    turn();
    hears_error(ann, "not JSON");
    hears(ann, "{\"error\":\"too many requests: wait 0.1 s\"}");
    login(bob, "Bob"); /* each connection has its own */
    chat.time.now_ms += 100;
    say(ann, "{\"action\":\"history\"}");
    turn();
    hears(ann, "{\"history\":[]}");
}

/* It is told to wait; what is too fast counts neither for nor against. */
static void test_what_is_too_fast_is_no_error(void **state) {
    (void)state;
    login(ann, "Ann");
    chat.frame_rate = (struct rate_limit){.per_second = 1, .burst = 1};
    say(ann, "nonsense");
    for (int i = 0; i < 4 * PROTO_ERROR_LIMIT; i++)
        say(ann, "{\"action\":\"history\"}");
    assert_int_equal(ann->close_code, 0);
    assert_int_equal(ann->conn.errors_in_row, 1);
}

/* Who does not stop is closed in the end. */
static void test_flood_closes(void **state) {
    int count = 0;
    (void)state;
    chat.frame_rate = (struct rate_limit){.per_second = 1, .burst = 1};
    login(ann, "Ann");
    for (; !ann->close_code && count < 10000; count++)
        say(ann, "{\"action\":\"history\"}");
    assert_int_equal(ann->close_code, CLOSE_ERRORS);
    assert_in_range(count, FLOOD_BURST / FLOOD_REFUSED, FLOOD_BURST / FLOOD_REFUSED + 3);
}

static void test_wait_is_told_rounded_up(void **state) {
    static const struct {
        int64_t wait_ms;
        const char *text;
    } cases[] = {{1, "x: wait 0.1 s"},      {100, "x: wait 0.1 s"},
                 {101, "x: wait 0.2 s"},    {999, "x: wait 1.0 s"},
                 {1000, "x: wait 1.0 s"},   {1001, "x: wait 1.1 s"},
                 {60000, "x: wait 60.0 s"}, {INT32_MAX, "x: wait 2147483.7 s"}};
    char error[PROTO_ERROR_MAX];
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        dispatch_rate_error(error, "x", cases[i].wait_ms);
        assert_string_equal(error, cases[i].text);
    }
}

#define CHAT_TEST(test) cmocka_unit_test_setup_teardown(test, make_chat, free_chat)

int main(void) {
    const struct CMUnitTest tests[] = {
        CHAT_TEST(test_login_first),
        CHAT_TEST(test_login),
        CHAT_TEST(test_login_again),
        CHAT_TEST(test_refused_logins_of_the_logged_in),
        CHAT_TEST(test_login_failures_are_bounded),
        CHAT_TEST(test_malformed_logins_are_no_attempts),
        CHAT_TEST(test_passwords),
        CHAT_TEST(test_each_answered_attempt_restarts_the_deadline),
        CHAT_TEST(test_closing_is_deaf),
        CHAT_TEST(test_user_of_two_connections),
        CHAT_TEST(test_login_takes_a_while),
        CHAT_TEST(test_slow_login_is_refused),
        CHAT_TEST(test_service_is_down),
        CHAT_TEST(test_slow_refusals_close),
        CHAT_TEST(test_leaves_while_logging_in),
        CHAT_TEST(test_closes_while_logging_in),
        CHAT_TEST(test_expiry),
        CHAT_TEST(test_expired_within_the_leeway),
        CHAT_TEST(test_failures_per_address),
        CHAT_TEST(test_passwords_under_way_count),
        CHAT_TEST(test_login_while_the_log_is_loading),
        CHAT_TEST(test_message_reaches_all_logged_in),
        CHAT_TEST(test_spoofed_fields),
        CHAT_TEST(test_largest_message),
        CHAT_TEST(test_history_in_its_place),
        CHAT_TEST(test_history_is_clamped),
        CHAT_TEST(test_history_while_replies_are_full),
        CHAT_TEST(test_queue_is_full),
        CHAT_TEST(test_queue_stays_full),
        CHAT_TEST(test_append_ends_badly),
        CHAT_TEST(test_sender_leaves),
        CHAT_TEST(test_frames_behind_a_login),
        CHAT_TEST(test_frames_behind_a_refused_login),
        CHAT_TEST(test_logins_in_one_write),
        CHAT_TEST(test_nothing_overtakes_own_messages),
        CHAT_TEST(test_heard_before_it_is_stored),
        CHAT_TEST(test_every_refusal_waits),
        CHAT_TEST(test_rate_errors_wait),
        CHAT_TEST(test_waiting_is_not_too_fast),
        CHAT_TEST(test_failures_in_their_place),
        CHAT_TEST(test_own_message_does_not_come),
        CHAT_TEST(test_backlog_is_bounded),
        CHAT_TEST(test_backlog_of_one_that_does_not_read),
        CHAT_TEST(test_backlog_half_empty),
        CHAT_TEST(test_backlogs_of_all_are_bounded),
        CHAT_TEST(test_leaves_with_a_backlog),
        CHAT_TEST(test_closes_with_a_backlog),
        CHAT_TEST(test_dismissed_with_a_backlog),
        CHAT_TEST(test_lost_entries),
        CHAT_TEST(test_dismissed_after_a_loss),
        CHAT_TEST(test_dismissed_with_nothing_to_wait_for),
        CHAT_TEST(test_dismissed_with_messages_under_way),
        CHAT_TEST(test_dismissed_while_a_message_fails),
        CHAT_TEST(test_dismissed_before_its_message_comes_back),
        CHAT_TEST(test_dismissed_while_logging_in),
        CHAT_TEST(test_dismissed_some_at_a_time),
        CHAT_TEST(test_games_are_asked_with_the_time),
        CHAT_TEST(test_late_refusals_of_games_close),
        CHAT_TEST(test_games_are_down),
        CHAT_TEST(test_games_while_replies_are_full),
        CHAT_TEST(test_dismissed_while_games_are_asked),
        CHAT_TEST(test_games_in_order),
        CHAT_TEST(test_frames_of_games_are_no_messages),
        CHAT_TEST(test_errors_in_a_row_close),
        CHAT_TEST(test_success_forgives_errors),
        CHAT_TEST(test_keep_alives),
        CHAT_TEST(test_errors_are_forgotten_one_by_one),
        CHAT_TEST(test_unknown_actions_of_others),
        CHAT_TEST(test_reply_without_memory),
        CHAT_TEST(test_rate_of_messages),
        CHAT_TEST(test_rate_of_messages_is_per_user),
        CHAT_TEST(test_rate_of_frames),
        CHAT_TEST(test_what_is_too_fast_is_no_error),
        CHAT_TEST(test_flood_closes),
        cmocka_unit_test(test_wait_is_told_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
