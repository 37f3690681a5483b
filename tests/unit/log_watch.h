/*
 * log_watch.h: what is logged between log_watch_start() and log_watch_stop(), from a file that
 * stands in for stderr. Include it in one file, after cmocka.h.
 */
#ifndef HLCHAT_LOG_WATCH_H
#define HLCHAT_LOG_WATCH_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shared/log.h"

static struct log_watch {
    FILE *file;
    int real_stderr;
    char text[16 * 1024];
} log_watch;

static inline void log_watch_start(enum log_level level) {
    log_watch.file = tmpfile();
    log_watch.real_stderr = dup(STDERR_FILENO);
    assert_non_null(log_watch.file);
    assert_true(log_watch.real_stderr >= 0);
    assert_true(dup2(fileno(log_watch.file), STDERR_FILENO) >= 0);
    log_init(level, LOG_FORMAT_TEXT);
}

/** Good until the next start. Only errors are logged from now on. */
static inline const char *log_watch_stop(void) {
    log_init(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    dup2(log_watch.real_stderr, STDERR_FILENO);
    close(log_watch.real_stderr);
    rewind(log_watch.file);
    size_t len = fread(log_watch.text, 1, sizeof(log_watch.text) - 1, log_watch.file);
    log_watch.text[len] = '\0';
    fclose(log_watch.file);
    return log_watch.text;
}

/** How often `part` is in what was logged. */
static inline unsigned log_watch_count(const char *part) {
    unsigned count = 0;
    for (const char *at = log_watch.text; (at = strstr(at, part)); at++)
        count++;
    return count;
}

#endif
