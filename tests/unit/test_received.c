#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/cmocka.h"
#include "ws-broker/received.h"

enum { SENT = 1000, READ = 300 };

static int listening(struct sockaddr_in *address) {
    socklen_t len = sizeof(*address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    assert_int_equal(bind(fd, (struct sockaddr *)address, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)address, &len), 0);
    return fd;
}

/* What waits in the kernel has not been read: its sender may be one who is made to wait. */
static void test_what_is_unread_does_not_count(void **state) {
    struct sockaddr_in address;
    char bytes[SENT] = {0};
    (void)state;
    int listener = listening(&address), client = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
    int server = accept(listener, NULL, NULL);
    assert_int_equal(received_bytes(server), 0);
    assert_int_equal(send(client, bytes, SENT, 0), SENT);
    assert_int_equal(recv(server, bytes, SENT, MSG_PEEK | MSG_WAITALL), SENT); /* they are there */
    assert_int_equal(received_bytes(server), 0);
    assert_int_equal(recv(server, bytes, READ, MSG_WAITALL), READ);
    assert_int_equal(received_bytes(server), READ);
    assert_int_equal(recv(server, bytes, SENT - READ, MSG_WAITALL), SENT - READ);
    assert_int_equal(received_bytes(server), SENT);
    close(server);
    close(client);
    close(listener);
}

static void test_a_unix_socket_is_not_known(void **state) {
    int pair[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(send(pair[0], "x", 1, 0), 1);
    assert_int_equal(received_bytes(pair[1]), 0);
    close(pair[0]);
    close(pair[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_unread_does_not_count),
        cmocka_unit_test(test_a_unix_socket_is_not_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
