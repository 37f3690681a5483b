/*
 * listener.h: accepts connections on one listening socket.
 *
 * We accept ourselves, not the WebSocket library: a storm of connects may take only so much of a
 * loop turn, a full file table pauses it instead of spinning, and a drain can stop accepting while
 * everything else goes on. Loop thread only.
 */
#ifndef HLCHAT_LISTENER_H
#define HLCHAT_LISTENER_H

#include <stdbool.h>
#include <uv.h>

#include "shared/address.h"
#include "shared/listen.h"
#include "ws-broker/log_limit.h"

/** Takes over an accepted descriptor (non-blocking, close-on-exec). */
typedef void (*listener_accept_cb)(void *user, int fd);

/** Embedded; private. Zeroed is stopped. */
struct listener {
    uv_poll_t _poll;
    uv_timer_t _pause;
    const struct address_listen *_address;
    listener_accept_cb _on_accept;
    void *_user;
    struct log_limit _failures; /* to accept, for want of descriptors or memory */
    int _fd;
    bool _is_open;
};

/** Opens and starts. `address` is borrowed until listener_stop(). 0, or negative with a text in
 * `error`; then nothing was started. */
int listener_start(struct listener *listener, uv_loop_t *loop, const struct address_listen *address,
                   listener_accept_cb on_accept, void *user, char error[LISTEN_ERROR_MAX]);

/** Stops accepting and closes the socket, if it is open. The struct must live until the loop has
 * run once more. */
void listener_stop(struct listener *listener);

#endif
