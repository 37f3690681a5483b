#include "ws-broker/keyring.h"

#include <json-c/json.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/status.h"
#include "ws-broker/base64url.h"

enum { RSA_BITS_MIN = 2048, RSA_BITS_MAX = 8192, JWKS_DEPTH_MAX = 8 };

static const char *unfit(const EVP_PKEY *pkey) {
    if (!EVP_PKEY_is_a(pkey, "RSA"))
        return "not an RSA key";
    if (EVP_PKEY_get_bits(pkey) < RSA_BITS_MIN)
        return "an RSA key of less than 2048 bits";
    if (EVP_PKEY_get_bits(pkey) > RSA_BITS_MAX)
        return "an RSA key of more than 8192 bits";
    return NULL;
}

static EVP_PKEY *read_pem(BIO *bio) {
    EVP_PKEY *pkey = PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
    if (pkey)
        return pkey;
    BIO_reset(bio);
    X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    pkey = certificate ? X509_get_pubkey(certificate) : NULL;
    X509_free(certificate);
    return pkey;
}

int keyring_add_pem(struct keyring *ring, const char *pem, size_t len,
                    char error[KEYRING_ERROR_MAX]) {
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    EVP_PKEY *pkey = bio ? read_pem(bio) : NULL;
    BIO_free(bio);
    const char *why = !pkey                             ? "no public key in PEM form"
                      : ring->count == KEYRING_KEYS_MAX ? "too many keys"
                                                        : unfit(pkey);
    if (why) {
        snprintf(error, KEYRING_ERROR_MAX, "%s", why);
        EVP_PKEY_free(pkey);
        return CHAT_EINVAL;
    }
    ring->keys[ring->count++] = (struct keyring_key){.pkey = pkey};
    return CHAT_OK;
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

/* One key of a set; false: not one for us. */
static bool read_jwk(const struct json_object *jwk, struct keyring_key *key) {
    const char *kty = text_member(jwk, "kty"), *kid = text_member(jwk, "kid");
    const char *use = text_member(jwk, "use");
    if (!kty || strcmp(kty, "RSA") != 0 || !kid || !*kid || strlen(kid) > KEYRING_KID_MAX ||
        (use && strcmp(use, "sig") != 0))
        return false;
    BIGNUM *n = number_member(jwk, "n"), *e = number_member(jwk, "e");
    *key = (struct keyring_key){.pkey = n && e ? rsa_key(n, e) : NULL};
    BN_free(n);
    BN_free(e);
    if (!key->pkey || unfit(key->pkey)) {
        EVP_PKEY_free(key->pkey);
        return false;
    }
    snprintf(key->kid, sizeof(key->kid), "%s", kid);
    return true;
}

static void drop_named(struct keyring *ring) {
    size_t kept = 0;
    for (size_t i = 0; i < ring->count; i++) {
        if (ring->keys[i].kid[0])
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
    json_tokener_free(tokener);
    json_object_object_get_ex(root, "keys", &keys);
    size_t offered =
        json_object_is_type(keys, json_type_array) ? json_object_array_length(keys) : 0;

    size_t room = KEYRING_KEYS_MAX;
    for (size_t i = 0; i < ring->count; i++)
        room -= ring->keys[i].kid[0] == '\0'; /* PEM keys stay */
    for (size_t i = 0; i < offered && fresh.count < room; i++)
        if (read_jwk(json_object_array_get_idx(keys, i), &fresh.keys[fresh.count]))
            fresh.count++;
    json_object_put(root);
    if (fresh.count == 0) {
        snprintf(error, KEYRING_ERROR_MAX, "no RSA signing key with a kid in the key set");
        return CHAT_EINVAL;
    }
    drop_named(ring);
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

void keyring_clear(struct keyring *ring) {
    for (size_t i = 0; i < ring->count; i++)
        EVP_PKEY_free(ring->keys[i].pkey);
    ring->count = 0;
}
