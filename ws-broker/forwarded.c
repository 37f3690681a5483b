#include "ws-broker/forwarded.h"

#include <stdbool.h>
#include <string.h>

#include "shared/status.h"

static bool is_port(const char *text, size_t len) {
    size_t digits = 0;
    while (digits < len && text[digits] >= '0' && text[digits] <= '9')
        digits++;
    return digits > 0 && digits == len;
}

/* An address as proxies write it: alone, with a port, or in brackets. */
static int parse_hop(const char *text, size_t len, struct address_ip *out) {
    const char *bracket = len > 0 && *text == '[' ? memchr(text, ']', len) : NULL;
    const char *colon = bracket ? bracket + 1 : memchr(text, ':', len);
    size_t before = colon ? (size_t)(colon - text) : len;
    bool has_port = before < len && *colon == ':' && is_port(colon + 1, len - before - 1);
    if (bracket)
        return has_port || before == len
                   ? address_ip_parse(text + 1, (size_t)(bracket - text) - 1, out)
                   : CHAT_EINVAL;
    return address_ip_parse(text, has_port && memchr(text, '.', before) ? before : len, out);
}

struct address_ip forwarded_client(const struct address_ip *peer, const char *forwarded_for,
                                   const struct address_networks *trusted) {
    struct address_ip client = *peer;
    size_t end = forwarded_for ? strlen(forwarded_for) : 0;
    /* From the end: each hop added itself there, and each is believed only as long as the one
     * behind it is trusted. */
    while (end > 0 && address_networks_contain(trusted, &client)) {
        size_t start = end;
        while (start > 0 && forwarded_for[start - 1] != ',')
            start--;
        size_t first = start, last = end;
        while (first < last && strchr(" \t", forwarded_for[first]))
            first++;
        while (last > first && strchr(" \t", forwarded_for[last - 1]))
            last--;
        struct address_ip hop;
        if (parse_hop(forwarded_for + first, last - first, &hop) != CHAT_OK)
            break;
        client = hop;
        end = start > 0 ? start - 1 : 0;
    }
    return client;
}
