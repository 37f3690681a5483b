#include "ws-broker/log_limit.h"

enum { QUIET_MS = 10 * 1000 };

int64_t log_limit_count(struct log_limit *limit, int64_t now_ms) {
    int64_t count = ++limit->_count;
    if (now_ms < limit->_quiet_until_ms)
        return 0;
    *limit = (struct log_limit){._quiet_until_ms = now_ms + QUIET_MS};
    return count;
}
