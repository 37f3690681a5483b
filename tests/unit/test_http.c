/*
 * Real requests to a real server: a thread of this program on a free port. Only the resolver and
 * the clock of the addresses' age are ours, because nobody could wait for theirs to hang or to grow
 * old.
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
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/secret_watch.h"
#include "ws-broker/http.h"

enum {
    AT_ONCE = 64,
    CONNECTIONS_MAX = 128,
    DEADLINE_MS = 20000, /* for what should take some milliseconds */
};

/* ---- the clock and the resolver, in place of libuv's and libc's ---- */

static uint64_t clock_ahead_ms;

uint64_t uv_now(const uv_loop_t *loop) {
    uint64_t (*real)(const uv_loop_t *) =
        (uint64_t(*)(const uv_loop_t *))(uintptr_t)dlsym(RTLD_NEXT, "uv_now");
    return real(loop) + clock_ahead_ms;
}

enum resolver { RESOLVER_GOOD, RESOLVER_FAILS, RESOLVER_HANGS };

static atomic_int resolver, lookups;

/* *.test are names for the server, by the state of the resolver (not steady.test's); others are
 * real. */
int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict result) {
    typedef int function(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    function *real = (function *)(uintptr_t)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *end = name ? strrchr(name, '.') : NULL;

    lookups++;
    if (end && strcasecmp(end, ".invalid") == 0)
        return EAI_NONAME;
    if (!end || strcasecmp(end, ".test") != 0)
        return real(name, service, hints, result);
    bool is_steady = strcmp(name, "steady.test") == 0;
    while (resolver == RESOLVER_HANGS && !is_steady)
        usleep(1000);
    return resolver == RESOLVER_FAILS && !is_steady ? EAI_AGAIN
                                                    : real("127.0.0.1", service, hints, result);
}

/* ---- the server ---- */

struct connection {
    int fd;
    size_t len;
    char request[8192];
};

static struct server {
    pthread_t thread;
    int listener, stop[2];
    uint16_t port;
    atomic_int accepted, requests, closed;
    struct connection connections[CONNECTIONS_MAX];
    int open;
    int together[AT_ONCE], together_count;
} server;

static void send_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* the client has had enough */
        bytes += sent;
        len -= (size_t)sent;
    }
}

static void answer(int fd, const char *status, const char *header, const char *body, size_t len) {
    char head[256];
    int head_len = snprintf(head, sizeof(head), "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n",
                            status, header, len);

    send_all(fd, head, (size_t)head_len);
    send_all(fd, body, len);
}

static void answer_bytes(int fd, size_t len) {
    char *body = malloc(len);

    memset(body, 'x', len);
    answer(fd, "200 OK", "", body, len);
    free(body);
}

/* Whether to keep the connection. */
static bool serve(int fd, const char *request, size_t len) {
    char path[32] = "";
    static const struct linger reset = {.l_onoff = 1, .l_linger = 0};

    sscanf(request, "%*s %31s", path);
    server.requests++;
    if (strcmp(path, "/ok") == 0) {
        answer(fd, "200 OK", "", "hello", 5);
    } else if (strcmp(path, "/echo") == 0) {
        answer(fd, "200 OK", "", request, len);
    } else if (strcmp(path, "/empty") == 0) {
        answer(fd, "204 No Content", "", "", 0);
    } else if (strcmp(path, "/missing") == 0) {
        answer(fd, "404 Not Found", "", "{\"errorMessage\":\"nobody\"}", 25);
    } else if (strcmp(path, "/moved") == 0) {
        answer(fd, "302 Found", "Location: /ok\r\n", "", 0);
    } else if (strcmp(path, "/largest") == 0) {
        answer_bytes(fd, HTTP_BODY_MAX);
    } else if (strcmp(path, "/too-large") == 0) {
        answer_bytes(fd, HTTP_BODY_MAX + 1);
    } else if (strcmp(path, "/reset") == 0) {
        answer_bytes(fd, HTTP_BODY_MAX);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        return false;
    } else if (strcmp(path, "/cut") == 0) {
        static const char half[] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
        send_all(fd, half, sizeof(half) - 1);
        return false;
    } else if (strcmp(path, "/silent") == 0) {
        return false;
    } else if (strcmp(path, "/together") == 0) {
        server.together[server.together_count++] = fd;
        if (server.together_count == AT_ONCE) {
            while (server.together_count > 0)
                answer(server.together[--server.together_count], "200 OK", "", "all", 3);
        }
    } /* else /slow: never an answer */
    return true;
}

/* Whether to keep the connection. */
static bool receive(struct connection *connection) {
    ssize_t got = recv(connection->fd, connection->request + connection->len,
                       sizeof(connection->request) - 1 - connection->len, 0);
    size_t body_len = 0;

    if (got <= 0)
        return false;
    connection->len += (size_t)got;
    connection->request[connection->len] = '\0';
    const char *end = strstr(connection->request, "\r\n\r\n");
    const char *length = strstr(connection->request, "Content-Length: ");
    if (!end)
        return true;
    if (length)
        body_len = strtoul(length + strlen("Content-Length: "), NULL, 10);
    if (connection->len < (size_t)(end + 4 - connection->request) + body_len)
        return true;
    bool keep = serve(connection->fd, connection->request, connection->len);
    connection->len = 0;
    return keep;
}

static void *server_main(void *unused) {
    struct pollfd polls[CONNECTIONS_MAX + 2];

    (void)unused;
    for (;;) {
        polls[0] = (struct pollfd){.fd = server.stop[0], .events = POLLIN};
        polls[1] = (struct pollfd){.fd = server.listener, .events = POLLIN};
        for (int i = 0; i < server.open; i++)
            polls[i + 2] = (struct pollfd){.fd = server.connections[i].fd, .events = POLLIN};
        poll(polls, (nfds_t)server.open + 2, -1);
        if (polls[0].revents)
            return NULL;
        /* from the end: the last one takes the place of one that is closed */
        for (int i = server.open - 1; i >= 0; i--) {
            if (!polls[i + 2].revents || receive(&server.connections[i]))
                continue;
            close(server.connections[i].fd);
            server.closed++;
            server.connections[i] = server.connections[--server.open];
        }
        if (polls[1].revents && server.open < CONNECTIONS_MAX) {
            server.connections[server.open++] =
                (struct connection){.fd = accept(server.listener, NULL, NULL)};
            server.accepted++;
        }
    }
}

/* A TCP socket on a free port of 127.0.0.1. Who does not listen on it refuses connections. */
static int bound_socket(uint16_t *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_return_code(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    getsockname(fd, (struct sockaddr *)&address, &len);
    *port = ntohs(address.sin_port);
    return fd;
}

static void server_start(void) {
    memset(&server, 0, sizeof(server));
    server.listener = bound_socket(&server.port);
    assert_return_code(listen(server.listener, CONNECTIONS_MAX), 0);
    assert_return_code(pipe(server.stop), 0);
    assert_int_equal(pthread_create(&server.thread, NULL, server_main, NULL), 0);
}

static void server_stop(void) {
    close(server.stop[1]);
    pthread_join(server.thread, NULL);
    for (int i = 0; i < server.open; i++)
        close(server.connections[i].fd);
    close(server.stop[0]);
    close(server.listener);
}

/* ---- each test begins with a server, a loop and http, and ends with a loop that can be closed
 * ---- */

static uv_loop_t loop;
static uv_timer_t waker; /* so that a loop without events still looks at its deadline */
static struct http *http;

/* What a request ended with. */
struct outcome {
    int calls;
    int status;
    size_t body_len;
    char body[4096]; /* its begin */
    char error[64];
    struct http_request *cancel; /* in the callback */
    bool stop;                   /* http, in the callback */
    struct outcome *chain;       /* starts this one in the callback */
};

static void on_wake(uv_timer_t *timer) {
    (void)timer;
}

static int begin(void **state) {
    (void)state;
    clock_ahead_ms = 0;
    resolver = RESOLVER_GOOD;
    lookups = 0;
    server_start();
    uv_loop_init(&loop);
    uv_timer_init(&loop, &waker);
    uv_timer_start(&waker, on_wake, 10, 10);
    http = http_new(&loop);
    return http ? 0 : -1;
}

static int end(void **state) {
    (void)state;
    resolver = RESOLVER_GOOD; /* sets look-ups free that hang */
    http_stop(http);
    http_stop(http);
    uv_close((uv_handle_t *)&waker, NULL);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
    http_free(http);
    server_stop();
    return 0;
}

static uint64_t now_ms(void) {
    return uv_hrtime() / 1000000;
}

static struct http_request *start(struct outcome *outcome, const char *host, const char *path,
                                  uint64_t timeout_ms);

static void on_answer(void *user, const struct http_answer *came) {
    struct outcome *outcome = user;

    outcome->calls++;
    outcome->status = came->status;
    outcome->body_len = came->body_len;
    assert_int_equal(strlen(came->body), came->body_len);
    snprintf(outcome->body, sizeof(outcome->body), "%s", came->body);
    if (came->status == 0)
        assert_non_null(came->error);
    snprintf(outcome->error, sizeof(outcome->error), "%s", came->status ? "" : came->error);
    if (outcome->cancel)
        http_cancel(outcome->cancel);
    if (outcome->chain)
        assert_non_null(start(outcome->chain, "127.0.0.1", "/ok", DEADLINE_MS));
    if (outcome->stop)
        http_stop(http);
}

static struct http_request *start_with(struct outcome *outcome, const char *host, unsigned port,
                                       const char *path, struct http_options options) {
    char url[256];

    snprintf(url, sizeof(url), "http://%s:%u%s", host, port, path);
    options.url = url;
    uv_update_time(&loop);
    struct http_request *request = http_start(http, &options, on_answer, outcome);
    assert_int_equal(outcome->calls, 0); /* never before http_start() returns */
    memset(url, '#', sizeof(url));
    return request;
}

static struct http_request *start(struct outcome *outcome, const char *host, const char *path,
                                  uint64_t timeout_ms) {
    return start_with(outcome, host, server.port, path,
                      (struct http_options){.timeout_ms = timeout_ms});
}

static void wait_until(bool (*is_so)(const void *), const void *about) {
    uint64_t deadline = now_ms() + DEADLINE_MS;

    while (!is_so(about)) {
        assert_true(now_ms() < deadline);
        uv_run(&loop, UV_RUN_ONCE);
    }
}

static bool has_ended(const void *about) {
    const struct outcome *outcome = about;
    return outcome->calls > 0;
}

static bool has_asked(const void *unused) {
    (void)unused;
    return server.requests > 0;
}

static bool is_looking_up(const void *unused) {
    (void)unused;
    return lookups > 0;
}

static void run_for(uint64_t ms) {
    for (uint64_t until = now_ms() + ms; now_ms() < until;)
        uv_run(&loop, UV_RUN_ONCE);
}

static struct outcome get_from(const char *host, const char *path) {
    struct outcome outcome = {0};

    assert_non_null(start(&outcome, host, path, DEADLINE_MS));
    wait_until(has_ended, &outcome);
    assert_int_equal(outcome.calls, 1);
    return outcome;
}

static struct outcome get(const char *path) {
    return get_from("127.0.0.1", path);
}

static void assert_answer(const struct outcome *outcome, int status, const char *body) {
    assert_string_equal(outcome->error, "");
    assert_int_equal(outcome->status, status);
    assert_string_equal(outcome->body, body);
}

static void assert_error(const struct outcome *outcome, const char *error) {
    assert_string_equal(outcome->error, error);
    assert_int_equal(outcome->status, 0);
    assert_int_equal(outcome->body_len, 0);
}

/* ---- answers ---- */

static void an_answer_with_its_body(void **state) {
    struct outcome outcome = get("/ok");

    (void)state;
    assert_answer(&outcome, 200, "hello");
    outcome = get("/empty");
    assert_answer(&outcome, 204, "");
    outcome = get("/missing");
    assert_answer(&outcome, 404, "{\"errorMessage\":\"nobody\"}");
}

static void the_server_sees_body_and_headers(void **state) {
    struct outcome outcome = {0};
    char bearer[] = "se.sa-m_e", json[] = "{\"a\":1}";

    (void)state;
    start_with(&outcome, "127.0.0.1", server.port, "/echo",
               (struct http_options){.bearer = bearer, .json = json, .timeout_ms = DEADLINE_MS});
    memset(bearer, '#', strlen(bearer)); /* all of it was copied */
    memset(json, '#', strlen(json));
    wait_until(has_ended, &outcome);
    assert_int_equal(outcome.status, 200);
    assert_ptr_equal(strstr(outcome.body, "POST /echo HTTP/1.1\r\n"), outcome.body);
    assert_non_null(strstr(outcome.body, "\r\nAuthorization: Bearer se.sa-m_e\r\n"));
    assert_non_null(strstr(outcome.body, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(outcome.body, "\r\nContent-Length: 7\r\n"));
    assert_non_null(strstr(outcome.body, "\r\n\r\n{\"a\":1}"));
    assert_null(strstr(outcome.body, "Expect"));
}

static void a_get_has_no_body_and_no_token(void **state) {
    struct outcome outcome = get("/echo");

    (void)state;
    assert_ptr_equal(strstr(outcome.body, "GET /echo HTTP/1.1\r\n"), outcome.body);
    assert_non_null(strstr(outcome.body, "\r\nUser-Agent: hlchat/"));
    assert_null(strstr(outcome.body, "Authorization"));
    assert_null(strstr(outcome.body, "Content-"));
}

static void a_redirect_is_not_followed(void **state) {
    struct outcome outcome = get("/moved");

    (void)state;
    assert_answer(&outcome, 302, "");
    assert_int_equal(server.requests, 1);
}

static void answers_have_a_ceiling(void **state) {
    struct outcome outcome = get("/largest");

    (void)state;
    assert_int_equal(outcome.status, 200);
    assert_int_equal(outcome.body_len, HTTP_BODY_MAX);
    outcome = get("/too-large");
    assert_error(&outcome, "answer too large");
}

static void an_answer_counts_though_a_reset_follows(void **state) {
    struct outcome outcome = {0};

    (void)state;
    start(&outcome, "127.0.0.1", "/reset", 2000);
    wait_until(has_asked, NULL);
    while (server.closed == 0)
        usleep(1000); /* all has come, and the reset, before the loop looks at it */
    wait_until(has_ended, &outcome);
    assert_string_equal(outcome.error, "");
    assert_int_equal(outcome.body_len, HTTP_BODY_MAX);
}

/* ---- failures ---- */

static void a_slow_answer_is_a_timeout(void **state) {
    struct outcome outcome = {0};
    uint64_t started = now_ms();

    (void)state;
    start(&outcome, "127.0.0.1", "/slow", 500);
    wait_until(has_ended, &outcome);
    assert_error(&outcome, "timeout");
    assert_in_range(now_ms() - started, 490, 3000);
}

static void a_connection_nobody_takes_is_a_timeout(void **state) {
    struct outcome outcome = {0};
    uint16_t port;
    int listener = bound_socket(&port), fillers[4];
    struct sockaddr_in address;
    socklen_t len = sizeof(address);

    (void)state;
    listen(listener, 0);
    getsockname(listener, (struct sockaddr *)&address, &len);
    for (int i = 0; i < 4; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(fillers[i], (struct sockaddr *)&address, sizeof(address));
    }
    start_with(&outcome, "127.0.0.1", port, "/", (struct http_options){.timeout_ms = 200});
    wait_until(has_ended, &outcome);
    assert_error(&outcome, "timeout while connecting");
    for (int i = 0; i < 4; i++)
        close(fillers[i]);
    close(listener);
}

static void a_handshake_nobody_answers_is_a_timeout(void **state) {
    struct outcome outcome = {0};
    char url[64];
    uint16_t port;
    int listener = bound_socket(&port);

    (void)state;
    listen(listener, 1);
    snprintf(url, sizeof(url), "https://127.0.0.1:%u/", port);
    uv_update_time(&loop);
    http_start(http, &(struct http_options){.url = url, .timeout_ms = 200}, on_answer, &outcome);
    wait_until(has_ended, &outcome);
    assert_error(&outcome, "timeout while connecting");
    close(listener);
}

static void a_cut_connection(void **state) {
    struct outcome outcome = get("/cut");

    (void)state;
    assert_error(&outcome, "connection cut");
    outcome = get("/silent");
    assert_error(&outcome, "connection cut");
}

static void a_refused_connection(void **state) {
    struct outcome by_address = {0}, by_name = {0};
    uint16_t port;
    int fd = bound_socket(&port);

    (void)state;
    start_with(&by_address, "127.0.0.1", port, "/", (struct http_options){.timeout_ms = 5000});
    start_with(&by_name, "a.test", port, "/", (struct http_options){.timeout_ms = 5000});
    wait_until(has_ended, &by_address);
    wait_until(has_ended, &by_name);
    assert_error(&by_address, "connection refused");
    assert_error(&by_name, "connection refused");
    close(fd);
}

static void what_cannot_be_asked_is_refused_at_once(void **state) {
    static const char *const urls[] = {
        "",
        "nonsense",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://",
        "http://a b/",
        "http://a:99999/",
        "http://user:password@127.0.0.1/",
        "http://a\r\nb: c/",
    };
    static const char *const bearers[] = {"a\r\nX-Admin: 1", "a b", "\xc3\xa4"};
    struct outcome outcome = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        struct http_options options = {.url = urls[i], .timeout_ms = 1000};
        assert_null(http_start(http, &options, on_answer, &outcome));
    }
    for (size_t i = 0; i < sizeof(bearers) / sizeof(bearers[0]); i++)
        assert_null(start_with(&outcome, "127.0.0.1", server.port, "/ok",
                               (struct http_options){.bearer = bearers[i], .timeout_ms = 1000}));
    run_for(50);
    assert_int_equal(outcome.calls, 0);
    assert_int_equal(server.requests, 0);
}

/* ---- many ---- */

static void connections_are_used_again(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++)
        get("/ok");
    assert_int_equal(server.requests, 5);
    assert_int_equal(server.accepted, 1);
}

static void many_run_at_once_and_keep_their_connections(void **state) {
    static struct outcome outcomes[AT_ONCE];

    (void)state;
    for (int round = 0; round < 2; round++) {
        memset(outcomes, 0, sizeof(outcomes));
        for (int i = 0; i < AT_ONCE; i++)
            start(&outcomes[i], "127.0.0.1", "/together", DEADLINE_MS);
        for (int i = 0; i < AT_ONCE; i++)
            wait_until(has_ended, &outcomes[i]);
        for (int i = 0; i < AT_ONCE; i++)
            assert_answer(&outcomes[i], 200, "all"); /* none came before the last had asked */
    }
    assert_int_equal(server.accepted, AT_ONCE);
}

/* ---- cancel and stop ---- */

static void cancelled_before_it_began(void **state) {
    struct outcome outcome = {0};

    (void)state;
    http_cancel(start(&outcome, "127.0.0.1", "/ok", DEADLINE_MS));
    run_for(50);
    assert_int_equal(outcome.calls, 0);
    assert_int_equal(server.requests, 0);
}

static void cancelled_under_way(void **state) {
    struct outcome outcome = {0}, next;
    struct http_request *request = start(&outcome, "127.0.0.1", "/slow", DEADLINE_MS);

    (void)state;
    wait_until(has_asked, NULL);
    http_cancel(request);
    next = get("/ok");
    assert_answer(&next, 200, "hello");
    assert_int_equal(outcome.calls, 0);
}

static void cancelled_while_it_resolves(void **state) {
    struct outcome outcome = {0}, next;

    (void)state;
    resolver = RESOLVER_HANGS;
    struct http_request *request = start(&outcome, "a.test", "/ok", DEADLINE_MS);
    wait_until(is_looking_up, NULL);
    http_cancel(request);
    resolver = RESOLVER_GOOD;
    next = get_from("a.test", "/ok");
    assert_answer(&next, 200, "hello");
    assert_int_equal(outcome.calls, 0);
}

#if defined(__SANITIZE_ADDRESS__)
static void secrets_are_wiped(void **state) {
    (void)state;
    print_message("[  SKIPPED ] the address sanitizer owns the allocator\n");
    skip();
}
#else

/* Ours are; curl's own copies, from when it sends, are not in our hands. */
static void secrets_are_wiped(void **state) {
    static const struct http_options options = {
        .bearer = "CANARY", .json = "{\"password\":\"CANARY\"}", .timeout_ms = DEADLINE_MS};
    struct outcome outcome = {0};

    (void)state;
    resolver = RESOLVER_HANGS;
    secret_watch_start("CANARY");
    struct http_request *request = start_with(&outcome, "a.test", server.port, "/ok", options);
    wait_until(is_looking_up, NULL);
    http_cancel(request);
    assert_int_equal(secret_watch_stop(), 0);
}
#endif

static bool has_one_ended(const void *about) {
    struct outcome *const *pair = about;
    return pair[0]->calls + pair[1]->calls > 0;
}

/* Of two, the first to call back cancels the other. */
static void cancelled_from_the_callback_of_another(void **state) {
    static const char *const hosts[] = {"127.0.0.1", "nowhere.invalid"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct outcome a = {0}, b = {0}, *pair[] = {&a, &b};
        b.cancel = start(&a, hosts[i], "/ok", DEADLINE_MS);
        a.cancel = start(&b, hosts[i], "/ok", DEADLINE_MS);
        wait_until(has_one_ended, pair);
        run_for(50);
        assert_int_equal(a.calls + b.calls, 1);
    }
}

static void the_next_starts_in_a_callback(void **state) {
    struct outcome first = {0}, second = {0}, third = {0};

    (void)state;
    first.chain = &second;
    second.chain = &third;
    start(&first, "nowhere.invalid", "/ok", DEADLINE_MS);
    wait_until(has_ended, &third);
    assert_error(&first, "host name does not resolve");
    assert_answer(&second, 200, "hello");
    assert_answer(&third, 200, "hello");
}

static void stopped_with_requests_under_way(void **state) {
    struct outcome outcomes[4] = {0};

    (void)state;
    start(&outcomes[0], "127.0.0.1", "/slow", DEADLINE_MS);
    wait_until(has_asked, NULL);
    resolver = RESOLVER_HANGS;
    start(&outcomes[1], "127.0.0.1", "/ok", DEADLINE_MS);
    start(&outcomes[2], "a.test", "/ok", DEADLINE_MS);
    start(&outcomes[3], "b.test", "/ok", DEADLINE_MS);
    http_stop(http);
    assert_null(start(&outcomes[0], "127.0.0.1", "/ok", DEADLINE_MS));
    run_for(50);
    for (int i = 0; i < 4; i++)
        assert_int_equal(outcomes[i].calls, 0);
}

static void stopped_in_a_callback(void **state) {
    struct outcome first = {.stop = true}, slow = {0}, waiting = {0};

    (void)state;
    resolver = RESOLVER_HANGS;
    start(&slow, "127.0.0.1", "/slow", DEADLINE_MS);
    start(&waiting, "a.test", "/ok", DEADLINE_MS);
    start(&first, "127.0.0.1", "/ok", DEADLINE_MS);
    wait_until(has_ended, &first);
    run_for(50);
    assert_int_equal(slow.calls + waiting.calls, 0);
}

static void stopped_in_the_callback_of_one_that_did_not_resolve(void **state) {
    struct outcome first = {.stop = true}, second = {0};

    (void)state;
    start(&first, "nowhere.invalid", "/ok", DEADLINE_MS);
    start(&second, "nowhere.invalid", "/ok", DEADLINE_MS);
    wait_until(has_ended, &first);
    run_for(50);
    assert_int_equal(second.calls, 0);
}

/* ---- names ---- */

static void localhost_resolves(void **state) {
    struct addrinfo *info;

    (void)state;
    if (getaddrinfo("localhost", NULL, NULL, &info) != 0) {
        print_message("[  SKIPPED ] this machine has no localhost (/etc/hosts)\n");
        skip();
    }
    freeaddrinfo(info);
    lookups = 0;
    struct outcome outcome = get_from("localhost", "/ok");
    assert_answer(&outcome, 200, "hello");
    assert_int_equal(lookups, 1); /* ours; curl made none */
}

static void an_address_is_not_looked_up(void **state) {
    struct outcome v4 = get_from("127.0.0.1", "/ok"), v6 = {0};

    (void)state;
    assert_answer(&v4, 200, "hello");
    /* Nobody is there, or the machine has no IPv6. */
    start_with(&v6, "[::1]", 1, "/", (struct http_options){.timeout_ms = 5000});
    wait_until(has_ended, &v6);
    assert_non_null(strstr("connection refused, cannot connect", v6.error));
    assert_int_equal(lookups, 0);
}

static void a_name_that_does_not_resolve(void **state) {
    struct outcome outcome = get_from("nowhere.invalid", "/ok");

    (void)state;
    assert_error(&outcome, "host name does not resolve");
}

static void one_lookup_for_all_that_wait(void **state) {
    static struct outcome outcomes[AT_ONCE];

    (void)state;
    resolver = RESOLVER_HANGS;
    for (int i = 0; i < AT_ONCE; i++)
        start(&outcomes[i], i % 2 ? "a.test" : "A.TEST", "/together", DEADLINE_MS);
    wait_until(is_looking_up, NULL);
    resolver = RESOLVER_GOOD;
    for (int i = 0; i < AT_ONCE; i++) {
        wait_until(has_ended, &outcomes[i]);
        assert_answer(&outcomes[i], 200, "all");
    }
    assert_int_equal(lookups, 1);
}

static void addresses_are_kept_for_a_minute(void **state) {
    (void)state;
    get_from("a.test", "/ok");
    clock_ahead_ms = 59000;
    get_from("a.test", "/ok");
    assert_int_equal(lookups, 1);
    clock_ahead_ms = 61000;
    get_from("a.test", "/ok");
    assert_int_equal(lookups, 2);
}

static void a_hung_resolver_delays_only_its_host(void **state) {
    struct outcome hung = {0}, other;
    uint64_t started = now_ms();

    (void)state;
    resolver = RESOLVER_HANGS;
    start(&hung, "a.test", "/ok", 200);
    other = get_from("steady.test", "/ok");
    assert_answer(&other, 200, "hello");
    wait_until(has_ended, &hung);
    assert_error(&hung, "timeout while resolving the host name");
    assert_in_range(now_ms() - started, 190, 2000);
}

static void old_addresses_serve_while_the_resolver_hangs(void **state) {
    struct outcome outcome = get_from("a.test", "/ok");

    (void)state;
    clock_ahead_ms = 24 * 3600 * 1000;
    resolver = RESOLVER_HANGS;
    for (int i = 0; i < 3; i++) {
        outcome = get_from("a.test", "/ok");
        assert_answer(&outcome, 200, "hello");
    }
    assert_int_equal(lookups, 2);
}

static void old_addresses_serve_when_the_resolver_fails(void **state) {
    struct outcome outcome = get_from("a.test", "/ok");

    (void)state;
    clock_ahead_ms = 24 * 3600 * 1000;
    resolver = RESOLVER_FAILS;
    outcome = get_from("a.test", "/ok");
    assert_answer(&outcome, 200, "hello");
    assert_int_equal(lookups, 2);
}

static void a_segment_is_escaped(void **state) {
    static const char *const cases[][2] = {{"", ""},
                                           {"HL1-a_b.c~", "HL1-a_b.c~"},
                                           {"a/b?c#d%", "a%2Fb%3Fc%23d%25"},
                                           {"ä ", "%C3%A4%20"}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *escaped = http_escape(cases[i][0]);
        assert_string_equal(escaped, cases[i][1]);
        free(escaped);
    }
}

#define HTTP_TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
    const struct CMUnitTest tests[] = {
        HTTP_TEST(an_answer_with_its_body),
        HTTP_TEST(the_server_sees_body_and_headers),
        HTTP_TEST(a_get_has_no_body_and_no_token),
        HTTP_TEST(a_redirect_is_not_followed),
        HTTP_TEST(answers_have_a_ceiling),
        HTTP_TEST(an_answer_counts_though_a_reset_follows),
        HTTP_TEST(a_slow_answer_is_a_timeout),
        HTTP_TEST(a_connection_nobody_takes_is_a_timeout),
        HTTP_TEST(a_handshake_nobody_answers_is_a_timeout),
        HTTP_TEST(a_cut_connection),
        HTTP_TEST(a_refused_connection),
        HTTP_TEST(what_cannot_be_asked_is_refused_at_once),
        HTTP_TEST(connections_are_used_again),
        HTTP_TEST(many_run_at_once_and_keep_their_connections),
        HTTP_TEST(cancelled_before_it_began),
        HTTP_TEST(cancelled_under_way),
        HTTP_TEST(cancelled_while_it_resolves),
        HTTP_TEST(secrets_are_wiped),
        HTTP_TEST(cancelled_from_the_callback_of_another),
        HTTP_TEST(the_next_starts_in_a_callback),
        HTTP_TEST(stopped_with_requests_under_way),
        HTTP_TEST(stopped_in_a_callback),
        HTTP_TEST(stopped_in_the_callback_of_one_that_did_not_resolve),
        HTTP_TEST(localhost_resolves),
        HTTP_TEST(an_address_is_not_looked_up),
        HTTP_TEST(a_name_that_does_not_resolve),
        HTTP_TEST(one_lookup_for_all_that_wait),
        HTTP_TEST(addresses_are_kept_for_a_minute),
        HTTP_TEST(a_hung_resolver_delays_only_its_host),
        HTTP_TEST(old_addresses_serve_while_the_resolver_hangs),
        HTTP_TEST(old_addresses_serve_when_the_resolver_fails),
        cmocka_unit_test(a_segment_is_escaped),
    };

    /* A proxy of the environment is not used. */
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
