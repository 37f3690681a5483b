/*
 * A request waits for the addresses of its host (`waiting`), unless they are known, and then runs
 * in curl, which tells by on_curl_socket() and on_curl_timer() what to watch for it. After each
 * curl_multi_socket_action() the transfers that ended are read from curl's queue and their requests
 * call back. So callers run only in the loop's callbacks, never inside curl, and may start and
 * cancel what they like.
 */
#include "ws-broker/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

#include "shared/version.h"

enum {
    CONNECT_TIMEOUT_MS = 3000,
    CONNECTIONS_KEPT = 64, /* open for the next requests; curl's own choice keeps only 4 */
    CONNECTION_IDLE_S = 60,
    ADDRESSES_MAX = 8,          /* of one host */
    ADDRESSES_FRESH_MS = 60000, /* then they are looked up again */
    PATIENCE_MS = 500, /* how long a look-up may take before older addresses have to serve */
    WAITING_TICK_MS = 20,
};

/* A host's name and what it resolved to. Never freed before http: names come from settings, so
 * they are few. */
struct host {
    struct host *next;
    struct http *http;
    uv_getaddrinfo_t lookup;
    bool is_asking;                                                     /* `lookup` is under way */
    uint64_t asked_ms;                                                  /* when it began */
    uint64_t resolved_ms;                                               /* when `addresses` came */
    char addresses[ADDRESSES_MAX * (INET6_ADDRSTRLEN + sizeof("[],"))]; /* "1.2.3.4,[::1]", or "" */
    char name[];
};

struct http {
    uv_loop_t *loop;
    CURLM *multi; /* NULL once stopped */
    uv_timer_t curl_timer;
    uv_timer_t waiting_timer; /* ticks while requests wait for addresses */
    struct http_request *requests;
    struct host *hosts;
};

struct http_request {
    struct http_request *prev, *next; /* in `requests` (utlist's names) */
    struct http *http;
    http_cb callback;
    void *user;
    uint64_t deadline_ms; /* uv_now() */
    bool is_running;      /* in curl; else it waits for addresses */
    struct host *host;    /* NULL: the URL has an address */
    char port[sizeof("65535")];
    CURL *easy;
    struct curl_slist *headers;
    struct curl_slist *resolve;
    char *json;
    char *body; /* HTTP_BODY_MAX + 1 bytes: growing would leave copies of secrets behind */
    size_t body_len;
};

/* A socket of curl's. */
struct watch {
    uv_poll_t poll;
    struct http *http;
    curl_socket_t fd;
};

/* ---- the end of a request -------------------------------------------------------------------- */

static void wipe_and_free(char *secret, size_t len) {
    if (secret)
        explicit_bzero(secret, len);
    free(secret);
}

static void request_free(struct http_request *request) {
    curl_easy_cleanup(request->easy);
    for (struct curl_slist *header = request->headers; header; header = header->next)
        explicit_bzero(header->data, strlen(header->data));
    curl_slist_free_all(request->headers);
    curl_slist_free_all(request->resolve);
    wipe_and_free(request->json, request->json ? strlen(request->json) : 0);
    wipe_and_free(request->body, request->body_len);
    free(request);
}

static void request_detach(struct http_request *request) {
    DL_DELETE(request->http->requests, request);
    if (request->is_running)
        curl_multi_remove_handle(request->http->multi, request->easy);
}

void http_cancel(struct http_request *request) {
    request_detach(request);
    request_free(request);
}

static void finish(struct http_request *request, const struct http_answer *answer) {
    request_detach(request);
    request->callback(request->user, answer);
    request_free(request);
}

static void fail(struct http_request *request, const char *error) {
    finish(request, &(struct http_answer){.body = "", .error = error});
}

static const char *error_text(CURL *easy, CURLcode result) {
    long os_error = 0, sent = 0;
    switch (result) {
    case CURLE_OPERATION_TIMEDOUT:
        /* Not a time of curl's: 8.21 gives them for a connection that never was. */
        curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &sent);
        return sent ? "timeout" : "timeout while connecting";
    case CURLE_COULDNT_CONNECT:
        curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_error);
        return os_error == ECONNREFUSED ? "connection refused" : "cannot connect";
    case CURLE_WRITE_ERROR: /* from on_body() */
        return "answer too large";
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return "connection cut";
    case CURLE_PEER_FAILED_VERIFICATION:
        return "server certificate refused";
    default:
        return curl_easy_strerror(result);
    }
}

static void finish_done(struct http *http) {
    CURLMsg *message;
    int left;
    /* A callback may have stopped us. */
    while (http->multi && (message = curl_multi_info_read(http->multi, &left))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode result = message->data.result;
        struct http_request *request = NULL;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &request);
        if (result != CURLE_OK) {
            fail(request, error_text(request->easy, result));
            continue;
        }
        long status = 0;
        curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
        request->body[request->body_len] = '\0';
        finish(request, &(struct http_answer){.status = (int)status,
                                              .body = request->body,
                                              .body_len = request->body_len});
    }
}

/* ---- curl on the loop ------------------------------------------------------------------------ */

/* on_curl_socket() and on_curl_timer() never report a failure: curl would not work again after one.
 * A request that goes unwatched ends by its timeout, at the latest with the next event. */

static void on_watch_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void on_socket(uv_poll_t *poll, int status, int events) {
    struct watch *watch = poll->data;
    struct http *http = watch->http;
    int running, ready = (events & UV_READABLE ? CURL_CSELECT_IN : 0) |
                         (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
    /* status < 0: the socket has an error, and libuv gave up watching it. Then `ready` is 0, which
     * makes curl look for itself, and read all. CURL_CSELECT_ERR would lose an answer that a reset
     * followed. */
    (void)status;
    curl_multi_socket_action(http->multi, watch->fd, ready, &running);
    finish_done(http);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *assigned) {
    struct http *http = user;
    struct watch *watch = assigned;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (watch)
            uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
        return 0;
    }
    if (!watch) {
        watch = calloc(1, sizeof(*watch));
        if (!watch || uv_poll_init_socket(http->loop, &watch->poll, fd) != 0) {
            free(watch);
            return 0;
        }
        watch->poll.data = watch;
        watch->http = http;
        watch->fd = fd;
        curl_multi_assign(http->multi, fd, watch);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    uv_poll_start(&watch->poll, events, on_socket);
    return 0;
}

static void on_timer(uv_timer_t *timer) {
    struct http *http = timer->data;
    int running;
    curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    finish_done(http);
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *user) {
    struct http *http = user;
    (void)multi;
    if (timeout_ms < 0)
        uv_timer_stop(&http->curl_timer);
    else /* not 0: libuv 1.44 would run it again and again before it looks at any socket */
        uv_timer_start(&http->curl_timer, on_timer, timeout_ms ? (uint64_t)timeout_ms : 1, 0);
    return 0;
}

static size_t on_body(char *data, size_t size, size_t count, void *user) {
    struct http_request *request = user;
    size_t len = size * count;
    if (len > HTTP_BODY_MAX - request->body_len)
        return CURL_WRITEFUNC_ERROR;
    memcpy(request->body + request->body_len, data, len);
    request->body_len += len;
    return len;
}

/* Hands the request to curl, which begins with it in the loop's next turn. */
static bool run(struct http_request *request) {
    if (request->host) {
        const struct host *host = request->host;
        char entry[sizeof(host->addresses) + NI_MAXHOST + sizeof(request->port)];
        snprintf(entry, sizeof(entry), "%s:%s:%s", host->name, request->port, host->addresses);
        request->resolve = curl_slist_append(NULL, entry);
        if (!request->resolve)
            return false;
        curl_easy_setopt(request->easy, CURLOPT_RESOLVE, request->resolve);
    }
    long left_ms = (long)(request->deadline_ms - uv_now(request->http->loop));
    curl_easy_setopt(request->easy, CURLOPT_TIMEOUT_MS, left_ms);
    request->is_running = curl_multi_add_handle(request->http->multi, request->easy) == CURLM_OK;
    return request->is_running;
}

/* ---- addresses of hosts ---------------------------------------------------------------------- */

static bool must_wait(const struct http_request *request) {
    const struct host *host = request->host;
    if (!host || !host->is_asking)
        return false;
    return !*host->addresses || uv_now(host->http->loop) - host->asked_ms < PATIENCE_MS;
}

/* Goes through those that wait: some have run out of time, some need not wait any more. */
static void move_on(struct http *http) {
    bool any_waits = false;
    struct http_request *request = http->requests;
    while (request) {
        const char *error = NULL;
        if (request->is_running) {
            request = request->next;
            continue;
        }
        if (uv_now(http->loop) >= request->deadline_ms)
            error = "timeout while resolving the host name";
        else if (must_wait(request))
            any_waits = true;
        else if (!*request->host->addresses)
            error = "host name does not resolve";
        else if (!run(request))
            error = "no memory";
        if (error) {
            fail(request, error);
            request = http->requests; /* the callback may have changed all: once more */
            any_waits = false;
        } else {
            request = request->next;
        }
    }
    if (!any_waits)
        uv_timer_stop(&http->waiting_timer);
}

static void on_waiting_tick(uv_timer_t *timer) {
    move_on(timer->data);
}

static void keep_addresses(struct host *host, const struct addrinfo *info) {
    size_t len = 0;
    for (int count = 0; info && count < ADDRESSES_MAX; info = info->ai_next) {
        char address[INET6_ADDRSTRLEN];
        bool is_v6 = info->ai_family == AF_INET6;
        const void *binary = is_v6
                                 ? (const void *)&((struct sockaddr_in6 *)info->ai_addr)->sin6_addr
                                 : (const void *)&((struct sockaddr_in *)info->ai_addr)->sin_addr;
        if ((!is_v6 && info->ai_family != AF_INET) ||
            !inet_ntop(info->ai_family, binary, address, sizeof(address)))
            continue;
        len += (size_t)snprintf(host->addresses + len, sizeof(host->addresses) - len,
                                is_v6 ? "%s[%s]" : "%s%s", count ? "," : "", address);
        count++;
    }
    host->resolved_ms = uv_now(host->http->loop);
}

static void on_resolved(uv_getaddrinfo_t *lookup, int status, struct addrinfo *info) {
    struct host *host = lookup->data;
    host->is_asking = false;
    if (status == 0)
        keep_addresses(host, info);
    uv_freeaddrinfo(info);
    if (host->http->multi)
        move_on(host->http);
}

/* Looks the host up, unless its addresses are known or asked for. False: that cannot begin. */
static bool host_ask(struct host *host) {
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    uint64_t now_ms = uv_now(host->http->loop);
    if (host->is_asking || (*host->addresses && now_ms - host->resolved_ms < ADDRESSES_FRESH_MS))
        return true;
    host->is_asking =
        uv_getaddrinfo(host->http->loop, &host->lookup, on_resolved, host->name, NULL, &hints) == 0;
    host->asked_ms = now_ms;
    return host->is_asking || *host->addresses;
}

static struct host *host_get(struct http *http, const char *name) {
    struct host *host;
    LL_FOREACH(http->hosts, host) {
        if (strcasecmp(host->name, name) == 0)
            return host;
    }
    size_t size = strlen(name) + 1;
    if (size > NI_MAXHOST)
        return NULL;
    host = calloc(1, sizeof(*host) + size);
    if (!host)
        return NULL;
    host->http = http;
    host->lookup.data = host;
    memcpy(host->name, name, size);
    LL_PREPEND(http->hosts, host);
    return host;
}

/* ---- the start of a request ------------------------------------------------------------------ */

static bool is_address(const char *host) {
    struct in_addr v4;
    return *host == '[' || inet_pton(AF_INET, host, &v4) == 1;
}

/* Takes host and port from the URL. */
static bool set_host(struct http_request *request, const char *url) {
    CURLU *parts = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL;
    bool is_good = parts &&
                   curl_url_set(parts, CURLUPART_URL, url, CURLU_DISALLOW_USER) == CURLUE_OK &&
                   curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                   curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                   curl_url_get(parts, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                   (strcasecmp(scheme, "http") == 0 || strcasecmp(scheme, "https") == 0);
    if (is_good) {
        snprintf(request->port, sizeof(request->port), "%s", port);
        if (!is_address(host)) {
            request->host = host_get(request->http, host);
            is_good = request->host != NULL;
        }
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(parts);
    return is_good;
}

static bool add_header(struct http_request *request, const char *header) {
    struct curl_slist *longer = curl_slist_append(request->headers, header);
    if (longer)
        request->headers = longer;
    return longer;
}

static bool add_bearer(struct http_request *request, const char *bearer) {
    static const char name[] = "Authorization: Bearer ";
    for (const char *c = bearer; *c; c++) {
        if (*c <= ' ' || *c > '~') /* a line break would begin a header of its own */
            return false;
    }
    size_t size = sizeof(name) + strlen(bearer);
    char *header = malloc(size);
    if (!header)
        return false;
    snprintf(header, size, "%s%s", name, bearer);
    bool is_added = add_header(request, header);
    wipe_and_free(header, size);
    return is_added;
}

static bool set_headers(struct http_request *request, const struct http_options *options) {
    char agent[64];
    snprintf(agent, sizeof(agent), "User-Agent: hlchat/%s", chat_version());
    /* Expect: a server that does not know it would cost a second for nothing. */
    return add_header(request, agent) && add_header(request, "Expect:") &&
           (!options->json || add_header(request, "Content-Type: application/json")) &&
           (!options->bearer || add_bearer(request, options->bearer));
}

static bool set_options(struct http_request *request, const char *url) {
    CURL *easy = request->easy;
    unsigned bad = 0;
    bad |= curl_easy_setopt(easy, CURLOPT_PRIVATE, request);
    bad |= curl_easy_setopt(easy, CURLOPT_URL, url);
    bad |= curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->headers);
    if (request->json)
        bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->json);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    bad |= curl_easy_setopt(easy, CURLOPT_PROXY, "");
    bad |= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    bad |= curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)CONNECTION_IDLE_S);
    /* Not HTTP/2: a connection that went dead without a word would keep all requests to come,
     * while of HTTP/1.1 each request that times out takes its connection with it. */
    bad |= curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    /* Were curl ever to resolve by itself, it must not wait for its thread. */
    bad |= curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    /* Debian sets a folder besides its file of CAs; with it, curl loads all of them anew (50 ms)
     * for each connection. A TLS library that has no such folder refuses the option: as well. */
    curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
    return bad == 0;
}

struct http_request *http_start(struct http *http, const struct http_options *options,
                                http_cb callback, void *user) {
    if (!http->multi)
        return NULL;
    struct http_request *request = calloc(1, sizeof(*request));
    if (!request)
        return NULL;
    request->http = http;
    request->callback = callback;
    request->user = user;
    request->deadline_ms = uv_now(http->loop) + options->timeout_ms;
    request->body = malloc(HTTP_BODY_MAX + 1);
    request->easy = curl_easy_init();
    request->json = options->json ? strdup(options->json) : NULL;
    if (!request->body || !request->easy || (options->json && !request->json) ||
        !set_headers(request, options) || !set_options(request, options->url) ||
        !set_host(request, options->url) || (request->host && !host_ask(request->host)))
        goto failed;
    if (must_wait(request)) {
        if (!uv_is_active((uv_handle_t *)&http->waiting_timer))
            uv_timer_start(&http->waiting_timer, on_waiting_tick, WAITING_TICK_MS, WAITING_TICK_MS);
    } else if (!run(request)) {
        goto failed;
    }
    DL_APPEND(http->requests, request);
    return request;

failed:
    request_free(request);
    return NULL;
}

char *http_escape(const char *segment) {
    return curl_easy_escape(NULL, segment, 0); /* malloc'ed: we gave curl no other allocator */
}

/* ---- life ------------------------------------------------------------------------------------ */

struct http *http_new(uv_loop_t *loop) {
    struct http *http = calloc(1, sizeof(*http));
    if (!http || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(http);
        return NULL;
    }
    http->loop = loop;
    http->multi = curl_multi_init();
    if (!http->multi) {
        http_free(http);
        return NULL;
    }
    uv_timer_init(loop, &http->curl_timer);
    uv_timer_init(loop, &http->waiting_timer);
    http->curl_timer.data = http->waiting_timer.data = http;
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_KEPT);
    return http;
}

void http_stop(struct http *http) {
    if (!http->multi)
        return;
    while (http->requests)
        http_cancel(http->requests);
    curl_multi_cleanup(http->multi);
    http->multi = NULL;
    uv_close((uv_handle_t *)&http->curl_timer, NULL);
    uv_close((uv_handle_t *)&http->waiting_timer, NULL);
    struct host *host;
    LL_FOREACH(http->hosts, host) {
        if (host->is_asking)
            uv_cancel((uv_req_t *)&host->lookup); /* on_resolved() comes all the same */
    }
}

void http_free(struct http *http) {
    struct host *host, *next;
    if (!http)
        return;
    LL_FOREACH_SAFE(http->hosts, host, next) free(host);
    free(http);
    curl_global_cleanup();
}
