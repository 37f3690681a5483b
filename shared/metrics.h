/*
 * metrics.h: counters, gauges and histograms, and their text in the Prometheus exposition format
 * (0.0.4).
 *
 * A metric is a static struct in the module that counts; metrics_register() links it into the list
 * once, at start. Counting is one addition and touches no list. Nothing is allocated and nothing is
 * ever unregistered. One thread only (the loop). Several metrics of one name and different labels
 * are registered one after the other, so that HELP and TYPE are written once.
 */
#ifndef HLCHAT_METRICS_H
#define HLCHAT_METRICS_H

#include <stddef.h>
#include <stdint.h>

enum metric_type { METRIC_COUNTER = 0, METRIC_GAUGE = 1, METRIC_HISTOGRAM = 2 };

enum { METRIC_BUCKETS_MAX = 16 };

struct metric {
    const char
        *name; /* hlchat_..., counters end in _total, units are base units (seconds, bytes) */
    const char *labels; /* `result="ok"` as it stands between the braces, or NULL */
    const char *help;
    enum metric_type type;
    uint64_t value; /* counter, gauge */
    /* histogram: ascending upper bounds in `scale` units (0 ends them), counts per bucket (the one
     * after the last bound: +Inf) and the sum of what was observed */
    uint64_t bounds[METRIC_BUCKETS_MAX];
    uint64_t counts[METRIC_BUCKETS_MAX + 1];
    uint64_t sum;
    double scale; /* what one unit of value, bounds and sum is in base units (1e-6: microseconds to
                     seconds); 0 = 1 */
    struct metric *_next;
};

/** The list of all metrics of a program; zero it to initialise. */
struct metrics {
    struct metric *_first, *_last;
};

/** Appends `metric` (static storage, registered once). */
void metrics_register(struct metrics *metrics, struct metric *metric);

/** Counts one observation of `value` units into a histogram. */
void metric_observe(struct metric *metric, uint64_t value);

/** Writes all metrics as text, NUL-terminated, into a new buffer (`*len` bytes without the NUL);
 * the caller frees it. NULL: no memory. */
char *metrics_text(const struct metrics *metrics, size_t *len);

#endif
