#include "shared/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_MAX_BYTES = 8192,
    VALUE_MAX_BYTES = 256,
};

/* Atomic: threads log while they are changed. */
static atomic_int log_level = LOG_LEVEL_INFO;
static atomic_int log_format = LOG_FORMAT_TEXT;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

/* A line being made. What does not fit is cut off field by field, see put_fields(). */
struct line {
    char text[LINE_MAX_BYTES];
    size_t len;
    bool overflow;
    bool is_json;
};

static void put_bytes(struct line *line, const char *bytes, size_t len) {
    /* Room is kept for the end of the line: `}` and the newline. */
    if (line->overflow || len > sizeof(line->text) - 2 - line->len) {
        line->overflow = true;
        return;
    }
    memcpy(line->text + line->len, bytes, len);
    line->len += len;
}

static void put(struct line *line, const char *text) {
    put_bytes(line, text, strlen(text));
}

/* Short pieces only: numbers, escapes, the time. */
__attribute__((format(printf, 2, 3))) static void putf(struct line *line, const char *format, ...) {
    char piece[64];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(piece, sizeof(piece), format, arguments);
    va_end(arguments);
    put(line, piece);
}

/* Bytes of the UTF-8 sequence at `text` (1..4) and its code point; 0 when it is not one. */
static size_t utf8_decode(const unsigned char *text, size_t len, uint32_t *code) {
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t size = 0;

    if (text[0] < 0x80)
        size = 1;
    else if (text[0] >= 0xc2 && text[0] < 0xf5)
        size = text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    if (size == 0 || size > len)
        return 0;
    *code = size == 1 ? text[0] : text[0] & (0xffu >> (size + 1));
    for (size_t i = 1; i < size; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (text[i] & 0x3f);
    }
    if (*code < smallest[size] || *code > 0x10ffff || (*code >= 0xd800 && *code <= 0xdfff))
        return 0;
    return size;
}

/* Whether a code point could move the cursor, end the line or reorder it on somebody's screen. */
static bool is_control(uint32_t code) {
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x2028 && code <= 0x202e) ||
           (code >= 0x2066 && code <= 0x2069);
}

static void put_escaped(struct line *line, const char *text, size_t len) {
    const unsigned char *bytes = (const unsigned char *)text;
    bool json = line->is_json;

    for (size_t i = 0, size; i < len; i += size) {
        uint32_t code = 0;
        size = utf8_decode(bytes + i, len - i, &code);
        if (size == 0) {
            size = 1;
            if (json)
                put(line, "\\ufffd");
            else
                putf(line, "\\x%02x", bytes[i]);
        } else if (code == '"' || code == '\\') {
            putf(line, "\\%c", (char)code);
        } else if (code == '\n' || code == '\r' || code == '\t') {
            put(line, code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
        } else if (is_control(code)) {
            putf(line, json || code > 0xff ? "\\u%04x" : "\\x%02x", (unsigned)code);
        } else {
            put_bytes(line, text + i, size);
        }
    }
}

/* Whether a text can stand in a text line without quotes. */
static bool is_plain(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (text[i] <= ' ' || text[i] > '~' || strchr("\"\\=", text[i]))
            return false;
    }
    return len > 0;
}

static void put_text(struct line *line, const char *text, size_t len) {
    const char *more = len > VALUE_MAX_BYTES ? "..." : "";

    if (len > VALUE_MAX_BYTES) {
        len = VALUE_MAX_BYTES;
        /* not within a character */
        while (len > VALUE_MAX_BYTES - 4 && (text[len] & 0xc0) == 0x80)
            len--;
    }
    const char *quote = !line->is_json && is_plain(text, len) ? "" : "\"";
    put(line, quote);
    put_escaped(line, text, len);
    put(line, more);
    put(line, quote);
}

/* A field that does not fit whole is left out with all after it, so that the line stays valid. */
static void put_fields(struct line *line, const struct log_field *fields) {
    for (const struct log_field *field = fields; field->key; field++) {
        size_t mark = line->len;
        putf(line, line->is_json ? ",\"%.40s\":" : " %.40s=", field->key);
        if (field->text)
            put_text(line, field->text, field->text_len);
        else
            putf(line, "%lld", (long long)field->number);
        if (line->overflow) {
            line->len = mark;
            return;
        }
    }
}

static void put_time(struct line *line) {
    struct timespec now;
    struct tm utc;
    char text[32];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
    putf(line, "%s.%03ldZ", text, now.tv_nsec / 1000000);
}

void log_init(enum log_level level, enum log_format format) {
    log_level = (int)level;
    log_format = (int)format;
}

bool log_enabled(enum log_level level) {
    return (int)level <= log_level;
}

void log_write(enum log_level level, const char *module, const char *event,
               const struct log_field *fields) {
    struct line line;
    int saved_errno = errno;

    if (!log_enabled(level))
        return;
    line.len = 0;
    line.overflow = false;
    line.is_json = log_format == LOG_FORMAT_JSON;
    if (line.is_json) {
        put(&line, "{\"time\":\"");
        put_time(&line);
        putf(&line, "\",\"level\":\"%s\",\"module\":", level_names[level]);
        put_text(&line, module, strlen(module));
        put(&line, ",\"event\":");
        put_text(&line, event, strlen(event));
        put_fields(&line, fields);
        line.text[line.len++] = '}';
    } else {
        put_time(&line);
        putf(&line, " %s ", level_names[level]);
        put_escaped(&line, module, strlen(module));
        put(&line, " ");
        put_escaped(&line, event, strlen(event));
        put_fields(&line, fields);
    }
    line.text[line.len++] = '\n';
    /* Whatever happens, there is nobody left to tell. */
    while (write(STDERR_FILENO, line.text, line.len) < 0 && errno == EINTR)
        ;
    errno = saved_errno;
}

struct log_field log_str(const char *key, const char *text) {
    return log_strn(key, text ? text : "-", text ? strlen(text) : 1);
}

struct log_field log_strn(const char *key, const char *text, size_t len) {
    return (struct log_field){.key = key, .text = text, .text_len = len};
}

struct log_field log_int(const char *key, int64_t number) {
    return (struct log_field){.key = key, .number = number};
}

struct log_field log_errno(void) {
    /* Not strerror(): this text is constant, whatever other threads do. */
    return log_str("error", strerrordesc_np(errno));
}
