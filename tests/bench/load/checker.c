#include "tests/bench/load/checker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/status.h"

#define NONE UINT32_MAX

struct checker_message {
    uint64_t due_ns;
    uint32_t former; /* the publisher's message before this one */
    uint32_t entry;  /* NONE: nobody has had it yet, nor is there a hole for it */
};

/* A hole has no bytes, even when it is filled. */
struct checker_entry {
    uint64_t end; /* in the log's bytes */
    uint32_t message;
    uint32_t waiting; /* readers that have not had it */
    bool seen;        /* by anybody */
};

/* Makes room for one more (or `more`); 0 or CHAT_ENOMEM. */
static int make_room(void **array, size_t *room, size_t count, size_t more, size_t element) {
    if (count + more <= *room)
        return 0;
    size_t bigger = (*room + more) * 2;
    void *moved = realloc(*array, bigger * element);
    if (!moved)
        return CHAT_ENOMEM;
    *array = moved;
    *room = bigger;
    return 0;
}

int checker_init(struct checker *checker, uint32_t nonce, uint32_t publishers, uint32_t readers) {
    *checker = (struct checker){._nonce = nonce, ._audience = readers};
    checker->_last_of = malloc(publishers * sizeof(*checker->_last_of) + 1);
    if (!checker->_last_of)
        return CHAT_ENOMEM;
    for (uint32_t i = 0; i < publishers; i++)
        checker->_last_of[i] = NONE;
    return 0;
}

void checker_deinit(struct checker *checker) {
    free(checker->_messages);
    free(checker->_entries);
    free(checker->_bytes);
    free(checker->_last_of);
}

int checker_send(struct checker *checker, uint32_t publisher, uint64_t due_ns,
                 char marker[CHECKER_MARKER]) {
    char text[CHECKER_MARKER + 1];
    uint32_t id = (uint32_t)checker->_message_count;
    if (make_room((void **)&checker->_messages, &checker->_message_room, id, 1,
                  sizeof(*checker->_messages)) < 0)
        return CHAT_ENOMEM;
    checker->_messages[id] = (struct checker_message){due_ns, checker->_last_of[publisher], NONE};
    checker->_last_of[publisher] = id;
    checker->_message_count++;
    checker->on_the_way++;
    snprintf(text, sizeof(text), "~%08x%08x~", checker->_nonce, id);
    memcpy(marker, text, CHECKER_MARKER);
    return 0;
}

void checker_refused(struct checker *checker) {
    if (checker->on_the_way > 0)
        checker->on_the_way--;
}

/* The message that the text is, or NONE. */
static uint32_t find_marker(const struct checker *checker, const uint8_t *text, size_t len) {
    char mine[CHECKER_MARKER / 2 + 1], digits[9] = "";
    snprintf(mine, sizeof(mine), "~%08x", checker->_nonce);
    const uint8_t *marker = memmem(text, len, mine, sizeof(mine) - 1);
    if (!marker || (size_t)(text + len - marker) < CHECKER_MARKER)
        return NONE;
    memcpy(digits, marker + sizeof(mine) - 1, sizeof(digits) - 1);
    unsigned long id = strtoul(digits, NULL, 16);
    if (digits[strspn(digits, "0123456789abcdef")] || marker[CHECKER_MARKER - 1] != '~' ||
        id >= checker->_message_count)
        return NONE;
    return (uint32_t)id;
}

static uint64_t entry_begin(const struct checker *checker, size_t entry) {
    return entry > 0 ? checker->_entries[entry - 1].end : 0;
}

static bool is_hole(const struct checker *checker, size_t entry) {
    return checker->_entries[entry].end == entry_begin(checker, entry);
}

/* At the log's end, behind holes for what its publisher had sent before and nobody has had. */
static int append(struct checker *checker, uint32_t message, const uint8_t *frame, size_t size) {
    size_t holes = 0;
    uint32_t former = checker->_messages[message].former;
    for (uint32_t id = former; id != NONE && checker->_messages[id].entry == NONE;
         id = checker->_messages[id].former)
        holes++;
    size_t count = checker->_entry_count;
    if (make_room((void **)&checker->_entries, &checker->_entry_room, count, holes + 1,
                  sizeof(*checker->_entries)) < 0 ||
        make_room((void **)&checker->_bytes, &checker->_byte_room, checker->_byte_count, size, 1) <
            0)
        return CHAT_ENOMEM;
    struct checker_entry entry = {
        .end = checker->_byte_count, .message = former, .waiting = checker->_audience};
    for (size_t at = count + holes; at-- > count; entry.message = former) {
        checker->_entries[at] = entry;
        checker->_messages[former].entry = (uint32_t)at;
        former = checker->_messages[former].former;
    }
    memcpy(checker->_bytes + checker->_byte_count, frame, size);
    checker->_byte_count += size;
    entry.end = checker->_byte_count;
    entry.message = message;
    checker->_entries[count + holes] = entry;
    checker->_messages[message].entry = (uint32_t)(count + holes);
    checker->_entry_count = count + holes + 1;
    return 0;
}

/* One reader less waits for it. */
static void settle(struct checker *checker, struct checker_entry *entry, uint64_t now_ns) {
    const struct checker_message *message = &checker->_messages[entry->message];
    if (entry->waiting == 0 || --entry->waiting > 0)
        return;
    checker_refused(checker);
    if (now_ns > 0 && message->due_ns >= checker->measured_from_ns)
        histogram_add(&checker->fanout, (now_ns - message->due_ns) / 1000);
}

static void deliver(struct checker *checker, struct checker_entry *entry, uint64_t now_ns) {
    const struct checker_message *message = &checker->_messages[entry->message];
    entry->seen = true;
    checker->deliveries++;
    if (message->due_ns >= checker->measured_from_ns)
        histogram_add(&checker->latency, (now_ns - message->due_ns) / 1000);
    settle(checker, entry, now_ns);
}

static int add_missing(struct checker_reader *reader, uint32_t entry) {
    size_t room = reader->_missing_room;
    if (make_room((void **)&reader->_missing, &room, reader->_missing_count, 1,
                  sizeof(*reader->_missing)) < 0)
        return CHAT_ENOMEM;
    reader->_missing_room = (uint32_t)room;
    reader->_missing[reader->_missing_count++] = entry;
    return 0;
}

static bool remove_missing(struct checker_reader *reader, uint32_t entry) {
    for (uint32_t i = 0; i < reader->_missing_count; i++) {
        if (reader->_missing[i] == entry) {
            reader->_missing[i] = reader->_missing[--reader->_missing_count];
            return true;
        }
    }
    return false;
}

int64_t checker_known(struct checker *checker, struct checker_reader *reader, const uint8_t *data,
                      size_t len, uint64_t now_ns) {
    uint64_t begin = entry_begin(checker, reader->_next), limit = checker->_byte_count - begin;
    if (limit > len)
        limit = len;
    if (limit == 0 || memcmp(checker->_bytes + begin, data, limit) != 0)
        return 0;
    limit += begin;
    uint64_t end = begin;
    for (size_t next = reader->_next; next < checker->_entry_count; next++) {
        if (is_hole(checker, next))
            continue; /* passed by, when something behind it is here */
        if (checker->_entries[next].end > limit)
            break;
        while (reader->_next < next)
            if (add_missing(reader, reader->_next++) < 0)
                return CHAT_ENOMEM;
        deliver(checker, &checker->_entries[next], now_ns);
        end = checker->_entries[next].end;
        reader->_next++;
    }
    return (int64_t)(end - begin);
}

int checker_text(struct checker *checker, struct checker_reader *reader, const uint8_t *frame,
                 size_t size, const uint8_t *payload, uint64_t now_ns) {
    uint32_t id = find_marker(checker, payload, (size_t)(frame + size - payload));
    if (id == NONE)
        return 0;
    const struct checker_message *message = &checker->_messages[id];
    if (message->entry == NONE && append(checker, id, frame, size) < 0)
        return CHAT_ENOMEM;
    uint32_t at = message->entry;
    struct checker_entry *entry = &checker->_entries[at];
    uint64_t begin = entry_begin(checker, at);
    if (begin != entry->end &&
        (entry->end - begin != size || memcmp(checker->_bytes + begin, frame, size) != 0))
        checker->altered++;
    if (at >= reader->_next) {
        while (reader->_next < at)
            if (add_missing(reader, reader->_next++) < 0)
                return CHAT_ENOMEM;
        reader->_next = at + 1;
    } else if (remove_missing(reader, at)) {
        checker->reordered++;
    } else {
        checker->duplicates++;
        return 1;
    }
    deliver(checker, entry, now_ns);
    return 1;
}

void checker_leave(struct checker *checker, struct checker_reader *reader) {
    for (uint32_t i = 0; i < reader->_missing_count; i++)
        settle(checker, &checker->_entries[reader->_missing[i]], 0);
    for (size_t i = reader->_next; i < checker->_entry_count; i++)
        settle(checker, &checker->_entries[i], 0);
    checker->_audience--;
    free(reader->_missing);
    *reader = (struct checker_reader){0};
}

void checker_end_reader(struct checker *checker, struct checker_reader *reader) {
    for (uint32_t i = 0; i < reader->_missing_count; i++)
        checker->lost += checker->_entries[reader->_missing[i]].seen;
    for (size_t i = reader->_next; i < checker->_entry_count; i++)
        checker->lost += checker->_entries[i].seen;
    free(reader->_missing);
    *reader = (struct checker_reader){0};
}

void checker_finish(struct checker *checker) {
    checker->undelivered = checker->_message_count;
    for (size_t i = 0; i < checker->_entry_count; i++)
        checker->undelivered -= checker->_entries[i].seen;
}
