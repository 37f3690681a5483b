#include "tests/bench/load/histogram.h"

#include <math.h>

/* Below 64 a bucket holds one value. Above, the six bits after the leading one choose it. */
static unsigned bucket_of(uint64_t us) {
    if (us < HISTOGRAM_SUB)
        return (unsigned)us;
    if (us >> 40)
        return HISTOGRAM_BUCKETS - 1;
    unsigned shift = 63 - 6 - (unsigned)__builtin_clzll(us);
    return (shift + 1) * HISTOGRAM_SUB + (unsigned)((us >> shift) - HISTOGRAM_SUB);
}

/* The largest value that goes into it. */
static uint64_t bucket_top(unsigned bucket) {
    if (bucket < HISTOGRAM_SUB)
        return bucket;
    unsigned shift = bucket / HISTOGRAM_SUB - 1;
    return ((uint64_t)(HISTOGRAM_SUB + bucket % HISTOGRAM_SUB + 1) << shift) - 1;
}

void histogram_add(struct histogram *histogram, uint64_t us) {
    histogram->count++;
    if (us > histogram->max_us)
        histogram->max_us = us;
    histogram->_buckets[bucket_of(us)]++;
}

uint64_t histogram_quantile(const struct histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)histogram->count), seen = 0;
    if (wanted == 0)
        wanted = histogram->count > 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS && wanted > 0; i++) {
        seen += histogram->_buckets[i];
        if (seen >= wanted)
            return bucket_top(i) < histogram->max_us ? bucket_top(i) : histogram->max_us;
    }
    return 0;
}
