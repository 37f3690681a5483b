/*
 * route.h: which request gets which reply. Pure: nothing is read but the arguments, so the HTTP
 * table of docs/protocol.md can be tested without a socket.
 */
#ifndef HLCHAT_API_ROUTE_H
#define HLCHAT_API_ROUTE_H

#include <stdbool.h>
#include <stddef.h>

enum { ROUTE_BODY_MAX = 256, ROUTE_TEXT_MAX = 1024 };

struct route_reply {
    int status;                /* 200, 404, 405 */
    const char *allow;         /* value of the Allow header, or NULL */
    char body[ROUTE_BODY_MAX]; /* JSON, or empty */
    bool head; /* the headers alone are sent; they describe the body that GET would get */
};

/** The reply to `method` on `path` (decoded, without a query string; "/api" and below). */
void route(const char *method, const char *path, const char *env_label, struct route_reply *out);

/** Writes the reply as FastCGI wants it, headers and body, NUL-terminated; returns its length. */
size_t route_text(const struct route_reply *reply, char out[ROUTE_TEXT_MAX]);

#endif
