/*
 * A connection to a server of this test's own, on the same loop: it greets as Redis does, and after
 * that it is silent. The resolver is ours, because no machine has the names that this needs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <uv.h>

#include "shared/status.h"
#include "ws-broker/redis.h"

enum {
    DEADLINE_MS = 20000, /* for what should take some milliseconds */
    CONNECTIONS_MAX = 8,
};

#define NOBODY "127.0.0.2" /* our server is only at 127.0.0.1 */
#define SERVER "127.0.0.1"

/* ---- the resolver, in place of libc's, called by libuv's threads ---- */

struct name {
    const char *addresses[2]; /* the second: perhaps NULL */
};

static const struct name *_Atomic chat_test; /* what the name chat.test means; NULL: nothing */
static atomic_int lookups;                   /* that have ended */

int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict result) {
    typedef int function(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    function *real = (function *)(uintptr_t)dlsym(RTLD_NEXT, "getaddrinfo");
    const struct name *means = chat_test;
    if (!name || strcmp(name, "chat.test") != 0)
        return real(name, service, hints, result);
    int status = means ? real(means->addresses[0], service, hints, result) : EAI_AGAIN;
    if (status == 0 && means->addresses[1])
        status = real(means->addresses[1], service, hints, &(*result)->ai_next);
    lookups++;
    return status;
}

/* ---- the server ---- */

struct connection {
    uv_tcp_t tcp;
    char request[4096];
    size_t len;
    bool is_greeted;
};

static uv_loop_t loop;
static uv_tcp_t listener;
static struct connection connections[CONNECTIONS_MAX];
static int accepted;

static void give_room(uv_handle_t *handle, size_t size, uv_buf_t *room) {
    struct connection *connection = handle->data;
    (void)size;
    *room = uv_buf_init(connection->request + connection->len,
                        (unsigned)(sizeof(connection->request) - 1 - connection->len));
}

static void on_request(uv_stream_t *stream, ssize_t len, const uv_buf_t *room) {
    static char greeting[] = "+PONG\r\n"
                             "$31\r\nredis_version:7.0.0\r\nrun_id:abc\r\n"
                             "$17\r\nid=7 addr=1.2.3.4\r\n";
    struct connection *connection = stream->data;
    uv_buf_t answer = uv_buf_init(greeting, sizeof(greeting) - 1);
    (void)room;
    if (len <= 0) {
        uv_read_stop(stream);
        return;
    }
    connection->len += (size_t)len;
    if (!connection->is_greeted && strstr(connection->request, "CLIENT\r\n$4\r\nINFO\r\n")) {
        connection->is_greeted = true;
        assert_int_equal(uv_try_write(stream, &answer, 1), answer.len);
    }
}

static void on_connection(uv_stream_t *stream, int status) {
    assert_int_equal(status, 0);
    assert_in_range(accepted, 0, CONNECTIONS_MAX - 1);
    struct connection *connection = &connections[accepted++];
    uv_tcp_init(&loop, &connection->tcp);
    connection->tcp.data = connection;
    assert_int_equal(uv_accept(stream, (uv_stream_t *)&connection->tcp), 0);
    uv_read_start((uv_stream_t *)&connection->tcp, give_room, on_request);
}

/* ---- each test begins with a server and a loop, and ends with a loop that can be closed ---- */

static uv_timer_t waker; /* so that a loop without events still looks at its deadline */
static struct redis *redis;
static struct redis_url url;
static atomic_int ups, downs;

static void on_up(void *user) {
    (void)user;
    ups++;
}

static void on_down(void *user) {
    (void)user;
    downs++;
}

static void on_wake(uv_timer_t *timer) {
    (void)timer;
}

static int begin(void **state) {
    struct sockaddr_in address;
    int size = sizeof(address);
    (void)state;
    accepted = ups = downs = 0;
    lookups = 0;
    chat_test = NULL;
    memset(connections, 0, sizeof(connections));
    uv_loop_init(&loop);
    uv_timer_init(&loop, &waker);
    uv_timer_start(&waker, on_wake, 10, 10);
    uv_tcp_init(&loop, &listener);
    uv_ip4_addr(SERVER, 0, &address);
    uv_tcp_bind(&listener, (struct sockaddr *)&address, 0);
    uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &size);
    url = (struct redis_url){.host = SERVER, .port = ntohs(address.sin_port)};
    return uv_listen((uv_stream_t *)&listener, CONNECTIONS_MAX, on_connection);
}

static int end(void **state) {
    (void)state;
    redis_stop(redis);
    uv_close((uv_handle_t *)&waker, NULL);
    uv_close((uv_handle_t *)&listener, NULL);
    for (int i = 0; i < accepted; i++)
        uv_close((uv_handle_t *)&connections[i].tcp, NULL);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
    redis_free(redis);
    return 0;
}

static void start(const char *host) {
    static const struct redis_events events = {on_up, on_down};
    snprintf(url.host, sizeof(url.host), "%s", host);
    redis = redis_new(&loop, "test", &url, &events, NULL);
    assert_non_null(redis);
}

static void wait_for(const atomic_int *count, int wanted) {
    uint64_t deadline = uv_hrtime() + DEADLINE_MS * (uint64_t)1000000;
    while (*count < wanted) {
        assert_true(uv_hrtime() < deadline);
        uv_run(&loop, UV_RUN_ONCE);
    }
}

/* ---- addresses ---- */

static void an_address(void **state) {
    (void)state;
    start(SERVER);
    wait_for(&ups, 1);
    assert_true(redis_is_up(redis));
    assert_string_equal(redis_server(redis)->run_id, "abc");
    assert_string_equal(redis_server(redis)->client_id, "7");
}

static void a_host_whose_second_address_is_the_good_one(void **state) {
    static const struct name both = {{NOBODY, SERVER}};
    (void)state;
    chat_test = &both;
    start("chat.test");
    wait_for(&ups, 1);
    redis_drop(redis, "test");
    wait_for(&ups, 2);
}

static void a_host_that_moves(void **state) {
    static const struct name away = {{NOBODY}}, here = {{SERVER}};
    (void)state;
    start("chat.test");
    wait_for(&lookups, lookups + 2); /* that find nothing */
    chat_test = &away;
    wait_for(&lookups, lookups + 2);
    assert_int_equal(ups, 0);
    chat_test = &here;
    wait_for(&ups, 1);
    chat_test = NULL;
    redis_drop(redis, "test");
    wait_for(&ups, 2); /* at the address known */
}

/* ---- deadlines ---- */

static void on_reply(void *user, const struct redis_value *reply) {
    int *told = user;
    assert_null(reply);
    ++*told;
}

static void a_deadline_behind_one_that_is_later(void **state) {
    int told = 0;
    (void)state;
    start(SERVER);
    wait_for(&ups, 1);
    assert_int_equal(redis_send_words(redis, 600000, on_reply, &told, "WAIT", NULL), CHAT_OK);
    assert_int_equal(redis_send_words(redis, 100, on_reply, &told, "PING", NULL), CHAT_OK);
    wait_for(&downs, 1);
    assert_int_equal(told, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_address, begin, end),
        cmocka_unit_test_setup_teardown(a_host_whose_second_address_is_the_good_one, begin, end),
        cmocka_unit_test_setup_teardown(a_host_that_moves, begin, end),
        cmocka_unit_test_setup_teardown(a_deadline_behind_one_that_is_later, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
