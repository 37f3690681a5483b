/* listen.h: real sockets on free ports and in a temporary folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/cmocka.h"

#include "shared/listen.h"
#include "shared/status.h"

static char folder[] = "/tmp/hlchat-test-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return rmdir(folder); /* fails when a test left its socket behind */
}

static struct address_listen address(const char *text) {
    struct address_listen parsed;
    assert_int_equal(address_listen_parse(text, &parsed), CHAT_OK);
    return parsed;
}

static struct address_listen unix_address(const char *name) {
    struct address_listen parsed = {.is_unix = true};
    snprintf(parsed.path, sizeof(parsed.path), "%s/%s", folder, name);
    return parsed;
}

static int open_ok(const struct address_listen *where) {
    char error[LISTEN_ERROR_MAX] = "";
    int fd = listen_open(where, error);
    if (fd < 0)
        fail_msg("%s", error);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    return fd;
}

/* Refused, with a text that says where and why. */
static void check_refused(const struct address_listen *where, const char *names, const char *why) {
    char error[LISTEN_ERROR_MAX] = "";
    assert_int_equal(listen_open(where, error), CHAT_ESYS);
    if (!strstr(error, names) || !strstr(error, why))
        fail_msg("'%s' names neither '%s' nor '%s'", error, names, why);
}

static uint16_t port_of(int fd) {
    struct sockaddr_in6 name; /* sin6_port stands where sin_port does */
    socklen_t len = sizeof(name);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&name, &len), 0);
    return ntohs(name.sin6_port);
}

/* 0, or the errno of a connect to the unix socket of that name. */
static int connect_unix(const struct address_listen *where) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memcpy(name.sun_path, where->path, sizeof(name.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int result = connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0 ? 0 : errno;
    close(fd);
    return result;
}

static int connect_ipv4(uint16_t port) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &name.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int result = connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0 ? 0 : errno;
    close(fd);
    return result;
}

static void test_tcp(void **state) {
    struct address_listen where = address("127.0.0.1:0");
    (void)state;
    int fd = open_ok(&where);
    uint16_t port = port_of(fd);
    assert_int_equal(connect_ipv4(port), 0);

    where.port = port;
    char text[16];
    snprintf(text, sizeof(text), "%u", port);
    check_refused(&where, "127.0.0.1", text);
    check_refused(&where, text, "in use");
    listen_close(fd, &where);
    assert_int_equal(connect_ipv4(port), ECONNREFUSED);
}

/* A restarted broker gets its port at once, though old connections of it linger. */
static void test_tcp_restart(void **state) {
    struct address_listen where = address("127.0.0.1:0");
    (void)state;
    int fd = open_ok(&where);
    where.port = port_of(fd);
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(where.port)};
    inet_pton(AF_INET, "127.0.0.1", &name.sin_addr);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&name, sizeof(name)), 0);
    close(accept(fd, NULL, NULL)); /* our side closes first: it is the one that lingers */
    listen_close(fd, &where);
    fd = open_ok(&where);
    listen_close(fd, &where);
    close(client);
}

static void test_address_of_nobody(void **state) {
    struct address_listen where = address("203.0.113.9:1");
    (void)state;
    check_refused(&where, "203.0.113.9", "assign");
}

static void test_ipv6_takes_no_ipv4(void **state) {
    struct address_listen where = address("[::]:0");
    char error[LISTEN_ERROR_MAX];
    (void)state;
    int fd = listen_open(&where, error);
    if (fd < 0) { /* a machine without IPv6 */
        print_message("[  SKIPPED ] IPv6: %s\n", error);
        skip();
    }
    assert_int_equal(connect_ipv4(port_of(fd)), ECONNREFUSED);
    listen_close(fd, &where);
}

static void test_unix(void **state) {
    struct address_listen where = unix_address("a.sock");
    struct stat file;
    (void)state;
    mode_t before = umask(0); /* the mode does not depend on it */
    int fd = open_ok(&where);
    assert_int_equal(umask(before), 0); /* and it is left as it was */
    assert_int_equal(stat(where.path, &file), 0);
    assert_true(S_ISSOCK(file.st_mode));
    assert_int_equal(file.st_mode & 0777, 0660);
    assert_int_equal(connect_unix(&where), 0);
    listen_close(fd, &where);
    assert_int_equal(connect_unix(&where), ENOENT);
}

static void test_unix_stale_file_is_replaced(void **state) {
    struct address_listen where = unix_address("a.sock");
    (void)state;
    close(open_ok(&where)); /* a crash: the file stays, nobody listens */
    assert_int_equal(connect_unix(&where), ECONNREFUSED);
    int fd = open_ok(&where);
    assert_int_equal(connect_unix(&where), 0);
    listen_close(fd, &where);
}

static void test_unix_live_one_is_not(void **state) {
    struct address_listen where = unix_address("a.sock");
    (void)state;
    int fd = open_ok(&where);
    check_refused(&where, where.path, "in use");
    assert_int_equal(connect_unix(&where), 0);
    listen_close(fd, &where);
}

/* Whatever else has that name is not ours to remove. */
static void test_unix_other_file_is_not(void **state) {
    struct address_listen where = unix_address("precious");
    struct stat file;
    (void)state;
    close(open(where.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    check_refused(&where, where.path, "in use");
    assert_int_equal(stat(where.path, &file), 0);
    assert_true(S_ISREG(file.st_mode));
    unlink(where.path);
}

static void test_unix_folder_is_missing(void **state) {
    struct address_listen where = unix_address("no/such/folder.sock");
    (void)state;
    check_refused(&where, where.path, "No such file");
}

static void test_unix_folder_is_none(void **state) {
    (void)state;
    struct address_listen where = address("unix:/dev/null/broker.sock");
    check_refused(&where, where.path, "Not a directory");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_tcp_restart),
        cmocka_unit_test(test_address_of_nobody),
        cmocka_unit_test(test_ipv6_takes_no_ipv4),
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_unix_stale_file_is_replaced),
        cmocka_unit_test(test_unix_live_one_is_not),
        cmocka_unit_test(test_unix_other_file_is_not),
        cmocka_unit_test(test_unix_folder_is_missing),
        cmocka_unit_test(test_unix_folder_is_none),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
