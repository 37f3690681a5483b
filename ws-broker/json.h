/* json.h: is this text JSON as RFC 8259 has it? Entries of the log go to clients as they are, and
 * the JSON library takes more for JSON than they do (single quotes, comments). */
#ifndef HLCHAT_JSON_H
#define HLCHAT_JSON_H

#include <stdbool.h>
#include <stddef.h>

enum { JSON_DEPTH_MAX = 32 };

/** Whether it is one object, nested JSON_DEPTH_MAX deep at most. UTF-8 is for utf8.h to check. */
bool json_is_object(const char *text, size_t len);

#endif
