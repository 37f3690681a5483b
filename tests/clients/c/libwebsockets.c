/* libwebsockets' client. */

#include "line.h"

#include <libwebsockets.h>
#include <poll.h>
#include <unistd.h>

static struct lws *connection;
static struct lws_context *context;
static char *command; /* being written; the words after it in `rest` */
static char *rest;
static int wants_close, is_over;

static void finish_command(void) {
    free(command);
    command = rest = NULL;
}

/* One frame of the command, as only one may be written in a turn. */
static int write_next(struct lws *wsi) {
    char *word = rest ? strsep(&rest, " ") : NULL;
    int is_first = word == command + strlen(command) + 1;
    size_t len = word ? from_hex(word) : 0;
    unsigned char *buffer = malloc(LWS_PRE + len + 1);
    memcpy(buffer + LWS_PRE, word ? word : "", len);
    int flags = word ? lws_write_ws_flags(LWS_WRITE_TEXT, is_first, rest == NULL) : LWS_WRITE_PING;
    int written = lws_write(wsi, buffer + LWS_PRE, len, (enum lws_write_protocol)flags);
    free(buffer);
    if (rest)
        lws_callback_on_writable(wsi);
    else
        finish_command();
    return written < 0 ? -1 : 0;
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len) {
    static char text[1 << 20], selected[128];
    static size_t text_len;
    (void)user;
    switch (reason) {
    case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH: /* the last that has the headers */
        if (lws_hdr_copy(wsi, selected, sizeof(selected), WSI_TOKEN_PROTOCOL) <= 0)
            snprintf(selected, sizeof(selected), "-");
        break;
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        say("open", selected);
        break;
    case LWS_CALLBACK_CLIENT_RECEIVE: /* a message comes in parts */
        memcpy(text + text_len, in, len);
        text_len += len;
        if (lws_is_final_fragment(wsi) && lws_remaining_packet_payload(wsi) == 0) {
            say_hex("text", text, text_len);
            text_len = 0;
        }
        break;
    case LWS_CALLBACK_CLIENT_RECEIVE_PONG:
        say("pong", "");
        break;
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        if (wants_close)
            return -1;
        return command ? write_next(wsi) : 0;
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE: {
        const unsigned char *bytes = in;
        say_close(len >= 2 ? bytes[0] << 8 | bytes[1] : 0, bytes + 2, len > 2 ? len - 2 : 0);
        break;
    }
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        say("error", in ? (const char *)in : "no connection");
        is_over = 1;
        break;
    case LWS_CALLBACK_CLIENT_CLOSED:
        is_over = 1;
        break;
    default:
        break;
    }
    return 0;
}

static void obey(char *line) {
    command = line;
    rest = line;
    strsep(&rest, " ");
    wants_close = strcmp(command, "close") == 0;
    lws_callback_on_writable(connection);
}

int main(int argc, char *argv[]) {
    const struct lws_protocols protocols[] = {{"chat", on_event, 0, 4096, 0, NULL, 0},
                                              {NULL, NULL, 0, 0, 0, NULL, 0}};
    struct lws_context_creation_info info = {.port = CONTEXT_PORT_NO_LISTEN,
                                             .protocols = protocols};
    const char *scheme, *path;
    char with_slash[256];
    struct lws_client_connect_info how = {0};
    lws_set_log_level(0, NULL);
    setvbuf(stdin, NULL, _IONBF, 0);
    context = lws_create_context(&info);
    if (!context || lws_parse_uri(argv[1], &scheme, &how.address, &how.port, &path) != 0)
        return say("error", "no context"), 1;
    snprintf(with_slash, sizeof(with_slash), "/%s", path);
    how.context = context;
    how.path = with_slash;
    how.host = how.origin = how.address;
    how.protocol = argc > 2 ? argv[2] : NULL;
    how.local_protocol_name = "chat";
    connection = lws_client_connect_via_info(&how);
    while (!is_over) {
        struct pollfd polled = {STDIN_FILENO, POLLIN, 0};
        lws_service(context, -1);
        if (poll(&polled, 1, 5) != 1 || command)
            continue;
        char *line = read_command();
        if (!line)
            break;
        obey(line);
    }
    lws_context_destroy(context);
    return 0;
}
