/*
 * keyring.h: the public keys that tokens may be signed with.
 *
 * Keys come from PEM files, without a name, or from a JSON Web Key Set (RFC 7517), each with its
 * `kid`, if it has one. Only RSA of 2048 bits and more. Keys are parsed once. No I/O; loop thread
 * only.
 */
#ifndef HLCHAT_KEYRING_H
#define HLCHAT_KEYRING_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/evp.h>

enum { KEYRING_KEYS_MAX = 64, KEYRING_KID_MAX = 128, KEYRING_ERROR_MAX = 128 };

struct keyring_key {
    char kid[KEYRING_KID_MAX + 1]; /* "": it has no name */
    bool is_from_set;              /* else from a PEM file */
    EVP_PKEY *pkey;
};

/** Zero it to initialise. */
struct keyring {
    struct keyring_key keys[KEYRING_KEYS_MAX];
    size_t count;
};

/** Adds the public keys of a PEM text and that of its first certificate (those behind it are its
 * issuers', who sign no tokens). CHAT_OK, or CHAT_EINVAL with a text in `error`; then none is
 * added. */
int keyring_add_pem(struct keyring *ring, const char *pem, size_t len,
                    char error[KEYRING_ERROR_MAX]);

/**
 * Takes the keys of a key set in place of those of the last one; keys it has no use for (another
 * kty, `use` other than sig, `alg` other than RS256, RS384 or RS512, an unfit kid, too small) are
 * left out. CHAT_EINVAL: not a key set, or none left; then nothing is changed.
 */
int keyring_replace_jwks(struct keyring *ring, const char *json, size_t len,
                         char error[KEYRING_ERROR_MAX]);

/** Adds the keys that `from` has from a key set, as far as there is room. */
void keyring_copy_set(struct keyring *ring, const struct keyring *from);

/** Whether a named key is there. */
bool keyring_has(const struct keyring *ring, const char *kid);

/** Whether any key is from a key set. */
bool keyring_has_set(const struct keyring *ring);

void keyring_clear(struct keyring *ring);

#endif
