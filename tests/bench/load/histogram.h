/*
 * histogram.h: durations, by the million, in a fixed number of buckets.
 *
 * 64 buckets for each power of two, so a quantile is at most 1.6 % above what was recorded.
 * Embedded; all zero is an empty one. Pure.
 */
#ifndef HLCHAT_LOAD_HISTOGRAM_H
#define HLCHAT_LOAD_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_SUB = 64, HISTOGRAM_BUCKETS = (40 - 6 + 1) * HISTOGRAM_SUB };

struct histogram {
    uint64_t count, max_us;
    uint64_t _buckets[HISTOGRAM_BUCKETS];
};

/** Adds one duration in microseconds; those beyond 2^40 count as that. */
void histogram_add(struct histogram *histogram, uint64_t us);

/** The smallest duration that `share` (0..1) of all are not above, in microseconds; 0 when empty.
 */
uint64_t histogram_quantile(const struct histogram *histogram, double share);

#endif
