#include "ws-broker/rate.h"

enum { TOKEN = 1000 };

static int64_t spent_at(const struct rate *rate, const struct rate_limit *limit, int64_t now_ms) {
    /* per_second tokens a second are per_second thousandths a millisecond. Both factors are bounded
       where it matters: a bucket is full again long before the product could overflow. */
    int64_t elapsed = now_ms - rate->_at_ms;
    if (limit->per_second == 0 || elapsed >= rate->_spent_milli / limit->per_second + 1)
        return 0;
    int64_t spent = rate->_spent_milli - elapsed * limit->per_second;
    return spent > 0 ? spent : 0;
}

int64_t rate_wait(const struct rate *rate, const struct rate_limit *limit, int64_t now_ms) {
    if (limit->per_second == 0)
        return 0;
    int64_t over = spent_at(rate, limit, now_ms) + TOKEN - (int64_t)limit->burst * TOKEN;
    return over > 0 ? (over + limit->per_second - 1) / limit->per_second : 0;
}

int64_t rate_take(struct rate *rate, const struct rate_limit *limit, int64_t now_ms) {
    int64_t wait_ms = rate_wait(rate, limit, now_ms);
    if (wait_ms > 0 || limit->per_second == 0)
        return wait_ms;
    rate->_spent_milli = spent_at(rate, limit, now_ms) + TOKEN;
    rate->_at_ms = now_ms;
    return 0;
}

int64_t rate_take_late(struct rate *rate, const struct rate_limit *limit, int64_t came_ms,
                       int64_t now_ms) {
    int64_t at_ms = came_ms > rate->_at_ms ? came_ms : rate->_at_ms; /* it does not go back */
    int64_t wait_ms = rate_take(rate, limit, at_ms);
    if (wait_ms == 0)
        return 0;
    return wait_ms > now_ms - at_ms ? wait_ms - (now_ms - at_ms) : 1;
}

void rate_give_back(struct rate *rate) {
    rate->_spent_milli = rate->_spent_milli > TOKEN ? rate->_spent_milli - TOKEN : 0;
}

bool rate_is_full(const struct rate *rate, const struct rate_limit *limit, int64_t now_ms) {
    return spent_at(rate, limit, now_ms) == 0;
}
