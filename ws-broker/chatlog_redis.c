#include "ws-broker/chatlog_redis.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <utlist.h>

#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/status.h"
#include "ws-broker/redis.h"
#include "ws-broker/seen.h"
#include "ws-broker/utf8.h"

enum {
    GIVE_UP_MS = 5000, /* an append that is not stored by then is answered by an error */
    REPLY_MS = 2000,   /* a reply that does not come by then means that the connection is dead */
    RETRY_MS = 200,    /* after an error that may pass */
    IN_FLIGHT_MAX = 1000,
    READ_COUNT = 256,
    BLOCK_MS = 1000,
    AUDIT_MS = 3000,
    AUDIT_COUNT = 1000,
    BUSY_RATE = 200,   /* entries per second from which reading is slowed down a little, */
    BUSY_PAUSE_MS = 5, /* by this, which halves what Redis spends on us */
    ERROR_PAUSE_MS = 500,
    PROBE_MS = 1000,
    RECENT_MS = 15000, /* what was stored since is kept, to be stored again if it is lost */
    AGAIN_MS = 15000,  /* for so long that is tried; nobody waits for it */
    SEEN_FACTOR = 2,   /* keys remembered for each entry that the stream keeps */
    READY_MS = 3000,   /* a write of ours must have worked in this time */
    TICK_MS = 100,
    KEY_TEXT_MAX = CHATLOG_KEY_MAX + 32,
    ID_TEXT_MAX = 48,
    EPOCH_MAX = 48,
    REASON_MAX = 128,
    MARK_SEQ_BITS = 20,
};

#define ID_FORMAT "%" PRIu64 "-%" PRIu64

/* ---- one append ------------------------------------------------------------------------------ */

enum append_state {
    APPEND_QUEUED = 0,
    APPEND_SENT = 1,
    APPEND_REFUSED = 2,   /* by an error that may pass; not stored */
    APPEND_UNCERTAIN = 3, /* sent, and the connection went away */
    APPEND_FOUND = 4,     /* uncertain, and then found in the stream */
};

struct append {
    struct append *prev, *next; /* in the order in which they were begun (utlist's names) */
    enum append_state state;
    uint64_t number; /* k is <nonce>-<number> */
    uint64_t tag;
    int64_t give_up_ms;
    uint64_t begun_ns;
    uint64_t read_before;        /* how many entries had been read when it was begun */
    struct stream_id sent_after; /* the entry is behind this one in the stream */
    struct stream_id stored_as;  /* once it is */
    bool is_again;               /* it was stored, and lost: its sender has had an answer */
    bool was_read;               /* is_again: it had come back to us before */
    bool was_uncertain;          /* it was sent, and then not found where it should have been */
    bool is_marked;              /* it may stand out of order: stored elsewhere before, perhaps */
    int64_t stored_ms;
    uint64_t stored_count; /* log->stored_count, then */
    size_t len;
    char json[];
};

/* An entry that was read and waits to be handed on. */
struct waiting {
    struct waiting *prev, *next;
    struct stream_id id;
    bool is_new;     /* not known from before a re-reading */
    bool was_reread; /* came by the one that is under way */
    uint64_t number; /* of the append, if it is ours; else 0 */
    size_t len;
    char json[];
};

struct redis_log {
    struct chatlog base;
    struct chatlog_redis_options options;
    uv_loop_t *loop;
    const struct chatlog_events *events;
    void *user;
    struct log_metrics *metrics;
    const char *name; /* in our log lines */
    char key[KEY_TEXT_MAX], probe_key[KEY_TEXT_MAX], epoch_key[KEY_TEXT_MAX], maxlen[16];
    char nonce[20]; /* of this process: 16 hexadecimal digits */
    uv_timer_t tick;
    uv_timer_t read_again; /* runs while reading pauses */
    bool is_stopped;

    char epoch[EPOCH_MAX]; /* of what we have read; "": not known yet */
    bool is_epoch_over;    /* the stream has lost entries since */
    bool must_ask_epoch;
    unsigned epochs_known;

    /* publishing */
    struct redis *publish;
    struct append *appends; /* all that have not ended */
    struct append *recent;  /* that have ended stored, the oldest first */
    size_t recent_count, recent_bytes;
    uint64_t stored_count; /* how many appends have ended so */
    struct append *unsent; /* the first that may be queued; all before it are not */
    size_t append_count, append_bytes;
    int in_flight;
    bool can_send;   /* up, and everything uncertain is settled */
    bool is_holding; /* a retryable error came: nothing is sent until all replies are here */
    int64_t hold_until_ms;
    char
        refused_for[REASON_MAX]; /* the reason that was logged last; "": a write has worked since */
    uint64_t last_number, last_stored;
    uint64_t last_heard;             /* the newest of ours that was handed on */
    struct stream_id last_stored_as; /* where the newest of ours that is stored stands */
    struct redis_server last_server; /* of the connection before */
    struct stream_id looked_up_to;
    int64_t wrote_ms; /* when a write of ours last worked */
    int64_t probed_ms;

    /* following */
    struct redis *follow;
    char run_id[64]; /* of the server that was followed last */
    struct seen *seen;
    struct json_tokener *tokener;
    struct stream_id cursor; /* the newest entry read */
    struct stream_id handed; /* the newest entry handed on */
    bool is_asking;          /* a read or an audit is under way */
    bool is_loaded;
    bool is_following_well; /* the last read or audit had no error */
    int64_t audited_ms;
    uint64_t audited_count; /* log->stored_count, then: it must have found these */
    struct waiting *waiting;
    size_t waiting_count;
    int64_t read_ms;      /* when Redis last told what there is */
    uint64_t read_age_ms; /* how old the newest of it was */
    int64_t rate_second;
    int rate_count, rate;

    /* the stream's own count of entries against ours, since all of it was read */
    int64_t baseline_added;
    int64_t seen_since;

    /* re-reading from the start; in its latest attempt ... */
    bool is_rereading;
    bool has_found_new;    /* ... an entry that we did not know, */
    int64_t reread_new;    /* ... so many, the marked ones too, */
    bool is_continuous;    /* ... one where we had read it: from there on nothing is missing */
    int64_t added_before;  /* how many the stream had, by our count */
    bool has_gap;          /* entries were gone before they were read */
    bool must_reload;      /* so they were, or they were handed on in another order */
    bool is_replaying;     /* what it had to hand on because of that is not handed on yet */
    int64_t count_lost_ms; /* when what is missing since is counted as lost; 0: nothing is */
    size_t lost_unread;    /* lost, and never read by us; not counted yet */
};

/* What is counted of one log; `of` is "" for the chat's. */
struct log_metrics {
    struct metric up[2], reconnects[2]; /* publish, follow */
    struct metric repeats, gaps, lost_entries, resets, bad_entries;
};

#define LOG_METRIC(of, rest, text) .name = "hlchat_" of rest, .help = text
#define LOG_METRICS(of)                                                                            \
    {                                                                                              \
        .up = {{LOG_METRIC(of, "redis_up", "Whether the connection to Redis is up"),               \
                .labels = "link=\"publish\"", .type = METRIC_GAUGE},                               \
               {LOG_METRIC(of, "redis_up", "Whether the connection to Redis is up"),               \
                .labels = "link=\"follow\"", .type = METRIC_GAUGE}},                               \
        .reconnects = {{LOG_METRIC(of, "redis_reconnects_total",                                   \
                                   "Times that the connection to Redis was lost"),                 \
                        .labels = "link=\"publish\""},                                             \
                       {LOG_METRIC(of, "redis_reconnects_total",                                   \
                                   "Times that the connection to Redis was lost"),                 \
                        .labels = "link=\"follow\""}},                                             \
        .repeats = {LOG_METRIC(of, "log_repeats_total",                                            \
                               "Entries that stood in the log twice and were dropped")},           \
        .gaps = {LOG_METRIC(of, "log_gaps_total",                                                  \
                            "Times that entries were gone before they were read")},                \
        .lost_entries = {LOG_METRIC(of, "log_lost_entries_total",                                  \
                                    "Entries that the log has lost")},                             \
        .resets = {LOG_METRIC(of, "log_resets_total",                                              \
                              "Times that the log was read again from the start")},                \
        .bad_entries = {LOG_METRIC(of, "log_bad_entries_total",                                    \
                                   "Entries that were no messages and were skipped")},             \
    }

static struct log_metrics log_metrics[] = {
    [CHATLOG_PLAYERS] = LOG_METRICS(""), [CHATLOG_MINIGAME] = LOG_METRICS("minigame_")};

/* Of the chat's alone: nobody appends to the other one, scripts do. */
static struct metric append_seconds = {
    .name = "hlchat_append_seconds",
    .help = "Time from a message's arrival until Redis had stored it",
    .type = METRIC_HISTOGRAM,
    .bounds = {250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 1000000, 5000000},
    .scale = 1e-6};
static struct metric appends_stored = {.name = "hlchat_appends_total",
                                       .help = "Appends to the log by how they ended",
                                       .labels = "result=\"stored\""};
static struct metric appends_failed = {.name = "hlchat_appends_total",
                                       .help = "Appends to the log by how they ended",
                                       .labels = "result=\"failed\""};
static struct metric appends_uncertain = {.name = "hlchat_appends_total",
                                          .help = "Appends to the log by how they ended",
                                          .labels = "result=\"uncertain\""};
static struct metric retries = {.name = "hlchat_append_retries_total",
                                .help = "Entries that were sent to Redis again"};
static struct metric again = {.name = "hlchat_append_again_total",
                              .help = "Entries stored again because a failover had lost them"};
static struct metric lag = {.name = "hlchat_log_lag_seconds",
                            .help = "How far behind the log this broker is",
                            .type = METRIC_GAUGE,
                            .scale = 1e-3};

void chatlog_redis_register_metrics(struct metrics *metrics) {
    for (size_t i = 0; i < sizeof(log_metrics) / sizeof(*log_metrics); i++) {
        struct log_metrics *of = &log_metrics[i];
        metrics_register(metrics, &of->up[0]);
        metrics_register(metrics, &of->up[1]);
        metrics_register(metrics, &of->reconnects[0]);
        metrics_register(metrics, &of->reconnects[1]);
        metrics_register(metrics, &of->repeats);
        metrics_register(metrics, &of->gaps);
        metrics_register(metrics, &of->lost_entries);
        metrics_register(metrics, &of->resets);
        metrics_register(metrics, &of->bad_entries);
    }
    metrics_register(metrics, &append_seconds);
    metrics_register(metrics, &appends_stored);
    metrics_register(metrics, &appends_failed);
    metrics_register(metrics, &appends_uncertain);
    metrics_register(metrics, &retries);
    metrics_register(metrics, &again);
    metrics_register(metrics, &lag);
}

static struct redis_log *redis_log(struct chatlog *base) {
    return (struct redis_log *)base;
}

static int64_t now_ms(const struct redis_log *log) {
    return (int64_t)uv_now(log->loop);
}

static void id_text(struct stream_id id, char out[ID_TEXT_MAX]) {
    snprintf(out, ID_TEXT_MAX, ID_FORMAT, id.ms, id.seq);
}

static bool read_id(const char *text, struct stream_id *out) {
    char *end;
    out->ms = strtoull(text, &end, 10);
    if (end == text || *end != '-')
        return false;
    text = end + 1;
    out->seq = strtoull(text, &end, 10);
    return end != text && *end == '\0';
}

/* Both connections must be to the same server, or what one sees is not what the other does. */
static bool is_one_server(struct redis_log *log) {
    if (!redis_is_up(log->publish) || !redis_is_up(log->follow) ||
        strcmp(redis_server(log->publish)->run_id, redis_server(log->follow)->run_id) == 0)
        return true;
    redis_drop(log->publish, "the two connections are to different servers");
    redis_drop(log->follow, "the two connections are to different servers");
    return false;
}

/* ==== the epoch =============================================================================== */

/* A name for one unbroken history of the stream: within it ids only grow and nothing vanishes. It
   changes when the stream has lost entries, by whichever broker is the first to say so: the others
   have the old one in mind until they have read the stream again, and find that it has changed. */

static void on_epoch(void *user, const struct redis_value *reply) {
    struct redis_log *log = user;
    const char *epoch = redis_value_text(reply, NULL);
    if (redis_value_type(reply) != REDIS_TEXT) {
        log->must_ask_epoch = true;
        return;
    }
    if (strcmp(log->epoch, epoch) == 0)
        return;
    log_info(log->name, "epoch", log_str("name", epoch));
    snprintf(log->epoch, sizeof(log->epoch), "%s", epoch);
    log->is_epoch_over = false;
    log->epochs_known++;
}

/* Which one is it now? Begins one if there is none, or if it still is the one that is over. */
static void ask_epoch(struct redis_log *log) {
    static const char script[] = "local now = redis.call('GET', KEYS[1]) "
                                 "if now and now ~= ARGV[1] then return now end "
                                 "redis.call('SET', KEYS[1], ARGV[2]) return ARGV[2]";
    char next[EPOCH_MAX];
    if (!log->must_ask_epoch || !log->can_send)
        return;
    snprintf(next, sizeof(next), "%s-%u", log->nonce, log->epochs_known + 1);
    log->must_ask_epoch =
        redis_send_words(log->publish, REPLY_MS, on_epoch, log, "EVAL", script, "1", log->epoch_key,
                         log->is_epoch_over ? log->epoch : "", next, NULL) != CHAT_OK;
}

/* ==== publishing ============================================================================== */

static void pump(struct redis_log *log);

static void forget_recent(struct redis_log *log) {
    struct append *oldest = log->recent;
    DL_DELETE(log->recent, oldest);
    log->recent_count--;
    log->recent_bytes -= oldest->len;
    free(oldest);
}

/* Keeps what was stored for a while; see append_again(). */
static void keep_recent(struct redis_log *log, struct append *append) {
    append->stored_ms = now_ms(log);
    append->stored_count = ++log->stored_count;
    DL_APPEND(log->recent, append);
    log->recent_count++;
    log->recent_bytes += append->len;
    while (log->recent &&
           (now_ms(log) - log->recent->stored_ms > RECENT_MS ||
            log->recent_count > CHATLOG_QUEUE_ENTRIES || log->recent_bytes > CHATLOG_QUEUE_BYTES))
        forget_recent(log);
}

static void key_text(const struct redis_log *log, const struct append *append,
                     char out[SEEN_KEY_MAX + 1]) {
    snprintf(out, SEEN_KEY_MAX + 1, "%s-%" PRIu64, log->nonce, append->number);
}

/* How many entries were read after it; SIZE_MAX: it was not, or is forgotten. */
static size_t age_of(const struct redis_log *log, const struct append *append) {
    char key[SEEN_KEY_MAX + 1];
    key_text(log, append, key);
    return seen_age(log->seen, key);
}

/* Whether it has come back to us: it is remembered, or was forgotten since. That later ones of ours
 * have come back says little: a FLUSHALL takes what is stored and not yet read. */
static bool has_been_read(const struct redis_log *log, const struct append *append) {
    return age_of(log, append) != SIZE_MAX ||
           (append->number <= log->last_heard &&
            (int64_t)(seen_added(log->seen) - append->read_before) >=
                SEEN_FACTOR * log->options.log_maxlen);
}

/* Of what is older the stream may drop anything, and readers may not remember it: stored again, it
 * would be shown again. */
static bool is_too_old(const struct redis_log *log, const struct append *append) {
    return append->was_read && age_of(log, append) >= (size_t)log->options.log_maxlen;
}

static void settle(struct redis_log *log, struct append *append, int status) {
    uint64_t tag = append->tag;
    bool is_again = append->is_again;
    if (log->unsent == append)
        log->unsent = append->next;
    DL_DELETE(log->appends, append);
    log->append_count--;
    log->append_bytes -= append->len;
    if (is_again && status == CHAT_OK) {
        again.value++;
    } else if (is_again) {
        /* What was read is missed, and counted, by `seen`. */
        log->lost_unread += !append->was_read && age_of(log, append) == SIZE_MAX;
    } else if (status == CHAT_OK) {
        appends_stored.value++;
        metric_observe(&append_seconds, (uv_hrtime() - append->begun_ns) / 1000);
    } else if (status == CHAT_EUNCERTAIN) {
        appends_uncertain.value++;
    } else {
        appends_failed.value++;
    }
    if (status == CHAT_OK)
        keep_recent(log, append);
    else
        free(append);
    if (!log->is_stopped && !is_again)
        log->events->on_appended(log->user, tag, status);
}

/* What to say of an append that is given up: of one that was uncertain nobody knows for sure. */
static int failure_of(const struct append *append) {
    return append->was_uncertain ? CHAT_EUNCERTAIN : CHAT_EUNAVAILABLE;
}

static void note_stored(struct redis_log *log, const struct append *append) {
    if (append->is_again || append->number <= log->last_stored)
        return;
    log->last_stored = append->number;
    log->last_stored_as = append->stored_as;
}

/* What was refused is sent again, unless something behind it was stored meanwhile: then its place
 * is gone. */
static void judge_refused(struct redis_log *log) {
    struct append *append, *next;
    DL_FOREACH_SAFE(log->appends, append, next) {
        if (append->state != APPEND_REFUSED)
            continue;
        if (!append->is_again && append->number < log->last_stored) {
            settle(log, append, failure_of(append));
        } else {
            append->state = APPEND_QUEUED;
            retries.value++;
        }
    }
    log->unsent = log->appends;
}

/* An error reply: the entry is not stored. What kind it is decides whether another connection
 * helps. */
static void on_refused(struct redis_log *log, struct append *append,
                       const struct redis_value *reply) {
    const char *text = redis_value_text(reply, NULL);
    append->state = APPEND_REFUSED;
    if (strncmp(log->refused_for, text, REASON_MAX - 1) != 0) /* a new reason, not every attempt */
        log_warn(log->name, "append_refused", log_str("error", text));
    snprintf(log->refused_for, REASON_MAX, "%s", text);
    log->is_holding = true;
    log->hold_until_ms = now_ms(log) + RETRY_MS;
    log->wrote_ms = 0;
    if (redis_value_is_error(reply, "READONLY") || redis_value_is_error(reply, "NOAUTH") ||
        redis_value_is_error(reply, "MASTERDOWN")) {
        redis_drop(log->publish, text);
        redis_drop(log->follow, text);
    }
}

/* NULL: it has ended. */
static struct append *find_append(struct redis_log *log, uint64_t number) {
    struct append *append;
    DL_FOREACH(log->appends, append) {
        if (append->number == number)
            return append;
    }
    return NULL;
}

/* The first in this state; NULL: none is. */
static struct append *first_append(struct redis_log *log, enum append_state state) {
    struct append *append;
    DL_FOREACH(log->appends, append) {
        if (append->state == state)
            return append;
    }
    return NULL;
}

static void on_added(void *user, const struct redis_value *reply) {
    struct redis_log *log = user;
    /* Replies come in the order of the sending, and nothing that was sent leaves the list before
     * its reply: it is the first one sent. */
    struct append *append = first_append(log, APPEND_SENT);
    log->in_flight--;
    if (!append)
        return;
    if (!reply) {
        append->state = APPEND_UNCERTAIN;
    } else if (redis_value_type(reply) == REDIS_TEXT) {
        read_id(redis_value_text(reply, NULL), &append->stored_as);
        note_stored(log, append);
        log->wrote_ms = now_ms(log);
        log->refused_for[0] = '\0';
        settle(log, append, CHAT_OK);
    } else {
        on_refused(log, append, reply);
    }
    if (log->is_holding && log->in_flight == 0 && log->can_send)
        judge_refused(log);
    pump(log);
}

static bool send_append(struct redis_log *log, struct append *append) {
    char key[SEEN_KEY_MAX + 1];
    char old_id[ID_TEXT_MAX] = "";
    key_text(log, append, key);
    if (append->is_marked)
        id_text(append->stored_as, old_id);
    struct redis_arg args[] = {
        {"XADD", 4},
        {log->key, strlen(log->key)},
        {"MAXLEN", 6},
        {"~", 1},
        {log->maxlen, strlen(log->maxlen)},
        {"*", 1},
        {"k", 1},
        {key, strlen(key)},
        {"m", 1},
        {append->json, append->len},
        {"o", 1}, /* the mark, with the id that it had; 0-0: not known */
        {old_id, strlen(old_id)},
    };
    size_t count = sizeof(args) / sizeof(*args) - (append->is_marked ? 0 : 2);
    if (redis_send(log->publish, args, count, REPLY_MS, on_added, log) != CHAT_OK)
        return false;
    append->state = APPEND_SENT;
    append->sent_after = log->cursor;
    log->in_flight++;
    return true;
}

/* Sends what is queued, in order. */
static void pump(struct redis_log *log) {
    if (!log->can_send || log->is_holding)
        return;
    while (log->unsent && log->in_flight < IN_FLIGHT_MAX) {
        struct append *append = log->unsent;
        bool is_queued = append->state == APPEND_QUEUED;
        if (is_queued && is_too_old(log, append)) {
            settle(log, append, CHAT_EUNAVAILABLE);
            continue;
        }
        if (is_queued && !send_append(log, append))
            return;
        log->unsent = append->next;
    }
}

/* ---- after a disconnect: what became of the entries whose answer never came? ----------------- */

static void recover(struct redis_log *log);

static void finish_recovery(struct redis_log *log) {
    struct append *append, *next;
    DL_FOREACH_SAFE(log->appends, append, next) {
        if (append->state == APPEND_FOUND) {
            note_stored(log, append);
            settle(log, append, CHAT_OK);
        } else if (append->state == APPEND_UNCERTAIN) {
            append->state = APPEND_REFUSED; /* not stored, and in the order of the rest */
            append->was_uncertain = true;
        }
    }
    judge_refused(log);
    log->can_send = true;
    log->is_holding = false;
    pump(log);
}

/* The number of one of our own keys; 0: it is somebody else's. */
static uint64_t own_number(const struct redis_log *log, const char *key) {
    size_t len = strlen(log->nonce);
    return strncmp(key, log->nonce, len) == 0 && key[len] == '-' ? strtoull(key + len + 1, NULL, 10)
                                                                 : 0;
}

/* The text of a field of an entry [id, [name, value, ...]]; NULL: it has none. */
static const char *field_of(const struct redis_value *entry, const char *name, size_t *len) {
    const struct redis_value *fields = redis_value_at(entry, 1);
    for (size_t i = 0; i + 1 < redis_value_count(fields); i += 2)
        if (strcmp(redis_value_text(redis_value_at(fields, i), NULL), name) == 0)
            return redis_value_text(redis_value_at(fields, i + 1), len);
    return NULL;
}

static void on_looked_up(void *user, const struct redis_value *reply) {
    struct redis_log *log = user;
    size_t count = redis_value_count(reply);
    if (!reply)
        return;
    if (redis_value_type(reply) != REDIS_LIST) {
        redis_drop(log->publish, redis_value_text(reply, NULL));
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const struct redis_value *entry = redis_value_at(reply, i);
        const char *key = field_of(entry, "k", NULL);
        uint64_t number = key ? own_number(log, key) : 0;
        struct append *append = number ? find_append(log, number) : NULL;
        read_id(redis_value_text(redis_value_at(entry, 0), NULL), &log->looked_up_to);
        if (append && append->state == APPEND_UNCERTAIN) {
            append->state = APPEND_FOUND;
            append->stored_as = log->looked_up_to;
        }
    }
    if (count < AUDIT_COUNT)
        finish_recovery(log);
    else
        recover(log);
}

/* Looks for them a page at a time, from where the first of them was sent. */
static void recover(struct redis_log *log) {
    char after[ID_TEXT_MAX], count[16];
    snprintf(after, sizeof(after), "(" ID_FORMAT, log->looked_up_to.ms, log->looked_up_to.seq);
    snprintf(count, sizeof(count), "%d", AUDIT_COUNT);
    if (redis_send_words(log->publish, REPLY_MS, on_looked_up, log, "XRANGE", log->key, after, "+",
                         "COUNT", count, NULL) != CHAT_OK)
        redis_drop(log->publish, "no memory"); /* or nothing would be sent on it, ever */
}

static void on_fenced(void *user, const struct redis_value *reply) {
    static bool told;
    const struct redis_log *log = user;
    if (redis_value_is_error(reply, "NOPERM") && !told) {
        told = true;
        log_warn(log->name, "cannot_kill_old_connections",
                 log_str("hint", "allow +client|kill; without it repeats are still dropped"));
    }
}

/* Bytes of the old connection may still arrive and be done: it is ended first. */
static void fence(struct redis_log *log) {
    const struct redis_server *old = &log->last_server, *now = redis_server(log->publish);
    bool has_moved = old->client_id[0] && strcmp(old->run_id, now->run_id) != 0;
    struct append *append;
    /* The server before may have had them, and others may have read them there. */
    DL_FOREACH(log->appends, append) {
        if (append->state == APPEND_UNCERTAIN)
            append->is_marked = append->is_marked || has_moved;
    }
    if (old->client_id[0] && !has_moved)
        redis_send_words(log->publish, REPLY_MS, on_fenced, log, "CLIENT", "KILL", "ID",
                         old->client_id, "ADDR", old->client_addr, NULL);
    log->last_server = *now;
}

static void on_publish_up(void *user) {
    struct redis_log *log = user;
    log->metrics->up[0].value = 1;
    if (!is_one_server(log))
        return;
    fence(log);
    struct append *append = first_append(log, APPEND_UNCERTAIN);
    if (append) {
        log->looked_up_to = append->sent_after;
        recover(log);
    } else {
        finish_recovery(log);
    }
}

static void on_publish_down(void *user) {
    struct redis_log *log = user;
    struct append *append;
    /* What was found there may not be where we go next. */
    DL_FOREACH(log->appends, append) {
        if (append->state == APPEND_FOUND)
            append->state = APPEND_UNCERTAIN;
    }
    log->metrics->up[0].value = 0;
    log->metrics->reconnects[0].value++;
    log->can_send = false;
    log->wrote_ms = 0;
}

/* ---- what time does to appends --------------------------------------------------------------- */

static void expire(struct redis_log *log) {
    struct append *append, *next;
    DL_FOREACH_SAFE(log->appends, append, next) {
        if (now_ms(log) < append->give_up_ms)
            continue;
        if (append->state == APPEND_QUEUED || append->state == APPEND_REFUSED)
            settle(log, append, failure_of(append));
        else if (append->state == APPEND_UNCERTAIN)
            settle(log, append, CHAT_EUNCERTAIN);
    }
}

static void on_probed(void *user, const struct redis_value *reply) {
    struct redis_log *log = user;
    if (redis_value_type(reply) == REDIS_TEXT && !log->is_holding)
        log->wrote_ms = now_ms(log);
    else
        log->wrote_ms = 0;
}

/* A Redis that is up may still refuse writes: a small one of our own tells. */
static void probe(struct redis_log *log) {
    if (now_ms(log) - log->probed_ms < PROBE_MS)
        return;
    log->probed_ms = now_ms(log);
    redis_send_words(log->publish, REPLY_MS, on_probed, log, "SET", log->probe_key, "1", "PX",
                     "10000", NULL);
    ask_epoch(log);
}

static int redis_append(struct chatlog *base, const char *json, size_t len, uint64_t tag) {
    struct redis_log *log = redis_log(base);
    if (log->append_count >= CHATLOG_QUEUE_ENTRIES || log->append_bytes + len > CHATLOG_QUEUE_BYTES)
        return CHAT_EBUSY;
    struct append *append = malloc(sizeof(*append) + len);
    if (!append)
        return CHAT_ENOMEM;
    *append = (struct append){.number = ++log->last_number,
                              .tag = tag,
                              .give_up_ms = now_ms(log) + GIVE_UP_MS,
                              .begun_ns = uv_hrtime(),
                              .read_before = seen_added(log->seen),
                              .len = len};
    memcpy(append->json, json, len);
    DL_APPEND(log->appends, append);
    log->append_count++;
    log->append_bytes += len;
    if (!log->unsent)
        log->unsent = append;
    pump(log);
    return CHAT_OK;
}

/* ==== following =============================================================================== */

static void ask(struct redis_log *log);

static void on_read_again(uv_timer_t *timer) {
    ask(timer->data);
}

static void pause_reading(struct redis_log *log, uint64_t ms) {
    uv_timer_start(&log->read_again, on_read_again, ms, 0);
}

static void count_rate(struct redis_log *log, int entries) {
    int64_t second = now_ms(log) / 1000;
    if (second != log->rate_second) {
        log->rate = second == log->rate_second + 1 ? log->rate_count : 0;
        log->rate_count = 0;
        log->rate_second = second;
    }
    log->rate_count += entries;
}

/* Whether the text can be sent to clients as it is. */
static bool is_message(const struct redis_log *log, const char *json, size_t len) {
    if (!json || len > log->options.entry_max || !utf8_is_valid(json, len))
        return false;
    json_tokener_reset(log->tokener);
    struct json_object *root = json_tokener_parse_ex(log->tokener, json, (int)len);
    bool is_object = json_tokener_get_error(log->tokener) == json_tokener_success &&
                     json_tokener_get_parse_end(log->tokener) == len &&
                     json_object_is_type(root, json_type_object);
    json_object_put(root);
    return is_object;
}

static int queue_entry(struct redis_log *log, struct stream_id id, const char *key,
                       const char *json, size_t len, bool is_new) {
    struct waiting *waiting = malloc(sizeof(*waiting) + len);
    if (!waiting)
        return CHAT_ENOMEM;
    waiting->id = id;
    waiting->is_new = is_new;
    waiting->number = own_number(log, key);
    waiting->was_reread = log->is_rereading;
    waiting->len = len;
    memcpy(waiting->json, json, len);
    DL_APPEND(log->waiting, waiting);
    log->waiting_count++;
    return CHAT_OK;
}

static void drop_waiting(struct redis_log *log, struct waiting *waiting) {
    DL_DELETE(log->waiting, waiting);
    log->waiting_count--;
    free(waiting);
}

/* While the log is read again, of what is known only the newest is kept, which the history may
 * need. */
static void trim_known(struct redis_log *log) {
    while (log->waiting && log->waiting_count > (size_t)log->options.history_limit &&
           !log->waiting->is_new)
        drop_waiting(log, log->waiting);
}

/* What it has to give is queued, or CHAT_ENOMEM: then nothing has happened. */
static int take_message(struct redis_log *log, const struct redis_value *entry,
                        struct stream_id id) {
    size_t len = 0;
    const char *json = field_of(entry, "m", &len), *key = field_of(entry, "k", NULL);
    if (!is_message(log, json, len) || (key && strlen(key) > SEEN_KEY_MAX)) {
        log->metrics->bad_entries.value++;
        return CHAT_OK;
    }
    /* An older or another writer may leave k out: its id is as good, but does not survive a retry.
     */
    char own[ID_TEXT_MAX];
    if (!key) {
        id_text(id, own);
        key = own;
    }
    enum seen_where where = seen_find(log->seen, key, id);
    bool is_known = where != SEEN_NOWHERE;
    log->is_continuous = log->is_continuous || where == SEEN_HERE;
    if (log->is_rereading && !field_of(entry, "o", NULL)) {
        /* Ids that begin anew may be below our cursor: then we have read what is behind an entry
           before that entry, and others have not. */
        log->must_reload = log->must_reload || (is_known && log->has_found_new);
        log->has_found_new = log->has_found_new || !is_known;
    }
    if (is_known && !log->is_rereading) {
        log->metrics->repeats.value++;
        return CHAT_OK;
    }
    int status = queue_entry(log, id, key, json, len, !is_known);
    if (status == CHAT_OK && is_known) {
        trim_known(log);
    } else if (status == CHAT_OK) {
        status = seen_add(log->seen, key, id);
        if (status == CHAT_OK)
            log->reread_new++;
        else
            drop_waiting(log, log->waiting->prev); /* the last */
    }
    return status;
}

static int take_entry(struct redis_log *log, const struct redis_value *entry) {
    struct stream_id id;
    if (!read_id(redis_value_text(redis_value_at(entry, 0), NULL), &id))
        return CHAT_OK;
    int status = take_message(log, entry, id);
    if (status != CHAT_OK)
        return status;
    log->cursor = id;
    log->seen_since++;
    return CHAT_OK;
}

static uint64_t wall_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* False: memory ran out. The cursor is where it was then, so the rest comes again. */
static bool take_entries(struct redis_log *log, const struct redis_value *entries, size_t from) {
    size_t count = redis_value_count(entries), taken = from;
    while (taken < count && take_entry(log, redis_value_at(entries, taken)) == CHAT_OK)
        taken++;
    uint64_t now = wall_ms();
    log->read_age_ms = taken > from && now > log->cursor.ms ? now - log->cursor.ms : 0;
    log->read_ms = now_ms(log);
    if (taken > from)
        count_rate(log, (int)(taken - from));
    log->events->on_pending(log->user);
    log->is_following_well = taken >= count;
    if (taken < count) {
        log_error(log->name, "no_memory",
                  log_int("entries_to_read_again", (int64_t)(count - taken)));
        pause_reading(log, ERROR_PAUSE_MS);
    }
    return taken >= count;
}

/* An answer to a read that waits comes within BLOCK_MS; what is older than that is not known. */
static void tell_lag(const struct redis_log *log) {
    int64_t silence = now_ms(log) - log->read_ms;
    if (log->options.which == CHATLOG_PLAYERS)
        lag.value = log->read_age_ms + (silence > 2 * BLOCK_MS ? (uint64_t)silence : 0);
}

/* From the start, as if there had been no earlier attempt. */
static void restart_reread(struct redis_log *log) {
    struct waiting *waiting, *next;
    DL_FOREACH_SAFE(log->waiting, waiting, next) {
        if (waiting->was_reread)
            drop_waiting(log, waiting);
    }
    log->cursor = (struct stream_id){0, 0};
    log->has_found_new = log->is_continuous = false;
    log->reread_new = 0;
    seen_begin(log->seen);
}

static void begin_reread(struct redis_log *log, const char *why) {
    struct waiting *waiting;
    log_warn(log->name, "reading_again", log_str("why", why));
    log->metrics->resets.value++;
    log->is_rereading = true;
    log->has_gap = false;
    log->must_reload = log->is_replaying; /* the whole of it, then */
    log->added_before = log->baseline_added + log->seen_since;
    DL_FOREACH(log->waiting, waiting) {
        waiting->was_reread = false;
    }
    restart_reread(log);
}

static void tell_gap(struct redis_log *log, int64_t missing) {
    log->has_gap = log->must_reload = true;
    log->metrics->gaps.value++;
    log->metrics->lost_entries.value += (uint64_t)missing;
    log_error(log->name, "gap", log_int("entries", missing));
}

/* The stream may lack entries that we have stored a moment ago: a new master that was behind, a
   FLUSHALL. They are stored again, under the same k, so that who has seen them drops them, and
   marked, for they are out of order. What others have stored is theirs to store again. What was
   stored before `first` is not lost: the stream has dropped it, for it was full. */
static void append_again(struct redis_log *log, struct stream_id first) {
    /* Behind what was sent, for replies come in that order, and in front of what is new. */
    struct append *append, *next, *behind = first_append(log, APPEND_QUEUED);
    size_t count = 0;
    DL_FOREACH_SAFE(log->recent, append, next) {
        char key[SEEN_KEY_MAX + 1];
        key_text(log, append, key);
        append->was_read = has_been_read(log, append);
        if (seen_is_found(log->seen, key) || now_ms(log) - append->stored_ms > RECENT_MS ||
            append->stored_count > log->audited_count ||
            stream_id_compare(append->stored_as, first) < 0 || is_too_old(log, append))
            continue;
        DL_DELETE(log->recent, append);
        log->recent_count--;
        log->recent_bytes -= append->len;
        append->is_again = append->is_marked = true;
        append->state = APPEND_QUEUED;
        append->give_up_ms = now_ms(log) + AGAIN_MS;
        log->append_count++;
        log->append_bytes += append->len;
        if (behind)
            DL_PREPEND_ELEM(log->appends, behind, append);
        else
            DL_APPEND(log->appends, append);
        count++;
    }
    if (count == 0)
        return;
    log_warn(log->name, "append_again", log_int("entries", (int64_t)count));
    log->unsent = log->appends;
    pump(log);
}

/* What XINFO STREAM says of a stream. */
struct stream_info {
    int64_t entries_added, length;
    struct stream_id last, first;
};

/* Everything that the stream has is read. */
static void end_reread(struct redis_log *log, const struct stream_info *info) {
    struct waiting *waiting, *next;
    /* What it has dropped may reach beyond what we had read: unless the count says that it does
       not, there is a gap. Of a stream that has counted less nobody knows how wide it is. */
    int64_t dropped = info->entries_added - info->length;
    int64_t missing = info->entries_added - log->added_before - log->reread_new;
    if (dropped > 0 && !log->is_continuous && !log->has_gap && missing != 0)
        tell_gap(log, missing > 0 ? missing : 1);
    struct stream_id first = dropped > 0 ? info->first : (struct stream_id){0, 0};
    size_t lost = seen_end(log->seen, first);
    log->is_rereading = false;
    if (lost > 0) {
        log_warn(log->name, "entries_missing", log_int("entries", (int64_t)lost));
        log->count_lost_ms = now_ms(log) + AGAIN_MS;
        log->is_epoch_over = true;
    }
    append_again(log, first);
    if (log->must_reload) {
        log->must_reload = false;
        log_warn(log->name, "clients_reload");
        /* What waited from before comes again among the rest. */
        DL_FOREACH_SAFE(log->waiting, waiting, next) {
            if (!waiting->was_reread)
                drop_waiting(log, waiting);
        }
        log->is_replaying = log->waiting != NULL;
        log->events->on_lost(log->user);
        return;
    }
    /* Nobody has missed anything: only what is new is handed on. */
    DL_FOREACH_SAFE(log->waiting, waiting, next) {
        if (!waiting->is_new)
            drop_waiting(log, waiting);
    }
}

/* An error reply to a read or an audit. */
static void on_follow_error(struct redis_log *log, const struct redis_value *reply) {
    const char *text = redis_value_text(reply, NULL);
    if (log->is_following_well)
        log_warn(log->name, "cannot_follow", log_str("error", text));
    log->is_following_well = false;
    pause_reading(log, ERROR_PAUSE_MS);
    if (redis_value_is_error(reply, "UNBLOCKED") || redis_value_is_error(reply, "NOAUTH") ||
        redis_value_is_error(reply, "LOADING") || redis_value_is_error(reply, "MASTERDOWN")) {
        redis_drop(log->follow, text);
        redis_drop(log->publish, text);
    }
}

static void on_read(void *user, const struct redis_value *reply) {
    struct redis_log *log = user;
    log->is_asking = false;
    if (!reply)
        return;
    if (redis_value_type(reply) == REDIS_FAILED) {
        on_follow_error(log, reply);
        return;
    }
    /* [[key, [entry, ...]]], or null when there is nothing */
    const struct redis_value *entries = redis_value_at(redis_value_at(reply, 0), 1);
    size_t count = redis_value_count(entries);
    if (take_entries(log, entries, 0) && log->rate >= BUSY_RATE && count < READ_COUNT)
        pause_reading(log, BUSY_PAUSE_MS);
}

static void read_on(struct redis_log *log) {
    char after[ID_TEXT_MAX], count[16], block[16];
    id_text(log->cursor, after);
    snprintf(count, sizeof(count), "%d", READ_COUNT);
    snprintf(block, sizeof(block), "%d", BLOCK_MS);
    log->is_asking =
        redis_send_words(log->follow, BLOCK_MS + REPLY_MS, on_read, log, "XREAD", "COUNT", count,
                         "BLOCK", block, "STREAMS", log->key, after, NULL) == CHAT_OK;
}

/* ---- the audit ------------------------------------------------------------------------------- */

/* Every few seconds; and at the start and when the stream is read again, page after page, so that
 * it is known of each that nothing has vanished before it. */

static bool is_reading_all(const struct redis_log *log) {
    return !log->is_loaded || log->is_rereading;
}

static int audit_count(const struct redis_log *log) {
    return is_reading_all(log) ? READ_COUNT : AUDIT_COUNT;
}

static bool read_info(const struct redis_value *list, struct stream_info *info) {
    *info = (struct stream_info){.entries_added = -1};
    for (size_t i = 0; i + 1 < redis_value_count(list); i += 2) {
        const char *name = redis_value_text(redis_value_at(list, i), NULL);
        const struct redis_value *value = redis_value_at(list, i + 1);
        if (strcmp(name, "entries-added") == 0)
            info->entries_added = redis_value_number(value);
        else if (strcmp(name, "length") == 0)
            info->length = redis_value_number(value);
        else if (strcmp(name, "last-generated-id") == 0)
            read_id(redis_value_text(value, NULL), &info->last);
        else if (strcmp(name, "first-entry") == 0)
            read_id(redis_value_text(redis_value_at(value, 0), NULL), &info->first);
    }
    return info->entries_added >= 0;
}

static bool has_cursor(const struct redis_log *log) {
    return log->cursor.ms != 0;
}

/* All of the stream is here, and nothing has come since. */
static void reached_end(struct redis_log *log, const struct stream_info *info) {
    if (log->is_rereading)
        end_reread(log, info);
    if (!log->is_loaded)
        log_info(log->name, "loaded", log_int("entries", log->seen_since));
    log->is_loaded = true;
    log->baseline_added = info->entries_added;
    log->seen_since = 0;
    log->must_ask_epoch = true;
    ask_epoch(log);
}

static void compare_count(struct redis_log *log, const struct stream_info *info) {
    int64_t missing = info->entries_added - log->baseline_added - log->seen_since;
    if (missing > 0) {
        begin_reread(log, "entries were gone before they were read");
        tell_gap(log, missing);
    } else if (missing < 0) {
        begin_reread(log, "the stream has counted less than we have read");
    } else {
        log->baseline_added = info->entries_added;
        log->seen_since = 0;
    }
}

/* The cursor means nothing in this stream. */
static void read_from_start(struct redis_log *log, const char *why) {
    if (!log->is_loaded)
        log->cursor = (struct stream_id){0, 0};
    else if (log->is_rereading)
        restart_reread(log);
    else
        begin_reread(log, why);
}

static void on_audit_stream(struct redis_log *log, const struct stream_info *info,
                            const struct redis_value *entries) {
    struct stream_id first = {0, 0};
    bool is_all = redis_value_count(entries) < (size_t)audit_count(log);
    read_id(redis_value_text(redis_value_at(redis_value_at(entries, 0), 0), NULL), &first);
    bool is_gone = has_cursor(log) && stream_id_compare(first, log->cursor) != 0;
    if (has_cursor(log) && stream_id_compare(info->last, log->cursor) < 0) {
        read_from_start(log, "the stream ends before the last entry we have read");
        return;
    }
    /* Behind the cursor it may just have been dropped: the count tells, but not while all is read
       again. */
    bool is_behind = info->first.ms != 0 && stream_id_compare(info->first, log->cursor) > 0;
    if (is_gone && (log->is_rereading || !is_behind)) {
        read_from_start(log, "the last entry we have read is not there");
        return;
    }
    if (!take_entries(log, entries, has_cursor(log) && !is_gone ? 1 : 0) || !is_all)
        return;
    if (is_reading_all(log))
        reached_end(log, info);
    else
        compare_count(log, info);
}

static void on_audited(void *user, const struct redis_value *reply) {
    struct redis_log *log = user;
    const struct redis_value *info_reply = redis_value_at(reply, 0);
    struct stream_info info = {.entries_added = 0};
    log->is_asking = false;
    if (!reply)
        return;
    if (redis_value_type(reply) != REDIS_LIST) {
        on_follow_error(log, reply);
        return;
    }
    if (redis_value_type(info_reply) == REDIS_FAILED &&
        strstr(redis_value_text(info_reply, NULL), "no such key")) {
        log->is_following_well = true; /* a chat without any message yet, or one that was deleted */
        if (has_cursor(log))
            read_from_start(log, "the stream is gone");
        else if (is_reading_all(log))
            reached_end(log, &info);
        else
            compare_count(log, &info);
        return;
    }
    if (redis_value_type(info_reply) != REDIS_LIST || !read_info(info_reply, &info)) {
        on_follow_error(log, info_reply);
        return;
    }
    log->is_following_well = true; /* unless that cannot take what it gives */
    on_audit_stream(log, &info, redis_value_at(reply, 1));
}

/* What is refused here says why; EXEC only says that something was. */
static void on_queued(void *user, const struct redis_value *reply) {
    if (redis_value_type(reply) == REDIS_FAILED)
        on_follow_error(user, reply);
}

/* In one transaction, so that the count and the entries are of one moment. */
static void audit(struct redis_log *log) {
    char from[ID_TEXT_MAX], count[16];
    struct redis *follow = log->follow;
    id_text(log->cursor, from);
    snprintf(count, sizeof(count), "%d", audit_count(log));
    log->audited_ms = now_ms(log);
    log->audited_count = log->stored_count;
    log->is_asking = redis_send_words(follow, REPLY_MS, on_queued, log, "MULTI", NULL) == CHAT_OK &&
                     redis_send_words(follow, REPLY_MS, on_queued, log, "XINFO", "STREAM", log->key,
                                      NULL) == CHAT_OK &&
                     redis_send_words(follow, REPLY_MS, on_queued, log, "XRANGE", log->key, from,
                                      "+", "COUNT", count, NULL) == CHAT_OK &&
                     redis_send_words(follow, REPLY_MS, on_audited, log, "EXEC", NULL) == CHAT_OK;
    if (!log->is_asking)
        redis_drop(follow, "no memory"); /* half a transaction */
}

/* Asks for what comes next, once all that came before is handed on. */
static void ask(struct redis_log *log) {
    bool holds_back = log->waiting && !log->is_rereading;
    if (log->is_asking || holds_back || !redis_is_up(log->follow) ||
        uv_is_active((uv_handle_t *)&log->read_again))
        return;
    if (is_reading_all(log) || now_ms(log) - log->audited_ms >= AUDIT_MS)
        audit(log);
    else
        read_on(log);
}

static void on_follow_up(void *user) {
    struct redis_log *log = user;
    log->metrics->up[1].value = 1;
    if (!is_one_server(log))
        return;
    /* Is the stream still the one we knew? The audit says; a re-reading starts anew. */
    const char *run_id = redis_server(log->follow)->run_id;
    if (log->is_rereading)
        restart_reread(log);
    else if (log->is_loaded && strcmp(log->run_id, run_id) != 0)
        begin_reread(log, "another server, or one that was restarted");
    snprintf(log->run_id, sizeof(log->run_id), "%s", run_id);
    log->audited_ms = 0;
    uv_timer_stop(&log->read_again);
    ask(log);
}

static void on_follow_down(void *user) {
    struct redis_log *log = user;
    log->metrics->up[1].value = 0;
    log->metrics->reconnects[1].value++;
    log->is_asking = false;
}

static bool redis_turn(struct chatlog *base, size_t max_bytes) {
    struct redis_log *log = redis_log(base);
    size_t handed = 0;
    while (!log->is_rereading && log->waiting &&
           (handed == 0 || handed + log->waiting->len <= max_bytes)) {
        struct waiting *waiting = log->waiting;
        DL_DELETE(log->waiting, waiting);
        log->waiting_count--;
        handed += waiting->len;
        if (waiting->number > log->last_heard)
            log->last_heard = waiting->number;
        log->handed = waiting->id;
        log->events->on_entry(log->user, waiting->json, waiting->len, waiting->is_new);
        free(waiting);
    }
    if (!log->waiting)
        log->is_replaying = false;
    if (!log->is_stopped)
        ask(log);
    return log->waiting != NULL && !log->is_rereading;
}

/* ==== life ==================================================================================== */

/* What was missing and was not stored again by now is lost. Our clients have seen what we have read
 * of it, and our history keeps that: the log has forgotten, not we. */
static void count_lost(struct redis_log *log) {
    size_t lost = log->lost_unread;
    log->lost_unread = 0;
    if (log->count_lost_ms != 0 && now_ms(log) >= log->count_lost_ms && !log->is_rereading) {
        size_t missing = seen_take_lost(log->seen), most = (size_t)log->options.log_maxlen;
        lost += missing < most ? missing : most; /* what is older was not in the stream anyway */
        log->count_lost_ms = 0;
    }
    log->metrics->lost_entries.value += lost;
    if (lost > 0)
        log_error(log->name, "entries_lost", log_int("entries", (int64_t)lost));
}

static void on_tick(uv_timer_t *timer) {
    struct redis_log *log = timer->data;
    expire(log);
    count_lost(log);
    if (log->is_holding && log->can_send && log->in_flight == 0 &&
        now_ms(log) >= log->hold_until_ms) {
        log->is_holding = false;
        pump(log);
    }
    if (redis_is_up(log->publish))
        probe(log);
    ask(log);
    tell_lag(log);
}

static bool redis_is_loaded(const struct chatlog *base) {
    const struct redis_log *log = (const struct redis_log *)base;
    return log->is_loaded && !log->is_replaying;
}

static bool redis_is_ready(const struct chatlog *base) {
    const struct redis_log *log = (const struct redis_log *)base;
    return log->is_loaded && log->can_send && !log->is_holding && log->is_following_well &&
           redis_is_up(log->follow) && log->wrote_ms > 0 && now_ms(log) - log->wrote_ms < READY_MS;
}

static bool redis_is_settled(const struct chatlog *base) {
    return !((const struct redis_log *)base)->appends;
}

/* An id in one number; those of one millisecond beyond the millionth are one. */
static uint64_t mark_of(struct stream_id id) {
    const uint64_t most = (1 << MARK_SEQ_BITS) - 1;
    return id.ms << MARK_SEQ_BITS | (id.seq < most ? id.seq : most);
}

uint64_t chatlog_redis_mark(const char *id) {
    struct stream_id stored_as;
    return read_id(id, &stored_as) ? mark_of(stored_as) : 0;
}

static uint64_t redis_mark(const struct chatlog *base) {
    return mark_of(((const struct redis_log *)base)->last_stored_as);
}

/* Of what was read, repeats and what is known are not handed on. */
static bool redis_is_heard(const struct chatlog *base, uint64_t mark) {
    const struct redis_log *log = (const struct redis_log *)base;
    return mark_of(log->waiting ? log->handed : log->cursor) >= mark;
}

static void redis_log_stop(struct chatlog *base) {
    struct redis_log *log = redis_log(base);
    log->is_stopped = true;
    if (redis_is_up(log->publish))
        redis_send_words(log->publish, REPLY_MS, NULL, NULL, "DEL", log->probe_key, NULL);
    redis_stop(log->publish);
    redis_stop(log->follow);
    uv_close((uv_handle_t *)&log->tick, NULL);
    uv_close((uv_handle_t *)&log->read_again, NULL);
}

static void redis_log_free(struct chatlog *base) {
    struct redis_log *log = redis_log(base);
    struct append *append, *next_append;
    struct waiting *waiting, *next_waiting;
    DL_FOREACH_SAFE(log->appends, append, next_append) {
        free(append);
    }
    while (log->recent)
        forget_recent(log);
    DL_FOREACH_SAFE(log->waiting, waiting, next_waiting) {
        free(waiting);
    }
    seen_free(log->seen);
    json_tokener_free(log->tokener);
    redis_free(log->publish);
    redis_free(log->follow);
    free(log);
}

const char *chatlog_redis_nonce(struct chatlog *base) {
    return redis_log(base)->nonce;
}

struct redis *chatlog_redis_publisher(struct chatlog *base) {
    return redis_log(base)->publish;
}

struct chatlog *chatlog_redis_new(const struct chatlog_redis_options *options, uv_loop_t *loop,
                                  const struct chatlog_events *events, void *user) {
    static const struct chatlog_ops ops = {.append = redis_append,
                                           .turn = redis_turn,
                                           .is_loaded = redis_is_loaded,
                                           .is_ready = redis_is_ready,
                                           .is_settled = redis_is_settled,
                                           .mark = redis_mark,
                                           .is_heard = redis_is_heard,
                                           .stop = redis_log_stop,
                                           .free = redis_log_free};
    static const struct redis_events publish_events = {on_publish_up, on_publish_down};
    static const struct redis_events follow_events = {on_follow_up, on_follow_down};
    bool is_players = options->which == CHATLOG_PLAYERS;
    uint64_t nonce = 0;
    struct redis_log *log = calloc(1, sizeof(*log));
    if (!log || getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce)) {
        free(log);
        return NULL;
    }
    log->base.ops = &ops;
    log->options = *options;
    log->loop = loop;
    log->events = events;
    log->user = user;
    log->metrics = &log_metrics[options->which];
    log->name = is_players ? "chatlog" : "minigame_log";
    snprintf(log->nonce, sizeof(log->nonce), "%016" PRIx64, nonce);
    snprintf(log->key, sizeof(log->key), "%s", options->key);
    snprintf(log->probe_key, sizeof(log->probe_key), "%s:probe:%s", options->key, log->nonce);
    snprintf(log->epoch_key, sizeof(log->epoch_key), "%s:epoch", options->key);
    snprintf(log->maxlen, sizeof(log->maxlen), "%d", options->log_maxlen);
    log->is_following_well = true;
    log->read_ms = now_ms(log);
    log->seen = seen_new(SEEN_FACTOR * (size_t)options->log_maxlen);
    /* Without JSON_TOKENER_STRICT: json-c 0.18 then refuses every string that is not ASCII. */
    log->tokener = json_tokener_new();
    log->publish = redis_new(loop, is_players ? "publish" : "minigame_publish", options->url,
                             &publish_events, log);
    log->follow = redis_new(loop, is_players ? "follow" : "minigame_follow", options->url,
                            &follow_events, log);
    if (!log->seen || !log->tokener || !log->publish || !log->follow)
        return NULL; /* the process is about to exit */
    uv_timer_init(loop, &log->tick);
    uv_timer_init(loop, &log->read_again);
    log->tick.data = log->read_again.data = log;
    uv_timer_start(&log->tick, on_tick, TICK_MS, TICK_MS);
    return &log->base;
}
