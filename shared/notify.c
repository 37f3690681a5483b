#include "shared/notify.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void notify(const char *text) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    size_t path_len = path ? strlen(path) : 0;

    if (path_len == 0 || path_len > sizeof(name.sun_path))
        return;
    memcpy(name.sun_path, path, path_len);
    if (path[0] == '@')
        name.sun_path[0] = '\0'; /* the abstract namespace */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_len);
    sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&name, len);
    close(fd);
}

void notify_ready(void) {
    notify("READY=1");
}

void notify_stopping(int within_s) {
    char text[64];

    snprintf(text, sizeof(text), "STOPPING=1\nEXTEND_TIMEOUT_USEC=%lld", within_s * 1000000LL);
    notify(text);
}
