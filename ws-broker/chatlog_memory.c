/*
 * The log in memory: the order of the log is the order of the appends. Entries wait for the end of
 * the loop turn, as they would for a store far away, so that everything above behaves the same with
 * either.
 */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "shared/status.h"
#include "ws-broker/chatlog.h"

struct waiting {
    struct waiting *next;
    uint64_t tag;
    size_t len;
    char json[];
};

struct memory_log {
    struct chatlog base;
    const struct chatlog_events *events;
    void *user;
    struct waiting *first, *last;
    size_t entries, bytes;
    uint64_t appended, handed; /* entries, so far */
};

static struct memory_log *memory_log(struct chatlog *log) {
    return (struct memory_log *)log;
}

static int memory_append(struct chatlog *base, const char *json, size_t len, uint64_t tag) {
    struct memory_log *log = memory_log(base);
    if (log->entries >= CHATLOG_QUEUE_ENTRIES || log->bytes + len > CHATLOG_QUEUE_BYTES)
        return CHAT_EBUSY;
    struct waiting *entry = malloc(sizeof(*entry) + len);
    if (!entry)
        return CHAT_ENOMEM;
    *entry = (struct waiting){.tag = tag, .len = len};
    memcpy(entry->json, json, len);
    if (log->last)
        log->last->next = entry;
    else
        log->first = entry;
    log->last = entry;
    log->entries++;
    log->appended++;
    log->bytes += len;
    log->events->on_pending(log->user);
    return CHAT_OK;
}

static bool memory_turn(struct chatlog *base, size_t max_bytes) {
    struct memory_log *log = memory_log(base);
    size_t handed = 0;
    while (log->first && (handed == 0 || handed + log->first->len <= max_bytes)) {
        struct waiting *entry = log->first;
        log->first = entry->next;
        if (!log->first)
            log->last = NULL;
        log->entries--;
        log->handed++;
        log->bytes -= entry->len;
        handed += entry->len;
        log->events->on_entry(log->user, entry->json, entry->len, true);
        log->events->on_appended(log->user, entry->tag, CHAT_OK);
        free(entry);
    }
    return log->first != NULL;
}

static bool memory_is_ready(const struct chatlog *base) {
    (void)base;
    return true;
}

static bool memory_is_settled(const struct chatlog *base) {
    return !((const struct memory_log *)base)->first;
}

static uint64_t memory_mark(const struct chatlog *base) {
    return ((const struct memory_log *)base)->appended;
}

static bool memory_is_heard(const struct chatlog *base, uint64_t mark) {
    return ((const struct memory_log *)base)->handed >= mark;
}

static void memory_stop(struct chatlog *base) {
    (void)base;
}

static void memory_free(struct chatlog *base) {
    struct memory_log *log = memory_log(base);
    struct waiting *entry, *next;
    LL_FOREACH_SAFE(log->first, entry, next) free(entry);
    free(log);
}

struct chatlog *chatlog_memory_new(const struct chatlog_events *events, void *user) {
    static const struct chatlog_ops ops = {.append = memory_append,
                                           .turn = memory_turn,
                                           .is_loaded = memory_is_ready,
                                           .is_ready = memory_is_ready,
                                           .is_settled = memory_is_settled,
                                           .mark = memory_mark,
                                           .is_heard = memory_is_heard,
                                           .stop = memory_stop,
                                           .free = memory_free};
    struct memory_log *log = calloc(1, sizeof(*log));
    if (!log)
        return NULL;
    log->base.ops = &ops;
    log->events = events;
    log->user = user;
    return &log->base;
}
