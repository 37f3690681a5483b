/*
 * secret_watch.h: is memory given back with a secret in it? Replaces the allocator of the whole
 * program, libraries included, by glibc's own with a look at each block that is freed. Not with the
 * address sanitizer, which has an allocator of its own. Include it in one file.
 */
#ifndef HLCHAT_SECRET_WATCH_H
#define HLCHAT_SECRET_WATCH_H

#if !defined(__SANITIZE_ADDRESS__)

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *__libc_malloc(size_t size);
void __libc_free(void *memory);

static struct secret_watch {
    const char *mark; /* what secrets hold; NULL: nobody looks */
    unsigned found;
} secret_watch;

void free(void *memory) {
    if (memory && secret_watch.mark &&
        memmem(memory, malloc_usable_size(memory), secret_watch.mark, strlen(secret_watch.mark)))
        secret_watch.found++;
    __libc_free(memory);
}

/* Always moves, as it always may. */
void *realloc(void *memory, size_t size) {
    void *moved = __libc_malloc(size);
    if (moved && memory) {
        size_t had = malloc_usable_size(memory);
        memcpy(moved, memory, had < size ? had : size);
        free(memory);
    }
    return moved;
}

static inline void secret_watch_start(const char *mark) {
    secret_watch = (struct secret_watch){.mark = mark};
}

/** How many blocks were given back with the mark in them since the start. */
static inline unsigned secret_watch_stop(void) {
    secret_watch.mark = NULL;
    return secret_watch.found;
}

#endif
#endif
