#include "ws-broker/ws.h"

#include <arpa/inet.h>
#include <libwebsockets.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <uthash.h>
#include <utlist.h>

#include "shared/log.h"
#include "shared/status.h"
#include "ws-broker/proto.h"
#include "ws-broker/received.h"
#include "ws-broker/subprotocol.h"

enum {
    RX_BUFFER = 512,        /* per connection; larger costs memory, longer frames come in pieces */
    TX_PACKET = 64 << 10,   /* most bytes the library passes to one send */
    HEADERS_MAX = 16 << 10, /* a request's headers; HAProxy lets 8 KiB through */
    HANDSHAKE_TIMEOUT_S = 10,
    PATH_MAX_BYTES = 256, /* no path of ours is longer */
    FORWARDED_MAX = HEADERS_MAX,
    AUTHORIZATION_MAX = 512,
    ANSWER_TIMEOUT_S = 15,  /* for what answers later; games.h takes less */
    CLOSE_FLUSH_MS = 10000, /* what a closing client may take to read what it was sent */
    CLOSE_REPLY_MS = 5000,  /* and then to answer the close frame */
    CLOSE_SOON_MS = 200,    /* both, for one that does not stop sending */
    CLOSE_CHECK_MS = 100,
};

/* Why nothing is read from a connection; a bit set. */
enum paused { PAUSED_REPLIES = 1, PAUSED_REQUESTS = 2 };

enum closing { CLOSING_NOT = 0, CLOSING_FLUSH = 1, CLOSING_REPLY = 2 };

/* A plain request that waits for ws_answer(). */
struct pending {
    uint64_t id;
    struct lws *wsi;
    bool with_body, is_answered;
    struct endpoint_answer answer;
    UT_hash_handle hh; /* by id */
};

/* The library allocates one, zeroed, with each connection. */
struct session {
    struct conn conn;
    struct lws *wsi;
    struct ws *ws;
    struct fanout *fanout;   /* of the chat to which it has come */
    struct pending *pending; /* a plain request that is answered later */
    bool is_known;           /* what on_request said of it */
    bool is_open;
    unsigned paused; /* enum paused */
    enum closing closing;
    bool closes_soon;
    int close_code;
    int64_t close_deadline_ms;
    struct session *prev, *next; /* list of those that close */
};

struct ws {
    uv_loop_t *loop;
    struct lws_context *context;
    struct lws_vhost *vhost;
    const struct ws_events *events;
    void *user;
    size_t frame_max;
    uint64_t last_id; /* of a connection or a request */
    struct pending *pending;
    uv_timer_t close_timer;
    struct session *closing;
    struct lws_protocols protocols[2];
    char subprotocol[SUBPROTOCOL_MAX]; /* the name of protocols[0], see select_subprotocol() */
};

static struct session *session_of(struct conn *conn) {
    return (struct session *)(void *)conn; /* its first member */
}

static struct ws *ws_of(struct lws *wsi) {
    return lws_context_user(lws_get_context(wsi));
}

/* ---- closing --------------------------------------------------------------------------------- */

static void on_close_timer(uv_timer_t *timer);

static void check_closing_in(struct ws *ws, uint64_t ms) {
    uv_timer_start(&ws->close_timer, on_close_timer, ms, 0);
}

/* The connection ends now, without a word. The library notices by itself. */
static void cut(struct session *session) {
    shutdown(lws_get_socket_fd(session->wsi), SHUT_RDWR);
}

static void send_close(struct session *session) {
    const char *reason = proto_close_reason(session->close_code);
    lws_close_reason(session->wsi, (enum lws_close_status)session->close_code,
                     (unsigned char *)(uintptr_t)reason, strlen(reason));
    session->closing = CLOSING_REPLY;
    session->close_deadline_ms = (int64_t)uv_now(session->ws->loop) +
                                 (session->closes_soon ? CLOSE_SOON_MS : CLOSE_REPLY_MS);
    /* SYNC: the only way that sends the frame under libuv. The session may be gone on return. */
    lws_set_timeout(session->wsi, PENDING_TIMEOUT_CLOSE_SEND, LWS_TO_KILL_SYNC);
}

/* Runs outside of all library callbacks, where a close frame does get out. */
static void on_close_timer(uv_timer_t *timer) {
    struct ws *ws = timer->data;
    int64_t now_ms = (int64_t)uv_now(ws->loop);
    struct session *session, *next;
    DL_FOREACH_SAFE(ws->closing, session, next) {
        if (now_ms >= session->close_deadline_ms)
            cut(session);
        else if (session->closing == CLOSING_FLUSH && fanout_is_done(&session->conn.out) &&
                 !lws_partial_buffered(session->wsi))
            send_close(session);
    }
    if (ws->closing)
        check_closing_in(ws, CLOSE_CHECK_MS);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void set_reading(struct session *session, enum paused why, bool on) {
    unsigned paused = on ? session->paused & ~(unsigned)why : session->paused | (unsigned)why;
    bool changes = !paused != !session->paused;
    session->paused = paused;
    if (!changes)
        return;
    lws_rx_flow_control(session->wsi, !paused);
    /* Input that the library holds back is looked at after the next I/O only: see to it that there
     * is some. */
    if (!paused)
        lws_cancel_service(session->ws->context);
}

void ws_set_reading(struct conn *conn, bool on) {
    set_reading(session_of(conn), PAUSED_REQUESTS, on);
}

void ws_close(struct ws *ws, struct conn *conn, int code) {
    struct session *session = session_of(conn);
    if (session->closing)
        return;
    conn->state = CONN_CLOSING;
    fanout_end(session->fanout, &conn->out);
    ws_set_reading(conn, true); /* its answer to the close frame */
    session->closing = CLOSING_FLUSH;
    session->close_code = code;
    session->close_deadline_ms = (int64_t)uv_now(ws->loop) + CLOSE_FLUSH_MS;
    DL_APPEND(ws->closing, session);
    check_closing_in(ws, 0);
}

void ws_close_soon(struct ws *ws, struct conn *conn, int code) {
    struct session *session = session_of(conn);
    ws_close(ws, conn, code);
    session->closes_soon = true;
    session->close_deadline_ms = (int64_t)uv_now(ws->loop) + CLOSE_SOON_MS;
}

uint64_t ws_received(struct conn *conn) {
    return received_bytes(lws_get_socket_fd(session_of(conn)->wsi));
}

/* ---- what the fan-out writes ----------------------------------------------------------------- */

static bool sink_is_choked(void *peer) {
    return lws_partial_buffered(session_of(peer)->wsi) != 0;
}

static int sink_write(void *peer, const uint8_t *bytes, size_t len) {
    struct session *session = session_of(peer);
    /* LWS_WRITE_HTTP on a WebSocket: the bytes go out as they are. What the socket refuses the
     * library keeps, and its own control frames behind that. */
    if (lws_write(session->wsi, (unsigned char *)(uintptr_t)bytes, len, LWS_WRITE_HTTP) >= 0)
        return CHAT_OK;
    cut(session);
    return CHAT_EUNAVAILABLE;
}

static void sink_want_writable(void *peer) {
    lws_callback_on_writable(session_of(peer)->wsi);
}

static void sink_set_reading(void *peer, bool on) {
    struct session *session = session_of(peer);
    set_reading(session, PAUSED_REPLIES, on);
    if (on)
        session->ws->events->on_replies_read(session->ws->user, &session->conn);
}

static void sink_on_slow(void *peer) {
    struct session *session = session_of(peer);
    log_info("ws", "client_slow", log_int("conn", (int64_t)session->conn.id));
    fanout_drop(session->fanout, &session->conn.out);
    ws_close(session->ws, &session->conn, CLOSE_SLOW);
}

const struct fanout_sink ws_sink = {sink_is_choked, sink_write, sink_want_writable,
                                    sink_set_reading, sink_on_slow};

void ws_ping(struct conn *conn) {
    struct session *session = session_of(conn);
    if (!sink_is_choked(conn) && lws_write(session->wsi, (unsigned char *)(uintptr_t)FRAME_PING,
                                           sizeof(FRAME_PING), LWS_WRITE_HTTP) < 0)
        cut(session);
}

/* ---- requests -------------------------------------------------------------------------------- */

/* Writes a whole response; the connection is closed after it, for these are few. */
static void send_answer(struct lws *wsi, const struct endpoint_answer *answer, bool with_body) {
    static const struct {
        int status;
        const char *text;
    } texts[] = {{200, "OK"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {413, "Content Too Large"},
                 {426, "Upgrade Required"},
                 {429, "Too Many Requests"},
                 {503, "Service Unavailable"}};
    const char *text = "Error";
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        if (texts[i].status == answer->status)
            text = texts[i].text;

    size_t body_len = strlen(answer->body), room = body_len + 512;
    char *buffer = malloc(LWS_PRE + room);
    if (buffer) {
        int len = snprintf(buffer + LWS_PRE, room,
                           "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                           "Cache-Control: no-store\r\n%sConnection: close\r\n\r\n%s",
                           answer->status, text, answer->type, body_len, answer->headers,
                           with_body ? answer->body : "");
        lws_write(wsi, (unsigned char *)buffer + LWS_PRE, (size_t)len, LWS_WRITE_HTTP);
        free(buffer);
    }
    free(answer->to_free);
}

static struct address_ip peer_address(struct lws *wsi) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } name = {0};
    socklen_t len = sizeof(name);
    struct address_ip peer = {0};
    if (getpeername(lws_get_socket_fd(wsi), &name.any, &len) < 0)
        return peer;
    if (name.any.sa_family == AF_INET6) {
        peer.ip = name.v6.sin6_addr;
    } else if (name.any.sa_family == AF_INET) {
        peer.ip.s6_addr[10] = peer.ip.s6_addr[11] = 0xff;
        memcpy(&peer.ip.s6_addr[12], &name.v4.sin_addr, 4);
    } else {
        peer.is_unix = true;
    }
    return peer;
}

/* NULL: no memory, and it gets no answer. */
static struct pending *wait_for_answer(struct ws *ws, struct lws *wsi, uint64_t id,
                                       bool with_body) {
    struct pending *pending = calloc(1, sizeof(*pending));
    if (!pending)
        return NULL;
    pending->id = id;
    pending->wsi = wsi;
    pending->with_body = with_body;
    HASH_ADD(hh, ws->pending, id, sizeof(pending->id), pending);
    lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, ANSWER_TIMEOUT_S);
    return pending;
}

void ws_answer(struct ws *ws, uint64_t request_id, const struct endpoint_answer *answer) {
    struct pending *pending;
    HASH_FIND(hh, ws->pending, &request_id, sizeof(request_id), pending);
    if (!pending) {
        free(answer->to_free);
        return;
    }
    pending->answer = *answer;
    pending->is_answered = true;
    lws_callback_on_writable(pending->wsi);
}

bool ws_is_answering(const struct ws *ws) {
    return ws->pending != NULL;
}

static void forget_pending(struct ws *ws, struct session *session) {
    struct pending *pending = session->pending;
    session->pending = NULL;
    if (!pending)
        return;
    HASH_DEL(ws->pending, pending);
    free(pending->answer.to_free);
    free(pending);
}

/* < 0: the connection is done. */
static int on_http_writable(struct session *session) {
    struct pending *pending = session->pending;
    if (!pending || !pending->is_answered)
        return 0;
    send_answer(pending->wsi, &pending->answer, pending->with_body);
    pending->answer.to_free = NULL; /* it was freed */
    return -1;
}

/* A header's text, or NULL: it is not there. */
static const char *header_of(struct lws *wsi, enum lws_token_indexes token, char *out, int size) {
    return lws_hdr_copy(wsi, out, size, token) > 0 ? out : NULL;
}

/* Asks upstairs what is to be done; WS_ANSWERED: it was. */
static enum ws_verdict handle_request(struct lws *wsi, bool is_upgrade, struct ws_client *client,
                                      struct pending **pending) {
    struct ws *ws = ws_of(wsi);
    char path[PATH_MAX_BYTES], forwarded[FORWARDED_MAX], authorization[AUTHORIZATION_MAX];
    bool is_head = lws_hdr_total_length(wsi, WSI_TOKEN_HEAD_URI) > 0;
    bool is_get = is_head || lws_hdr_total_length(wsi, WSI_TOKEN_GET_URI) > 0;
    enum lws_token_indexes uri = is_head ? WSI_TOKEN_HEAD_URI : WSI_TOKEN_GET_URI;
    if (!is_get || lws_hdr_copy(wsi, path, sizeof(path), uri) <= 0)
        path[0] = '\0';
    struct ws_request request = {
        .side = (enum ws_side)(uintptr_t)lws_get_opaque_user_data(wsi),
        .path = path,
        .is_get = is_get,
        .is_head = is_head,
        .is_upgrade = is_upgrade,
        .peer = peer_address(wsi),
        .forwarded_for = header_of(wsi, WSI_TOKEN_X_FORWARDED_FOR, forwarded, sizeof(forwarded)),
        .authorization =
            header_of(wsi, WSI_TOKEN_HTTP_AUTHORIZATION, authorization, sizeof(authorization)),
        .id = ++ws->last_id,
    };
    /* One that is too long to be right is not the same as none. */
    if (!request.authorization && lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_AUTHORIZATION) > 0)
        request.authorization = "";
    struct endpoint_answer answer = {0};
    enum ws_verdict verdict = ws->events->on_request(ws->user, &request, client, &answer);
    explicit_bzero(authorization, sizeof(authorization));
    if (verdict == WS_ANSWERED)
        send_answer(wsi, &answer, !is_head);
    if (verdict == WS_ANSWERS_LATER)
        *pending = wait_for_answer(ws, wsi, request.id, !is_head);
    return verdict;
}

static bool has_body(struct lws *wsi) {
    char length[24] = "";
    lws_hdr_copy(wsi, length, sizeof(length), WSI_TOKEN_HTTP_CONTENT_LENGTH);
    return lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0 ||
           length[strspn(length, "0")] != '\0' ||
           lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) >= (int)sizeof(length);
}

/* Not an upgrade. < 0: the connection is done. */
static int handle_plain(struct lws *wsi, struct session *session) {
    if (session->pending) /* one at a time */
        return -1;
    if (has_body(wsi)) {
        struct endpoint_answer answer = endpoint_no_body();
        send_answer(wsi, &answer, true);
        return -1;
    }
    enum ws_verdict verdict = handle_request(wsi, false, NULL, &session->pending);
    return verdict == WS_ANSWERS_LATER && session->pending ? 0 : -1;
}

/* The library looks for what a client offers among the names in its table, gives the one that it
 * finds back, and drops the client when there is none: so the table's name is what is to be
 * selected, just before the library looks. */
static int select_subprotocol(struct ws *ws, struct lws *wsi) {
    char offer[SUBPROTOCOL_OFFER_MAX];
    if (lws_hdr_total_length(wsi, WSI_TOKEN_PROTOCOL) == 0)
        return CHAT_OK;
    if (lws_hdr_copy(wsi, offer, sizeof(offer) - 1, WSI_TOKEN_PROTOCOL) < 0)
        return CHAT_ERANGE;
    return subprotocol_select(offer, ws->subprotocol);
}

/* < 0: the connection is done. */
static int confirm_upgrade(struct ws *ws, struct lws *wsi, const char *to) {
    if (strcasecmp(to, "websocket") != 0) /* the library would take h2c too */
        return -1;
    struct endpoint_answer answer;
    if (lws_hdr_total_length(wsi, WSI_TOKEN_HOST) == 0)
        answer = endpoint_no_host();
    else if (lws_hdr_total_length(wsi, WSI_TOKEN_KEY) == 0)
        answer = endpoint_no_key();
    else if (select_subprotocol(ws, wsi) != CHAT_OK)
        answer = endpoint_bad_subprotocol();
    else
        return 0;
    send_answer(wsi, &answer, true);
    return -1;
}

/* Asks whether an upgrade may come in, and keeps what is said of it until it is open. */
static bool let_in(struct lws *wsi, struct session *session) {
    struct ws_client client = {0};
    if (handle_request(wsi, true, &client, NULL) != WS_LET_IN)
        return false;
    session->conn.address = client.address;
    session->conn.chat = client.chat;
    session->fanout = client.fanout;
    session->is_known = client.is_known;
    return true;
}

/* ---- the library's callback ------------------------------------------------------------------ */

static void on_established(struct ws *ws, struct lws *wsi, struct session *session) {
    session->wsi = wsi;
    session->ws = ws;
    session->is_open = true;
    conn_init(&session->conn, ++ws->last_id);
    ws->events->on_open(ws->user, &session->conn, session->is_known);
}

static void take(struct ws *ws, struct lws *wsi, struct conn *conn, const char *bytes, size_t len) {
    conn->pings_unanswered = 0;
    conn->flood.used += len + (lws_is_final_fragment(wsi) ? FLOOD_FRAME : 0);
    if (conn->state == CONN_CLOSING)
        return;
    if (lws_frame_is_binary(wsi)) {
        ws_close(ws, conn, CLOSE_BINARY);
        return;
    }
    int status = conn_feed(conn, bytes, len, lws_is_final_fragment(wsi), ws->frame_max,
                           ws->events->on_text, ws->user);
    if (status != CHAT_OK)
        ws_close(ws, conn, status == CHAT_ERANGE ? CLOSE_TOO_BIG : CLOSE_OVERLOAD);
}

static void on_receive(struct ws *ws, struct lws *wsi, struct session *session, char *bytes,
                       size_t len) {
    take(ws, wsi, &session->conn, bytes, len);
    explicit_bzero(bytes, len); /* the library keeps this buffer, and it may have held a token */
}

static void on_closed(struct ws *ws, struct session *session) {
    if (!session->is_open)
        return;
    session->is_open = false;
    if (session->closing)
        DL_DELETE(ws->closing, session);
    ws->events->on_gone(ws->user, &session->conn, session->close_code);
    conn_deinit(&session->conn);
}

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                  size_t len) {
    struct session *session = user;
    switch (reason) {
    case LWS_CALLBACK_HTTP:
        return handle_plain(wsi, session);
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return on_http_writable(session);
    case LWS_CALLBACK_HTTP_BODY:
    case LWS_CALLBACK_HTTP_BODY_COMPLETION: /* a body was refused, or has no bytes */
        return 0;
    case LWS_CALLBACK_HTTP_DROP_PROTOCOL: /* the session's memory goes, maybe before its end */
    case LWS_CALLBACK_CLOSED_HTTP:
        if (session)
            forget_pending(ws_of(wsi), session);
        return 0;
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        return confirm_upgrade(ws_of(wsi), wsi, in);
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return let_in(wsi, session) ? 0 : -1;
    case LWS_CALLBACK_ESTABLISHED:
        on_established(ws_of(wsi), wsi, session);
        return 0;
    case LWS_CALLBACK_RECEIVE:
        on_receive(ws_of(wsi), wsi, session, in, len);
        return 0;
    case LWS_CALLBACK_RECEIVE_PONG:
        session->conn.pings_unanswered = 0;
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        if (session->is_open) {
            session->conn.pings_unanswered = 0; /* its socket took bytes: it is slow, not gone */
            fanout_writable(session->fanout, &session->conn.out);
            if (session->closing == CLOSING_FLUSH)
                check_closing_in(session->ws, 0);
        }
        return 0;
    case LWS_CALLBACK_CLOSED:
        on_closed(ws_of(wsi), session);
        return 0;
    default:
        /* Everything else of a plain HTTP server is answered by the library's own handler. */
        return lws_callback_http_dummy(wsi, reason, user, in, len);
    }
}

static void on_lws_log(int level, const char *line) {
    size_t len = strcspn(line, "\n");
    if (level == LLL_ERR)
        log_warn("lws", "error", log_strn("text", line, len));
    else
        log_debug("lws", "warning", log_strn("text", line, len));
}

/* ---- life ------------------------------------------------------------------------------------ */

struct ws *ws_new(uv_loop_t *loop, size_t frame_max, const struct ws_events *events, void *user) {
    /* The default keeps every connection in one sorted list: connects get slow with their number.
     * Pings are ours (conns.h). */
    static const lws_retry_bo_t no_idle_policy = {0};
    struct ws *ws = calloc(1, sizeof(*ws));
    if (!ws) {
        log_error("ws", "no_memory");
        return NULL;
    }
    ws->loop = loop;
    ws->frame_max = frame_max;
    ws->events = events;
    ws->user = user;
    memcpy(ws->subprotocol, "chat", sizeof("chat")); /* the library wants one */
    ws->protocols[0] = (struct lws_protocols){.name = ws->subprotocol,
                                              .callback = on_lws,
                                              .per_session_data_size = sizeof(struct session),
                                              .rx_buffer_size = RX_BUFFER,
                                              .tx_packet_size = TX_PACKET};

    lws_set_log_level(LLL_ERR | LLL_WARN, on_lws_log);
    void *loops[] = {loop};
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
                   LWS_SERVER_OPTION_VALIDATE_UTF8 | LWS_SERVER_OPTION_SKIP_SERVER_CANONICAL_NAME,
        .foreign_loops = loops,
        .user = ws,
        .retry_and_idle_policy = &no_idle_policy,
        .timeout_secs = HANDSHAKE_TIMEOUT_S,
        .max_http_header_data2 = HEADERS_MAX,
        .pcontext = &ws->context,
    };
    info.gid = (__typeof__(info.gid))-1; /* we stay who we are; the type is the library version's */
    info.uid = (__typeof__(info.uid))-1;
    ws->context = lws_create_context(&info);
    if (!ws->context) {
        log_error("ws", "context_failed",
                  log_str("hint", "is the package libwebsockets-evlib-uv installed?"));
        free(ws);
        return NULL;
    }
    info.protocols = ws->protocols;
    info.vhost_name = "hlchat";
    ws->vhost = lws_create_vhost(ws->context, &info);
    if (!ws->vhost) {
        log_error("ws", "vhost_failed");
        lws_context_destroy(ws->context); /* its handles close when the loop runs on */
        return NULL;
    }
    uv_timer_init(loop, &ws->close_timer);
    ws->close_timer.data = ws;
    return ws;
}

void ws_adopt(struct ws *ws, enum ws_side side, int fd) {
    struct lws *wsi = lws_adopt_socket_vhost(ws->vhost, fd);
    if (wsi)
        lws_set_opaque_user_data(wsi, (void *)(uintptr_t)side);
    else
        log_debug("ws", "adopt_failed");
}

void ws_stop(struct ws *ws) {
    uv_close((uv_handle_t *)&ws->close_timer, NULL);
    lws_context_destroy(ws->context);
}

void ws_free(struct ws *ws) {
    if (ws->context) /* the library set it to NULL through pcontext if it is done already */
        lws_context_destroy(ws->context);
    free(ws);
}
