#include "tests/bench/load/crowd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shared/status.h"
#include "tests/bench/load/wire.h"

enum {
    READ_BYTES = 256 << 10,
    EVENTS = 64,                 /* handled before sending gets its turn again */
    STALLED_BUFFER = 4096,       /* bytes; so that they are in the way soon */
    PORTS_OF_AN_ADDRESS = 14000, /* clients: beyond half of its ports Linux searches for one */
    ANSWER_MAX = 16 << 10,       /* bytes of the answer to the handshake */
    ERROR_FRAME_MAX = 4096,      /* beyond that a text that begins with {"error" is none */
};

/* The key of RFC 6455's example, and its answer. */
static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==",
                  accept_value[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

enum state { NEW = 0, CONNECTING, UPGRADING, LOGGING_IN, READY, STALLED, GONE };

struct crowd_client {
    int fd;
    enum state state;
    bool stalls;
    bool is_unsent; /* stands in the list of those */
    uint32_t number;
    uint32_t publisher;
    uint64_t begun_ns;
    struct checker_reader reader;
    uint8_t *carry; /* the start of what is not all there yet */
    size_t carry_len;
    uint8_t *out; /* what is to be written */
    size_t out_len, out_room;
    int close_code;
};

uint64_t crowd_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- setting up ------------------------------------------------------------------------------ */

/* Evenly spread, so that no order of the server's favours them. */
static bool is_stalled(const struct options *options, uint32_t number) {
    return (uint64_t)number * options->stalled / options->clients !=
           (uint64_t)(number + 1) * options->stalled / options->clients;
}

static void choose_publishers(struct crowd *crowd) {
    const struct options *options = crowd->_options;
    for (uint32_t i = 0; i < options->publishers; i++) {
        uint32_t number = (uint32_t)((uint64_t)i * options->clients / options->publishers);
        while (crowd->_clients[number].stalls || crowd->_clients[number].publisher != UINT32_MAX)
            number = (number + 1) % options->clients;
        crowd->_clients[number].publisher = i;
        crowd->_publishers[i] = &crowd->_clients[number];
    }
}

/* The message with all of its text, but the marker; that is what changes. */
static int make_text(struct crowd *crowd) {
    const struct options *options = crowd->_options;
    size_t head = (size_t)(strstr(options->message, "%m") - options->message);
    size_t len = strlen(options->message) - 2 + options->size;
    crowd->_text = malloc(len + 1);
    crowd->_frame = malloc(len + WIRE_HEADER_MAX);
    if (!crowd->_text || !crowd->_frame)
        return CHAT_ENOMEM;
    memcpy(crowd->_text, options->message, head);
    memset(crowd->_text + head, 'x', options->size);
    memcpy(crowd->_text + head + options->size, options->message + head + 2,
           strlen(options->message + head + 2) + 1);
    crowd->_marker = crowd->_text + head;
    return 0;
}

int crowd_init(struct crowd *crowd, const struct options *options) {
    *crowd = (struct crowd){._options = options, ._epoll = epoll_create1(EPOLL_CLOEXEC)};
    crowd->_clients = calloc(options->clients, sizeof(*crowd->_clients));
    crowd->_publishers = calloc(options->publishers, sizeof(struct crowd_client *));
    crowd->_unsent = calloc(options->clients, sizeof(struct crowd_client *));
    crowd->_received = malloc(READ_BYTES + WIRE_PAYLOAD_MAX + WIRE_HEADER_MAX);
    if (!crowd->_clients || !crowd->_publishers || !crowd->_unsent || !crowd->_received ||
        make_text(crowd) < 0)
        return CHAT_ENOMEM;
    if (crowd->_epoll < 0)
        return CHAT_ESYS;
    for (uint32_t i = 0; i < options->clients; i++)
        crowd->_clients[i] = (struct crowd_client){
            .fd = -1, .number = i, .publisher = UINT32_MAX, .stalls = is_stalled(options, i)};
    choose_publishers(crowd);
    return checker_init(&crowd->checker, (uint32_t)crowd_now_ns() ^ (uint32_t)getpid(),
                        options->publishers, options->clients - options->stalled);
}

static void drop(struct crowd_client *client) {
    /* No TIME_WAIT of ours: the next run needs the ports. */
    struct linger reset = {.l_onoff = 1};
    if (client->fd >= 0) {
        setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(client->fd);
    }
    client->fd = -1;
    free(client->carry);
    free(client->out);
    client->carry = client->out = NULL;
    client->carry_len = client->out_len = client->out_room = 0;
    client->state = GONE;
}

void crowd_deinit(struct crowd *crowd) {
    for (uint32_t i = 0; crowd->_clients && i < crowd->_options->clients; i++)
        drop(&crowd->_clients[i]);
    free(crowd->_clients);
    free(crowd->_publishers);
    free(crowd->_unsent);
    free(crowd->_received);
    free(crowd->_frame);
    free(crowd->_text);
    if (crowd->_epoll >= 0)
        close(crowd->_epoll);
    checker_deinit(&crowd->checker);
}

/* ---- the end of a connection ----------------------------------------------------------------- */

static void count_close(struct crowd *crowd, int code) {
    int i = 0;
    while (i < CROWD_CODES - 1 && crowd->closes[i].count > 0 && crowd->closes[i].code != code)
        i++;
    crowd->closes[i].code = code;
    crowd->closes[i].count++;
}

static void note_error(struct crowd *crowd, const char *text, size_t len) {
    if (!*crowd->first_error)
        snprintf(crowd->first_error, sizeof(crowd->first_error), "%.*s", (int)len, text);
}

/* `why` is kept when it is the first. */
static void end(struct crowd *crowd, struct crowd_client *client, const char *why) {
    if (client->state == READY) {
        count_close(crowd, client->close_code ? client->close_code : 1006);
        crowd->logged_in--;
        checker_leave(&crowd->checker, &client->reader);
    } else if (client->state == STALLED) {
        crowd->stalled_out++;
        crowd->logged_in--;
    } else {
        crowd->failed++;
        crowd->under_way--;
        if (!client->stalls)
            checker_leave(&crowd->checker, &client->reader);
    }
    note_error(crowd, why, strlen(why));
    drop(client);
}

/* ---- out ------------------------------------------------------------------------------------- */

static int queue(struct crowd *crowd, struct crowd_client *client, const void *data, size_t len) {
    if (client->out_len + len > client->out_room) {
        size_t room = (client->out_len + len) * 2;
        uint8_t *out = realloc(client->out, room);
        if (!out)
            return CHAT_ENOMEM;
        client->out = out;
        client->out_room = room;
    }
    memcpy(client->out + client->out_len, data, len);
    client->out_len += len;
    if (!client->is_unsent)
        crowd->_unsent[crowd->_unsent_count++] = client;
    client->is_unsent = true;
    return 0;
}

static int watch(struct crowd *crowd, struct crowd_client *client, int what, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    return epoll_ctl(crowd->_epoll, what, client->fd, &event) == 0 ? 0 : CHAT_ESYS;
}

static void flush(struct crowd *crowd, struct crowd_client *client) {
    client->is_unsent = false;
    if (client->fd < 0 || client->state == CONNECTING || client->out_len == 0)
        return;
    ssize_t sent = send(client->fd, client->out, client->out_len, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(crowd, client, strerror(errno));
        return;
    }
    bool was_choked = sent < (ssize_t)client->out_len;
    if (sent > 0) {
        client->out_len -= (size_t)sent;
        memmove(client->out, client->out + sent, client->out_len);
    }
    if (client->state != STALLED)
        watch(crowd, client, EPOLL_CTL_MOD, was_choked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    if (client->out_len == 0 && client->publisher == UINT32_MAX) {
        free(client->out); /* most clients have nothing more to say */
        client->out = NULL;
        client->out_room = 0;
    }
}

static int send_text(struct crowd *crowd, struct crowd_client *client, const char *text) {
    size_t len = strlen(text);
    uint8_t *frame = malloc(len + WIRE_HEADER_MAX);
    if (!frame)
        return CHAT_ENOMEM;
    int result = queue(crowd, client, frame, wire_encode(frame, WIRE_TEXT, text, len));
    free(frame);
    return result;
}

/* ---- connecting and logging in --------------------------------------------------------------- */

static int open_socket(const struct crowd *crowd, const struct crowd_client *client) {
    const struct address_listen *server =
        &crowd->_options->servers[client->number % crowd->_options->server_count];
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
    } to = {0}, from = {0};
    socklen_t len = sizeof(to.v4);
    if (server->is_unix) {
        to.local.sun_family = AF_UNIX;
        snprintf(to.local.sun_path, sizeof(to.local.sun_path), "%s", server->path);
        len = sizeof(to.local);
    } else if (inet_pton(AF_INET, server->host, &to.v4.sin_addr) == 1) {
        to.v4.sin_family = AF_INET;
        to.v4.sin_port = htons(server->port);
    } else {
        inet_pton(AF_INET6, server->host, &to.v6.sin6_addr);
        to.v6.sin6_family = AF_INET6;
        to.v6.sin6_port = htons(server->port);
        len = sizeof(to.v6);
    }
    int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0)
        return -1;
    int size = STALLED_BUFFER; /* has to be set before connecting */
    if (client->stalls)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (!server->is_unix)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (to.any.sa_family == AF_INET && ntohl(to.v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET) {
        from.v4.sin_family = AF_INET;
        from.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + client->number / PORTS_OF_AN_ADDRESS);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
        if (bind(fd, &from.any, sizeof(from.v4)) < 0)
            goto fail;
    }
    if (connect(fd, &to.any, len) == 0 || errno == EINPROGRESS)
        return fd;
fail:
    close(fd);
    return -1;
}

static int begin_upgrade(struct crowd *crowd, struct crowd_client *client) {
    char request[1024];
    int len = snprintf(request, sizeof(request),
                       "GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                       "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                       "Sec-WebSocket-Key: %s\r\n\r\n",
                       crowd->_options->path, key);
    client->state = UPGRADING;
    return queue(crowd, client, request, (size_t)len);
}

void crowd_connect(struct crowd *crowd) {
    struct crowd_client *client = &crowd->_clients[crowd->begun++];
    crowd->under_way++;
    client->begun_ns = crowd_now_ns();
    client->state = CONNECTING;
    client->fd = open_socket(crowd, client);
    if (client->fd < 0 || watch(crowd, client, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT) < 0)
        end(crowd, client, strerror(errno));
}

/* `template` with the client's number for %d and its token for %t; the caller frees it. */
static char *fill_login(const struct crowd *crowd, uint32_t number) {
    const struct options *options = crowd->_options;
    const char *token =
        options->token_count > 0 ? options->tokens[number % options->token_count] : "";
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    for (const char *at = options->login; *at; at++) {
        if (*at == '%' && at[1] == 'd')
            fprintf(out, "%u", number);
        else if (*at == '%' && at[1] == 't')
            fputs(token, out);
        else {
            fputc(*at, out);
            continue;
        }
        at++;
    }
    return fclose(out) == 0 ? text : NULL;
}

void crowd_give_up(struct crowd *crowd) {
    for (uint32_t i = 0; i < crowd->_options->clients; i++) {
        struct crowd_client *client = &crowd->_clients[i];
        if (client->state >= READY)
            continue;
        if (client->state == NEW)
            crowd->under_way++;
        end(crowd, client, "not logged in before --connect-timeout");
    }
}

static void be_ready(struct crowd *crowd, struct crowd_client *client) {
    histogram_add(&crowd->login, (crowd_now_ns() - client->begun_ns) / 1000);
    crowd->under_way--;
    crowd->logged_in++;
    client->state = client->stalls ? STALLED : READY;
    if (client->stalls)
        watch(crowd, client, EPOLL_CTL_MOD, EPOLLRDHUP);
}

static int log_in(struct crowd *crowd, struct crowd_client *client) {
    if (!*crowd->_options->login) {
        be_ready(crowd, client);
        return 0;
    }
    char *text = fill_login(crowd, client->number);
    int result = text ? send_text(crowd, client, text) : CHAT_ENOMEM;
    free(text);
    client->state = LOGGING_IN;
    return result;
}

/* ---- in -------------------------------------------------------------------------------------- */

/* The answer to the handshake: its size, 0 when it is not all there, or -1 when it is no upgrade.
 */
static ssize_t on_answer(struct crowd *crowd, const uint8_t *data, size_t len) {
    const uint8_t *stop = memmem(data, len, "\r\n\r\n", 4);
    if (!stop && len > ANSWER_MAX) {
        static const char why[] = "an answer to the handshake that does not end";
        note_error(crowd, why, sizeof(why) - 1);
        return -1;
    }
    if (!stop)
        return 0;
    size_t size = (size_t)(stop - data) + 4;
    if (memmem(data, size, " 101 ", 5) && memmem(data, size, accept_value, strlen(accept_value)))
        return (ssize_t)size;
    const uint8_t *line = memchr(data, '\r', size);
    note_error(crowd, (const char *)data, line ? (size_t)(line - data) : size);
    return -1;
}

/* A text, which begins at `start` with its frame's header, if it has one of its own. */
static int on_text(struct crowd *crowd, struct crowd_client *client, const struct wire_frame *frame,
                   const uint8_t *start, uint64_t now_ns) {
    const char *text = (const char *)frame->payload;
    bool is_error =
        frame->len < ERROR_FRAME_MAX && frame->len > 8 && memcmp(text, "{\"error\"", 8) == 0;
    if (client->state == LOGGING_IN) {
        const char *good = crowd->_options->login_reply;
        if (memmem(text, frame->len, good, strlen(good)))
            be_ready(crowd, client);
        else if (is_error) {
            note_error(crowd, text, frame->len);
            end(crowd, client, "");
        } else
            crowd->others++;
        return 0;
    }
    int known =
        checker_text(&crowd->checker, &client->reader, start, frame->size, frame->payload, now_ns);
    if (known != 0)
        return known < 0 ? known : 0;
    if (is_error) {
        crowd->errors++;
        note_error(crowd, text, frame->len);
        checker_refused(&crowd->checker);
    } else
        crowd->others++;
    return 0;
}

/* One message may come alone to one client and with others to the next: headers are not compared.
 */
static int on_lines(struct crowd *crowd, struct crowd_client *client,
                    const struct wire_frame *frame, uint64_t now_ns) {
    const uint8_t *at = frame->payload, *end = at + frame->len;
    int result = 0;
    while (at < end && result == 0 && client->state != GONE) {
        const uint8_t *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((stop ? stop : end) - at);
        const struct wire_frame line = {WIRE_TEXT, at, len, len};
        result = on_text(crowd, client, &line, at, now_ns);
        at += len + 1;
    }
    return result;
}

static int on_frame(struct crowd *crowd, struct crowd_client *client,
                    const struct wire_frame *frame, const uint8_t *start, uint64_t now_ns) {
    uint8_t pong[WIRE_HEADER_MAX + 125];
    switch (frame->opcode) {
    case WIRE_TEXT:
        return crowd->_options->lines ? on_lines(crowd, client, frame, now_ns)
                                      : on_text(crowd, client, frame, start, now_ns);
    case WIRE_PING:
        return queue(crowd, client, pong,
                     wire_encode(pong, WIRE_PONG, frame->payload, frame->len & 0x7f));
    case WIRE_CLOSE:
        client->close_code = frame->len >= 2 ? frame->payload[0] << 8 | frame->payload[1] : 1005;
        end(crowd, client, "");
        return 0;
    case WIRE_PONG:
        return 0;
    }
    return 0;
}

/* Handles what is whole; the number of bytes that were, or a negative status. */
static int64_t on_bytes(struct crowd *crowd, struct crowd_client *client, const uint8_t *data,
                        size_t len) {
    uint64_t now_ns = crowd_now_ns();
    size_t done = 0;
    if (client->state == UPGRADING) {
        ssize_t size = on_answer(crowd, data, len);
        if (size < 0)
            end(crowd, client, "");
        if (size <= 0)
            return 0;
        done = (size_t)size;
        int result = log_in(crowd, client);
        if (result < 0)
            return result;
    }
    while (done < len && (client->state == READY || client->state == LOGGING_IN)) {
        if (client->state == READY && !crowd->_options->lines) {
            int64_t known =
                checker_known(&crowd->checker, &client->reader, data + done, len - done, now_ns);
            if (known < 0)
                return known;
            done += (size_t)known;
            if (done == len)
                break;
        }
        struct wire_frame frame;
        int parsed = wire_parse(data + done, len - done, &frame);
        if (parsed < 0)
            end(crowd, client, "a frame that cannot be read");
        if (parsed <= 0)
            break;
        int result = on_frame(crowd, client, &frame, data + done, now_ns);
        if (result < 0)
            return result;
        done += frame.size;
    }
    return (int64_t)done;
}

static int on_readable(struct crowd *crowd, struct crowd_client *client) {
    uint8_t *data = crowd->_received;
    if (client->carry_len > 0)
        memcpy(data, client->carry, client->carry_len);
    ssize_t got = recv(client->fd, data + client->carry_len, READ_BYTES, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0) {
        end(crowd, client, got < 0 ? strerror(errno) : "closed by the server");
        return 0;
    }
    size_t len = client->carry_len + (size_t)got;
    int64_t done = on_bytes(crowd, client, data, len);
    if (done < 0)
        return (int)done;
    free(client->carry);
    client->carry = NULL;
    client->carry_len = 0;
    if (client->state == GONE || client->state == STALLED || (size_t)done == len)
        return 0;
    client->carry_len = len - (size_t)done;
    client->carry = malloc(client->carry_len);
    if (!client->carry)
        return CHAT_ENOMEM;
    memcpy(client->carry, data + done, client->carry_len);
    return 0;
}

static int on_event(struct crowd *crowd, struct crowd_client *client, uint32_t events) {
    if (client->state == GONE)
        return 0;
    if (client->state == STALLED) {
        end(crowd, client, "");
        return 0;
    }
    if (client->state == CONNECTING) {
        int error = 0;
        socklen_t len = sizeof(error);
        getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error != 0) {
            end(crowd, client, strerror(error));
            return 0;
        }
        return begin_upgrade(crowd, client);
    }
    if (events & EPOLLOUT)
        flush(crowd, client);
    return client->state != GONE && (events & ~(uint32_t)EPOLLOUT) ? on_readable(crowd, client) : 0;
}

static void flush_all(struct crowd *crowd) {
    for (uint32_t i = 0; i < crowd->_unsent_count; i++)
        flush(crowd, crowd->_unsent[i]);
    crowd->_unsent_count = 0;
}

int crowd_turn(struct crowd *crowd, uint64_t until_ns) {
    struct epoll_event events[EVENTS];
    flush_all(crowd);
    uint64_t now_ns = crowd_now_ns(), wait_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec wait = {(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};
    int count = epoll_pwait2(crowd->_epoll, events, EVENTS, &wait, NULL);
    if (count < 0)
        return errno == EINTR ? 0 : CHAT_ESYS;
    for (int i = 0; i < count; i++) {
        int result = on_event(crowd, events[i].data.ptr, events[i].events);
        if (result < 0)
            return result;
    }
    flush_all(crowd);
    return 0;
}

/* ---- messages -------------------------------------------------------------------------------- */

int crowd_send(struct crowd *crowd, uint64_t due_ns) {
    const struct options *options = crowd->_options;
    uint32_t tried = 0, turn = (uint32_t)(crowd->checker._message_count % options->publishers);
    while (crowd->_publishers[turn]->state != READY) {
        if (++tried > options->publishers)
            return 0;
        turn = (turn + 1) % options->publishers;
    }
    int result = checker_send(&crowd->checker, turn, due_ns, crowd->_marker);
    if (result < 0)
        return result;
    result = queue(crowd, crowd->_publishers[turn], crowd->_frame,
                   wire_encode(crowd->_frame, WIRE_TEXT, crowd->_text, strlen(crowd->_text)));
    return result < 0 ? result : 1;
}

void crowd_finish(struct crowd *crowd) {
    for (uint32_t i = 0; i < crowd->_options->clients; i++)
        if (crowd->_clients[i].state == READY)
            checker_end_reader(&crowd->checker, &crowd->_clients[i].reader);
    checker_finish(&crowd->checker);
}
