#include "ws-broker/received.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

uint64_t received_bytes(int fd) {
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    int unread = 0;
    /* In this order: what comes in between is unread. */
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
        ioctl(fd, FIONREAD, &unread) != 0)
        return 0;
    uint64_t come = info.tcpi_bytes_received, waiting = (uint64_t)unread;
    return come > waiting ? come - waiting : 0;
}
