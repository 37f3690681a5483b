#include "ws-broker/frame.h"

enum { FIN_TEXT = 0x81, FIN_PING = 0x89, LEN_16 = 126, LEN_64 = 127 };

const uint8_t FRAME_PING[3] = {FIN_PING, 1, 0};

size_t frame_header_len(size_t len) {
    return len < LEN_16 ? 2 : len <= UINT16_MAX ? 4 : 10;
}

size_t frame_text_header(uint8_t out[FRAME_HEADER_MAX], size_t len) {
    size_t header = frame_header_len(len);
    out[0] = FIN_TEXT;
    out[1] = (uint8_t)(header == 2 ? len : header == 4 ? LEN_16 : LEN_64);
    for (size_t i = header; i > 2; i--) { /* the length, big endian */
        out[i - 1] = (uint8_t)(len & 0xff);
        len >>= 8;
    }
    return header;
}
