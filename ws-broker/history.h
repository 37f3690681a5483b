/*
 * history.h: the newest messages of the chat as their JSON texts, for history requests.
 *
 * Holds copies; pure memory, no I/O. Loop thread only.
 */
#ifndef HLCHAT_HISTORY_H
#define HLCHAT_HISTORY_H

#include <stddef.h>
#include <stdint.h>

struct history;

/** Keeps the newest `limit` messages (0 = none). NULL: no memory. */
struct history *history_new(size_t limit);
void history_free(struct history *history);

/** Adds the newest message (a JSON object's text, copied); the oldest goes. 0 or CHAT_ENOMEM. */
int history_append(struct history *history, const char *json, size_t len);

/** Forgets all. */
void history_clear(struct history *history);

/** Which messages a reply is to hold. */
struct history_part {
    uint64_t limit;   /* messages at most */
    uint64_t offset;  /* of the newest that are skipped */
    size_t max_bytes; /* of the reply's text; but one message is in it, however long that is */
};

/**
 * The reply {"history":[...]}, newest first. It is malloc'ed with `headroom` unused bytes before
 * it; `*len` is the text's length without them. NULL: no memory.
 */
char *history_reply(const struct history *history, const struct history_part *part, size_t headroom,
                    size_t *len);

#endif
