#include "ws-broker/base64url.h"

#include <stdint.h>

#include "shared/status.h"

/* The value of a character; -1: not one of the alphabet. */
static int value_of(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int base64url_decode(const char *text, size_t len, unsigned char *out, size_t *out_len) {
    uint32_t bits = 0;
    unsigned bit_count = 0;
    *out_len = 0;
    if (len % 4 == 1)
        return CHAT_EINVAL;
    for (size_t i = 0; i < len; i++) {
        int value = value_of(text[i]);
        if (value < 0)
            return CHAT_EINVAL;
        bits = bits << 6 | (uint32_t)value;
        bit_count += 6;
        if (bit_count >= 8) {
            bit_count -= 8;
            out[(*out_len)++] = (unsigned char)(bits >> bit_count);
            bits &= (1U << bit_count) - 1;
        }
    }
    return bits == 0 ? CHAT_OK : CHAT_EINVAL;
}
