#include "api-fcgi/route.h"

#include <stdio.h>
#include <string.h>

#include "shared/version.h"

static const char *reason(int status) {
    switch (status) {
    case 200:
        return "OK";
    case 404:
        return "Not Found";
    default:
        return "Method Not Allowed";
    }
}

void route(const char *method, const char *path, const char *env_label, struct route_reply *out) {
    bool is_root = strcmp(path, "/api") == 0 || strcmp(path, "/api/") == 0;
    bool is_version = strcmp(path, "/api/version") == 0;

    *out = (struct route_reply){.head = strcmp(method, "HEAD") == 0};
    if (!is_root && !is_version) {
        out->status = 404;
        snprintf(out->body, sizeof(out->body), "{\"error\":\"not found\"}");
    } else if (!out->head && strcmp(method, "GET") != 0) {
        out->status = 405;
        out->allow = "GET, HEAD";
        snprintf(out->body, sizeof(out->body), "{\"error\":\"method not allowed\"}");
    } else {
        out->status = 200;
        if (is_version)
            snprintf(out->body, sizeof(out->body),
                     "{\"api\":\"v%s\",\"env\":\"%s\",\"desc\":\"Websocket Server C\"}",
                     chat_version(), env_label);
    }
}

size_t route_text(const struct route_reply *reply, char out[ROUTE_TEXT_MAX]) {
    /* No header without a value: HAProxy passes on what it gets. */
    int len = snprintf(out, ROUTE_TEXT_MAX,
                       "Status: %d %s\r\n"
                       "Access-Control-Allow-Origin: *\r\n"
                       "%s%s%s"
                       "%s"
                       "Content-Length: %zu\r\n"
                       "\r\n"
                       "%s",
                       reply->status, reason(reply->status), reply->allow ? "Allow: " : "",
                       reply->allow ? reply->allow : "", reply->allow ? "\r\n" : "",
                       reply->body[0] ? "Content-Type: application/json\r\n" : "",
                       strlen(reply->body), reply->head ? "" : reply->body);
    return (size_t)len;
}
