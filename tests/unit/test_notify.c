/* notify.h: to a socket of our own, in place of systemd's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "shared/notify.h"

static int listen_at(const struct sockaddr_un *name, size_t path_len) {
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_len);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)name, len), 0);
    return fd;
}

static void hears(int fd, const char *expected) {
    char text[128];
    ssize_t len = recv(fd, text, sizeof(text) - 1, 0);
    assert_true(len >= 0);
    text[len] = '\0';
    assert_string_equal(text, expected);
}

static void test_socket_in_a_folder(void **state) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    char folder[] = "/tmp/hlchat-test-XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(name.sun_path, sizeof(name.sun_path), "%s/notify", folder);
    setenv("NOTIFY_SOCKET", name.sun_path, 1);
    int fd = listen_at(&name, strlen(name.sun_path) + 1);
    notify_ready();
    hears(fd, "READY=1");
    notify_stopping(3610);
    hears(fd, "STOPPING=1\nEXTEND_TIMEOUT_USEC=3610000000");
    close(fd);
    unlink(name.sun_path);
    rmdir(folder);
}

static void test_abstract_socket(void **state) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    (void)state;
    snprintf(name.sun_path, sizeof(name.sun_path), "@hlchat-test-%d", (int)getpid());
    size_t len = strlen(name.sun_path);
    setenv("NOTIFY_SOCKET", name.sun_path, 1);
    name.sun_path[0] = '\0';
    int fd = listen_at(&name, len);
    notify_ready();
    hears(fd, "READY=1");
    close(fd);
}

static void test_nobody_asks_or_listens(void **state) {
    char too_long[256];
    (void)state;
    unsetenv("NOTIFY_SOCKET");
    notify_ready();
    setenv("NOTIFY_SOCKET", "", 1);
    notify_ready();
    setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
    notify_ready();
    memset(too_long, 'x', sizeof(too_long) - 1);
    too_long[0] = '/';
    too_long[sizeof(too_long) - 1] = '\0';
    setenv("NOTIFY_SOCKET", too_long, 1);
    notify_ready();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_socket_in_a_folder),
        cmocka_unit_test(test_abstract_socket),
        cmocka_unit_test(test_nobody_asks_or_listens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
