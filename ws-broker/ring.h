/*
 * ring.h: the newest frames of one log, ready to be sent, as one ring of bytes that all clients
 * share.
 *
 * A frame (WebSocket header and payload) is written once by ring_append() and gets the next
 * sequence number. A reader is only a number: the sequence of the frame it wants next. The bytes
 * are mapped twice in a row, so the span between any two frames is contiguous and can be given to
 * one send. Old frames are overwritten; ring_tail() says which is the oldest that is still whole,
 * and a reader behind it has lost its place. Pointers from ring_span() are good until the next
 * ring_append(). Loop thread only.
 */
#ifndef HLCHAT_RING_H
#define HLCHAT_RING_H

#include <stddef.h>
#include <stdint.h>

struct ring;

/**
 * A ring of `bytes` (a power of two, at least 64 KiB; rounded up to it). NULL: no memory, or no
 * memfd, see errno. Beside the bytes it keeps one position for every RING_MIN_FRAME bytes.
 */
struct ring *ring_new(size_t bytes);
void ring_free(struct ring *ring);

/** Frames are at least this long on average, or the marks run out before the bytes: still correct,
 * only shorter. */
enum { RING_MIN_FRAME = 64 };

/** The largest frame that ring_append() takes, header included: an eighth of the ring. */
size_t ring_frame_max(const struct ring *ring);

/** Writes a text frame with this payload; 0, or CHAT_ERANGE when it is over ring_frame_max(). */
int ring_append(struct ring *ring, const void *payload, size_t len);

/** The sequence number that the next frame will get; a reader here has all there is. */
uint64_t ring_head(const struct ring *ring);

/** The oldest sequence number whose bytes are still whole. */
uint64_t ring_tail(const struct ring *ring);

/** Bytes from the frame `from` (tail..head) to the head. */
size_t ring_bytes_since(const struct ring *ring, uint64_t from);

/**
 * The frames from `from` up to, not including, `to` (tail <= from < to <= head): as many whole
 * frames as fit into `max` bytes, but one at least. Sets `*bytes` and `*len`; returns the sequence
 * number behind the last of them.
 */
uint64_t ring_span(struct ring *ring, uint64_t from, uint64_t to, size_t max, const uint8_t **bytes,
                   size_t *len);

#endif
