/*
 * flood.h: has a client sent too much besides its messages: pings, pongs, headers of fragments,
 * frames over its rate?
 *
 * libwebsockets answers pings and swallows pongs without a word to us: what a connection has
 * received beyond its messages tells of them. Pure: the time is passed in.
 */
#ifndef HLCHAT_FLOOD_H
#define HLCHAT_FLOOD_H

#include <stdbool.h>
#include <stdint.h>

enum {
    FLOOD_RATE = 16 << 10,   /* bytes a second that are all right */
    FLOOD_BURST = 128 << 10, /* and so many at once: a longest message in fragments of one byte */
    FLOOD_FRAME = 14,        /* the longest header of a frame */
    FLOOD_REFUSED = 256,     /* what a frame over the rate counts as: it costs us an answer */
};

/** Embedded in a connection; zeroed to begin. */
struct flood {
    uint64_t used; /* bytes of messages, each with a header */
    uint64_t _seen;
    int64_t _level, _at_ms;
};

/** Charges so many bytes. True: it is too much, the client is to be closed. */
bool flood_charge(struct flood *flood, uint64_t bytes, int64_t now_ms);

/** Charges what of `received`, all bytes so far, was not used and not charged yet. */
bool flood_is_over(struct flood *flood, uint64_t received, int64_t now_ms);

#endif
