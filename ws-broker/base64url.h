/* base64url.h: base64url without padding (RFC 4648 section 5), as tokens and keys use it. Strict:
 * one text for each value. */
#ifndef HLCHAT_BASE64URL_H
#define HLCHAT_BASE64URL_H

#include <stddef.h>

/** Most bytes that `len` characters can hold. */
#define BASE64URL_DECODED_MAX(len) ((len) / 4 * 3 + 2)

/**
 * Decodes `len` characters into `out`, which has room for BASE64URL_DECODED_MAX(len) bytes;
 * `*out_len` is how many there are. CHAT_EINVAL: another character (padding and white space too),
 * an impossible length, or bits left over that are not zero.
 */
int base64url_decode(const char *text, size_t len, unsigned char *out, size_t *out_len);

#endif
