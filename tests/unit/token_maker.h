/* token_maker.h: keys, key sets and tokens for the tests and the benchmark, made by OpenSSL. What
 * is returned is malloc'ed. Whatever fails here ends the program. */
#ifndef HLCHAT_TOKEN_MAKER_H
#define HLCHAT_TOKEN_MAKER_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

static inline void must(int worked) {
    if (!worked)
        abort();
}

static inline char *text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline char *text_of(const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    must(vasprintf(&text, format, args) >= 0);
    va_end(args);
    return text;
}

/** base64url without padding, by OpenSSL's encoder. */
static inline char *encode(const void *bytes, size_t len) {
    char *text = malloc(len / 3 * 4 + 5);
    must(text != NULL);
    EVP_EncodeBlock((unsigned char *)text, bytes, (int)len);
    text[strcspn(text, "=")] = '\0';
    for (char *c = text; *c; c++)
        *c = *c == '+' ? '-' : *c == '/' ? '_' : *c;
    return text;
}

static inline EVP_PKEY *make_key(unsigned bits) {
    EVP_PKEY *key = EVP_RSA_gen(bits);
    must(key != NULL);
    return key;
}

/** A public key of exactly `bits` whose private half nobody has: only its size matters. */
static inline EVP_PKEY *make_public_key(int bits) {
    EVP_PKEY *key = NULL;
    BIGNUM *n = BN_new(), *e = BN_new();
    must(n && e && BN_set_bit(n, bits - 1) && BN_set_bit(n, 0) && BN_set_word(e, RSA_F4));
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    must(builder && OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, n) &&
         OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, e));
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(builder);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    must(params && context && EVP_PKEY_fromdata_init(context) > 0 &&
         EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) > 0);
    EVP_PKEY_CTX_free(context);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(builder);
    BN_free(n);
    BN_free(e);
    return key;
}

static inline char *text_of_bio(BIO *bio) {
    char *bytes = NULL;
    long len = BIO_get_mem_data(bio, &bytes);
    char *text = text_of("%.*s", (int)len, bytes);
    BIO_free(bio);
    return text;
}

/** The public key in PEM form. */
static inline char *pem_of(EVP_PKEY *key) {
    BIO *bio = BIO_new(BIO_s_mem());
    must(bio && PEM_write_bio_PUBKEY(bio, key));
    return text_of_bio(bio);
}

static inline char *encoded_number(const EVP_PKEY *key, const char *name) {
    BIGNUM *number = NULL;
    must(EVP_PKEY_get_bn_param(key, name, &number));
    size_t len = (size_t)BN_num_bytes(number);
    unsigned char *bytes = malloc(len);
    must(bytes && BN_bn2bin(number, bytes) == (int)len);
    char *text = encode(bytes, len);
    BN_free(number);
    free(bytes);
    return text;
}

/** One member of a key set's "keys"; NULL `kid`: without. */
static inline char *jwk_of(const EVP_PKEY *key, const char *kid) {
    char *n = encoded_number(key, OSSL_PKEY_PARAM_RSA_N);
    char *e = encoded_number(key, OSSL_PKEY_PARAM_RSA_E);
    char *name = kid ? text_of("\"kid\":\"%s\",", kid) : text_of("%s", "");
    char *jwk = text_of("{\"kty\":\"RSA\",\"use\":\"sig\",\"alg\":\"RS256\",%s"
                        "\"n\":\"%s\",\"e\":\"%s\"}",
                        name, n, e);
    free(name);
    free(n);
    free(e);
    return jwk;
}

/** A key set of one key. */
static inline char *jwks_of(const EVP_PKEY *key, const char *kid) {
    char *jwk = jwk_of(key, kid);
    char *jwks = text_of("{\"keys\":[%s]}", jwk);
    free(jwk);
    return jwks;
}

/** The token of these two parts, whatever they hold; NULL `md`: SHA-256. */
static inline char *sign_parts(EVP_PKEY *key, const EVP_MD *md, const char *header,
                               const char *payload) {
    unsigned char signature[1024];
    size_t signature_len = sizeof(signature);
    char *text = text_of("%s.%s", header, payload);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    must(context && EVP_DigestSignInit(context, NULL, md ? md : EVP_sha256(), NULL, key) == 1 &&
         EVP_DigestSign(context, signature, &signature_len, (unsigned char *)text, strlen(text)) ==
             1);
    EVP_MD_CTX_free(context);
    char *encoded = encode(signature, signature_len);
    char *token = text_of("%s.%s", text, encoded);
    free(encoded);
    free(text);
    return token;
}

/** The token of a header and a payload in JSON. */
static inline char *sign_token(EVP_PKEY *key, const EVP_MD *md, const char *header,
                               const char *payload) {
    char *head = encode(header, strlen(header)), *body = encode(payload, strlen(payload));
    char *token = sign_parts(key, md, head, body);
    free(head);
    free(body);
    return token;
}

#endif
