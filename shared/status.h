/*
 * status.h: the one error convention of hlchat.
 *
 * A function that can fail returns 0 (or a count) when it worked and one of these negative codes
 * when it did not; a constructor returns NULL only when memory ran out; bool answers questions
 * only. The codes are grouped by whose fault it is, because that decides what happens next.
 */
#ifndef HLCHAT_STATUS_H
#define HLCHAT_STATUS_H

enum chat_status {
    CHAT_OK = 0,
    /* The caller's or the peer's fault: it gets an error, the others notice nothing. */
    CHAT_EINVAL = -1, /* malformed or out of range */
    CHAT_ERANGE = -2, /* larger than a ceiling */
    /* Ours or a dependency's: worth another try later. */
    CHAT_EBUSY = -3,        /* a bounded queue is full */
    CHAT_EUNAVAILABLE = -4, /* a part we need is down */
    CHAT_EUNCERTAIN = -5,   /* sent, and the answer never came */
    CHAT_ENOMEM = -6,
    CHAT_ESYS = -7, /* a system call failed; errno says which way */
};

/** A short constant text for logs, never NULL: "invalid", "too large", "unavailable"... */
const char *chat_status_text(int status);

#endif
