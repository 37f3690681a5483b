/* wslay, which Godot, Nakama's and Colyseus' native clients bring along. It does frames only: the
 * handshake is made here. */

#include "line.h"

#include <netdb.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wslay/wslay.h>

static int sock;

static ssize_t on_read(wslay_event_context_ptr ctx, uint8_t *buffer, size_t size, int flags,
                       void *user) {
    (void)flags, (void)user;
    ssize_t len = recv(sock, buffer, size, MSG_DONTWAIT);
    if (len <= 0)
        wslay_event_set_error(ctx, len < 0 ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return len > 0 ? len : -1;
}

static ssize_t on_write(wslay_event_context_ptr ctx, const uint8_t *bytes, size_t len, int flags,
                        void *user) {
    (void)ctx, (void)flags, (void)user;
    return send(sock, bytes, len, MSG_NOSIGNAL);
}

static int on_mask(wslay_event_context_ptr ctx, uint8_t *bytes, size_t len, void *user) {
    (void)ctx, (void)user;
    return getrandom(bytes, len, 0) == (ssize_t)len ? 0 : -1;
}

static void on_message(wslay_event_context_ptr ctx,
                       const struct wslay_event_on_msg_recv_arg *message, void *user) {
    (void)ctx, (void)user;
    if (message->opcode == WSLAY_TEXT_FRAME)
        say_hex("text", message->msg, message->msg_length);
    else if (message->opcode == WSLAY_PONG)
        say("pong", "");
    else if (message->opcode == WSLAY_CONNECTION_CLOSE)
        say_close(message->status_code, message->msg + 2,
                  message->msg_length > 2 ? message->msg_length - 2 : 0);
}

/* The words of a command that are to be sent, and the rest of the first of them. */
struct fragments {
    char *words, *word;
    size_t len;
};

/* One frame for each call; a long word becomes several. */
static ssize_t on_fragment(wslay_event_context_ptr ctx, uint8_t *buffer, size_t size,
                           const union wslay_event_msg_source *source, int *eof, void *user) {
    (void)ctx, (void)user;
    struct fragments *todo = source->data;
    if (todo->len == 0) {
        todo->word = strsep(&todo->words, " ");
        todo->len = from_hex(todo->word);
    }
    size_t len = todo->len < size ? todo->len : size;
    memcpy(buffer, todo->word, len);
    todo->word += len;
    todo->len -= len;
    *eof = todo->len == 0 && !todo->words;
    return (ssize_t)len;
}

static void obey(wslay_event_context_ptr ctx, char *line) {
    char *rest = line, *command = strsep(&rest, " ");
    if (strcmp(command, "send") == 0) {
        struct wslay_event_msg text = {WSLAY_TEXT_FRAME, (uint8_t *)rest, from_hex(rest)};
        wslay_event_queue_msg(ctx, &text);
    } else if (strcmp(command, "fragments") == 0) {
        struct fragments todo = {rest, NULL, 0};
        struct wslay_event_fragmented_msg text = {WSLAY_TEXT_FRAME, {.data = &todo}, on_fragment};
        wslay_event_queue_fragmented_msg(ctx, &text);
        wslay_event_send(ctx); /* while `todo` lives */
    } else if (strcmp(command, "ping") == 0) {
        struct wslay_event_msg ping = {WSLAY_PING, NULL, 0};
        wslay_event_queue_msg(ctx, &ping);
    } else {
        wslay_event_queue_close(ctx, WSLAY_CODE_NORMAL_CLOSURE, NULL, 0);
    }
}

/* ws://host:port/path */
static int handshake(char *url, const char *offered) {
    char *host = url + strlen("ws://"), *path = strchr(host, '/'), *port, answer[2048] = "";
    *path++ = '\0';
    port = strchr(host, ':');
    *port++ = '\0';
    struct addrinfo *address;
    if (getaddrinfo(host, port, NULL, &address) != 0)
        return -1;
    sock = socket(address->ai_family, SOCK_STREAM, 0);
    if (connect(sock, address->ai_addr, address->ai_addrlen) != 0)
        return -1;
    dprintf(
        sock,
        "GET /%s HTTP/1.1\r\nHost: %s:%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s%s%s\r\n",
        path, host, port, offered ? "Sec-WebSocket-Protocol: " : "", offered ? offered : "",
        offered ? "\r\n" : "");
    for (size_t len = 0; !strstr(answer, "\r\n\r\n"); len++)
        if (len == sizeof(answer) - 1 || recv(sock, answer + len, 1, 0) != 1)
            return -1;
    if (strncmp(answer, "HTTP/1.1 101", 12) != 0)
        return -1;
    char *selected = strcasestr(answer, "\r\nSec-WebSocket-Protocol: ");
    if (selected)
        selected += strlen("\r\nSec-WebSocket-Protocol: ");
    say("open", selected ? strsep(&selected, "\r") : "-");
    return 0;
}

int main(int argc, char *argv[]) {
    struct wslay_event_callbacks callbacks = {on_read, on_write, on_mask,   NULL,
                                              NULL,    NULL,     on_message};
    wslay_event_context_ptr ctx;
    setvbuf(stdin, NULL, _IONBF, 0); /* so that poll() sees each line */
    if (handshake(argv[1], argc > 2 ? argv[2] : NULL) != 0 ||
        wslay_event_context_client_init(&ctx, &callbacks, NULL))
        return say("error", "no connection"), 1;
    struct pollfd polled[] = {{STDIN_FILENO, POLLIN, 0}, {sock, POLLIN, 0}};
    while (wslay_event_want_read(ctx)) {
        poll(polled, 2, -1);
        char *line = polled[0].revents ? read_command() : NULL;
        if (polled[0].revents && !line)
            return 0;
        if (line)
            obey(ctx, line);
        if ((polled[1].revents && wslay_event_recv(ctx) != 0) || wslay_event_send(ctx) != 0)
            return say("error", "wslay ended the connection"), 1;
        free(line);
    }
    return 0;
}
