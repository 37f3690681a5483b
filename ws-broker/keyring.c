#include "ws-broker/keyring.h"

#include <json-c/json.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/settings.h"
#include "shared/status.h"
#include "ws-broker/base64url.h"

enum {
    RSA_BITS_MIN = 2048,
    RSA_BITS_MAX = 8192,
    RSA_EXPONENT_BITS_MAX = 64,
    JWKS_DEPTH_MAX = 8,
};

/* With 1 or an even number nothing is proved, and a long one costs milliseconds for each token. */
static bool is_fit_exponent(const EVP_PKEY *pkey) {
    BIGNUM *e = NULL;
    bool fits = EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_RSA_E, &e) && BN_is_odd(e) &&
                !BN_is_one(e) && BN_num_bits(e) <= RSA_EXPONENT_BITS_MAX;
    BN_free(e);
    return fits;
}

static const char *unfit(const EVP_PKEY *pkey) {
    if (!EVP_PKEY_is_a(pkey, "RSA"))
        return "not an RSA key";
    if (EVP_PKEY_get_bits(pkey) < RSA_BITS_MIN)
        return "an RSA key of less than 2048 bits";
    if (EVP_PKEY_get_bits(pkey) > RSA_BITS_MAX)
        return "an RSA key of more than 8192 bits";
    if (!is_fit_exponent(pkey))
        return "an RSA key with an unusual exponent";
    return NULL;
}

static EVP_PKEY *parse_certificate(const unsigned char *der, long len) {
    X509 *certificate = d2i_X509(NULL, &der, len);
    EVP_PKEY *pkey = certificate ? X509_get_pubkey(certificate) : NULL;
    X509_free(certificate);
    return pkey;
}

/* Takes over the key. NULL: it is in the ring; else why it is not. */
static const char *take(struct keyring *ring, EVP_PKEY *pkey) {
    const char *why = !pkey                             ? "a public key that cannot be read"
                      : ring->count == KEYRING_KEYS_MAX ? "too many keys"
                                                        : unfit(pkey);
    if (why)
        EVP_PKEY_free(pkey);
    else
        ring->keys[ring->count++] = (struct keyring_key){.pkey = pkey};
    return why;
}

static const char *read_pem(struct keyring *ring, BIO *bio) {
    const char *why = NULL;
    char *name, *header;
    unsigned char *der;
    long len;
    size_t count = ring->count;
    bool seen_certificate = false;
    ERR_clear_error();
    while (!why && PEM_read_bio(bio, &name, &header, &der, &len)) {
        const unsigned char *in = der;
        bool is_certificate = strcmp(name, PEM_STRING_X509) == 0;
        if (strcmp(name, PEM_STRING_PUBLIC) == 0)
            why = take(ring, d2i_PUBKEY(NULL, &in, len));
        else if (is_certificate && !seen_certificate)
            why = take(ring, parse_certificate(der, len));
        seen_certificate = seen_certificate || is_certificate;
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_free(der);
    }
    if (!why && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        why = "a PEM block that cannot be read";
    ERR_clear_error();
    return !why && ring->count == count ? "no public key in PEM form" : why;
}

int keyring_add_pem(struct keyring *ring, const char *pem, size_t len,
                    char error[KEYRING_ERROR_MAX]) {
    size_t count = ring->count;
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    const char *why = bio ? read_pem(ring, bio) : "no memory";
    BIO_free(bio);
    if (!why)
        return CHAT_OK;
    snprintf(error, KEYRING_ERROR_MAX, "%s", why);
    while (ring->count > count)
        EVP_PKEY_free(ring->keys[--ring->count].pkey);
    return CHAT_EINVAL;
}

static const char *text_member(const struct json_object *object, const char *key) {
    struct json_object *value = NULL;
    json_object_object_get_ex(object, key, &value);
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static BIGNUM *number_member(const struct json_object *object, const char *key) {
    const char *text = text_member(object, key);
    size_t len = text ? strlen(text) : 0, bytes_len = 0;
    unsigned char *bytes = len > 0 ? malloc(BASE64URL_DECODED_MAX(len)) : NULL;
    BIGNUM *number = NULL;
    if (bytes && base64url_decode(text, len, bytes, &bytes_len) == CHAT_OK)
        number = BN_bin2bn(bytes, (int)bytes_len, NULL);
    free(bytes);
    return number;
}

static EVP_PKEY *rsa_key(BIGNUM *n, BIGNUM *e) {
    EVP_PKEY *pkey = NULL;
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    OSSL_PARAM *params = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    if (builder && context && OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, n) &&
        OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, e))
        params = OSSL_PARAM_BLD_to_param(builder);
    if (params && EVP_PKEY_fromdata_init(context) > 0)
        EVP_PKEY_fromdata(context, &pkey, EVP_PKEY_PUBLIC_KEY, params);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(builder);
    EVP_PKEY_CTX_free(context);
    return pkey;
}

/* Else a key is for another padding (PS256), say, or for encryption (RSA-OAEP). */
static bool is_our_algorithm(const char *alg) {
    for (const char *const *ours = settings_jwt_algorithms; *ours; ours++)
        if (strcmp(alg, *ours) == 0)
            return true;
    return false;
}

/* One key of a set; false: not one for us. */
static bool read_jwk(const struct json_object *jwk, struct keyring_key *key) {
    const char *kty = text_member(jwk, "kty"), *kid = text_member(jwk, "kid");
    const char *use = text_member(jwk, "use"), *alg = text_member(jwk, "alg");
    /* OpenID lets a key go without a kid when it is the only one; null is as good as none. */
    bool is_named = json_object_object_get(jwk, "kid") != NULL;
    bool is_for_another = json_object_object_get(jwk, "alg") && !(alg && is_our_algorithm(alg));
    if (!kty || strcmp(kty, "RSA") != 0 || (use && strcmp(use, "sig") != 0) || is_for_another ||
        (is_named && (!kid || !*kid || strlen(kid) > KEYRING_KID_MAX)))
        return false;
    BIGNUM *n = number_member(jwk, "n"), *e = number_member(jwk, "e");
    *key = (struct keyring_key){.is_from_set = true, .pkey = n && e ? rsa_key(n, e) : NULL};
    BN_free(n);
    BN_free(e);
    if (!key->pkey || unfit(key->pkey)) {
        EVP_PKEY_free(key->pkey);
        return false;
    }
    if (is_named)
        snprintf(key->kid, sizeof(key->kid), "%s", kid);
    return true;
}

static void drop_set(struct keyring *ring) {
    size_t kept = 0;
    for (size_t i = 0; i < ring->count; i++) {
        if (ring->keys[i].is_from_set)
            EVP_PKEY_free(ring->keys[i].pkey);
        else
            ring->keys[kept++] = ring->keys[i];
    }
    ring->count = kept;
}

int keyring_replace_jwks(struct keyring *ring, const char *json, size_t len,
                         char error[KEYRING_ERROR_MAX]) {
    struct keyring fresh = {0};
    struct json_tokener *tokener = json_tokener_new_ex(JWKS_DEPTH_MAX);
    struct json_object *root = tokener ? json_tokener_parse_ex(tokener, json, (int)len) : NULL;
    struct json_object *keys = NULL;
    if (tokener) /* NULL makes it crash */
        json_tokener_free(tokener);
    json_object_object_get_ex(root, "keys", &keys);
    size_t offered =
        json_object_is_type(keys, json_type_array) ? json_object_array_length(keys) : 0;

    size_t room = KEYRING_KEYS_MAX;
    for (size_t i = 0; i < ring->count; i++)
        room -= !ring->keys[i].is_from_set; /* PEM keys stay */
    for (size_t i = 0; i < offered && fresh.count < room; i++)
        if (read_jwk(json_object_array_get_idx(keys, i), &fresh.keys[fresh.count]))
            fresh.count++;
    json_object_put(root);
    if (fresh.count == 0) {
        snprintf(error, KEYRING_ERROR_MAX, "no RSA signing key in the key set");
        return CHAT_EINVAL;
    }
    drop_set(ring);
    memcpy(&ring->keys[ring->count], fresh.keys, fresh.count * sizeof(*fresh.keys));
    ring->count += fresh.count;
    return CHAT_OK;
}

bool keyring_has(const struct keyring *ring, const char *kid) {
    for (size_t i = 0; i < ring->count; i++)
        if (strcmp(ring->keys[i].kid, kid) == 0)
            return true;
    return false;
}

bool keyring_has_set(const struct keyring *ring) {
    for (size_t i = 0; i < ring->count; i++)
        if (ring->keys[i].is_from_set)
            return true;
    return false;
}

void keyring_copy_set(struct keyring *ring, const struct keyring *from) {
    for (size_t i = 0; i < from->count && ring->count < KEYRING_KEYS_MAX; i++) {
        if (!from->keys[i].is_from_set)
            continue;
        EVP_PKEY_up_ref(from->keys[i].pkey);
        ring->keys[ring->count++] = from->keys[i];
    }
}

void keyring_clear(struct keyring *ring) {
    for (size_t i = 0; i < ring->count; i++)
        EVP_PKEY_free(ring->keys[i].pkey);
    ring->count = 0;
}
