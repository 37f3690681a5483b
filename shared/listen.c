#include "shared/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/status.h"

/* The kernel caps it at net.core.somaxconn: connect storms are ours to absorb, not the peer's to
 * retry. */
enum { BACKLOG = 4096 };

union socket_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un un;
};

static socklen_t fill(const struct address_listen *address, union socket_address *out) {
    memset(out, 0, sizeof(*out));
    if (address->is_unix) {
        out->un.sun_family = AF_UNIX;
        memcpy(out->un.sun_path, address->path, sizeof(out->un.sun_path));
        return sizeof(out->un);
    }
    if (inet_pton(AF_INET, address->host, &out->v4.sin_addr) == 1) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(address->port);
        return sizeof(out->v4);
    }
    inet_pton(AF_INET6, address->host, &out->v6.sin6_addr);
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons(address->port);
    return sizeof(out->v6);
}

/* Whether somebody answers on the unix socket. */
static bool is_served(const union socket_address *name, socklen_t len) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true; /* not known: leave the file alone */
    bool served = connect(fd, &name->any, len) == 0 || errno != ECONNREFUSED;
    close(fd);
    return served;
}

/* Removes a socket file that nobody listens on any more. */
static bool remove_stale(const union socket_address *name, socklen_t len) {
    struct stat file;
    return lstat(name->un.sun_path, &file) == 0 && S_ISSOCK(file.st_mode) &&
           !is_served(name, len) && unlink(name->un.sun_path) == 0;
}

static int bind_unix(int fd, const union socket_address *name, socklen_t len) {
    /* The mode must be right from the first moment, not after a chmod. */
    mode_t before = umask(0117);
    int rc = bind(fd, &name->any, len);
    if (rc < 0 && errno == EADDRINUSE) {
        if (remove_stale(name, len))
            rc = bind(fd, &name->any, len);
        else
            errno = EADDRINUSE;
    }
    umask(before);
    return rc;
}

int listen_open(const struct address_listen *address, char error[LISTEN_ERROR_MAX]) {
    static const int on = 1;
    union socket_address name;
    socklen_t len = fill(address, &name);
    int fd = socket(name.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        goto fail;
    if (address->is_unix) {
        if (bind_unix(fd, &name, len) < 0)
            goto fail;
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (name.any.sa_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
        if (bind(fd, &name.any, len) < 0)
            goto fail;
    }
    if (listen(fd, BACKLOG) < 0)
        goto fail;
    return fd;

fail:;
    const char *why = strerror(errno);
    if (address->is_unix)
        snprintf(error, LISTEN_ERROR_MAX, "cannot listen on unix:%s: %s", address->path, why);
    else
        snprintf(error, LISTEN_ERROR_MAX, "cannot listen on %s port %u: %s", address->host,
                 address->port, why);
    if (fd >= 0)
        close(fd);
    return CHAT_ESYS;
}

void listen_close(int fd, const struct address_listen *address) {
    close(fd);
    if (address->is_unix)
        unlink(address->path);
}
