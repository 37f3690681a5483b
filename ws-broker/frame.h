/* frame.h: the header that RFC 6455 puts before a payload. A server's frames are not masked. */
#ifndef HLCHAT_FRAME_H
#define HLCHAT_FRAME_H

#include <stddef.h>
#include <stdint.h>

/** The longest header of a frame that is not masked. */
enum { FRAME_HEADER_MAX = 10 };

/** Bytes that the header of a payload of `len` bytes takes: 2, 4 or 10. */
size_t frame_header_len(size_t len);

/** Writes the header of one whole text frame; returns its length. */
size_t frame_text_header(uint8_t out[FRAME_HEADER_MAX], size_t len);

/** A whole ping frame. It has a byte of payload, for libwebsockets does not tell of a pong without
 * any. */
extern const uint8_t FRAME_PING[3];

#endif
