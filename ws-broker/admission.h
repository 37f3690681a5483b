/*
 * admission.h: who may connect: the cap on all clients, and the limits per client address, which
 * are off unless set.
 *
 * An address is that of the client, as told by a trusted proxy; an IPv6 /64 counts as one. Pure;
 * loop thread only.
 */
#ifndef HLCHAT_ADMISSION_H
#define HLCHAT_ADMISSION_H

#include <stddef.h>
#include <stdint.h>

#include "shared/address.h"
#include "ws-broker/rate.h"

struct admission_address;

/** Set the limits, zero the rest. */
struct admission {
    size_t max_clients;             /* > 0 */
    int max_per_address;            /* 0 = off */
    struct rate_limit connect_rate; /* per address; 0 per second = off */
    size_t clients;
    struct admission_address *_by_address;
};

enum admission_result {
    ADMISSION_OK = 0,
    ADMISSION_FULL = 1,    /* max_clients are here */
    ADMISSION_ADDRESS = 2, /* this address has as many as it may */
    ADMISSION_RATE = 3,    /* this address connects too often */
};

/** May one more come from there? Costs a token of the connect rate; changes no count. */
enum admission_result admission_ask(struct admission *admission, const struct address_ip *address,
                                    int64_t now_ms);
/** It has come. 0 or CHAT_ENOMEM (then it is counted all the same, but not by address). */
int admission_enter(struct admission *admission, const struct address_ip *address);
/** It has left; once for each enter. */
void admission_leave(struct admission *admission, const struct address_ip *address);
/** Forgets addresses that matter no more. Call now and then. */
void admission_tick(struct admission *admission, int64_t now_ms);
void admission_clear(struct admission *admission);

#endif
