#include "ws-broker/history.h"

#include <stdlib.h>
#include <string.h>

#include "shared/status.h"

struct entry {
    char *json;
    size_t len;
};

struct history {
    size_t limit;
    size_t count;
    size_t next; /* where the next message goes */
    struct entry entries[];
};

struct history *history_new(size_t limit) {
    struct history *history = calloc(1, sizeof(*history) + limit * sizeof(struct entry));
    if (history)
        history->limit = limit;
    return history;
}

void history_free(struct history *history) {
    if (!history)
        return;
    for (size_t i = 0; i < history->limit; i++)
        free(history->entries[i].json);
    free(history);
}

int history_append(struct history *history, const char *json, size_t len) {
    if (history->limit == 0)
        return CHAT_OK;
    struct entry *entry = &history->entries[history->next];
    char *copy = realloc(entry->json, len ? len : 1);
    if (!copy)
        return CHAT_ENOMEM;
    memcpy(copy, json, len);
    *entry = (struct entry){copy, len};
    history->next = (history->next + 1) % history->limit;
    if (history->count < history->limit)
        history->count++;
    return CHAT_OK;
}

void history_clear(struct history *history) {
    history->count = history->next = 0;
}

/* The message that is `age` messages older than the newest. */
static const struct entry *entry_by_age(const struct history *history, size_t age) {
    return &history->entries[(history->next + history->limit - 1 - age) % history->limit];
}

char *history_reply(const struct history *history, const struct history_part *part, size_t headroom,
                    size_t *len) {
    static const char prefix[] = "{\"history\":[", suffix[] = "]}";
    size_t first = part->offset < history->count ? (size_t)part->offset : history->count;
    size_t end = first, total = sizeof(prefix) - 1 + sizeof(suffix) - 1;
    for (; end < history->count && end - first < part->limit; end++) {
        size_t more = entry_by_age(history, end)->len + (end > first ? 1 : 0); /* and a comma */
        if (end > first && total + more > part->max_bytes)
            break;
        total += more;
    }

    char *reply = malloc(headroom + total);
    if (!reply)
        return NULL;
    char *at = mempcpy(reply + headroom, prefix, sizeof(prefix) - 1);
    for (size_t age = first; age < end; age++) {
        const struct entry *entry = entry_by_age(history, age);
        if (age > first)
            *at++ = ',';
        at = mempcpy(at, entry->json, entry->len);
    }
    memcpy(at, suffix, sizeof(suffix) - 1);
    *len = total;
    return reply;
}
