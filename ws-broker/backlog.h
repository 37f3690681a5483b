/*
 * backlog.h: what of one connection waits for the answers to its earlier requests, in order.
 *
 * An item is a frame that was not handled yet, or a refusal that is not sent yet. When it is an
 * item's turn is for dispatch.h to say; here is only the list. A frame may hold a token: items are
 * wiped when they go. Pure; loop thread only.
 */
#ifndef HLCHAT_BACKLOG_H
#define HLCHAT_BACKLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ws-broker/proto.h"

enum {
    BACKLOG_PAUSE = 16 << 10, /* bytes of one connection that stop the reading from it */
    BACKLOG_TOTAL = 64 << 20, /* of all: from there on any item stops it */
};

enum backlog_kind {
    BACKLOG_FRAME = 0,
    BACKLOG_REFUSAL = 1, /* of a frame: `text` is the error */
    BACKLOG_FAILURE = 2, /* of a request that was begun: it is older than all frames and refusals */
};

struct backlog_item {
    struct backlog_item *prev, *next; /* utlist's names */
    enum backlog_kind kind;
    enum proto_refusal refusal; /* unless it is a frame */
    bool is_counted;            /* a frame: its connection's rate has been taken */
    int64_t came_ms;            /* a frame: when it came */
    size_t len;
    char text[]; /* with a NUL behind it */
};

/** One connection's; embedded in it. Zero it to initialise. */
struct backlog {
    struct backlog_item *first;
    size_t bytes; /* of memory */
};

/** Adds a copy of `item` with this text of item->len bytes, at the end; a failure behind the other
 * failures. 0 or CHAT_ENOMEM. */
int backlog_add(struct backlog *backlog, const struct backlog_item *item, const char *text);

/** Adds it in front of all. */
int backlog_add_first(struct backlog *backlog, const struct backlog_item *item, const char *text);

/** Forgets the first one, if there is any. */
void backlog_pop(struct backlog *backlog);

void backlog_clear(struct backlog *backlog);

#endif
