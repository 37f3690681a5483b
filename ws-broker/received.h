/* received.h: how many bytes have been read from a socket. A file of its own, for the kernel's
 * header that tells does not go with the library's that libwebsockets includes. */
#ifndef HLCHAT_RECEIVED_H
#define HLCHAT_RECEIVED_H

#include <stdint.h>

/** All so far, without what still waits to be read. 0: that is not known: it is no TCP socket. */
uint64_t received_bytes(int fd);

#endif
