/*
 * rate.h: a token bucket. It holds up to `burst` tokens and gains `per_second` of them each second;
 * one take costs one. Pure: the time is passed in, milliseconds of any clock that does not go back.
 * Zeroed is a full bucket.
 */
#ifndef HLCHAT_RATE_H
#define HLCHAT_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct rate_limit {
    int per_second; /* 0 = no limit */
    int burst;      /* >= 1 */
};

/** Embedded; 16 bytes. Counts what is missing, not what is there, so that zero is full. */
struct rate {
    int64_t _spent_milli; /* tokens taken and not yet regained, in thousandths, as of _at_ms */
    int64_t _at_ms;
};

/** Takes one token: 0, or the milliseconds (>= 1) to wait until there is one; then nothing was
 * taken. */
int64_t rate_take(struct rate *rate, const struct rate_limit *limit, int64_t now_ms);

/** As rate_take(), for what came at `came_ms` and is looked at only now: what was slow enough when
 * it was sent is not too fast because it waited. */
int64_t rate_take_late(struct rate *rate, const struct rate_limit *limit, int64_t came_ms,
                       int64_t now_ms);

/** The milliseconds until one could be taken, 0: now. Takes nothing. */
int64_t rate_wait(const struct rate *rate, const struct rate_limit *limit, int64_t now_ms);

/** Puts back one token that was taken. */
void rate_give_back(struct rate *rate);

/** Whether the bucket is full again, so that forgetting it changes nothing. */
bool rate_is_full(const struct rate *rate, const struct rate_limit *limit, int64_t now_ms);

#endif
