/*
 * checker.h: did every client receive every message, once, in one order?
 *
 * The frames that clients receive are one common log. Whoever is first to receive a frame appends
 * it; everybody else's bytes are compared with what stands at their own place in it, so a good
 * client costs one memcmp() for all that a read brought. Only where bytes differ is the frame
 * looked into: its text has a marker that names the message, so what is missing, came twice or came
 * late is told exactly.
 *
 * A publisher's messages come in the order in which it sent them. So when the first to receive one
 * has skipped another, that is this client's gap: a hole is left for the skipped one, which those
 * who do receive it fill. (Two messages of different publishers have no order of their own: there,
 * the first client is believed.)
 *
 * Readers are all there before the first message. Pure: time is passed in.
 */
#ifndef HLCHAT_LOAD_CHECKER_H
#define HLCHAT_LOAD_CHECKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/bench/load/histogram.h"

/** Bytes of a marker; no NUL is written. */
enum { CHECKER_MARKER = 18 };

/** One client's place in the log. All zero: at its start. */
struct checker_reader {
    uint32_t _next;     /* the entry it receives next */
    uint32_t *_missing; /* entries it should have had before that one */
    uint32_t _missing_count, _missing_room;
};

struct checker {
    /* What was found so far; `lost` and `undelivered` only after checker_finish(). */
    uint64_t deliveries;
    uint64_t lost;        /* deliveries that did not happen, though others had the message */
    uint64_t duplicates;  /* deliveries of what this client had had already */
    uint64_t reordered;   /* deliveries that came after those of later messages */
    uint64_t altered;     /* deliveries of other bytes than the first client was sent */
    uint64_t undelivered; /* messages that nobody received */
    /* From when a message was due to each delivery, and to its last one; only messages that were
     * due at or after `measured_from_ns`. */
    uint64_t measured_from_ns;
    struct histogram latency, fanout;
    /* Messages sent that not every reader has had yet. */
    uint64_t on_the_way;

    uint32_t _nonce; /* tells the messages of this run from others */
    uint32_t _audience;
    struct checker_message *_messages;
    size_t _message_count, _message_room;
    struct checker_entry *_entries;
    size_t _entry_count, _entry_room;
    uint8_t *_bytes; /* of all entries, as they were received */
    size_t _byte_count, _byte_room;
    uint32_t *_last_of; /* by publisher: its newest message */
};

/** Prepares an empty log; `publishers` numbers from 0. 0 or CHAT_ENOMEM. */
int checker_init(struct checker *checker, uint32_t nonce, uint32_t publishers, uint32_t readers);
void checker_deinit(struct checker *checker);

/** A message of `publisher` that was due at `due_ns` is sent now; writes its marker, which has to
 * stand in its text. 0 or CHAT_ENOMEM. */
int checker_send(struct checker *checker, uint32_t publisher, uint64_t due_ns,
                 char marker[CHECKER_MARKER]);

/** A message was refused: it is no longer on the way. */
void checker_refused(struct checker *checker);

/** Takes as many whole frames from the start of `data` as are what stands next in the log; returns
 * their bytes. What then comes is to be parsed, and given to checker_text(). CHAT_ENOMEM is
 * possible, too. */
int64_t checker_known(struct checker *checker, struct checker_reader *reader, const uint8_t *data,
                      size_t len, uint64_t now_ns);

/** Takes one text frame of `size` bytes whose payload begins at `payload`: 1, or 0 when it is no
 * message of this run, or CHAT_ENOMEM. */
int checker_text(struct checker *checker, struct checker_reader *reader, const uint8_t *frame,
                 size_t size, const uint8_t *payload, uint64_t now_ns);

/** The reader went away: nothing more is expected of it, and what it lacks is not counted. */
void checker_leave(struct checker *checker, struct checker_reader *reader);

/** The run has ended: adds to `lost` what this reader has not had. For each that has not left. */
void checker_end_reader(struct checker *checker, struct checker_reader *reader);

/** After those: counts what nobody has had. */
void checker_finish(struct checker *checker);

#endif
