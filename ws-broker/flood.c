#include "ws-broker/flood.h"

bool flood_charge(struct flood *flood, uint64_t bytes, int64_t now_ms) {
    int64_t drained = (now_ms - flood->_at_ms) * FLOOD_RATE / 1000;
    int64_t level = flood->_level + (int64_t)bytes - drained;
    flood->_level = level > 0 ? level : 0;
    flood->_at_ms = now_ms;
    return level > FLOOD_BURST;
}

bool flood_is_over(struct flood *flood, uint64_t received, int64_t now_ms) {
    uint64_t others = received > flood->used ? received - flood->used : 0;
    uint64_t bytes = others > flood->_seen ? others - flood->_seen : 0;
    flood->_seen += bytes;
    return flood_charge(flood, bytes, now_ms);
}
