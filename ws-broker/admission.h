/*
 * admission.h: who may connect and try to log in: the cap on all clients, and limits per client
 * address.
 *
 * An address is that of the client, as told by a trusted proxy; an IPv6 /64 counts as one. Pure;
 * loop thread only.
 */
#ifndef HLCHAT_ADMISSION_H
#define HLCHAT_ADMISSION_H

#include <stdbool.h>
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
    int login_failures_per_minute;  /* per address; 0 = off */
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
/** How many seconds a client from there has to wait before it may try to log in; 0: it may. */
int64_t admission_login_wait_s(const struct admission *admission, const struct address_ip *address,
                               int64_t now_ms);
/** A login from there was refused. */
void admission_login_failed(struct admission *admission, const struct address_ip *address,
                            int64_t now_ms);
/** A login from there has begun that is counted as failed until it is known not to be: many guesses
 * at once must not pass the limit together. */
void admission_guess_begin(struct admission *admission, const struct address_ip *address,
                           int64_t now_ms);
/** It has ended; once for each begin. */
void admission_guess_end(struct admission *admission, const struct address_ip *address,
                         bool has_failed);
/** Whether some from there have begun and not ended. */
bool admission_is_guessing(const struct admission *admission, const struct address_ip *address);

/** Forgets addresses that matter no more. Call now and then. */
void admission_tick(struct admission *admission, int64_t now_ms);
void admission_clear(struct admission *admission);

#endif
