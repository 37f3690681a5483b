/*
 * listen.h: opens the socket that a program serves on.
 */
#ifndef HLCHAT_LISTEN_H
#define HLCHAT_LISTEN_H

#include <stddef.h>

#include "shared/address.h"

/** Room for an error text of listen_open(). */
enum { LISTEN_ERROR_MAX = 192 };

/**
 * A listening socket on `address` (close-on-exec, blocking). TCP: SO_REUSEADDR, and IPv6 takes no
 * IPv4. Unix: mode 0660; a socket file that nobody listens on any more is replaced, one that
 * answers is not. Returns the descriptor, or CHAT_ESYS with a text in `error` that names the
 * address.
 */
int listen_open(const struct address_listen *address, char error[LISTEN_ERROR_MAX]);

/** Closes it and removes a unix socket's file. */
void listen_close(int fd, const struct address_listen *address);

#endif
