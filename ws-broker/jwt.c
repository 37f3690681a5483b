#include "ws-broker/jwt.h"

#include <json-c/json.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/status.h"
#include "ws-broker/base64url.h"
#include "ws-broker/utf8.h"

enum { DEPTH_MAX = 8 };

/* A token's three parts, as they stand in it. */
struct parts {
    const char *header, *payload, *signature;
    size_t header_len, payload_len, signature_len;
};

static bool split(const char *token, size_t len, struct parts *parts) {
    const char *end = token + len;
    const char *first = memchr(token, '.', len);
    const char *second = first ? memchr(first + 1, '.', (size_t)(end - first - 1)) : NULL;
    if (!second || memchr(second + 1, '.', (size_t)(end - second - 1)))
        return false;
    *parts = (struct parts){.header = token,
                            .header_len = (size_t)(first - token),
                            .payload = first + 1,
                            .payload_len = (size_t)(second - first - 1),
                            .signature = second + 1,
                            .signature_len = (size_t)(end - second - 1)};
    return parts->header_len > 0 && parts->payload_len > 0 && parts->signature_len > 0;
}

/* A part that is a JSON object; NULL: it is not. */
static struct json_object *decode_object(const char *text, size_t len) {
    unsigned char bytes[BASE64URL_DECODED_MAX(JWT_MAX)];
    size_t bytes_len = 0;
    if (base64url_decode(text, len, bytes, &bytes_len) != CHAT_OK ||
        !utf8_is_valid((const char *)bytes, bytes_len))
        return NULL;
    struct json_tokener *tokener = json_tokener_new_ex(DEPTH_MAX);
    if (!tokener)
        return NULL;
    struct json_object *object =
        json_tokener_parse_ex(tokener, (const char *)bytes, (int)bytes_len);
    if (json_tokener_get_error(tokener) != json_tokener_success ||
        json_tokener_get_parse_end(tokener) != bytes_len ||
        !json_object_is_type(object, json_type_object)) {
        json_object_put(object);
        object = NULL;
    }
    json_tokener_free(tokener);
    return object;
}

/* A string member without NUL inside; NULL: absent or something else. */
static const char *text_member(const struct json_object *object, const char *key) {
    struct json_object *value = NULL;
    json_object_object_get_ex(object, key, &value);
    if (!json_object_is_type(value, json_type_string))
        return NULL;
    const char *text = json_object_get_string(value);
    return strlen(text) == (size_t)json_object_get_string_len(value) ? text : NULL;
}

static bool has_member(const struct json_object *object, const char *key) {
    return json_object_object_get_ex(object, key, NULL);
}

/* A NumericDate; false: absent, not a number, or no time that could be meant. */
static bool time_member(const struct json_object *object, const char *key, int64_t *out) {
    struct json_object *value = NULL;
    json_object_object_get_ex(object, key, &value);
    if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double))
        return false;
    double seconds = json_object_get_double(value);
    if (!(seconds >= 0 && seconds <= 1e15)) /* NaN too */
        return false;
    *out = (int64_t)seconds;
    return true;
}

static bool is_text(struct json_object *value, const char *expected) {
    return json_object_is_type(value, json_type_string) &&
           (size_t)json_object_get_string_len(value) == strlen(expected) &&
           strcmp(json_object_get_string(value), expected) == 0;
}

static bool has_audience(const struct json_object *payload, const char *audience) {
    struct json_object *aud = NULL;
    json_object_object_get_ex(payload, "aud", &aud);
    if (!json_object_is_type(aud, json_type_array))
        return is_text(aud, audience);
    for (size_t i = 0; i < json_object_array_length(aud); i++)
        if (is_text(json_object_array_get_idx(aud, i), audience))
            return true;
    return false;
}

static const char *check_claims(const struct json_object *payload, const struct jwt_policy *policy,
                                int64_t now_s, struct jwt_claims *claims) {
    int64_t not_before = 0;
    if (!time_member(payload, "exp", &claims->expires_at))
        return "exp is missing or no time";
    if (now_s >= claims->expires_at + JWT_LEEWAY_S)
        return "expired";
    if (has_member(payload, "nbf") &&
        (!time_member(payload, "nbf", &not_before) || now_s + JWT_LEEWAY_S < not_before))
        return "not valid yet";
    if (!has_audience(payload, policy->audience))
        return "for another audience";
    const char *issuer = text_member(payload, "iss");
    if (policy->issuer && (!issuer || strcmp(issuer, policy->issuer) != 0))
        return "from another issuer";

    const char *sub = text_member(payload, "sub");
    if (!sub || !*sub || strlen(sub) > IDENTITY_ID_MAX)
        return "sub is not a string of 1 to 128 bytes";
    /* The payload is UTF-8, and json-c makes U+FFFD of an escaped lone surrogate; a later one may
     * not. */
    if (!utf8_is_printable(sub, strlen(sub)))
        return "sub has control characters, or is not UTF-8";
    const char *nickname = text_member(payload, policy->nickname_claim);
    if (!nickname || !*nickname || strlen(nickname) > IDENTITY_NICKNAME_MAX ||
        !utf8_is_printable(nickname, strlen(nickname)))
        nickname = sub;
    snprintf(claims->sub, sizeof(claims->sub), "%s", sub);
    snprintf(claims->nickname, sizeof(claims->nickname), "%s", nickname);
    return NULL;
}

static const EVP_MD *digest_of(const char *algorithm) {
    return strcmp(algorithm, "RS512") == 0   ? EVP_sha512()
           : strcmp(algorithm, "RS384") == 0 ? EVP_sha384()
                                             : EVP_sha256();
}

static bool is_signed_by(EVP_PKEY *pkey, const EVP_MD *digest, const struct parts *parts,
                         const unsigned char *signature, size_t signature_len) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    size_t signed_len = parts->header_len + 1 + parts->payload_len;
    bool ok = context && EVP_DigestVerifyInit(context, NULL, digest, NULL, pkey) == 1 &&
              EVP_DigestVerify(context, signature, signature_len,
                               (const unsigned char *)parts->header, signed_len) == 1;
    EVP_MD_CTX_free(context);
    if (!ok)
        ERR_clear_error(); /* whoever looks next, TLS say, would take it for its own */
    return ok;
}

/* Tries the key that the token names; when it names a stranger, those that have no name; when it
 * names none, each. */
static enum jwt_result check_signature(const struct keyring *ring, const struct jwt_policy *policy,
                                       const struct parts *parts, const char *kid) {
    unsigned char signature[BASE64URL_DECODED_MAX(JWT_MAX)];
    size_t signature_len = 0;
    if (base64url_decode(parts->signature, parts->signature_len, signature, &signature_len) !=
        CHAT_OK)
        return JWT_INVALID;
    bool is_known = kid && keyring_has(ring, kid);
    const char *wanted = is_known ? kid : "";
    for (size_t i = 0; i < ring->count; i++)
        if ((!kid || strcmp(ring->keys[i].kid, wanted) == 0) &&
            is_signed_by(ring->keys[i].pkey, digest_of(policy->algorithm), parts, signature,
                         signature_len))
            return JWT_VALID;
    /* Without a name, too, it may be signed by a key that has come into the set since. */
    return (kid && !is_known) || (!kid && keyring_has_set(ring)) ? JWT_UNKNOWN_KEY : JWT_INVALID;
}

static enum jwt_result check_header(const struct keyring *ring, const struct jwt_policy *policy,
                                    const struct parts *parts, const char **why) {
    enum jwt_result result = JWT_INVALID;
    struct json_object *header = decode_object(parts->header, parts->header_len);
    const char *algorithm = text_member(header, "alg"), *kid = text_member(header, "kid");
    if (!header)
        *why = "the header is not a JSON object";
    else if (!algorithm || strcmp(algorithm, policy->algorithm) != 0)
        *why = "another algorithm";
    else if (has_member(header, "crit"))
        *why = "critical extensions";
    else if (has_member(header, "kid") && (!kid || !*kid || strlen(kid) > KEYRING_KID_MAX))
        *why = "kid is not a string of 1 to 128 bytes";
    else if ((result = check_signature(ring, policy, parts, kid)) != JWT_VALID)
        *why = result == JWT_UNKNOWN_KEY ? "signed by an unknown key" : "the signature is wrong";
    json_object_put(header);
    return result;
}

enum jwt_result jwt_verify(const struct keyring *ring, const struct jwt_policy *policy,
                           const char *token, size_t len, int64_t now_s, struct jwt_claims *claims,
                           const char **why) {
    struct parts parts;
    *why = NULL;
    if (len > JWT_MAX || !split(token, len, &parts)) {
        *why = "not three parts of base64url";
        return JWT_INVALID;
    }
    enum jwt_result result = check_header(ring, policy, &parts, why);
    if (result != JWT_VALID)
        return result;
    struct json_object *payload = decode_object(parts.payload, parts.payload_len);
    *why =
        payload ? check_claims(payload, policy, now_s, claims) : "the payload is not a JSON object";
    json_object_put(payload);
    return *why ? JWT_INVALID : JWT_VALID;
}
