#include "ws-broker/backlog.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "shared/status.h"

static size_t size_of(size_t len) {
    return sizeof(struct backlog_item) + len + 1;
}

static struct backlog_item *copy(struct backlog *backlog, const struct backlog_item *item,
                                 const char *text) {
    struct backlog_item *made = malloc(size_of(item->len));
    if (!made)
        return NULL;
    *made = *item;
    memcpy(made->text, text, item->len);
    made->text[item->len] = '\0';
    backlog->bytes += size_of(item->len);
    return made;
}

int backlog_add(struct backlog *backlog, const struct backlog_item *item, const char *text) {
    struct backlog_item *made = copy(backlog, item, text);
    struct backlog_item *next = item->kind == BACKLOG_FAILURE ? backlog->first : NULL;
    if (!made)
        return CHAT_ENOMEM;
    while (next && next->kind == BACKLOG_FAILURE)
        next = next->next;
    if (next)
        DL_PREPEND_ELEM(backlog->first, next, made);
    else
        DL_APPEND(backlog->first, made);
    return CHAT_OK;
}

int backlog_add_first(struct backlog *backlog, const struct backlog_item *item, const char *text) {
    struct backlog_item *made = copy(backlog, item, text);
    if (!made)
        return CHAT_ENOMEM;
    DL_PREPEND(backlog->first, made);
    return CHAT_OK;
}

void backlog_pop(struct backlog *backlog) {
    struct backlog_item *first = backlog->first;
    if (!first)
        return;
    DL_DELETE(backlog->first, first);
    backlog->bytes -= size_of(first->len);
    explicit_bzero(first->text, first->len);
    free(first);
}

void backlog_clear(struct backlog *backlog) {
    while (backlog->first)
        backlog_pop(backlog);
}
