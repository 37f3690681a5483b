/*
 * seen.h: the keys of the newest log entries, so that an entry that stands in the log twice is
 * taken once, and one that has vanished is missed.
 *
 * Remembers the newest `capacity` keys with the ids that their entries have. Pure memory; loop
 * thread only.
 */
#ifndef HLCHAT_SEEN_H
#define HLCHAT_SEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** An id of a Redis stream's entry. */
struct stream_id {
    uint64_t ms, seq;
};

enum { SEEN_KEY_MAX = 63 };

struct seen;

/** NULL: no memory. */
struct seen *seen_new(size_t capacity);
void seen_free(struct seen *seen);

enum seen_where {
    SEEN_NOWHERE = 0,   /* not remembered */
    SEEN_ELSEWHERE = 1, /* with another id */
    SEEN_HERE = 2,      /* it is the very entry */
};

/** Whether and where this key was seen before. Its entry has this id from now on, and counts as
 * found in the re-reading that is under way. */
enum seen_where seen_find(struct seen *seen, const char *key, struct stream_id id);
/** Remembers a key (at most SEEN_KEY_MAX bytes) that is not; the oldest is forgotten. 0 or
 * CHAT_ENOMEM. */
int seen_add(struct seen *seen, const char *key, struct stream_id id);
/** How many keys were ever added. */
uint64_t seen_added(const struct seen *seen);
/** How many keys were added after this one; SIZE_MAX: it is not remembered. */
size_t seen_age(const struct seen *seen, const char *key);

/** A re-reading of the whole log begins: nothing of it is found yet. One that has not ended is as
 * if it had never been: what it has added is forgotten, and what it has found is where it was. */
void seen_begin(struct seen *seen);
/** Whether this key was found, or added, since it began. */
bool seen_is_found(const struct seen *seen, const char *key);
/**
 * It has ended: how many remembered entries with an id of `first` or later were not found, and are
 * missing from now on. They stay remembered, for their writer may add them again.
 */
size_t seen_end(struct seen *seen, struct stream_id first);
/** How many are missing and were not found again since; they are not counted a second time. */
size_t seen_take_lost(struct seen *seen);

/** < 0, 0, > 0 as a is before, the same as, after b. */
int stream_id_compare(struct stream_id a, struct stream_id b);

#endif
