/*
 * wire.h: WebSocket frames as a client reads and writes them (RFC 6455). Pure.
 *
 * Only what a chat server sends: whole text frames and control frames. A fragmented or compressed
 * message is an error here, and would be told as one.
 */
#ifndef HLCHAT_LOAD_WIRE_H
#define HLCHAT_LOAD_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum wire_opcode { WIRE_TEXT = 1, WIRE_CLOSE = 8, WIRE_PING = 9, WIRE_PONG = 10 };

enum { WIRE_HEADER_MAX = 14, WIRE_PAYLOAD_MAX = 1 << 20 };

struct wire_frame {
    enum wire_opcode opcode;
    const uint8_t *payload; /* into the data that was parsed */
    size_t len;
    size_t size; /* header and payload */
};

/** Reads the frame at the start of `data`: 1, or 0 when it is not all there yet, or CHAT_EINVAL for
 * what no server may send or what this does not know. */
int wire_parse(const uint8_t *data, size_t len, struct wire_frame *frame);

/** Writes a client's frame of `len` payload bytes (at most WIRE_PAYLOAD_MAX) to `out`, which has
 * room for WIRE_HEADER_MAX more; returns its size. The mask is zero: it is one like any other, and
 * the server has the same work with it. */
size_t wire_encode(uint8_t *out, enum wire_opcode opcode, const void *payload, size_t len);

#endif
