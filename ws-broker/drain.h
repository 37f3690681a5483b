/*
 * drain.h: how a broker ends without losing anybody: what it does when.
 *
 *   DRAIN_NOT ──signal──> DRAIN_ACCEPTING ──two checks of HAProxy──>
 *   DRAIN_CLOSING ──nobody left──> DRAIN_OVER
 *
 * While accepting, everything goes on, but /readyz says 404, so that HAProxy sends no more clients.
 * Then clients are dismissed at a pace at which the other brokers can take them. It is over when
 * all have gone and all that was begun has ended, or at the deadline. Holds the states only,
 * broker.c acts on them. Pure but for the log; loop thread only.
 */
#ifndef HLCHAT_DRAIN_H
#define HLCHAT_DRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DRAIN_STEP_MS = 20,
    DRAIN_ACCEPT_MS = 2000, /* haproxy.cfg: two times `inter` */
    DRAIN_ANSWER_MS = 5000, /* all are told so long before the deadline: time to answer the close */
    DRAIN_HURRY_MS = 1000,  /* the deadline from a second signal on */
};

struct metrics;

enum drain_phase { DRAIN_NOT = 0, DRAIN_ACCEPTING = 1, DRAIN_CLOSING = 2, DRAIN_OVER = 3 };

/** What a drain goes by; filled in before it begins. */
struct drain_options {
    size_t rate;          /* DRAIN_RATE, clients per second at least */
    int64_t deadline_ms;  /* from the beginning */
    bool may_skip_accept; /* as soon as there is no client there is no HAProxy: development */
};

/** Zero it to initialise. */
struct drain {
    enum drain_phase phase;
    int64_t _began_ms, _closing_ms, _deadline_ms, _report_ms;
    size_t _rate, _told;
    bool _is_hurried;
    struct drain_options _options;
};

void drain_register_metrics(struct metrics *metrics);

/** A signal to stop has come: the drain begins. The second one ends it: everybody is dismissed at
 * the next step and has DRAIN_HURRY_MS. */
void drain_signal(struct drain *drain, const struct drain_options *options, int64_t now_ms,
                  size_t clients);

/**
 * Call every DRAIN_STEP_MS from the beginning on until the phase is DRAIN_OVER. `clients` are those
 * connected; `is_settled`: nothing that they began is under way. Returns how many more are to be
 * dismissed now.
 */
size_t drain_step(struct drain *drain, int64_t now_ms, size_t clients, bool is_settled);

#endif
