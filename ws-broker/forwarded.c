#include "ws-broker/forwarded.h"

#include <string.h>

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
        if (address_ip_parse(forwarded_for + first, last - first, &hop) != 0)
            break;
        client = hop;
        end = start > 0 ? start - 1 : 0;
    }
    return client;
}
