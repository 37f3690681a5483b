/* utf8.h: is this text UTF-8? Browsers close a WebSocket on a frame that is not, so what comes from
 * elsewhere is checked. */
#ifndef HLCHAT_UTF8_H
#define HLCHAT_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/** RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
bool utf8_is_valid(const char *text, size_t len);

/** Whether it is UTF-8 without control characters (below U+0020, and U+007F): fit to be a name. */
bool utf8_is_printable(const char *text, size_t len);

#endif
