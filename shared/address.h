/*
 * address.h: where we listen, and who may speak for somebody else.
 *
 * Two text forms: a listening address ("127.0.0.1:9001", "[::1]:9001",
 * "unix:/run/hlchat/broker.sock") and a list of networks
 * ("127.0.0.0/8, ::1, unix"). Pure: nothing is resolved or opened here.
 */
#ifndef HLCHAT_ADDRESS_H
#define HLCHAT_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

/** Room for any textual address and its NUL. */
enum { ADDRESS_TEXT_MAX = 64 };

/** Where a program listens. */
struct address_listen {
    bool is_unix;
    char host[ADDRESS_TEXT_MAX]; /* numeric IPv4 or IPv6 without brackets; empty for unix */
    uint16_t port;               /* 0 = any free port; 0 for unix */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/** Reads `text` into `out`; 0 or CHAT_EINVAL. Host names are refused: only numeric addresses. */
int address_listen_parse(const char *text, struct address_listen *out);

/** Room for any listening address as text, with the NUL. */
enum { ADDRESS_LISTEN_TEXT_MAX = sizeof(struct address_listen) };

/** Writes the form that address_listen_parse() reads. */
void address_listen_text(const struct address_listen *address, char out[ADDRESS_LISTEN_TEXT_MAX]);

/** An IP address; IPv4 is held as ::ffff:a.b.c.d, so that one comparison serves both. is_unix: the
 * peer of a unix socket (ip is all zero). */
struct address_ip {
    struct in6_addr ip;
    bool is_unix;
};

/** Reads one numeric IPv4 or IPv6 address of `len` bytes (no port, no brackets, no zone); 0 or
 * CHAT_EINVAL. */
int address_ip_parse(const char *text, size_t len, struct address_ip *out);

/** Writes the usual form (IPv4 in dots, "unix"), at most ADDRESS_TEXT_MAX bytes with the NUL. */
void address_ip_text(const struct address_ip *ip, char out[ADDRESS_TEXT_MAX]);

/** What stands for one household in per-address limits: the address itself for IPv4, its /64 for
 * IPv6. */
struct address_ip address_ip_group(const struct address_ip *ip);

enum { ADDRESS_NETWORKS_MAX = 64 };

/** A list of networks; `unix` stands for every peer of a unix socket. */
struct address_networks {
    struct {
        struct in6_addr ip;
        unsigned prefix_bits; /* 0..128, in the IPv6 form */
    } item[ADDRESS_NETWORKS_MAX];
    size_t count;
    bool has_unix;
};

/** Reads a list separated by commas and/or blanks (an empty text is an empty list); 0, CHAT_EINVAL
 * (a bad item, or host bits set) or CHAT_ERANGE (too many items). */
int address_networks_parse(const char *text, struct address_networks *out);

bool address_networks_contain(const struct address_networks *networks, const struct address_ip *ip);

#endif
