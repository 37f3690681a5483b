#include "ws-broker/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "shared/log.h"
#include "shared/status.h"

enum {
    ACCEPTS_PER_TURN = 64,   /* about 2 ms of handshakes, then the chat goes on */
    PAUSE_MS = 100,          /* after accept failed for want of descriptors or memory */
    SEND_BUFFER = 128 << 10, /* else the kernel grows it to 4 MB for each stalled client */
};

static void prepare(const struct listener *listener, int fd) {
    static const int on = 1, send_buffer = SEND_BUFFER;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof(send_buffer));
    if (!listener->_address->is_unix)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void on_readable(uv_poll_t *poll, int status, int events);

static void log_failure(struct listener *listener) {
    int64_t failures = log_limit_count(&listener->_failures, (int64_t)uv_now(listener->_poll.loop));
    if (failures > 0)
        log_warn("listener", "accept_failed", log_int("failures", failures), log_errno());
}

static void on_pause_over(uv_timer_t *timer) {
    struct listener *listener = timer->data;
    uv_poll_start(&listener->_poll, UV_READABLE, on_readable);
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    struct listener *listener = poll->data;
    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(listener->_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            prepare(listener, fd);
            listener->_on_accept(listener->_user, fd);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_failure(listener);
            uv_poll_stop(&listener->_poll);
            uv_timer_start(&listener->_pause, on_pause_over, PAUSE_MS, 0);
            return;
        } /* else that one connection went away before we came: the next */
    }
}

int listener_start(struct listener *listener, uv_loop_t *loop, const struct address_listen *address,
                   listener_accept_cb on_accept, void *user, char error[LISTEN_ERROR_MAX]) {
    int fd = listen_open(address, error);
    if (fd < 0)
        return fd;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    *listener = (struct listener){
        ._address = address, ._on_accept = on_accept, ._user = user, ._fd = fd, ._is_open = true};
    uv_timer_init(loop, &listener->_pause);
    uv_poll_init(loop, &listener->_poll, fd);
    listener->_pause.data = listener->_poll.data = listener;
    uv_poll_start(&listener->_poll, UV_READABLE, on_readable);
    return CHAT_OK;
}

void listener_stop(struct listener *listener) {
    if (!listener->_is_open)
        return;
    uv_close((uv_handle_t *)&listener->_poll, NULL);
    uv_close((uv_handle_t *)&listener->_pause, NULL);
    listen_close(listener->_fd, listener->_address);
    listener->_is_open = false;
}
