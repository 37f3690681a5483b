#include "ws-broker/drain.h"

#include "shared/log.h"
#include "shared/metrics.h"

enum {
    CLOSING_MIN_MS = 1000, /* what a short deadline leaves for the closing at least */
    REPORT_MS = 5000,
};

static struct metric draining = {.name = "hlchat_draining",
                                 .help = "Whether this broker is on its way out",
                                 .type = METRIC_GAUGE};

void drain_register_metrics(struct metrics *metrics) {
    metrics_register(metrics, &draining);
}

static void begin(struct drain *drain, const struct drain_options *options, int64_t now_ms,
                  size_t clients) {
    *drain = (struct drain){.phase = DRAIN_ACCEPTING,
                            ._began_ms = now_ms,
                            ._deadline_ms = now_ms + options->deadline_ms,
                            ._report_ms = now_ms + REPORT_MS,
                            ._options = *options};
    draining.value = 1;
    log_info("drain", "begin", log_int("clients", (int64_t)clients),
             log_int("deadline_ms", options->deadline_ms));
}

static void hurry(struct drain *drain, int64_t now_ms, size_t clients) {
    drain->_is_hurried = true;
    if (drain->_deadline_ms > now_ms + DRAIN_HURRY_MS)
        drain->_deadline_ms = now_ms + DRAIN_HURRY_MS;
    log_info("drain", "hurry", log_int("clients", (int64_t)clients));
}

void drain_signal(struct drain *drain, const struct drain_options *options, int64_t now_ms,
                  size_t clients) {
    if (drain->phase == DRAIN_NOT)
        begin(drain, options, now_ms, clients);
    else if (!drain->_is_hurried)
        hurry(drain, now_ms, clients);
}

static bool is_accepting_over(const struct drain *drain, int64_t now_ms, size_t clients) {
    return drain->_is_hurried || now_ms - drain->_began_ms >= DRAIN_ACCEPT_MS ||
           (drain->_options.may_skip_accept && clients == 0);
}

/* All are told in time to answer before the deadline. */
static void begin_closing(struct drain *drain, int64_t now_ms, size_t clients) {
    int64_t span_ms = drain->_deadline_ms - DRAIN_ANSWER_MS - now_ms;
    size_t span = (size_t)(span_ms > CLOSING_MIN_MS ? span_ms : CLOSING_MIN_MS);
    size_t needed = (clients * 1000 + span - 1) / span;
    drain->_rate = needed > drain->_options.rate ? needed : drain->_options.rate;
    drain->_closing_ms = now_ms;
    drain->phase = DRAIN_CLOSING;
    if (clients > 0)
        log_info("drain", "closing", log_int("clients", (int64_t)clients),
                 log_int("per_second", (int64_t)drain->_rate));
}

/* How many more of the clients are to be dismissed by now. */
static size_t due(struct drain *drain, int64_t now_ms, size_t clients) {
    if (drain->_is_hurried)
        return clients;
    size_t since = (size_t)(now_ms - drain->_closing_ms) + DRAIN_STEP_MS;
    size_t by_now = (drain->_rate * since + 999) / 1000;
    size_t more = by_now - drain->_told;
    drain->_told = by_now;
    return more < clients ? more : clients;
}

static void finish(struct drain *drain, int64_t now_ms, size_t clients, bool is_settled) {
    drain->phase = DRAIN_OVER;
    if (clients > 0 || !is_settled)
        log_warn("drain", "deadline", log_int("clients_left", (int64_t)clients),
                 log_str("messages_under_way", is_settled ? "no" : "yes"));
    log_info("drain", "end", log_int("ms", now_ms - drain->_began_ms));
}

size_t drain_step(struct drain *drain, int64_t now_ms, size_t clients, bool is_settled) {
    if (drain->phase == DRAIN_ACCEPTING && is_accepting_over(drain, now_ms, clients))
        begin_closing(drain, now_ms, clients);
    if (now_ms >= drain->_report_ms) {
        drain->_report_ms += REPORT_MS;
        log_info("drain", "progress", log_int("clients", (int64_t)clients));
    }
    if (now_ms >= drain->_deadline_ms ||
        (drain->phase == DRAIN_CLOSING && clients == 0 && is_settled))
        finish(drain, now_ms, clients, is_settled);
    return drain->phase == DRAIN_CLOSING ? due(drain, now_ms, clients) : 0;
}
