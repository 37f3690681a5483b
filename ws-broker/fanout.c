#include "ws-broker/fanout.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "shared/status.h"
#include "ws-broker/ring.h"

#define NO_SLOT UINT32_MAX
#define NO_END  UINT64_MAX

/* At the front of a reply's buffer. */
struct fanout_reply {
    struct fanout_reply *next;
    uint64_t at;          /* ring head when it was made: broadcasts before it go first */
    const uint8_t *frame; /* header and text, in this same buffer */
    size_t len;
};
_Static_assert(sizeof(struct fanout_reply) + FRAME_HEADER_MAX <= FANOUT_REPLY_HEADROOM,
               "the headroom holds the reply's own data and the frame's header");

/* One joined client: all that a flush needs to see of one that has nothing to do. */
struct slot {
    struct fanout_client *client;
    uint64_t cursor; /* sequence number of the next frame it gets */
};

struct fanout {
    struct ring *ring;
    const struct fanout_sink *sink;
    struct slot *slots;
    size_t count, capacity;
    struct fanout_client *listed; /* clients that got a reply in this turn */
    size_t queued;                /* reply bytes of all clients */
    uint64_t flushed;             /* ring head at the last flush */
    uint64_t seen;                /* ring head at the end of the last turn */
    int quiet_wait;               /* turns that the pending flush has waited */
    int64_t interval_ms, last_flush_ms;
};

static struct metric deliveries = {.name = "hlchat_deliveries_total",
                                   .help = "Messages written to clients"};
static struct metric sent_bytes = {.name = "hlchat_sent_bytes_total",
                                   .help = "Bytes of frames written to clients"};
static struct metric replies = {.name = "hlchat_replies_total",
                                .help = "Replies (errors, history, login) written to clients"};
static struct metric slow_clients = {.name = "hlchat_slow_clients_total",
                                     .help =
                                         "Clients that fell behind the ring and lost their place"};
static struct metric queued_bytes = {.name = "hlchat_queued_reply_bytes",
                                     .help = "Bytes of replies that wait for their client to read",
                                     .type = METRIC_GAUGE};
static struct metric flush_messages = {.name = "hlchat_flush_messages",
                                       .help = "Messages that one flush gave to the clients",
                                       .type = METRIC_HISTOGRAM,
                                       .bounds = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}};

void fanout_register_metrics(struct metrics *metrics) {
    metrics_register(metrics, &deliveries);
    metrics_register(metrics, &sent_bytes);
    metrics_register(metrics, &replies);
    metrics_register(metrics, &slow_clients);
    metrics_register(metrics, &queued_bytes);
    metrics_register(metrics, &flush_messages);
}

struct fanout *fanout_new(size_t ring_bytes, int interval_ms, const struct fanout_sink *sink) {
    struct fanout *fanout = calloc(1, sizeof(*fanout));
    if (!fanout)
        return NULL;
    fanout->ring = ring_new(ring_bytes);
    if (!fanout->ring) {
        free(fanout);
        return NULL;
    }
    fanout->sink = sink;
    fanout->interval_ms = interval_ms;
    fanout->last_flush_ms = INT64_MIN / 2;
    return fanout;
}

void fanout_free(struct fanout *fanout) {
    if (!fanout)
        return;
    ring_free(fanout->ring);
    free(fanout->slots);
    free(fanout);
}

void fanout_client_init(struct fanout_client *client, void *peer) {
    *client = (struct fanout_client){.peer = peer, ._end = NO_END, ._slot = NO_SLOT};
}

static bool has_joined(const struct fanout_client *client) {
    return client->_slot != NO_SLOT;
}

int fanout_join(struct fanout *fanout, struct fanout_client *client) {
    if (has_joined(client))
        return CHAT_OK;
    if (fanout->count == fanout->capacity) {
        size_t capacity = fanout->capacity ? fanout->capacity * 2 : 64;
        struct slot *slots = reallocarray(fanout->slots, capacity, sizeof(*slots));
        if (!slots)
            return CHAT_ENOMEM;
        fanout->slots = slots;
        fanout->capacity = capacity;
    }
    client->_slot = (uint32_t)fanout->count;
    fanout->slots[fanout->count++] = (struct slot){client, ring_head(fanout->ring)};
    return CHAT_OK;
}

void fanout_leave(struct fanout *fanout, struct fanout_client *client) {
    if (!has_joined(client))
        return;
    struct slot last = fanout->slots[--fanout->count];
    fanout->slots[client->_slot] = last; /* harmless when it is the last itself */
    last.client->_slot = client->_slot;
    client->_slot = NO_SLOT;
}

size_t fanout_joined(const struct fanout *fanout) {
    return fanout->count;
}

/* Queued bytes decide whether we go on reading from a client. */
static void account_replies(struct fanout *fanout, struct fanout_client *client) {
    bool all_full = fanout_replies_full(fanout);
    bool pause = client->_paused ? client->_queued > FANOUT_REPLY_PAUSE / 2
                                 : client->_queued > FANOUT_REPLY_PAUSE;
    pause = pause || (all_full && client->_queued > 0);
    if (pause != client->_paused && !client->_dead) {
        client->_paused = pause;
        fanout->sink->set_reading(client->peer, !pause);
    }
}

/* Forgets the oldest reply. */
static void pop_reply(struct fanout *fanout, struct fanout_client *client) {
    struct fanout_reply *reply = client->_first;
    client->_first = reply->next;
    if (!client->_first)
        client->_last = NULL;
    client->_queued -= reply->len;
    fanout->queued -= reply->len;
    queued_bytes.value -= reply->len;
    free(reply);
}

/* It is looked at when the turn ends. */
static void list(struct fanout *fanout, struct fanout_client *client) {
    if (client->_listed)
        return;
    DL_APPEND(fanout->listed, client);
    client->_listed = true;
}

static void unlist(struct fanout *fanout, struct fanout_client *client) {
    if (!client->_listed)
        return;
    DL_DELETE(fanout->listed, client);
    client->_listed = false;
}

void fanout_drop(struct fanout *fanout, struct fanout_client *client) {
    client->_dead = true;
    fanout_leave(fanout, client);
    unlist(fanout, client);
    while (client->_first)
        pop_reply(fanout, client);
}

int fanout_append(struct fanout *fanout, const char *payload, size_t len) {
    return ring_append(fanout->ring, payload, len);
}

/* Bytes that a flush would give to a client that was up to date after the last one. */
static size_t pending_bytes(const struct fanout *fanout) {
    return ring_bytes_since(fanout->ring, fanout->flushed);
}

/* A quarter of the ring may be pending: three quarters are left for clients that lag a little. */
static size_t pending_max(const struct fanout *fanout) {
    return 2 * ring_frame_max(fanout->ring);
}

size_t fanout_room(const struct fanout *fanout) {
    size_t pending = pending_bytes(fanout), max = pending_max(fanout);
    return pending < max ? max - pending : 0;
}

void fanout_reply(struct fanout *fanout, struct fanout_client *client, char *buffer, size_t len) {
    if (client->_dead) {
        free(buffer);
        return;
    }
    uint8_t header[FRAME_HEADER_MAX];
    size_t header_len = frame_text_header(header, len);
    uint8_t *frame = (uint8_t *)buffer + FANOUT_REPLY_HEADROOM - header_len;
    memcpy(frame, header, header_len);

    struct fanout_reply *reply = (struct fanout_reply *)(void *)buffer;
    *reply = (struct fanout_reply){
        .at = ring_head(fanout->ring), .frame = frame, .len = header_len + len};
    if (client->_last)
        client->_last->next = reply;
    else
        client->_first = reply;
    client->_last = reply;
    client->_queued += reply->len;
    fanout->queued += reply->len;
    queued_bytes.value += reply->len;
    account_replies(fanout, client);
    list(fanout, client);
}

void fanout_end(struct fanout *fanout, struct fanout_client *client) {
    if (!has_joined(client) || client->_end != NO_END)
        return;
    client->_end = ring_head(fanout->ring);
    list(fanout, client);
}

bool fanout_replies_full(const struct fanout *fanout) {
    return fanout->queued >= FANOUT_REPLY_TOTAL;
}

bool fanout_is_paused(const struct fanout_client *client) {
    return client->_paused;
}

bool fanout_is_done(const struct fanout_client *client) {
    return !has_joined(client) && !client->_first;
}

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static bool has_lost_place(const struct fanout *fanout, const struct slot *slot) {
    return slot->cursor < ring_tail(fanout->ring);
}

static void give_up(struct fanout *fanout, struct fanout_client *client) {
    slow_clients.value++;
    fanout_leave(fanout, client);
    fanout->sink->on_slow(client->peer);
}

/* What write_next() found. */
enum progress { PROGRESS_DONE = 0, PROGRESS_WROTE = 1, PROGRESS_STOPPED = 2 };

/* Gives the client the next piece of its sequence: a span of broadcasts or one reply. */
static enum progress write_next(struct fanout *fanout, struct fanout_client *client,
                                size_t span_max) {
    const uint8_t *bytes = NULL;
    size_t len = 0;
    struct fanout_reply *reply = client->_first;
    struct slot *slot = has_joined(client) ? &fanout->slots[client->_slot] : NULL;
    uint64_t target = reply ? reply->at : min_u64(ring_head(fanout->ring), client->_end);
    uint64_t next = 0;

    if (slot && has_lost_place(fanout, slot)) {
        give_up(fanout, client);
        return PROGRESS_STOPPED;
    }
    if (slot && slot->cursor < target)
        next = ring_span(fanout->ring, slot->cursor, target, span_max, &bytes, &len);
    else if (reply)
        bytes = reply->frame, len = reply->len;
    else if (client->_end != NO_END)
        fanout_leave(fanout, client);
    if (!bytes)
        return PROGRESS_DONE;

    if (fanout->sink->write(client->peer, bytes, len) < 0) {
        client->_dead = true;
        return PROGRESS_STOPPED;
    }
    sent_bytes.value += len;
    if (next) {
        deliveries.value += next - slot->cursor;
        slot->cursor = next;
    } else {
        replies.value++;
        pop_reply(fanout, client);
        account_replies(fanout, client);
    }
    return PROGRESS_WROTE;
}

static void wait_for_writable(struct fanout *fanout, struct fanout_client *client) {
    client->_choked = true;
    fanout->sink->want_writable(client->peer);
}

/* Brings a client up to date, or as far as its socket allows. */
static void catch_up(struct fanout *fanout, struct fanout_client *client) {
    while (!client->_choked && !client->_dead) {
        if (fanout->sink->is_choked(client->peer))
            wait_for_writable(fanout, client);
        else if (write_next(fanout, client, FANOUT_SPAN) != PROGRESS_WROTE)
            return;
    }
}

void fanout_writable(struct fanout *fanout, struct fanout_client *client) {
    if (!client->_choked || client->_dead)
        return;
    /* One piece at a time: what the socket refuses of it is copied, and this client has shown that
     * its socket refuses. */
    if (fanout->sink->is_choked(client->peer) ||
        write_next(fanout, client, FANOUT_SPAN_CHOKED) == PROGRESS_WROTE)
        fanout->sink->want_writable(client->peer);
    else
        client->_choked = false;
}

static void flush(struct fanout *fanout, int64_t now_ms) {
    uint64_t head = ring_head(fanout->ring);
    metric_observe(&flush_messages, head - fanout->flushed);
    /* Backwards: a client that leaves is replaced by the last one, which was already served. */
    for (size_t i = fanout->count; i > 0; i--) {
        struct slot *slot = &fanout->slots[i - 1];
        if (has_lost_place(fanout, slot)) /* a choked one would not notice by itself */
            give_up(fanout, slot->client);
        else if (slot->cursor != head)
            catch_up(fanout, slot->client);
    }
    fanout->flushed = head;
    fanout->quiet_wait = 0;
    fanout->last_flush_ms = now_ms;
}

int64_t fanout_turn_end(struct fanout *fanout, int64_t now_ms) {
    while (fanout->listed) {
        struct fanout_client *client = fanout->listed;
        unlist(fanout, client);
        catch_up(fanout, client);
    }
    uint64_t head = ring_head(fanout->ring);
    if (head == fanout->flushed)
        return FANOUT_QUIET;
    bool fresh = head != fanout->seen;
    fanout->seen = head;
    if (pending_bytes(fanout) < pending_max(fanout)) {
        int64_t due_in_ms = fanout->last_flush_ms + fanout->interval_ms - now_ms;
        if (fanout->interval_ms > 0 && due_in_ms > 0)
            return due_in_ms;
        if (fresh && fanout->quiet_wait < FANOUT_QUIET_TURNS) {
            fanout->quiet_wait++;
            return FANOUT_AGAIN;
        }
    }
    flush(fanout, now_ms);
    return FANOUT_QUIET;
}
