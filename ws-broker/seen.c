#include "ws-broker/seen.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "shared/status.h"

struct seen_key {
    char key[SEEN_KEY_MAX + 1];
    struct stream_id id;
    struct stream_id found; /* its id in the re-reading that is under way */
    uint64_t number;        /* how many were added before it */
    bool is_missing;        /* it has vanished from the log */
    bool was_lost;          /* and did not come back */
    bool is_added;          /* by the re-reading that is under way */
    unsigned reading;       /* the last one in which it was found */
    UT_hash_handle hh;      /* the oldest first */
};

struct seen {
    struct seen_key *by_key;
    size_t capacity;
    uint64_t added;
    unsigned reading;
    bool is_reading;
};

int stream_id_compare(struct stream_id a, struct stream_id b) {
    if (a.ms != b.ms)
        return a.ms < b.ms ? -1 : 1;
    return a.seq < b.seq ? -1 : a.seq > b.seq;
}

struct seen *seen_new(size_t capacity) {
    struct seen *seen = calloc(1, sizeof(*seen));
    if (seen)
        seen->capacity = capacity;
    return seen;
}

static void forget(struct seen *seen, struct seen_key *key) {
    HASH_DEL(seen->by_key, key);
    free(key);
}

void seen_free(struct seen *seen) {
    if (!seen)
        return;
    while (seen->by_key)
        forget(seen, seen->by_key);
    free(seen);
}

static struct seen_key *find(const struct seen *seen, const char *text) {
    struct seen_key *key;
    HASH_FIND_STR(seen->by_key, text, key);
    return key;
}

enum seen_where seen_find(struct seen *seen, const char *text, struct stream_id id) {
    struct seen_key *key = find(seen, text);
    if (!key)
        return SEEN_NOWHERE;
    enum seen_where where = stream_id_compare(key->id, id) == 0 ? SEEN_HERE : SEEN_ELSEWHERE;
    key->reading = seen->reading;
    key->found = id;
    key->is_missing = false;
    if (!seen->is_reading)
        key->id = id;
    return where;
}

int seen_add(struct seen *seen, const char *text, struct stream_id id) {
    struct seen_key *key = calloc(1, sizeof(*key));
    if (!key)
        return CHAT_ENOMEM;
    strncpy(key->key, text, SEEN_KEY_MAX);
    key->id = key->found = id;
    key->number = seen->added++;
    key->is_added = seen->is_reading;
    key->reading = seen->reading;
    HASH_ADD_STR(seen->by_key, key, key);
    if (HASH_COUNT(seen->by_key) > seen->capacity)
        forget(seen, seen->by_key);
    return CHAT_OK;
}

uint64_t seen_added(const struct seen *seen) {
    return seen->added;
}

size_t seen_age(const struct seen *seen, const char *text) {
    const struct seen_key *key = find(seen, text);
    return key ? (size_t)(seen->added - 1 - key->number) : SIZE_MAX;
}

void seen_begin(struct seen *seen) {
    struct seen_key *next;
    for (struct seen_key *key = seen->by_key; key; key = next) {
        next = key->hh.next;
        if (key->is_added) { /* the newest are */
            forget(seen, key);
            seen->added--;
        }
    }
    seen->reading++;
    seen->is_reading = true;
}

bool seen_is_found(const struct seen *seen, const char *text) {
    const struct seen_key *key = find(seen, text);
    return key && key->reading == seen->reading;
}

size_t seen_end(struct seen *seen, struct stream_id first) {
    size_t missing = 0;
    seen->is_reading = false;
    for (struct seen_key *key = seen->by_key; key; key = key->hh.next) {
        key->is_added = false;
        if (key->reading == seen->reading) {
            key->id = key->found;
        } else if (!key->was_lost && stream_id_compare(key->id, first) >= 0) {
            key->is_missing = true;
            missing++;
        }
    }
    return missing;
}

size_t seen_take_lost(struct seen *seen) {
    size_t lost = 0;
    for (struct seen_key *key = seen->by_key; key; key = key->hh.next) {
        if (!key->is_missing)
            continue;
        key->is_missing = false;
        key->was_lost = true;
        lost++;
    }
    return lost;
}
