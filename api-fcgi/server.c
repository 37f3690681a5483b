#include "api-fcgi/server.h"

#include <errno.h>
#include <fcgiapp.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "api-fcgi/route.h"
#include "shared/log.h"

enum { PATH_BYTES_MAX = 256, BACK_OFF_MS = 100 };

struct worker {
    const struct server *server;
    int epoll_fd; /* its own: whoever connects wakes one thread, where poll() would wake all */
    pthread_t thread;
};

struct server {
    int listen_fd; /* non-blocking */
    int stop_fd;   /* an eventfd; readable once the server stops */
    const char *env_label;
    int worker_count;
    struct worker workers[];
};

static const char *param(const FCGX_Request *request, const char *name) {
    const char *value = FCGX_GetParam(name, request->envp);
    return value ? value : "";
}

/* Reads the rest of the request, so that a close() after the reply cannot reset the connection. */
static void skip_body(FCGX_Request *request) {
    char ignored[1024];

    while (FCGX_GetStr(ignored, sizeof(ignored), request->in) > 0)
        ;
}

/**
 * Nothing may reach the peer before the header block is whole: HAProxy 2.6.12 crashes when a reply
 * ends inside it. This one is smaller than libfcgi's buffer, and FCGX_Finish_r() writes it at once.
 */
static void serve(const struct server *server, FCGX_Request *request) {
    const char *method = param(request, "REQUEST_METHOD");
    char path[PATH_BYTES_MAX]; /* longer ones are cut, and match nothing */
    char text[ROUTE_TEXT_MAX];
    struct route_reply reply;

    /* However the web server divides it. Both are decoded, without the query string. */
    snprintf(path, sizeof(path), "%s%s", param(request, "SCRIPT_NAME"),
             param(request, "PATH_INFO"));
    route(method, path, server->env_label, &reply);
    FCGX_PutStr(text, (int)route_text(&reply, text), request->out);
    log_debug("api", "request", log_str("method", method), log_str("path", path),
              log_int("status", reply.status));
    skip_body(request);
    FCGX_Detach(request); /* or libfcgi waits up to 2 s for the peer to close first */
    FCGX_Finish_r(request);
    FCGX_Free(request, 1); /* for a peer that would keep the connection */
}

/* Waits until somebody connects or the server stops; returns whether it stops. */
static bool wait_for_work(const struct worker *worker) {
    struct epoll_event events[2];
    bool stops = false;
    int count;

    while ((count = epoll_wait(worker->epoll_fd, events, 2, -1)) < 0 && errno == EINTR)
        ;
    for (int i = 0; i < count; i++)
        stops = stops || events[i].data.fd == worker->server->stop_fd;
    return stops;
}

static void *run_thread(void *argument) {
    const struct worker *worker = argument;
    const struct server *server = worker->server;
    static const struct timespec pause = {.tv_nsec = BACK_OFF_MS * 1000000L};
    FCGX_Request request;
    bool failing = false;

    FCGX_InitRequest(&request, server->listen_fd, 0);
    for (;;) {
        /* Asked before the accept: a stopping thread leaves when nobody waits any more. */
        bool stopping = wait_for_work(worker);
        int status = FCGX_Accept_r(&request);
        if (status == 0) {
            failing = false;
            serve(server, &request);
        } else if (stopping) {
            break;
        } else if (status != -EAGAIN && status != -EINTR) {
            /* Out of descriptors or memory: it passes. One line for each time it begins. */
            errno = -status;
            if (!failing)
                log_warn("api", "accept_failed", log_errno());
            failing = true;
            nanosleep(&pause, NULL);
        }
    }
    FCGX_Free(&request, 1);
    return NULL;
}

/* What libfcgi changes for the whole process is put back: its signal handlers only set a flag. */
static void init_library(void) {
    FCGX_Init();
    signal(SIGTERM, SIG_DFL);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
}

/* Accepted TCP sockets inherit the timeouts; unix ones do not. */
static void set_timeouts(int listen_fd) {
    static const struct timeval silence = {.tv_sec = SERVER_SILENCE_S};

    setsockopt(listen_fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof(silence));
    setsockopt(listen_fd, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof(silence));
}

static bool start_worker(const struct server *server, struct worker *worker) {
    struct epoll_event work = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = server->listen_fd};
    struct epoll_event stop = {.events = EPOLLIN, .data.fd = server->stop_fd};

    worker->server = server;
    worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (worker->epoll_fd < 0)
        return false;
    if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, server->listen_fd, &work) < 0 ||
        epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, server->stop_fd, &stop) < 0 ||
        (errno = pthread_create(&worker->thread, NULL, run_thread, worker)) != 0) {
        int saved_errno = errno;
        close(worker->epoll_fd);
        errno = saved_errno;
        return false;
    }
    return true;
}

struct server *server_start(int listen_fd, int threads, const char *env_label) {
    struct server *server =
        calloc(1, sizeof(*server) + (size_t)threads * sizeof(server->workers[0]));

    if (!server)
        return NULL;
    server->listen_fd = listen_fd;
    server->env_label = env_label;
    server->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (server->stop_fd < 0 || fcntl(listen_fd, F_SETFL, O_NONBLOCK) < 0)
        goto fail;
    set_timeouts(listen_fd);
    init_library();
    for (; server->worker_count < threads; server->worker_count++) {
        if (!start_worker(server, &server->workers[server->worker_count]))
            goto fail;
    }
    return server;

fail:;
    int saved_errno = errno;
    server_stop(server);
    errno = saved_errno;
    return NULL;
}

int server_stop(struct server *server) {
    struct timespec deadline;
    int left = 0;

    if (server->stop_fd >= 0)
        eventfd_write(server->stop_fd, 1);
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += SERVER_STOP_S;
    for (int i = 0; i < server->worker_count; i++) {
        struct worker *worker = &server->workers[i];

        if (pthread_clockjoin_np(worker->thread, NULL, CLOCK_MONOTONIC, &deadline) != 0)
            left++;
        else
            close(worker->epoll_fd);
    }
    if (left > 0)
        return left; /* they use it still */
    if (server->stop_fd >= 0)
        close(server->stop_fd);
    free(server);
    return 0;
}
