#include "ws-broker/utf8.h"

#include <openssl/asn1.h>

bool utf8_is_valid(const char *text, size_t len) {
    while (len > 0) {
        if ((unsigned char)*text < 0x80) { /* most are: without a call */
            text++;
            len--;
            continue;
        }
        unsigned long code = 0;
        int used = UTF8_getc((const unsigned char *)text, (int)(len < 4 ? len : 4), &code);
        if (used <= 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
        text += used;
        len -= (size_t)used;
    }
    return true;
}

bool utf8_is_printable(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            return false;
    return utf8_is_valid(text, len);
}
