#include "ws-broker/redis.h"

#include <arpa/inet.h>
#include <hiredis/async.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "shared/log.h"
#include "shared/status.h"

enum {
    HANDSHAKE_MS = 2000, /* connecting and saying who we are */
    CHECK_MS = 100,      /* how often deadlines are looked at */
    PAUSE_MIN_MS = 50,
    PAUSE_MAX_MS = 1000,
    STABLE_MS = 2000,
    MAJOR_MIN = 7,
    WORDS_MAX = 64,
    USER_TIMEOUT_MS = 10000, /* unacknowledged bytes: the kernel gives up then */
};

struct pending {
    redis_cb callback;
    void *user;
    int64_t deadline_ms;
    struct redis *redis;
    struct pending *next;
};

struct redis {
    uv_loop_t *loop;
    const char *name;
    const struct redis_url *url;
    const struct redis_events *events;
    void *user;

    redisAsyncContext *context; /* NULL: not connected */
    uv_poll_t *poll;            /* its descriptor's; freed when it has closed */
    int poll_events;
    uv_prepare_t flush; /* runs when there is something to write */
    bool is_writing;
    struct pending *first, *last; /* replies come in this order */
    bool is_up;
    bool is_dropping; /* at the next turn */
    bool is_stopped;
    int64_t handshake_by_ms;
    unsigned failures; /* in a row; one that was up for STABLE_MS ends the row */
    int64_t up_ms;     /* since when it is up */
    char told[128];    /* the reason that was logged last */
    struct redis_server server;
    char version[24];        /* of Redis, or that a Valkey can stand in for */
    char valkey_version[24]; /* "": it is no Valkey */
    char why[128];           /* it went down */

    uv_timer_t check; /* deadlines */
    uv_timer_t pause; /* before the next attempt */
    uv_getaddrinfo_t *lookup;
    struct addrinfo *addresses; /* of the host; NULL: none yet */
    struct addrinfo *address;   /* the one that is tried, or is good; NULL: all were tried */
    struct addrinfo *newer;     /* in their place once all were tried; NULL: they are the newest */
};

static void connect_now(struct redis *redis);
static void tear_down(struct redis *redis);

static int64_t now_ms(const struct redis *redis) {
    return (int64_t)uv_now(redis->loop);
}

/* ---- replies --------------------------------------------------------------------------------- */

static const redisReply *raw(const struct redis_value *value) {
    return (const redisReply *)(const void *)value;
}

static const struct redis_value *wrap(const redisReply *reply) {
    return (const struct redis_value *)(const void *)reply;
}

enum redis_type redis_value_type(const struct redis_value *value) {
    if (!value)
        return REDIS_NULL;
    switch (raw(value)->type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        return REDIS_TEXT;
    case REDIS_REPLY_INTEGER:
        return REDIS_NUMBER;
    case REDIS_REPLY_ARRAY:
        return REDIS_LIST;
    case REDIS_REPLY_ERROR:
        return REDIS_FAILED;
    default:
        return REDIS_NULL;
    }
}

const char *redis_value_text(const struct redis_value *value, size_t *len) {
    enum redis_type type = redis_value_type(value);
    bool has_text = type == REDIS_TEXT || type == REDIS_FAILED;
    if (len)
        *len = has_text ? (size_t)raw(value)->len : 0;
    return has_text ? raw(value)->str : "";
}

int64_t redis_value_number(const struct redis_value *value) {
    return redis_value_type(value) == REDIS_NUMBER ? (int64_t)raw(value)->integer : 0;
}

size_t redis_value_count(const struct redis_value *value) {
    return redis_value_type(value) == REDIS_LIST ? (size_t)raw(value)->elements : 0;
}

const struct redis_value *redis_value_at(const struct redis_value *value, size_t index) {
    return index < redis_value_count(value) ? wrap(raw(value)->element[index]) : NULL;
}

bool redis_value_is_error(const struct redis_value *value, const char *word) {
    size_t len = strlen(word);
    const char *text = redis_value_text(value, NULL);
    return redis_value_type(value) == REDIS_FAILED && strncmp(text, word, len) == 0 &&
           (text[len] == ' ' || text[len] == '\0');
}

/* ---- hiredis on libuv ------------------------------------------------------------------------ */
/* The packaged adapter of 0.14 never tells of a refused connection, so this is ours. */

static void write_out(struct redis *redis) {
    redis->is_writing = true;
    redisAsyncHandleWrite(redis->context);
    redis->is_writing = false;
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct redis *redis = poll->data;
    if (status < 0) /* reading finds out what is wrong */
        events = UV_READABLE;
    if ((events & UV_READABLE) && redis->context && redis->poll == poll)
        redisAsyncHandleRead(redis->context);
    if ((events & UV_WRITABLE) && redis->context && redis->poll == poll)
        write_out(redis);
}

static void poll_for(struct redis *redis, int events) {
    if (!redis->poll || events == redis->poll_events)
        return;
    redis->poll_events = events;
    if (events)
        uv_poll_start(redis->poll, events, on_poll);
    else
        uv_poll_stop(redis->poll);
}

static void add_read(void *data) {
    struct redis *redis = data;
    poll_for(redis, redis->poll_events | UV_READABLE);
}

static void del_read(void *data) {
    struct redis *redis = data;
    poll_for(redis, redis->poll_events & ~UV_READABLE);
}

/* Before the loop sleeps: the commands of one turn go out in one write. */
static void on_flush(uv_prepare_t *flush) {
    struct redis *redis = flush->data;
    uv_prepare_stop(flush);
    if (redis->context)
        write_out(redis);
}

/* Once it is up, the socket is waited for only when it was found full: each change of what is
 * waited for is two calls to the kernel. */
static void add_write(void *data) {
    struct redis *redis = data;
    if (redis->is_up && !redis->is_writing)
        uv_prepare_start(&redis->flush, on_flush);
    else
        poll_for(redis, redis->poll_events | UV_WRITABLE);
}

static void del_write(void *data) {
    struct redis *redis = data;
    poll_for(redis, redis->poll_events & ~UV_WRITABLE);
}

static void free_handle(uv_handle_t *handle) {
    free(handle);
}

/* hiredis calls it before it closes the descriptor. */
static void cleanup(void *data) {
    struct redis *redis = data;
    if (!redis->poll)
        return;
    uv_poll_stop(redis->poll);
    uv_close((uv_handle_t *)redis->poll, free_handle);
    redis->poll = NULL;
    redis->poll_events = 0;
}

static int attach(struct redis *redis, redisAsyncContext *context) {
    redis->poll = calloc(1, sizeof(*redis->poll));
    if (!redis->poll || uv_poll_init(redis->loop, redis->poll, context->c.fd) != 0) {
        free(redis->poll);
        redis->poll = NULL;
        return CHAT_ESYS;
    }
    redis->poll->data = redis;
    context->ev.data = redis;
    context->ev.addRead = add_read;
    context->ev.delRead = del_read;
    context->ev.addWrite = add_write;
    context->ev.delWrite = del_write;
    context->ev.cleanup = cleanup;
    return CHAT_OK;
}

/* ---- going down ------------------------------------------------------------------------------ */

static void on_pause_over(uv_timer_t *timer) {
    struct redis *redis = timer->data;
    if (redis->is_dropping)
        tear_down(redis);
    else if (!redis->context && !redis->is_stopped)
        connect_now(redis);
}

static uint64_t pause_ms(const struct redis *redis) {
    unsigned doublings = redis->failures < 5 ? redis->failures : 5;
    uint64_t most = (uint64_t)PAUSE_MIN_MS << doublings;
    if (most > PAUSE_MAX_MS)
        most = PAUSE_MAX_MS;
    return most / 2 + (uint64_t)uv_hrtime() % (most / 2 + 1);
}

/* The connection is gone, and every command has been told: a new one comes after a pause. */
static void after_down(struct redis *redis) {
    bool was_up = redis->is_up;
    redis->context = NULL;
    redis->is_up = redis->is_dropping = false;
    if (redis->is_stopped)
        return;
    if (!was_up && redis->address)
        redis->address = redis->address->ai_next;
    if (redis->failures++ == 0 || strcmp(redis->told, redis->why) != 0) {
        /* A new reason is told, not every attempt. */
        log_warn("redis", "down", log_str("link", redis->name), log_str("why", redis->why));
        snprintf(redis->told, sizeof(redis->told), "%s", redis->why);
    }
    uv_timer_start(&redis->pause, on_pause_over, pause_ms(redis), 0);
    if (was_up)
        redis->events->on_down(redis->user);
}

static void note_why(struct redis *redis, const char *why) {
    if (!redis->why[0])
        snprintf(redis->why, sizeof(redis->why), "%s", why && *why ? why : "connection lost");
}

static void tear_down(struct redis *redis) {
    redisAsyncContext *context = redis->context;
    if (!context)
        return;
    /* Commands are told from inside this call; nobody may send meanwhile. */
    redis->context = NULL;
    context->data = NULL; /* its disconnect callback is not for us */
    redisAsyncFree(context);
    after_down(redis);
}

void redis_drop(struct redis *redis, const char *why) {
    if (!redis->context || redis->is_dropping)
        return;
    note_why(redis, why);
    redis->is_dropping = true;
    uv_timer_start(&redis->pause, on_pause_over, 0, 0);
}

/* hiredis frees the context after each of these two. */
static void on_disconnected(const redisAsyncContext *context, int status) {
    struct redis *redis = context->data;
    (void)status;
    if (!redis)
        return;
    note_why(redis, context->c.errstr);
    cleanup(redis);
    after_down(redis);
}

static void on_connected(const redisAsyncContext *context, int status) {
    struct redis *redis = context->data;
    if (!redis || status == REDIS_OK)
        return;
    note_why(redis, context->c.errstr); /* 0.14 leaves context->errstr empty */
    cleanup(redis);
    after_down(redis);
}

/* ---- commands -------------------------------------------------------------------------------- */

/* Replies come in order, and so do the callbacks with NULL when the connection goes away. */
static void on_reply(redisAsyncContext *context, void *reply, void *user) {
    struct pending *pending = user;
    struct redis *redis = pending->redis;
    redis_cb callback = pending->callback;
    void *callback_user = pending->user;
    (void)context;
    redis->first = pending->next;
    if (!redis->first)
        redis->last = NULL;
    free(pending);
    if (callback)
        callback(callback_user, wrap(reply));
}

/* Sends, whether up or still in the handshake. */
static int send_args(struct redis *redis, const struct redis_arg *args, size_t count,
                     int64_t timeout_ms, redis_cb callback, void *user) {
    const char *texts[WORDS_MAX];
    size_t lens[WORDS_MAX];
    if (!redis->context || redis->is_dropping || count > WORDS_MAX)
        return CHAT_EUNAVAILABLE;
    struct pending *pending = calloc(1, sizeof(*pending));
    if (!pending)
        return CHAT_ENOMEM;
    *pending = (struct pending){.callback = callback,
                                .user = user,
                                .deadline_ms = now_ms(redis) + timeout_ms,
                                .redis = redis};
    for (size_t i = 0; i < count; i++) {
        texts[i] = args[i].bytes;
        lens[i] = args[i].len;
    }
    if (redisAsyncCommandArgv(redis->context, on_reply, pending, (int)count, texts, lens) !=
        REDIS_OK) {
        free(pending);
        return CHAT_EUNAVAILABLE;
    }
    if (redis->last)
        redis->last->next = pending;
    else
        redis->first = pending;
    redis->last = pending;
    return CHAT_OK;
}

int redis_send(struct redis *redis, const struct redis_arg *args, size_t count, int64_t timeout_ms,
               redis_cb callback, void *user) {
    return redis->is_up ? send_args(redis, args, count, timeout_ms, callback, user)
                        : CHAT_EUNAVAILABLE;
}

static size_t collect(struct redis_arg args[WORDS_MAX], va_list words) {
    size_t count = 0;
    const char *word;
    while (count < WORDS_MAX && (word = va_arg(words, const char *)))
        args[count++] = (struct redis_arg){word, strlen(word)};
    return count;
}

int redis_send_words(struct redis *redis, int64_t timeout_ms, redis_cb callback, void *user, ...) {
    struct redis_arg args[WORDS_MAX];
    va_list words;
    va_start(words, user);
    size_t count = collect(args, words);
    va_end(words);
    return redis_send(redis, args, count, timeout_ms, callback, user);
}

/* ---- the handshake --------------------------------------------------------------------------- */

static void say(struct redis *redis, redis_cb callback, ...) {
    struct redis_arg args[WORDS_MAX];
    va_list words;
    va_start(words, callback);
    size_t count = collect(args, words);
    va_end(words);
    send_args(redis, args, count, HANDSHAKE_MS, callback, redis);
}

/* An error reply ends the handshake; the text is Redis' own and holds no secret of ours. */
static bool failed(struct redis *redis, const struct redis_value *reply) {
    if (redis_value_type(reply) == REDIS_FAILED)
        redis_drop(redis, redis_value_text(reply, NULL));
    return !reply || redis->is_dropping;
}

static void on_greeting(void *user, const struct redis_value *reply) {
    failed(user, reply);
}

/* Copies what stands behind `key`, up to a blank or the end of the line. */
static void copy_field(const char *text, const char *key, char *out, size_t size) {
    const char *at = strstr(text, key);
    size_t len = at ? strcspn(at + strlen(key), " \r\n") : 0;
    snprintf(out, size, "%.*s", (int)len, at ? at + strlen(key) : "");
}

static void on_server_info(void *user, const struct redis_value *reply) {
    struct redis *redis = user;
    char text[64];
    if (failed(redis, reply))
        return;
    copy_field(redis_value_text(reply, NULL), "redis_version:", redis->version,
               sizeof(redis->version));
    copy_field(redis_value_text(reply, NULL), "valkey_version:", redis->valkey_version,
               sizeof(redis->valkey_version));
    copy_field(redis_value_text(reply, NULL), "run_id:", redis->server.run_id,
               sizeof(redis->server.run_id));
    if (strtol(redis->version, NULL, 10) < MAJOR_MIN) {
        snprintf(text, sizeof(text), "Redis %s is too old: 7.0 is needed", redis->version);
        redis_drop(redis, text);
    }
}

static void on_client_info(void *user, const struct redis_value *reply) {
    struct redis *redis = user;
    if (failed(redis, reply))
        return;
    const char *text = redis_value_text(reply, NULL);
    copy_field(text, "id=", redis->server.client_id, sizeof(redis->server.client_id));
    copy_field(text, " addr=", redis->server.client_addr, sizeof(redis->server.client_addr));
    redis->is_up = true;
    redis->up_ms = now_ms(redis);
    if (redis->valkey_version[0])
        log_info("redis", "up", log_str("link", redis->name), log_str("version", redis->version),
                 log_str("valkey_version", redis->valkey_version));
    else
        log_info("redis", "up", log_str("link", redis->name), log_str("version", redis->version));
    redis->events->on_up(redis->user);
}

static void greet(struct redis *redis) {
    const struct redis_url *url = redis->url;
    char db[8];
    snprintf(db, sizeof(db), "%d", url->db);
    if (url->password[0] && url->username[0])
        say(redis, on_greeting, "AUTH", url->username, url->password, NULL);
    else if (url->password[0])
        say(redis, on_greeting, "AUTH", url->password, NULL);
    if (url->db != 0)
        say(redis, on_greeting, "SELECT", db, NULL);
    say(redis, on_greeting, "PING", NULL); /* LOADING shows here */
    say(redis, on_server_info, "INFO", "server", NULL);
    say(redis, on_client_info, "CLIENT", "INFO", NULL); /* which one that is too old may not know */
}

/* ---- connecting ------------------------------------------------------------------------------ */

static bool is_numeric(const char *host) {
    unsigned char out[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, out) == 1 || inet_pton(AF_INET6, host, out) == 1;
}

static void open_context(struct redis *redis, const char *address) {
    redis->why[0] = '\0';
    redis->handshake_by_ms = now_ms(redis) + HANDSHAKE_MS;
    redisAsyncContext *context = redis->url->is_unix ? redisAsyncConnectUnix(redis->url->host)
                                                     : redisAsyncConnect(address, redis->url->port);
    if (!context || context->c.err || attach(redis, context) != CHAT_OK) {
        note_why(redis, context ? context->c.errstr : "no memory");
        if (context)
            redisAsyncFree(context);
        after_down(redis);
        return;
    }
    redis->context = context;
    context->data = redis;
    redisAsyncSetConnectCallback(context, on_connected);
    redisAsyncSetDisconnectCallback(context, on_disconnected);
    if (!redis->url->is_unix) {
        static const int on = 1;
        static const unsigned user_timeout = USER_TIMEOUT_MS;
        setsockopt(context->c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(context->c.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout,
                   sizeof(user_timeout));
    }
    greet(redis);
}

/* To the next of the host's addresses that are known. */
static void connect_by_name(struct redis *redis) {
    char text[INET6_ADDRSTRLEN] = "";
    if (!redis->address && redis->newer) {
        uv_freeaddrinfo(redis->addresses);
        redis->addresses = redis->newer;
        redis->newer = NULL;
    }
    if (!redis->address)
        redis->address = redis->addresses;
    getnameinfo(redis->address->ai_addr, redis->address->ai_addrlen, text, sizeof(text), NULL, 0,
                NI_NUMERICHOST);
    open_context(redis, text);
}

static void on_resolved(uv_getaddrinfo_t *lookup, int status, struct addrinfo *found) {
    struct redis *redis = lookup->data;
    bool is_awaited = redis && !redis->addresses; /* else it is for a later attempt */
    free(lookup);
    if (redis)
        redis->lookup = NULL;
    if (redis && status == 0 && found) {
        uv_freeaddrinfo(redis->newer);
        redis->newer = found;
    } else {
        uv_freeaddrinfo(found);
    }
    if (is_awaited && redis->newer) {
        connect_by_name(redis);
    } else if (is_awaited) {
        redis->why[0] = '\0';
        note_why(redis, "the host name does not resolve");
        after_down(redis);
    }
}

/* Asks for the name's addresses; what hangs in the resolver hangs in one of its threads. */
static void look_up(struct redis *redis) {
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    if (redis->lookup)
        return;
    uv_getaddrinfo_t *lookup = calloc(1, sizeof(*lookup));
    if (!lookup)
        return;
    lookup->data = redis;
    if (uv_getaddrinfo(redis->loop, lookup, on_resolved, redis->url->host, NULL, &hints) == 0)
        redis->lookup = lookup;
    else
        free(lookup);
}

static void connect_now(struct redis *redis) {
    if (redis->url->is_unix || is_numeric(redis->url->host)) {
        open_context(redis, redis->url->host);
        return;
    }
    look_up(redis);
    if (redis->addresses)
        connect_by_name(redis);
    else if (!redis->lookup)
        uv_timer_start(&redis->pause, on_pause_over, PAUSE_MAX_MS, 0);
}

static void on_check(uv_timer_t *timer) {
    struct redis *redis = timer->data;
    if (!redis->context || redis->is_dropping)
        return;
    if (redis->is_up && now_ms(redis) - redis->up_ms >= STABLE_MS)
        redis->failures = 0;
    if (!redis->is_up && now_ms(redis) >= redis->handshake_by_ms)
        redis_drop(redis, "no answer while connecting");
    /* All of them: one that may take long can stand before one that may not. */
    for (const struct pending *one = redis->first; one; one = one->next)
        if (now_ms(redis) >= one->deadline_ms) {
            redis_drop(redis, "no answer in time");
            return;
        }
}

/* ---- life ------------------------------------------------------------------------------------ */

struct redis *redis_new(uv_loop_t *loop, const char *name, const struct redis_url *url,
                        const struct redis_events *events, void *user) {
    struct redis *redis = calloc(1, sizeof(*redis));
    if (!redis)
        return NULL;
    redis->loop = loop;
    redis->name = name;
    redis->url = url;
    redis->events = events;
    redis->user = user;
    uv_timer_init(loop, &redis->check);
    uv_timer_init(loop, &redis->pause);
    uv_prepare_init(loop, &redis->flush);
    redis->check.data = redis->pause.data = redis->flush.data = redis;
    uv_timer_start(&redis->check, on_check, CHECK_MS, CHECK_MS);
    uv_timer_start(&redis->pause, on_pause_over, 0, 0);
    return redis;
}

bool redis_is_up(const struct redis *redis) {
    return redis->is_up && !redis->is_dropping;
}

const struct redis_server *redis_server(const struct redis *redis) {
    return &redis->server;
}

void redis_stop(struct redis *redis) {
    redis->is_stopped = true;
    if (redis->is_up && redis->context) /* what was sent last gets out, if the socket takes it */
        redisAsyncHandleWrite(redis->context);
    tear_down(redis);
    if (redis->lookup)
        redis->lookup->data = NULL; /* it ends by itself */
    uv_close((uv_handle_t *)&redis->check, NULL);
    uv_close((uv_handle_t *)&redis->pause, NULL);
    uv_close((uv_handle_t *)&redis->flush, NULL);
}

void redis_free(struct redis *redis) {
    if (redis) {
        uv_freeaddrinfo(redis->addresses);
        uv_freeaddrinfo(redis->newer);
    }
    free(redis);
}
