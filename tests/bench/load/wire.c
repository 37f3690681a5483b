#include "tests/bench/load/wire.h"

#include <stdbool.h>
#include <string.h>

#include "shared/status.h"

enum { FIN = 0x80, MASKED = 0x80 };

static bool is_known(unsigned opcode) {
    return opcode == WIRE_TEXT || (opcode >= WIRE_CLOSE && opcode <= WIRE_PONG);
}

int wire_parse(const uint8_t *data, size_t len, struct wire_frame *frame) {
    if (len < 2)
        return 0;
    unsigned opcode = data[0] & 0x7f; /* with the reserved bits, which must be 0 */
    size_t header = 2, payload = data[1];
    if (!(data[0] & FIN) || !is_known(opcode) || (data[1] & MASKED))
        return CHAT_EINVAL;
    if (payload >= 126) {
        header = payload == 126 ? 4 : 10;
        if (len < header)
            return 0;
        payload = 0;
        for (size_t i = 2; i < header; i++)
            payload = payload << 8 | data[i];
        if (payload > WIRE_PAYLOAD_MAX)
            return CHAT_EINVAL;
    }
    if (len - header < payload)
        return 0;
    *frame =
        (struct wire_frame){(enum wire_opcode)opcode, data + header, payload, header + payload};
    return 1;
}

size_t wire_encode(uint8_t *out, enum wire_opcode opcode, const void *payload, size_t len) {
    size_t header = 2;
    out[0] = (uint8_t)(FIN | opcode);
    if (len < 126) {
        out[1] = (uint8_t)(MASKED | len);
    } else {
        unsigned bytes = len < 65536 ? 2 : 8;
        out[1] = (uint8_t)(MASKED | (bytes == 2 ? 126 : 127));
        for (unsigned i = 0; i < bytes; i++)
            out[header++] = (uint8_t)(len >> 8 * (bytes - 1 - i));
    }
    memset(out + header, 0, 4);
    header += 4;
    if (len > 0)
        memcpy(out + header, payload, len);
    return header + len;
}
