#include "shared/redis_url.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "shared/status.h"

enum { DEFAULT_PORT = 6379, DB_MAX = 15, PORT_MAX = 65535 };

static int refuse(const char **why, const char *reason) {
    *why = reason;
    return CHAT_EINVAL;
}

static int hex_digit(char c) {
    return isdigit((unsigned char)c)    ? c - '0'
           : isxdigit((unsigned char)c) ? tolower(c) - 'a' + 10
                                        : -1;
}

/* Copies `len` bytes with %XX resolved; false: too long, or a bad escape. */
static bool unescape(const char *text, size_t len, char *out) {
    size_t used = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '%') {
            int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
            if (low < 0)
                return false;
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0' || used + 1 >= REDIS_URL_TEXT_MAX)
            return false;
        out[used++] = c;
    }
    out[used] = '\0';
    return true;
}

/* A whole number of 0..max that fills the text. */
static bool number_of(const char *text, size_t len, long max, long *out) {
    char *end;
    if (len == 0 || len > 5 || !isdigit((unsigned char)text[0]))
        return false;
    *out = strtol(text, &end, 10);
    return end == text + len && *out <= max;
}

static bool read_user(const char *text, size_t len, struct redis_url *out) {
    const char *colon = memchr(text, ':', len);
    size_t name_len = colon ? (size_t)(colon - text) : len;
    return unescape(text, name_len, out->username) &&
           (!colon || unescape(colon + 1, len - name_len - 1, out->password));
}

static int read_unix(const char *rest, struct redis_url *out, const char **why) {
    const char *query = strchr(rest, '?');
    size_t len = query ? (size_t)(query - rest) : strlen(rest);
    long db = 0;
    if (rest[0] != '/' || len < 2 || !unescape(rest, len, out->host))
        return refuse(why, "unix:// wants an absolute path");
    if (query &&
        (strncmp(query, "?db=", 4) != 0 || !number_of(query + 4, strlen(query + 4), DB_MAX, &db)))
        return refuse(why, "after the path only ?db=0..15 may stand");
    out->is_unix = true;
    out->db = (int)db;
    return CHAT_OK;
}

static int read_host(const char *rest, struct redis_url *out, const char **why) {
    size_t len = strcspn(rest, "/");
    const char *slash = rest[len] ? rest + len : NULL;
    long port = DEFAULT_PORT, db = 0;
    if (slash && slash[1] && !number_of(slash + 1, strlen(slash + 1), DB_MAX, &db))
        return refuse(why, "the database must be 0..15");
    const char *bracket = rest[0] == '[' ? memchr(rest, ']', len) : NULL;
    const char *host = bracket ? rest + 1 : rest;
    const char *colon = bracket ? (bracket[1] == ':' ? bracket + 1 : NULL) : memchr(rest, ':', len);
    size_t host_len = bracket ? (size_t)(bracket - host) : colon ? (size_t)(colon - rest) : len;
    if (colon && !number_of(colon + 1, len - (size_t)(colon + 1 - rest), PORT_MAX, &port))
        return refuse(why, "the port must be 1..65535");
    if (host_len == 0 || port == 0 || !unescape(host, host_len, out->host) ||
        strpbrk(out->host, " \t@"))
        return refuse(why, "a host name or address is missing");
    out->port = (uint16_t)port;
    out->db = (int)db;
    return CHAT_OK;
}

int redis_url_parse(const char *text, struct redis_url *out, const char **why) {
    *out = (struct redis_url){0};
    if (strncmp(text, "rediss://", 9) == 0)
        return refuse(why, "rediss:// (TLS) is not spoken: put HAProxy or stunnel in front, see "
                           "docs/redis.md");
    bool is_unix = strncmp(text, "unix://", 7) == 0;
    if (!is_unix && strncmp(text, "redis://", 8) != 0)
        return refuse(why, "it must begin with redis:// or unix://");
    const char *rest = text + (is_unix ? 7 : 8), *at = strrchr(rest, '@');
    if (at && !read_user(rest, (size_t)(at - rest), out))
        return refuse(why, "user and password are too long, or badly escaped");
    rest = at ? at + 1 : rest;
    return is_unix ? read_unix(rest, out, why) : read_host(rest, out, why);
}
