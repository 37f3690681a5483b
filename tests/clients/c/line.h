#pragma once

/* The line protocol of ../library.py, for C and C++. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void say_hex(const char *event, const void *bytes, size_t len) {
    const unsigned char *text = (const unsigned char *)bytes;
    printf("%s ", event);
    for (size_t i = 0; i < len; i++)
        printf("%02x", text[i]);
    printf("%s\n", len ? "" : "-");
    fflush(stdout);
}

static inline void say_close(int code, const void *reason, size_t len) {
    char event[32];
    snprintf(event, sizeof(event), code ? "close %d" : "close -", code);
    say_hex(event, reason, len);
}

static inline void say(const char *event, const char *word) {
    printf("%s %s\n", event, word);
    fflush(stdout);
}

/* The bytes of a word of hexadecimal digits, in place; returns how many. */
static inline size_t from_hex(char *word) {
    size_t len = strlen(word) / 2;
    for (size_t i = 0; i < len; i++) {
        char digits[3] = {word[2 * i], word[2 * i + 1], 0};
        word[i] = (char)strtol(digits, NULL, 16);
    }
    return len;
}

/* The next line without its end, or NULL; the caller frees it. */
static inline char *read_command(void) {
    char *line = NULL;
    size_t size = 0;
    ssize_t len = getline(&line, &size, stdin);
    if (len <= 0) {
        free(line);
        return NULL;
    }
    line[len - 1] = '\0';
    return line;
}
