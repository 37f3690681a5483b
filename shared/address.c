#include "shared/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "shared/status.h"

static const char separators[] = ", \t";
static const char unix_word[] = "unix";

/* Decimal digits only, no sign, no blanks; -1 when it is anything else or above `max`. */
static int parse_number(const char *text, size_t len, int max) {
    int number = 0;

    if (len == 0)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        number = number * 10 + (text[i] - '0');
        if (number > max)
            return -1;
    }
    return number;
}

static void map_ipv4(const struct in_addr *ipv4, struct in6_addr *out) {
    memset(out, 0, sizeof(*out));
    out->s6_addr[10] = out->s6_addr[11] = 0xff;
    memcpy(&out->s6_addr[12], ipv4, sizeof(*ipv4));
}

static int parse_unix(const char *path, struct address_listen *out) {
    size_t len = strlen(path);

    for (size_t i = 0; i < len; i++) {
        if (iscntrl((unsigned char)path[i]))
            return CHAT_EINVAL; /* it is going to be logged */
    }
    if (path[0] != '/' || path[len - 1] == '/' || len >= sizeof(out->path))
        return CHAT_EINVAL;
    out->is_unix = true;
    memcpy(out->path, path, len + 1);
    return CHAT_OK;
}

int address_listen_parse(const char *text, struct address_listen *out) {
    struct address_listen parsed = {0};

    if (strncmp(text, "unix:", 5) == 0) {
        int status = parse_unix(text + 5, &parsed);
        if (status == CHAT_OK)
            *out = parsed;
        return status;
    }

    const char *colon = strrchr(text, ':');
    if (!colon)
        return CHAT_EINVAL;
    const char *host = text;
    size_t host_len = (size_t)(colon - text);
    /* Brackets mean IPv6 and the other way round, or the port of ::1:9001 would be a guess. */
    bool brackets = host_len >= 2 && host[0] == '[' && host[host_len - 1] == ']';
    if (brackets) {
        host++;
        host_len -= 2;
    }
    if (host_len >= sizeof(parsed.host))
        return CHAT_EINVAL;
    memcpy(parsed.host, host, host_len);

    struct in6_addr ignored;
    int port = parse_number(colon + 1, strlen(colon + 1), UINT16_MAX);
    if (port < 0 || inet_pton(brackets ? AF_INET6 : AF_INET, parsed.host, &ignored) != 1)
        return CHAT_EINVAL;
    parsed.port = (uint16_t)port;
    *out = parsed;
    return CHAT_OK;
}

void address_listen_text(const struct address_listen *address, char out[ADDRESS_LISTEN_TEXT_MAX]) {
    if (address->is_unix)
        snprintf(out, ADDRESS_LISTEN_TEXT_MAX, "unix:%s", address->path);
    else
        snprintf(out, ADDRESS_LISTEN_TEXT_MAX, strchr(address->host, ':') ? "[%s]:%u" : "%s:%u",
                 address->host, address->port);
}

int address_ip_parse(const char *text, size_t len, struct address_ip *out) {
    char copy[ADDRESS_TEXT_MAX];
    struct in_addr ipv4;
    struct in6_addr ipv6;

    if (len >= sizeof(copy) || memchr(text, '\0', len))
        return CHAT_EINVAL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    if (inet_pton(AF_INET, copy, &ipv4) == 1)
        map_ipv4(&ipv4, &ipv6);
    else if (inet_pton(AF_INET6, copy, &ipv6) != 1)
        return CHAT_EINVAL;
    *out = (struct address_ip){.ip = ipv6};
    return CHAT_OK;
}

void address_ip_text(const struct address_ip *ip, char out[ADDRESS_TEXT_MAX]) {
    if (ip->is_unix)
        snprintf(out, ADDRESS_TEXT_MAX, "%s", unix_word);
    else if (IN6_IS_ADDR_V4MAPPED(&ip->ip))
        inet_ntop(AF_INET, &ip->ip.s6_addr[12], out, ADDRESS_TEXT_MAX);
    else
        inet_ntop(AF_INET6, &ip->ip, out, ADDRESS_TEXT_MAX);
}

struct address_ip address_ip_group(const struct address_ip *ip) {
    struct address_ip group = *ip;

    if (!ip->is_unix && !IN6_IS_ADDR_V4MAPPED(&ip->ip))
        memset(&group.ip.s6_addr[8], 0, 8);
    return group;
}

/* Whether the first `bits` bits of both are the same. */
static bool same_prefix(const struct in6_addr *a, const struct in6_addr *b, unsigned bits) {
    unsigned whole = bits / 8, rest = bits % 8;

    if (memcmp(a, b, whole) != 0)
        return false;
    return rest == 0 || (a->s6_addr[whole] ^ b->s6_addr[whole]) >> (8 - rest) == 0;
}

static bool host_bits_set(const struct in6_addr *ip, unsigned prefix_bits) {
    for (unsigned bit = prefix_bits; bit < 128; bit++) {
        if (ip->s6_addr[bit / 8] >> (7 - bit % 8) & 1)
            return true;
    }
    return false;
}

/* One item of a list: "unix", an address, or address/bits. */
static int parse_network(const char *text, size_t len, struct address_networks *networks) {
    if (len == strlen(unix_word) && memcmp(text, unix_word, len) == 0) {
        networks->has_unix = true;
        return CHAT_OK;
    }

    const char *slash = memchr(text, '/', len);
    size_t ip_len = slash ? (size_t)(slash - text) : len;
    struct address_ip network;
    if (address_ip_parse(text, ip_len, &network) != CHAT_OK)
        return CHAT_EINVAL;

    int prefix_bits = 128;
    if (slash) {
        bool is_ipv4 = !memchr(text, ':', ip_len);
        prefix_bits = parse_number(slash + 1, len - ip_len - 1, is_ipv4 ? 32 : 128);
        if (prefix_bits < 0)
            return CHAT_EINVAL;
        if (is_ipv4)
            prefix_bits += 96;
    }
    if (host_bits_set(&network.ip, (unsigned)prefix_bits))
        return CHAT_EINVAL;
    if (networks->count == ADDRESS_NETWORKS_MAX)
        return CHAT_ERANGE;
    networks->item[networks->count].ip = network.ip;
    networks->item[networks->count].prefix_bits = (unsigned)prefix_bits;
    networks->count++;
    return CHAT_OK;
}

int address_networks_parse(const char *text, struct address_networks *out) {
    struct address_networks parsed = {0};

    for (;;) {
        text += strspn(text, separators);
        size_t len = strcspn(text, separators);
        if (len == 0)
            break;
        int status = parse_network(text, len, &parsed);
        if (status != CHAT_OK)
            return status;
        text += len;
    }
    *out = parsed;
    return CHAT_OK;
}

bool address_networks_contain(const struct address_networks *networks,
                              const struct address_ip *ip) {
    if (ip->is_unix)
        return networks->has_unix;
    for (size_t i = 0; i < networks->count; i++) {
        if (same_prefix(&networks->item[i].ip, &ip->ip, networks->item[i].prefix_bits))
            return true;
    }
    return false;
}
