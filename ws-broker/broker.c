/*
 * The way a message travels, by function name. Every arrow is a call, and none goes back up but by
 * a callback that was given.
 *
 *   request ─> ws.c on_lws ─> on_request (here) ─> entrance_ask: may it come in, and to which chat?
 *   socket ─> ws.c on_lws ─> conn_feed ─> on_text (here)
 *     ─> dispatch_text ─> rate_take, proto_parse ─> handle_message ─> proto_message_json
 *     ─> chatlog_append ─────────────────────────────────────────── the log's order is made here
 *   at the end of the loop turn, on_turn_end (here):
 *     chatlog_turn ─> on_entry (here) ─> chat_entry ─> history_append
 *                                                  └─> fanout_append (ring: encoded once)
 *     fanout_turn_end ─> ws_sink write ─> lws_write ─> each client's socket: all that it misses
 *
 * A reply goes dispatch_text ─> chat_reply ─> fanout_reply and leaves in the same sequence; a
 * choked client goes on in fanout_writable. What has to wait for the answers to earlier requests of
 * its connection goes dispatch_text ─> chat_hold, and on at the end of a turn, behind chatlog_turn:
 * chat_turn ─> dispatch_backlog.
 *
 * Game servers on /minigame have the same way with a log of their own, but what goes into it is
 * decided elsewhere: dispatch_text ─> handle_minigame ─> games_ask ─> games.lua in Redis.
 */
#include "ws-broker/broker.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/notify.h"
#include "shared/settings.h"
#include "shared/status.h"
#include "shared/version.h"
#include "ws-broker/access.h"
#include "ws-broker/admission.h"
#include "ws-broker/chat.h"
#include "ws-broker/chatlog_redis.h"
#include "ws-broker/conn.h"
#include "ws-broker/dispatch.h"
#include "ws-broker/drain.h"
#include "ws-broker/entrance.h"
#include "ws-broker/fanout.h"
#include "ws-broker/flood.h"
#include "ws-broker/games.h"
#include "ws-broker/http.h"
#include "ws-broker/identity_secret.h"
#include "ws-broker/identity_token.h"
#include "ws-broker/listener.h"
#include "ws-broker/presence.h"
#include "ws-broker/ws.h"

enum {
    TICK_MS = 1000,
    GAMES_TICK_MS = 100,
    FLOOD_TICK_MS = 250,
    FLOOD_BUSY_PERCENT = 25, /* of the time: from there on one looks who it is that keeps us busy */
    FLOOD_LOOKS_PER_MS = 50, /* a look is a system call: so many for each ms between them */
    FILES_USUAL = 1 << 16,   /* see raise_file_limit() */
    FILES_RESERVED = 64,     /* for listeners, logs, health checks and the operators' port */
    FRAME_RATE_FACTOR = 4,   /* frames that a connection may send for each message of its user */
    ENTRY_MAX = 256 << 10,   /* bytes of the largest message that another broker may have stored */
    GROUP_RING_BYTES = 256 << 10,
    LOST_PER_STEP = 20, /* clients that are closed every LOST_STEP_MS: 200 a second */
    LOST_STEP_MS = 100,
    STOP_MARGIN_S = 10,      /* beyond the drain's deadline, before systemd kills us */
    EXIT_DEADLINE_MS = 2000, /* for what is left then, such as a look-up that hangs in a thread */
};

struct broker {
    struct settings *settings;
    size_t files_max; /* descriptors that we may have */
    uv_loop_t loop;
    uv_check_t turn_end;  /* after the I/O of each loop turn */
    uv_idle_t awake;      /* runs while the loop must not sleep */
    uv_timer_t flush_due; /* FLUSH_INTERVAL_MS */
    uv_timer_t tick, games_timer;
    uv_timer_t drain_timer; /* runs from the signal to stop on */
    uv_timer_t flood_timer;
    uv_timer_t lost_timer; /* runs while clients that have lost continuity are closed */
    uv_signal_t sigterm, sigint, sighup;
    uv_timer_t exit_timer;        /* runs while the loop runs out, without keeping it alive */
    struct listener listeners[2]; /* by enum ws_side */
    struct ws *ws;
    struct http *http; /* NULL with development logins */
    struct admission admission;
    struct chat chat;      /* the players' */
    struct chat group;     /* the game servers'; without a log there is none, and no /minigame */
    struct chat *chats[2]; /* both of them, or one */
    size_t chat_count;
    struct entrance entrance;
    struct metrics metrics;
    uint64_t turn_ended_ns, idle_ns; /* for the loop's lag */
    uint64_t flood_tick_ns, flood_idle_ns, flood_looked_ns;
    struct drain drain;
};

static struct metric build_info = {
    .name = "hlchat_build_info", .help = "The version that runs", .type = METRIC_GAUGE, .value = 1};
static struct metric connections = {
    .name = "hlchat_connections", .help = "Open WebSockets", .type = METRIC_GAUGE};
static struct metric connections_total = {.name = "hlchat_connections_total",
                                          .help = "WebSockets opened"};
static struct metric clients_here = {.name = "hlchat_clients_logged_in",
                                     .help = "Clients that receive broadcasts",
                                     .type = METRIC_GAUGE};
static struct metric users_here = {.name = "hlchat_users_online",
                                   .help = "Distinct users logged in to this broker",
                                   .type = METRIC_GAUGE};
static struct metric received_bytes = {.name = "hlchat_received_bytes_total",
                                       .help = "Bytes of text frames received"};
static struct metric loop_lag = {
    .name = "hlchat_loop_lag_seconds",
    .help = "Time that one turn of the event loop took: how long anything else had to wait",
    .type = METRIC_HISTOGRAM,
    .bounds = {100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 1000000},
    .scale = 1e-6};

static void register_metrics(struct metrics *metrics) {
    static char version[40];
    snprintf(version, sizeof(version), "version=\"%s\"", chat_version());
    build_info.labels = version;
    metrics_register(metrics, &build_info);
    metrics_register(metrics, &connections);
    metrics_register(metrics, &connections_total);
    entrance_register_metrics(metrics);
    handle_login_register_metrics(metrics);
    chatlog_redis_register_metrics(metrics);
    presence_register_metrics(metrics);
    identity_token_register_metrics(metrics);
    metrics_register(metrics, &clients_here);
    metrics_register(metrics, &users_here);
    chat_register_metrics(metrics);
    metrics_register(metrics, &received_bytes);
    fanout_register_metrics(metrics);
    drain_register_metrics(metrics);
    metrics_register(metrics, &loop_lag);
}

/* ---- what comes up from the connections ------------------------------------------------------ */

static struct chat *chat_now(struct chat *chat) {
    const struct broker *broker = chat->user;
    chat->time.now_ms = (int64_t)uv_now(&broker->loop);
    chat->time.unix_s = (int64_t)time(NULL);
    return chat;
}

static enum ws_verdict on_request(void *user, const struct ws_request *request,
                                  struct ws_client *client, struct endpoint_answer *answer) {
    struct broker *broker = user;
    if (request->side == WS_PLAYERS)
        return entrance_ask(&broker->entrance, request, (int64_t)uv_now(&broker->loop), client,
                            answer);
    clients_here.value = fanout_joined(broker->chat.fanout);
    users_here.value = users_online(&broker->chat.users);
    *answer = request->is_get ? endpoint_get_ops(request->path, &broker->metrics)
                              : endpoint_wrong_method();
    return WS_ANSWERED;
}

static void on_open(void *user, struct conn *conn, bool is_known) {
    struct broker *broker = user;
    char address[ADDRESS_TEXT_MAX];
    if (log_enabled(LOG_LEVEL_DEBUG)) {
        address_ip_text(&conn->address, address);
        log_debug("broker", "client_open", log_int("conn", (int64_t)conn->id),
                  log_str("address", address));
    }
    admission_enter(&broker->admission, &conn->address);
    connections.value++;
    connections_total.value++;
    conn->next_ping_ms =
        (int64_t)uv_now(&broker->loop) + (int64_t)broker->settings->ping_interval_s * 1000;
    chat_open(chat_now(conn->chat), conn);
    if (is_known && handle_login_enter(conn->chat, conn, &identity_game_server) != CHAT_OK)
        ws_close(broker->ws, conn, CLOSE_INTERNAL);
}

static void on_text(void *user, struct conn *conn, const char *text, size_t len) {
    (void)user;
    received_bytes.value += len;
    dispatch_text(chat_now(conn->chat), conn, text, len);
}

static void on_replies_read(void *user, struct conn *conn) {
    (void)user;
    chat_replies_read(conn->chat, conn);
}

static void on_gone(void *user, struct conn *conn, int code) {
    struct broker *broker = user;
    log_debug("broker", "client_gone", log_int("conn", (int64_t)conn->id), log_int("code", code));
    connections.value--;
    admission_leave(&broker->admission, &conn->address);
    chat_gone(chat_now(conn->chat), conn);
}

static const struct ws_events ws_events = {on_request, on_open, on_text, on_replies_read, on_gone};

static void on_players_accept(void *user, int fd) {
    ws_adopt(((struct broker *)user)->ws, WS_PLAYERS, fd);
}

static void on_ops_accept(void *user, int fd) {
    ws_adopt(((struct broker *)user)->ws, WS_OPS, fd);
}

static void close_conn(void *user, struct conn *conn, int code) {
    ws_close(((struct broker *)user)->ws, conn, code);
}

static void set_conn_reading(void *user, struct conn *conn, bool on) {
    (void)user;
    ws_set_reading(conn, on);
}

/* ---- what comes up from the log -------------------------------------------------------------- */

/* `user` is the chat whose log it is. */

static void on_entry(void *user, const char *json, size_t len, bool is_new) {
    chat_entry(user, json, len, is_new);
}

static void on_close_lost(uv_timer_t *timer) {
    struct broker *broker = timer->data;
    bool more = chat_close_lost(&broker->chat, LOST_PER_STEP);
    if (!chat_close_lost(&broker->group, LOST_PER_STEP) && !more)
        uv_timer_stop(timer);
}

static void on_lost(void *user) {
    struct chat *chat = user;
    struct broker *broker = chat->user;
    chat_lost(chat);
    uv_timer_start(&broker->lost_timer, on_close_lost, 0, LOST_STEP_MS);
}

static void on_appended(void *user, uint64_t conn_id, int status) {
    chat_appended(chat_now(user), conn_id, status);
}

static void keep_awake(uv_idle_t *idle) {
    (void)idle; /* an idle handle that runs is what keeps the loop from sleeping */
}

static void on_pending(void *user) {
    struct broker *broker = ((struct chat *)user)->user;
    uv_idle_start(&broker->awake, keep_awake);
}

static void on_answer(void *user, uint64_t conn_id, const struct identity_answer *answer) {
    chat_identified(chat_now(user), conn_id, answer);
    on_pending(user); /* it may come from a timer: the loop must not sleep on the reply */
}

/* `tag` is a connection or a request over HTTP. */
static void on_games_answer(void *user, uint64_t tag, const struct games_answer *answer) {
    struct chat *group = chat_now(user);
    struct broker *broker = group->user;
    if (conns_find(&group->conns, tag)) {
        chat_games_answered(group, tag, answer);
        free(answer->text);
    } else {
        struct endpoint_answer reply = endpoint_live(answer);
        ws_answer(broker->ws, tag, &reply);
    }
    on_pending(group);
}

static const struct identity_events identity_events = {on_answer, on_pending};

static const struct chatlog_events chatlog_events = {on_entry, on_appended, on_pending, on_lost};

/* ---- the loop -------------------------------------------------------------------------------- */

static void observe_lag(struct broker *broker) {
    uint64_t now = uv_hrtime(), idle = uv_metrics_idle_time(&broker->loop);
    uint64_t turn = now - broker->turn_ended_ns, slept = idle - broker->idle_ns;
    metric_observe(&loop_lag, turn > slept ? (turn - slept) / 1000 : 0);
    broker->turn_ended_ns = now;
    broker->idle_ns = idle;
}

static void on_turn_end(uv_check_t *check);

static void on_flush_due(uv_timer_t *timer) {
    (void)timer; /* it has woken the loop: on_turn_end does the rest */
}

static void on_turn_end(uv_check_t *check) {
    struct broker *broker = check->data;
    bool more = identity_turn(broker->chat.identity);
    int64_t due_ms = FANOUT_QUIET;
    for (size_t i = 0; i < broker->chat_count; i++) {
        struct chat *chat = broker->chats[i];
        more = chatlog_turn(chat->log, fanout_room(chat->fanout)) || more;
        more = (chat_has_work(chat) && chat_turn(chat_now(chat))) || more;
        int64_t chat_due_ms = fanout_turn_end(chat->fanout, (int64_t)uv_now(&broker->loop));
        more = more || chat_due_ms == FANOUT_AGAIN || chat_has_work(chat);
        if (chat_due_ms > 0 && (due_ms < 0 || chat_due_ms < due_ms))
            due_ms = chat_due_ms;
    }
    if (more)
        uv_idle_start(&broker->awake, keep_awake);
    else
        uv_idle_stop(&broker->awake);
    if (due_ms > 0)
        uv_timer_start(&broker->flush_due, on_flush_due, (uint64_t)due_ms, 0);
    observe_lag(broker);
}

static void on_games_tick(uv_timer_t *timer) {
    struct broker *broker = timer->data;
    games_tick(broker->group.games, (int64_t)uv_now(&broker->loop), (int64_t)time(NULL));
}

static void on_login_timeout(void *user, struct conn *conn) {
    ws_close(((struct broker *)user)->ws, conn, CLOSE_LOGIN_TIMEOUT);
}

static void on_expired(void *user, struct conn *conn) {
    ws_close(((struct broker *)user)->ws, conn, CLOSE_TOKEN_EXPIRED);
}

static void on_ping(void *user, struct conn *conn) {
    (void)user;
    ws_ping(conn);
}

static void on_silent(void *user, struct conn *conn) {
    log_debug("broker", "client_silent", log_int("conn", (int64_t)conn->id));
    ws_close(((struct broker *)user)->ws, conn, CLOSE_SLOW);
}

static size_t clients_of(const struct broker *broker) {
    size_t clients = 0;
    for (size_t i = 0; i < broker->chat_count; i++)
        clients += conns_count(&broker->chats[i]->conns);
    return clients;
}

static void close_if_flood(void *user, struct conn *conn) {
    struct broker *broker = user;
    if (conn->state == CONN_CLOSING ||
        !flood_is_over(&conn->flood, ws_received(conn), (int64_t)uv_now(&broker->loop)))
        return;
    log_info("broker", "client_flood", log_int("conn", (int64_t)conn->id));
    ws_close_soon(broker->ws, conn, CLOSE_ERRORS);
}

/* Who is idle costs nothing: the clients are only looked at when the loop is busy. */
static void on_flood_tick(uv_timer_t *timer) {
    struct broker *broker = timer->data;
    uint64_t now = uv_hrtime(), idle = uv_metrics_idle_time(&broker->loop);
    uint64_t took = now - broker->flood_tick_ns, slept = idle - broker->flood_idle_ns;
    uint64_t since_ms = (now - broker->flood_looked_ns) / 1000000;
    broker->flood_tick_ns = now;
    broker->flood_idle_ns = idle;
    if (slept * 100 > took * (100 - FLOOD_BUSY_PERCENT) ||
        clients_of(broker) > since_ms * FLOOD_LOOKS_PER_MS)
        return;
    broker->flood_looked_ns = now;
    for (size_t i = 0; i < broker->chat_count; i++)
        conns_each(&broker->chats[i]->conns, close_if_flood, broker);
}

static void on_tick(uv_timer_t *timer) {
    static const struct conns_overdue overdue = {on_login_timeout, on_expired, on_ping, on_silent};
    struct broker *broker = timer->data;
    int64_t now_ms = (int64_t)uv_now(&broker->loop);
    for (size_t i = 0; i < broker->chat_count; i++) {
        conns_tick(&broker->chats[i]->conns, now_ms, (int64_t)time(NULL),
                   (int64_t)broker->settings->ping_interval_s * 1000, &overdue, broker);
        chat_tick(broker->chats[i]);
    }
    identity_tick(broker->chat.identity);
    if (broker->chat.presence)
        presence_tick(broker->chat.presence, now_ms);
    users_tick(&broker->chat.users, &broker->chat.message_rate, now_ms);
    admission_tick(&broker->admission, now_ms);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void close_handle(void *handle) {
    uv_close(handle, NULL);
}

static void on_exit_deadline(uv_timer_t *timer) {
    (void)timer;
    log_warn("broker", "exit_without_waiting", log_str("why", "a thread hangs"));
    _exit(EXIT_SUCCESS);
}

/* Closes whatever was started; the loop runs out by itself then. */
static void close_all(struct broker *broker) {
    uv_timer_start(&broker->exit_timer, on_exit_deadline, EXIT_DEADLINE_MS, 0);
    uv_unref((uv_handle_t *)&broker->exit_timer);
    if (broker->group.games)
        games_stop(broker->group.games);
    if (broker->chat.presence)
        presence_stop(broker->chat.presence);
    for (size_t i = 0; i < broker->chat_count; i++) {
        identity_free(broker->chats[i]->identity);
        broker->chats[i]->identity = NULL;
        if (broker->chats[i]->log)
            chatlog_stop(broker->chats[i]->log);
    }
    if (broker->http)
        http_stop(broker->http);
    if (broker->ws)
        ws_stop(broker->ws);
    close_handle(&broker->turn_end);
    close_handle(&broker->awake);
    close_handle(&broker->flush_due);
    close_handle(&broker->tick);
    close_handle(&broker->games_timer);
    close_handle(&broker->drain_timer);
    close_handle(&broker->flood_timer);
    close_handle(&broker->lost_timer);
    close_handle(&broker->sigterm);
    close_handle(&broker->sigint);
    close_handle(&broker->sighup);
}

static void stop_listening(struct broker *broker) {
    listener_stop(&broker->listeners[WS_PLAYERS]);
    listener_stop(&broker->listeners[WS_OPS]);
}

static void on_drain_step(uv_timer_t *timer) {
    struct broker *broker = timer->data;
    bool is_settled = !ws_is_answering(broker->ws);
    for (size_t i = 0; i < broker->chat_count; i++)
        is_settled = is_settled && chatlog_is_settled(chat_now(broker->chats[i])->log);
    size_t more =
        drain_step(&broker->drain, (int64_t)uv_now(&broker->loop), clients_of(broker), is_settled);
    for (size_t i = 0; i < broker->chat_count && broker->drain.phase == DRAIN_CLOSING; i++)
        more -= chat_dismiss_some(broker->chats[i], more, CLOSE_RESTART);
    if (broker->drain.phase != DRAIN_OVER)
        return;
    stop_listening(broker);
    close_all(broker);
}

static void on_signal(uv_signal_t *signal, int signum) {
    struct broker *broker = signal->data;
    const struct settings *settings = broker->settings;
    struct drain_options options = {.rate = (size_t)settings->drain_rate,
                                    .deadline_ms = (int64_t)settings->drain_deadline_s * 1000,
                                    .may_skip_accept = settings->chat_env == PROFILE_DEV};
    (void)signum;
    notify_stopping(settings->drain_deadline_s + STOP_MARGIN_S);
    drain_signal(&broker->drain, &options, (int64_t)uv_now(&broker->loop), clients_of(broker));
    uv_timer_start(&broker->drain_timer, on_drain_step, 0, DRAIN_STEP_MS);
}

/* ---- the beginning --------------------------------------------------------------------------- */

/* Takes the descriptors that MAX_CLIENTS needs, or FILES_USUAL, as far as the system lets us have
 * them; returns how many that is. More would cost: libwebsockets has a table of that length, and as
 * Debian builds it looks through all of it when a connection closes. */
static size_t raise_file_limit(const struct settings *settings) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024;
    rlim_t needed = (rlim_t)settings->max_clients + FILES_RESERVED;
    rlim_t wanted = needed > FILES_USUAL ? needed : FILES_USUAL;
    rlim_t before = limit.rlim_cur;
    if (wanted > limit.rlim_max)
        wanted = limit.rlim_max;
    limit.rlim_cur = wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        wanted = before;
    return (size_t)wanted;
}

/* At the start and at a reload. */
static void set_limits(struct broker *broker) {
    const struct settings *settings = broker->settings;
    size_t files = broker->files_max;
    size_t most = files > 2 * FILES_RESERVED ? files - FILES_RESERVED : files / 2;
    size_t wanted = (size_t)settings->max_clients;
    if (wanted > most)
        log_warn("broker", "max_clients_above_file_limit", log_int("max_clients", (int64_t)wanted),
                 log_int("used", (int64_t)most));
    broker->admission.max_clients = wanted > 0 && wanted < most ? wanted : most;
    broker->admission.max_per_address = settings->conn_per_address;
    broker->admission.connect_rate = (struct rate_limit){settings->connect_rate_per_address,
                                                         2 * settings->connect_rate_per_address};
    for (size_t i = 0; i < broker->chat_count; i++) {
        struct chat *chat = broker->chats[i];
        chat->message_rate = (struct rate_limit){settings->rate_messages, settings->rate_burst};
        chat->frame_rate = (struct rate_limit){FRAME_RATE_FACTOR * settings->rate_messages,
                                               FRAME_RATE_FACTOR * settings->rate_burst};
        chat->history_max_bytes = (size_t)settings->history_max_bytes;
        chat->login_timeout_ms = (int64_t)settings->login_timeout_s * 1000;
        chat->login_attempts = settings->login_attempts;
    }
    broker->chat.close_expired = settings->token_expiry == TOKEN_EXPIRY_SESSION;
    broker->admission.login_failures_per_minute = settings->login_failures_per_minute;
}

static struct verifier_options verifier_options(const struct settings *settings) {
    return (struct verifier_options){
        .policy = {.algorithm = settings_jwt_algorithms[settings->jwt_algorithm],
                   .audience = settings->jwt_audience,
                   .issuer = settings->jwt_issuer,
                   .nickname_claim = settings->jwt_nickname_claim},
        .pem_files = settings->jwt_public_key_file,
        .jwks_url = settings->jwks_url};
}

_Static_assert(VERIFIER_ERROR_MAX <= (int)SETTINGS_ERROR_MAX, "its errors fit");

int broker_check(const struct settings *settings, char error[SETTINGS_ERROR_MAX]) {
    return settings->identity == IDENTITY_DEV
               ? CHAT_OK
               : verifier_check_files(settings->jwt_public_key_file, error);
}

/* Keys are read whether their setting has changed or not: their files may have. */
static int prepare_reload(void *user, const struct settings *next, char error[SETTINGS_ERROR_MAX]) {
    struct broker *broker = user;
    struct verifier_options options = verifier_options(next);
    return next->identity == IDENTITY_DEV
               ? CHAT_OK
               : identity_token_reload(broker->chat.identity, &options, error);
}

static void on_hangup(uv_signal_t *signal, int signum) {
    struct broker *broker = signal->data;
    (void)signum;
    if (settings_reload(broker->settings, prepare_reload, broker) != CHAT_OK)
        return;
    set_limits(broker);
    if (access_has_minigame(broker->settings) && !entrance_has_minigame(&broker->entrance))
        log_warn("broker", "minigame_needs_a_restart");
}

/* With nobody but this machine it is a development server. */
static void warn_of_dev(const struct address_listen *listen) {
    struct address_networks here;
    struct address_ip ip;
    if (listen->is_unix || address_networks_parse("127.0.0.0/8, ::1", &here) != CHAT_OK ||
        address_ip_parse(listen->host, strlen(listen->host), &ip) != CHAT_OK ||
        address_networks_contain(&here, &ip))
        return;
    log_warn("broker", "identity_dev",
             log_str("hint", "anybody is anybody; for players CHAT_ENV=prod, which refuses this"));
}

static struct identity *make_identity(struct broker *broker) {
    const struct settings *settings = broker->settings;
    if (settings->identity == IDENTITY_DEV) {
        warn_of_dev(&settings->listen);
        return identity_dev();
    }
    struct identity_token_options options = {
        .verifier = verifier_options(settings),
        .account_url =
            settings->identity == IDENTITY_HEAVENLAND ? settings->heavenland_api_url : NULL,
    };
    broker->http = http_new(&broker->loop);
    return broker->http ? identity_token_new(&options, &broker->loop, broker->http,
                                             &identity_events, &broker->chat)
                        : NULL;
}

static struct chatlog *make_log(struct broker *broker, struct chat *chat) {
    const struct settings *settings = broker->settings;
    bool is_players = chat == &broker->chat;
    char key[CHATLOG_KEY_MAX];
    if (settings->store == STORE_MEMORY)
        return chatlog_memory_new(&chatlog_events, chat);
    snprintf(key, sizeof(key), "%s:{%s}%s", is_players ? "chat" : "game", settings->chat_name,
             is_players ? "" : ":log");
    struct chatlog_redis_options options = {
        .url = &settings->redis_url,
        .which = is_players ? CHATLOG_PLAYERS : CHATLOG_MINIGAME,
        .key = key,
        .log_maxlen = settings->log_maxlen,
        .history_limit = is_players ? settings->history_limit : 0,
        .entry_max = ENTRY_MAX,
    };
    return chatlog_redis_new(&options, &broker->loop, &chatlog_events, chat);
}

/* What both have. */
static int make_chat(struct broker *broker, struct chat *chat, enum proto_side side) {
    const struct settings *settings = broker->settings;
    bool is_players = side == PROTO_CHAT;
    broker->chats[broker->chat_count++] = chat;
    chat->user = broker;
    chat->close = close_conn;
    chat->set_reading = set_conn_reading;
    chat->admission = &broker->admission;
    chat->proto = proto_new(side, (size_t)settings->message_max_bytes);
    chat->fanout = fanout_new(is_players ? FANOUT_RING_BYTES : GROUP_RING_BYTES,
                              settings->flush_interval_ms, &ws_sink);
    chat->history = history_new(is_players ? (size_t)settings->history_limit : 0);
    chat->log = make_log(broker, chat);
    if (chat->proto && chat->fanout && chat->history && chat->log)
        return CHAT_OK;
    log_error("broker", "no_memory", log_errno());
    return CHAT_ENOMEM;
}

static int make_players(struct broker *broker) {
    const struct settings *settings = broker->settings;
    struct chat *chat = &broker->chat;
    int status = make_chat(broker, chat, PROTO_CHAT);
    if (status != CHAT_OK)
        return status;
    if (settings->store == STORE_REDIS)
        chat->presence =
            presence_new(chatlog_redis_publisher(chat->log), &chat->users, settings->chat_name,
                         chatlog_redis_nonce(chat->log), access_has_minigame(settings));
    chat->identity = make_identity(broker);
    return chat->identity ? CHAT_OK : CHAT_EINVAL; /* it has said why */
}

static struct games *make_games(struct broker *broker) {
    const struct settings *settings = broker->settings;
    struct chat *group = &broker->group;
    if (settings->store == STORE_MEMORY)
        return games_memory_new(group->log, &broker->chat.users);
    struct games_redis_options options = {
        .redis = chatlog_redis_publisher(group->log),
        .chat_name = settings->chat_name,
        .log_maxlen = settings->log_maxlen,
    };
    return games_redis_new(&options, on_games_answer, group);
}

static int make_group(struct broker *broker) {
    struct chat *group = &broker->group;
    if (!access_has_minigame(broker->settings)) {
        log_warn("broker", "minigame_off",
                 log_str("hint", "neither MINIGAME_SECRET nor MINIGAME_ALLOW_FROM is set"));
        return CHAT_OK;
    }
    int status = make_chat(broker, group, PROTO_MINIGAME);
    if (status != CHAT_OK)
        return status;
    group->identity = identity_secret_new(broker->settings);
    group->games = make_games(broker);
    if (!group->identity || !group->games) {
        log_error("broker", "no_memory", log_errno());
        return CHAT_ENOMEM;
    }
    uv_timer_start(&broker->games_timer, on_games_tick, 0, GAMES_TICK_MS);
    return CHAT_OK;
}

static int make_parts(struct broker *broker) {
    int status = make_players(broker);
    return status == CHAT_OK ? make_group(broker) : status;
}

static int start_listening(struct broker *broker) {
    static const listener_accept_cb on_accept[] = {on_players_accept, on_ops_accept};
    const struct address_listen *addresses[] = {&broker->settings->listen,
                                                &broker->settings->ops_listen};
    char error[LISTEN_ERROR_MAX];
    for (int side = WS_PLAYERS; side <= WS_OPS; side++)
        if (listener_start(&broker->listeners[side], &broker->loop, addresses[side],
                           on_accept[side], broker, error) != CHAT_OK) {
            log_error("broker", "listen_failed", log_str("error", error));
            return CHAT_ESYS;
        }
    return CHAT_OK;
}

static void start_handles(struct broker *broker) {
    uv_loop_t *loop = &broker->loop;
    uv_check_init(loop, &broker->turn_end);
    uv_idle_init(loop, &broker->awake);
    uv_timer_init(loop, &broker->flush_due);
    uv_timer_init(loop, &broker->tick);
    uv_timer_init(loop, &broker->games_timer);
    uv_timer_init(loop, &broker->drain_timer);
    uv_timer_init(loop, &broker->flood_timer);
    uv_timer_init(loop, &broker->lost_timer);
    uv_timer_init(loop, &broker->exit_timer);
    uv_signal_init(loop, &broker->sigterm);
    uv_signal_init(loop, &broker->sigint);
    uv_signal_init(loop, &broker->sighup);
    broker->turn_end.data = broker->tick.data = broker->drain_timer.data = broker;
    broker->flood_timer.data = broker;
    broker->lost_timer.data = broker->games_timer.data = broker;
    broker->sigterm.data = broker->sigint.data = broker->sighup.data = broker;
    uv_check_start(&broker->turn_end, on_turn_end);
    uv_timer_start(&broker->tick, on_tick, TICK_MS, TICK_MS);
    uv_timer_start(&broker->flood_timer, on_flood_tick, FLOOD_TICK_MS, FLOOD_TICK_MS);
    uv_signal_start(&broker->sigterm, on_signal, SIGTERM);
    uv_signal_start(&broker->sigint, on_signal, SIGINT);
    uv_signal_start(&broker->sighup, on_hangup, SIGHUP);
}

static int start(struct broker *broker) {
    int status = make_parts(broker);
    if (status != CHAT_OK)
        return status;
    set_limits(broker);
    broker->ws =
        ws_new(&broker->loop, (size_t)broker->settings->frame_max_bytes, &ws_events, broker);
    if (!broker->ws)
        return CHAT_ENOMEM;
    return start_listening(broker);
}

/* Runs the loop until nothing is left in it, and releases it. Returns 0, or negative when a handle
 * was left open: our bug. */
static int run_out(struct broker *broker) {
    uv_run(&broker->loop, UV_RUN_DEFAULT);
    if (broker->ws)
        ws_free(broker->ws);
    close_handle(&broker->exit_timer);
    uv_run(&broker->loop, UV_RUN_DEFAULT); /* the library's last handles close here */
    int left = uv_loop_close(&broker->loop);
    if (left != 0)
        log_error("broker", "handles_left", log_str("error", uv_strerror(left)));
    return left;
}

struct broker *broker_new(struct settings *settings) {
    struct broker *broker = calloc(1, sizeof(*broker));
    if (!broker || uv_loop_init(&broker->loop) != 0) {
        log_error("broker", "no_loop");
        free(broker);
        return NULL;
    }
    uv_loop_configure(&broker->loop, UV_METRICS_IDLE_TIME);
    broker->settings = settings;
    broker->files_max = raise_file_limit(settings);
    broker->entrance = (struct entrance){.settings = settings,
                                         .drain = &broker->drain,
                                         .admission = &broker->admission,
                                         .players = &broker->chat,
                                         .game_servers = &broker->group};
    register_metrics(&broker->metrics);
    start_handles(broker);
    if (start(broker) == CHAT_OK)
        return broker;
    stop_listening(broker);
    close_all(broker);
    run_out(broker);
    broker_free(broker);
    return NULL;
}

int broker_run(struct broker *broker) {
    char listen[ADDRESS_LISTEN_TEXT_MAX], ops_listen[ADDRESS_LISTEN_TEXT_MAX];
    address_listen_text(&broker->settings->listen, listen);
    address_listen_text(&broker->settings->ops_listen, ops_listen);
    log_info("broker", "ready", log_str("listen", listen), log_str("ops_listen", ops_listen),
             log_int("max_clients", (int64_t)broker->admission.max_clients));
    notify_ready();
    broker->turn_ended_ns = uv_hrtime();
    return run_out(broker) == 0 ? 0 : 1;
}

void broker_free(struct broker *broker) {
    for (size_t i = 0; i < broker->chat_count; i++) {
        struct chat *chat = broker->chats[i];
        games_free(chat->games);
        presence_free(chat->presence);
        chatlog_free(chat->log);
        history_free(chat->history);
        fanout_free(chat->fanout);
        proto_free(chat->proto);
        users_clear(&chat->users);
    }
    http_free(broker->http);
    admission_clear(&broker->admission);
    free(broker);
}
