/*
 * sendloop: the limit of what a chat server can do on this machine. A bare epoll loop that hands on
 * every text it receives to all clients; no login, no JSON, no order of anything but arrival.
 *
 *   sendloop ADDRESS each     one send() to each client for each message
 *   sendloop ADDRESS batch    one send() to each client for all that came in one turn of the loop
 *
 * It answers the one handshake key that chatload uses. A client that lags a whole log is dropped.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shared/address.h"
#include "shared/listen.h"
#include "ws-broker/frame.h"

enum {
    LOG_BYTES = 64 << 20,
    INPUT_BYTES = 2048, /* of each client */
    SEND_BUFFER = 128 << 10,
    EVENTS = 256,
};

struct client {
    int fd;
    size_t cursor; /* what it is sent next */
    bool is_open;  /* the handshake is done */
    bool is_choked;
    size_t input_len;
    uint8_t input[INPUT_BYTES];
};

static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                             "Connection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static uint8_t *log_bytes;
static size_t log_len;
static struct client **clients;
static size_t client_count, client_room;
static int loop;
static bool sends_each;

static void watch(struct client *client, int what, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    epoll_ctl(loop, what, client->fd, &event);
}

/* Freed at the end of the turn: events of this one may still name it. */
static void drop(struct client *client) {
    if (client->fd < 0)
        return;
    close(client->fd);
    client->fd = -1;
}

static void free_dropped(void) {
    for (size_t i = 0; i < client_count;) {
        if (clients[i]->fd >= 0) {
            i++;
            continue;
        }
        free(clients[i]);
        clients[i] = clients[--client_count];
    }
}

static void give(struct client *client) {
    if (client->fd < 0 || !client->is_open || client->is_choked || client->cursor == log_len)
        return;
    ssize_t sent = send(client->fd, log_bytes + client->cursor, log_len - client->cursor,
                        MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) {
        drop(client);
        return;
    }
    client->cursor += sent > 0 ? (size_t)sent : 0;
    client->is_choked = client->cursor < log_len;
    if (client->is_choked)
        watch(client, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void give_all(void) {
    for (size_t i = 0; i < client_count; i++)
        give(clients[i]);
}

/* When the log is full its older half goes. */
static void make_room(size_t len) {
    enum { HALF = LOG_BYTES / 2 };
    if (log_len + len <= LOG_BYTES)
        return;
    memmove(log_bytes, log_bytes + HALF, log_len - HALF);
    log_len -= HALF;
    for (size_t i = 0; i < client_count; i++) {
        if (clients[i]->cursor < HALF)
            drop(clients[i]);
        else
            clients[i]->cursor -= HALF;
    }
}

static void broadcast(const uint8_t *text, size_t len, const uint8_t mask[4]) {
    make_room(len + FRAME_HEADER_MAX);
    log_len += frame_text_header(log_bytes + log_len, len);
    for (size_t i = 0; i < len; i++)
        log_bytes[log_len + i] = text[i] ^ mask[i & 3];
    log_len += len;
    if (sends_each)
        give_all();
}

/* Hands on the whole frames at the start of the input; how many bytes that were. */
static size_t take_frames(const uint8_t *data, size_t size) {
    size_t done = 0;
    while (size - done >= 6) {
        const uint8_t *frame = data + done;
        size_t header = 6, len = frame[1] & 0x7f;
        if (len == 126) {
            header = 8;
            len = (size_t)frame[2] << 8 | frame[3];
        }
        if (size - done < header + len)
            break;
        if (frame[0] == 0x81)
            broadcast(frame + header, len, frame + header - 4);
        done += header + len;
    }
    return done;
}

static void read_from(struct client *client) {
    ssize_t got = recv(client->fd, client->input + client->input_len,
                       INPUT_BYTES - client->input_len, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(client);
        return;
    }
    client->input_len += (size_t)got;
    size_t done;
    if (client->is_open) {
        done = take_frames(client->input, client->input_len);
    } else {
        const uint8_t *end = memmem(client->input, client->input_len, "\r\n\r\n", 4);
        if (!end)
            return;
        done = (size_t)(end - client->input) + 4;
        client->is_open = true;
        client->cursor = log_len;
        if (send(client->fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL) < 0)
            drop(client);
    }
    client->input_len -= done;
    memmove(client->input, client->input + done, client->input_len);
}

static void accept_all(int listener) {
    static const int on = 1, buffer = SEND_BUFFER;
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
        if (client_count == client_room) {
            client_room = client_room * 2 + 1024;
            clients = realloc(clients, client_room * sizeof(*clients));
        }
        struct client *client = malloc(sizeof(*client));
        if (!clients || !client)
            abort();
        client->fd = fd;
        client->cursor = client->input_len = 0;
        client->is_open = client->is_choked = false;
        clients[client_count++] = client;
        watch(client, EPOLL_CTL_ADD, EPOLLIN);
    }
}

int main(int argc, char **argv) {
    struct address_listen address;
    struct epoll_event events[EVENTS];
    struct rlimit files;
    char error[LISTEN_ERROR_MAX];
    if (argc != 3 || address_listen_parse(argv[1], &address) < 0 ||
        (strcmp(argv[2], "each") != 0 && strcmp(argv[2], "batch") != 0)) {
        fprintf(stderr, "usage: sendloop ADDRESS each|batch\n");
        return 2;
    }
    sends_each = strcmp(argv[2], "each") == 0;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = listen_open(&address, error);
    log_bytes = malloc(LOG_BYTES);
    loop = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event accepting = {.events = EPOLLIN, .data.ptr = NULL};
    if (listener < 0 || !log_bytes || loop < 0) {
        fprintf(stderr, "sendloop: %s\n", listener < 0 ? error : strerror(errno));
        return 1;
    }
    fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &accepting);
    for (;;) {
        int count = epoll_wait(loop, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            if (!client) {
                accept_all(listener);
                continue;
            }
            if ((events[i].events & EPOLLOUT) && client->fd >= 0) {
                client->is_choked = false;
                watch(client, EPOLL_CTL_MOD, EPOLLIN);
                give(client);
            }
            if ((events[i].events & ~(uint32_t)EPOLLOUT) && client->fd >= 0)
                read_from(client);
        }
        give_all();
        free_dropped();
    }
}
