#include "ws-broker/admission.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "shared/status.h"

struct admission_address {
    struct in6_addr ip; /* see key_of() */
    int clients;
    struct rate connects;
    struct rate login_failures;
    int guesses; /* begun, counted as failed, and not known yet */
    UT_hash_handle hh;
};

/* All peers of a unix socket are one; no IP address looks like that. */
static struct in6_addr key_of(const struct address_ip *address) {
    struct address_ip group = address_ip_group(address);
    if (group.is_unix)
        memset(&group.ip, 0xff, sizeof(group.ip));
    return group.ip;
}

static struct admission_address *find(const struct admission *admission,
                                      const struct address_ip *address) {
    struct in6_addr key = key_of(address);
    struct admission_address *entry;
    HASH_FIND(hh, admission->_by_address, &key, sizeof(key), entry);
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
    entry->ip = key_of(address);
    HASH_ADD(hh, admission->_by_address, ip, sizeof(entry->ip), entry);
    return entry;
}

enum admission_result admission_ask(struct admission *admission, const struct address_ip *address,
                                    int64_t now_ms) {
    if (admission->clients >= admission->max_clients)
        return ADMISSION_FULL;
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

/* A rate counts per second; on a clock that is 60 times slower that is per minute. */
enum { MINUTE_CLOCK = 60 };

static struct rate_limit failure_limit(const struct admission *admission) {
    return (struct rate_limit){admission->login_failures_per_minute,
                               admission->login_failures_per_minute};
}

int64_t admission_login_wait_s(const struct admission *admission, const struct address_ip *address,
                               int64_t now_ms) {
    const struct rate_limit limit = failure_limit(admission);
    const struct admission_address *entry = find(admission, address);
    int64_t wait = entry ? rate_wait(&entry->login_failures, &limit, now_ms / MINUTE_CLOCK) : 0;
    return (wait * MINUTE_CLOCK + 999) / 1000;
}

void admission_login_failed(struct admission *admission, const struct address_ip *address,
                            int64_t now_ms) {
    const struct rate_limit limit = failure_limit(admission);
    struct admission_address *entry = limit.per_second > 0 ? find_or_add(admission, address) : NULL;
    if (entry)
        rate_take(&entry->login_failures, &limit, now_ms / MINUTE_CLOCK);
}

void admission_guess_begin(struct admission *admission, const struct address_ip *address,
                           int64_t now_ms) {
    admission_login_failed(admission, address, now_ms);
    struct admission_address *entry = find(admission, address);
    if (entry)
        entry->guesses++;
}

void admission_guess_end(struct admission *admission, const struct address_ip *address,
                         bool has_failed) {
    struct admission_address *entry = find(admission, address);
    if (!entry || entry->guesses == 0)
        return;
    entry->guesses--;
    if (!has_failed)
        rate_give_back(&entry->login_failures);
}

bool admission_is_guessing(const struct admission *admission, const struct address_ip *address) {
    const struct admission_address *entry = find(admission, address);
    return entry && entry->guesses > 0;
}

void admission_tick(struct admission *admission, int64_t now_ms) {
    const struct rate_limit failures = failure_limit(admission);
    struct admission_address *entry, *next;
    HASH_ITER(hh, admission->_by_address, entry, next) {
        if (entry->clients > 0 || entry->guesses > 0 ||
            !rate_is_full(&entry->connects, &admission->connect_rate, now_ms) ||
            !rate_is_full(&entry->login_failures, &failures, now_ms / MINUTE_CLOCK))
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
