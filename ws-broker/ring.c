#include "ws-broker/ring.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shared/status.h"
#include "ws-broker/frame.h"

struct ring {
    uint8_t *bytes;  /* `size` bytes, mapped twice in a row */
    uint64_t *marks; /* marks[seq % mark_count]: where that frame starts, counted since the first
                        byte ever */
    size_t size;
    size_t mark_count;
    uint64_t head; /* next sequence number */
    uint64_t tail; /* oldest whole frame */
    uint64_t end;  /* where the next frame starts */
    /* Nearly all clients ask for the same span: the last answer is kept. */
    uint64_t cut_from, cut_to, cut;
    size_t cut_max;
};

static uint64_t position(const struct ring *ring, uint64_t seq) {
    return seq == ring->head ? ring->end : ring->marks[seq & (ring->mark_count - 1)];
}

/* Maps the same memory twice in a row, so that bytes which wrap are contiguous all the same. */
static uint8_t *map_twice(size_t size) {
    int fd = memfd_create("hlchat-ring", MFD_CLOEXEC);
    if (fd < 0)
        return NULL;
    uint8_t *base = MAP_FAILED;
    if (ftruncate(fd, (off_t)size) == 0)
        base = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t half = 0; base != MAP_FAILED && half < 2; half++)
        if (mmap(base + half * size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
            MAP_FAILED) {
            munmap(base, 2 * size);
            base = MAP_FAILED;
        }
    close(fd);
    return base == MAP_FAILED ? NULL : base;
}

struct ring *ring_new(size_t bytes) {
    size_t size = 64 * 1024; /* a multiple of every page size in use */
    while (size < bytes)
        size *= 2;
    struct ring *ring = calloc(1, sizeof(*ring));
    if (!ring)
        return NULL;
    ring->size = size;
    ring->mark_count = size / RING_MIN_FRAME;
    ring->marks = calloc(ring->mark_count, sizeof(*ring->marks));
    ring->bytes = map_twice(size);
    if (!ring->marks || !ring->bytes) {
        ring_free(ring);
        return NULL;
    }
    return ring;
}

void ring_free(struct ring *ring) {
    if (!ring)
        return;
    if (ring->bytes)
        munmap(ring->bytes, 2 * ring->size);
    free(ring->marks);
    free(ring);
}

size_t ring_frame_max(const struct ring *ring) {
    return ring->size / 8;
}

int ring_append(struct ring *ring, const void *payload, size_t len) {
    if (len > ring_frame_max(ring) || frame_header_len(len) + len > ring_frame_max(ring))
        return CHAT_ERANGE;
    uint8_t *at = ring->bytes + (ring->end & (ring->size - 1));
    size_t header = frame_text_header(at, len);
    memcpy(at + header, payload, len);
    ring->marks[ring->head & (ring->mark_count - 1)] = ring->end;
    ring->head++;
    ring->end += header + len;
    /* What was just overwritten is gone: frames that start more than a ring behind the end, and
     * those whose mark was reused. */
    while (ring->head - ring->tail > ring->mark_count ||
           ring->end - position(ring, ring->tail) > ring->size)
        ring->tail++;
    return CHAT_OK;
}

uint64_t ring_head(const struct ring *ring) {
    return ring->head;
}

uint64_t ring_tail(const struct ring *ring) {
    return ring->tail;
}

size_t ring_bytes_since(const struct ring *ring, uint64_t from) {
    return (size_t)(ring->end - position(ring, from));
}

/* The last sequence number in (from, to] whose start is at most `max` bytes behind `from`'s; from +
 * 1 when even one frame is larger. */
static uint64_t cut_at(const struct ring *ring, uint64_t from, uint64_t to, size_t max) {
    uint64_t start = position(ring, from), low = from + 1, high = to;
    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;
        if (position(ring, middle) - start <= max)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

uint64_t ring_span(struct ring *ring, uint64_t from, uint64_t to, size_t max, const uint8_t **bytes,
                   size_t *len) {
    if (from != ring->cut_from || to != ring->cut_to || max != ring->cut_max || ring->cut == 0) {
        ring->cut_from = from;
        ring->cut_to = to;
        ring->cut_max = max;
        ring->cut = cut_at(ring, from, to, max);
    }
    uint64_t start = position(ring, from);
    *bytes = ring->bytes + (start & (ring->size - 1));
    *len = (size_t)(position(ring, ring->cut) - start);
    return ring->cut;
}
