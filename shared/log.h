/*
 * log.h: one event, one line, to stderr.
 *
 *   text  2026-11-23T10:03:04.123Z info drain progress clients=120
 *   json  {"time":"2026-11-23T10:03:04.123Z","level":"info","module":"drain",
 *          "event":"progress","clients":120}
 *
 * A line is written by one write(2), so lines of several threads do not mix. Text values are quoted
 * when they hold anything but plain characters, control bytes are escaped, and a value over 256
 * bytes is cut with "...": nothing from outside can forge a line. errno is left as it was. Never
 * pass a token, a password or a message text. Any thread may log, and log_init() may be called at
 * any time.
 */
#ifndef HLCHAT_LOG_H
#define HLCHAT_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR = 0, LOG_LEVEL_WARN = 1, LOG_LEVEL_INFO = 2, LOG_LEVEL_DEBUG = 3 };
enum log_format { LOG_FORMAT_TEXT = 0, LOG_FORMAT_JSON = 1 };

/** One key=value of a line; made by log_str(), log_strn(), log_int(). A NULL key ends a list. */
struct log_field {
    const char *key;
    const char *text; /* NULL: the field is the number */
    size_t text_len;
    int64_t number;
};

/** Sets what is written and how. Before it is called: info, text. */
void log_init(enum log_level level, enum log_format format);

/** Whether a line of this level would be written, for values that are costly to make. */
bool log_enabled(enum log_level level);

/** Writes one line; `fields` ends with a NULL key. Use the macros below. */
void log_write(enum log_level level, const char *module, const char *event,
               const struct log_field *fields);

/** A NUL-terminated text (NULL is written as "-"). Borrowed until the line is written. */
struct log_field log_str(const char *key, const char *text);
/** `len` bytes of text. Borrowed until the line is written. */
struct log_field log_strn(const char *key, const char *text, size_t len);
struct log_field log_int(const char *key, int64_t number);
/** errno as its text, key "error". */
struct log_field log_errno(void);

#define LOG_AT(level, module, event, ...)                                                          \
    log_write(level, module, event, (const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){0}})
#define log_error(module, ...) LOG_AT(LOG_LEVEL_ERROR, module, __VA_ARGS__)
#define log_warn(module, ...)  LOG_AT(LOG_LEVEL_WARN, module, __VA_ARGS__)
#define log_info(module, ...)  LOG_AT(LOG_LEVEL_INFO, module, __VA_ARGS__)
#define log_debug(module, ...) LOG_AT(LOG_LEVEL_DEBUG, module, __VA_ARGS__)

#endif
