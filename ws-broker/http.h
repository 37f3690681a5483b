/*
 * http.h: HTTP requests to services we depend on, on the event loop; the only file with libcurl.
 *
 * Each request ends by exactly one callback, later, never before http_start() returns, or by
 * http_cancel() and then by none. Never blocks the loop: host names are resolved by libuv's threads
 * (one look-up for all that wait for it; the last good answer is kept for when the resolver fails),
 * and a hung resolver delays only requests to that host. No redirects, no proxies from the
 * environment, http and https only, answers up to HTTP_BODY_MAX. How many run at once is the
 * caller's business. Request headers and bodies may hold secrets: our copies are wiped before they
 * are freed, and nothing of them is logged. Loop thread only.
 */
#ifndef HLCHAT_HTTP_H
#define HLCHAT_HTTP_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct http;
struct http_request;

enum { HTTP_BODY_MAX = 64 << 10 };

/** What came back. Good until the callback returns. */
struct http_answer {
    int status;       /* HTTP status, or 0: no whole answer came */
    const char *body; /* NUL-terminated; "" when there is none */
    size_t body_len;
    const char *error; /* when status is 0: a short text for the log, without secrets, e.g.
                          "timeout", "connection refused", "answer too large",
                          "host name does not resolve" */
};

typedef void (*http_cb)(void *user, const struct http_answer *answer);

/** What to log when http_start() gives NULL. */
#define HTTP_CANNOT_START "the request cannot begin: the URL cannot be used, or no memory"

struct http_options {
    const char *url;     /* http(s)://host[:port]/path, already escaped */
    const char *bearer;  /* sent as Authorization: Bearer ..., or NULL */
    const char *json;    /* body of a POST with Content-Type: application/json, or NULL: GET */
    uint64_t timeout_ms; /* 1 or more, for all of it, resolving included */
};

/** One for the process. NULL: no memory. */
struct http *http_new(uv_loop_t *loop);

/** Begins a request; everything in `options` is copied. NULL: no memory, a URL or a bearer that
 * cannot be, or http is stopped; then no callback. May be called from a callback. */
struct http_request *http_start(struct http *http, const struct http_options *options,
                                http_cb callback, void *user);

/** Ends a request that has not called back; it is gone on return. May be called from another
 * request's callback. */
void http_cancel(struct http_request *request);

/** Percent-escapes one path segment, malloc'ed; NULL: no memory. "." and ".." cannot be escaped,
 * and servers take them for steps in the path: refuse them. */
char *http_escape(const char *segment);

/** Cancels everything and closes all handles; run the loop on. A look-up that hangs in a resolver
 * thread can keep the loop alive. May be called from a callback, and again. */
void http_stop(struct http *http);
/** After the loop has run out. */
void http_free(struct http *http);

#endif
