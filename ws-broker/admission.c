#include "ws-broker/admission.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "shared/status.h"

struct admission_address {
    struct in6_addr ip; /* the address's group; all peers of a unix socket are one */
    int clients;
    struct rate connects;
    UT_hash_handle hh;
};

static bool has_address_limits(const struct admission *admission) {
    return admission->max_per_address > 0 || admission->connect_rate.per_second > 0;
}

static struct admission_address *find(const struct admission *admission,
                                      const struct address_ip *address) {
    struct address_ip group = address_ip_group(address);
    struct admission_address *entry;
    HASH_FIND(hh, admission->_by_address, &group.ip, sizeof(group.ip), entry);
    return entry;
}

static struct admission_address *find_or_add(struct admission *admission,
                                             const struct address_ip *address) {
    struct admission_address *entry = find(admission, address);
    if (entry)
        return entry;
    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return NULL;
    entry->ip = address_ip_group(address).ip;
    HASH_ADD(hh, admission->_by_address, ip, sizeof(entry->ip), entry);
    return entry;
}

enum admission_result admission_ask(struct admission *admission, const struct address_ip *address,
                                    int64_t now_ms) {
    if (admission->clients >= admission->max_clients)
        return ADMISSION_FULL;
    if (!has_address_limits(admission))
        return ADMISSION_OK;
    struct admission_address *entry = find_or_add(admission, address);
    if (!entry)
        return ADMISSION_FULL;
    if (admission->max_per_address > 0 && entry->clients >= admission->max_per_address)
        return ADMISSION_ADDRESS;
    if (rate_take(&entry->connects, &admission->connect_rate, now_ms) > 0)
        return ADMISSION_RATE;
    return ADMISSION_OK;
}

int admission_enter(struct admission *admission, const struct address_ip *address) {
    admission->clients++;
    if (!has_address_limits(admission))
        return CHAT_OK;
    struct admission_address *entry = find_or_add(admission, address);
    if (!entry)
        return CHAT_ENOMEM;
    entry->clients++;
    return CHAT_OK;
}

void admission_leave(struct admission *admission, const struct address_ip *address) {
    admission->clients--;
    struct admission_address *entry = find(admission, address);
    if (entry && entry->clients > 0)
        entry->clients--;
}

void admission_tick(struct admission *admission, int64_t now_ms) {
    struct admission_address *entry, *next;
    HASH_ITER(hh, admission->_by_address, entry, next) {
        if (entry->clients > 0 || !rate_is_full(&entry->connects, &admission->connect_rate, now_ms))
            continue;
        HASH_DEL(admission->_by_address, entry);
        free(entry);
    }
}

void admission_clear(struct admission *admission) {
    struct admission_address *entry, *next;
    HASH_ITER(hh, admission->_by_address, entry, next) {
        HASH_DEL(admission->_by_address, entry);
        free(entry);
    }
}
