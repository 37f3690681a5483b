/*
 * log_limit.h: how often the same thing is logged: the first time, and then at most once in ten
 * seconds, with how often it happened. Pure: the time is passed in, milliseconds of any clock that
 * does not go back. Zero it to initialise.
 */
#ifndef HLCHAT_LOG_LIMIT_H
#define HLCHAT_LOG_LIMIT_H

#include <stdint.h>

struct log_limit {
    int64_t _quiet_until_ms;
    int64_t _count; /* since the last line */
};

/** It happened again. How often since the last line, this time too: write one now; 0: do not. */
int64_t log_limit_count(struct log_limit *limit, int64_t now_ms);

#endif
