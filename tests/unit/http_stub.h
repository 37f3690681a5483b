/*
 * http_stub.h: http.h without a network. Requests are recorded and stay open until the test answers
 * them. Defines all of http.c that is linked, so the archive's is left out; include it in one file,
 * after cmocka.h.
 */
#ifndef HLCHAT_HTTP_STUB_H
#define HLCHAT_HTTP_STUB_H

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ws-broker/http.h"

enum http_stub_state { STUB_OPEN = 0, STUB_ANSWERED = 1, STUB_CANCELLED = 2 };

struct http_request {
    enum http_stub_state state;
    char *url, *bearer, *json; /* the last two NULL when there was none */
    uint64_t timeout_ms;
    http_cb callback;
    void *user;
};

enum { STUB_REQUESTS_MAX = 4096 };

static struct http_stub {
    struct http_request *requests[STUB_REQUESTS_MAX]; /* all, in order */
    size_t count;
    bool refuses; /* http_start() gives NULL */
} http_stub;

static inline char *stub_copy(const char *text) {
    char *copy = text ? strdup(text) : NULL;
    assert_true(!text || copy);
    return copy;
}

struct http_request *http_start(struct http *http, const struct http_options *options,
                                http_cb callback, void *user) {
    (void)http;
    assert_true(options->timeout_ms > 0);
    assert_non_null(options->url);
    assert_non_null(callback);
    if (http_stub.refuses)
        return NULL;
    assert_true(http_stub.count < STUB_REQUESTS_MAX);
    struct http_request *request = calloc(1, sizeof(*request));
    assert_non_null(request);
    *request = (struct http_request){.url = stub_copy(options->url),
                                     .bearer = stub_copy(options->bearer),
                                     .json = stub_copy(options->json),
                                     .timeout_ms = options->timeout_ms,
                                     .callback = callback,
                                     .user = user};
    http_stub.requests[http_stub.count++] = request;
    return request;
}

void http_cancel(struct http_request *request) {
    assert_int_equal(request->state, STUB_OPEN); /* else it would be freed memory by now */
    request->state = STUB_CANCELLED;
}

char *http_escape(const char *segment) {
    char *out = calloc(3, strlen(segment) + 1), *end = out;
    assert_non_null(out);
    for (; *segment; segment++) {
        if (isalnum((unsigned char)*segment) || strchr("-._~", *segment))
            *end++ = *segment;
        else
            end += snprintf(end, 4, "%%%02X", (unsigned char)*segment);
    }
    return out;
}

/** The nth request of all, from 0. */
static inline struct http_request *stub_request(size_t n) {
    assert_true(n < http_stub.count);
    return http_stub.requests[n];
}

static inline size_t stub_open(void) {
    size_t open = 0;
    for (size_t i = 0; i < http_stub.count; i++)
        open += http_stub.requests[i]->state == STUB_OPEN;
    return open;
}

static inline void stub_tell(size_t n, struct http_answer answer) {
    struct http_request *request = stub_request(n);
    assert_int_equal(request->state, STUB_OPEN);
    request->state = STUB_ANSWERED;
    char *body = stub_copy(answer.body ? answer.body : ""); /* gone after the callback */
    answer.body = body;
    answer.body_len = strlen(body);
    request->callback(request->user, &answer);
    explicit_bzero(body, strlen(body)); /* as http.c does */
    free(body);
}

/** Answers the nth request. */
static inline void stub_answer(size_t n, int status, const char *body) {
    stub_tell(n, (struct http_answer){.status = status, .body = body});
}

/** The nth request gets no whole answer. */
static inline void stub_fail(size_t n) {
    stub_tell(n, (struct http_answer){.error = "connection refused"});
}

/** Forgets the requests that are done with: the others move up. */
static inline void stub_forget_answered(void) {
    size_t kept = 0;
    for (size_t i = 0; i < http_stub.count; i++) {
        struct http_request *request = http_stub.requests[i];
        if (request->state == STUB_OPEN) {
            http_stub.requests[kept++] = request;
            continue;
        }
        free(request->url);
        free(request->bearer);
        free(request->json);
        free(request);
    }
    http_stub.count = kept;
}

/** Begins anew; no request may be open. */
static inline void stub_reset(void) {
    assert_int_equal(stub_open(), 0);
    stub_forget_answered();
    http_stub = (struct http_stub){0};
}

#endif
