/* jwt.h: which tokens are valid, and that all others are refused for the reason that was meant.
 * Tokens are signed here; the time is NOW. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include <openssl/err.h>
#include <openssl/hmac.h>

#include "shared/status.h"
#include "tests/unit/token_maker.h"
#include "ws-broker/jwt.h"
#include "ws-broker/utf8.h"

enum { NOW = 1700000000 };

#define RS256 "{\"alg\":\"RS256\"}"
/* A payload that is valid, with more members behind. */
#define PAYLOAD(more) "{\"sub\":\"HL1\",\"aud\":\"game\",\"exp\":1700000060" more "}"
/* The same without one of them. */
#define WITHOUT_EXP(more) "{\"sub\":\"HL1\",\"aud\":\"game\"" more "}"
#define WITHOUT_AUD(more) "{\"sub\":\"HL1\",\"exp\":1700000060" more "}"
#define WITHOUT_SUB(more) "{\"aud\":\"game\",\"exp\":1700000060" more "}"

#define TEXT_16  "0123456789abcdef"
#define TEXT_128 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16 TEXT_16

static EVP_PKEY *key, *other_key, *third_key;
static struct keyring ring;  /* key, unnamed */
static struct keyring named; /* key as "a", other_key as "b" */
static struct keyring mixed; /* key unnamed, other_key as "b" */
static struct keyring set;   /* of one unnamed key: key */
static const struct keyring empty;

static const struct jwt_policy policy = {
    .algorithm = "RS256", .audience = "game", .nickname_claim = "nickname"};

static void add_pem(struct keyring *to, EVP_PKEY *pkey) {
    char error[KEYRING_ERROR_MAX], *pem = pem_of(pkey);
    assert_int_equal(keyring_add_pem(to, pem, strlen(pem), error), CHAT_OK);
    free(pem);
}

static void add_jwks(struct keyring *to, const char *jwks) {
    char error[KEYRING_ERROR_MAX];
    assert_int_equal(keyring_replace_jwks(to, jwks, strlen(jwks), error), CHAT_OK);
}

static int make_rings(void **state) {
    (void)state;
    key = make_key(2048);
    other_key = make_key(2048);
    third_key = make_key(2048);
    char *a = jwk_of(key, "a"), *b = jwk_of(other_key, "b");
    char *both = text_of("{\"keys\":[%s,%s]}", a, b), *only_b = text_of("{\"keys\":[%s]}", b);
    char *unnamed = jwks_of(key, NULL);
    add_pem(&ring, key);
    add_pem(&mixed, key);
    add_jwks(&named, both);
    add_jwks(&mixed, only_b);
    add_jwks(&set, unnamed);
    free(unnamed);
    free(a);
    free(b);
    free(both);
    free(only_b);
    return 0;
}

static int free_rings(void **state) {
    (void)state;
    keyring_clear(&ring);
    keyring_clear(&named);
    keyring_clear(&mixed);
    keyring_clear(&set);
    EVP_PKEY_free(key);
    EVP_PKEY_free(other_key);
    EVP_PKEY_free(third_key);
    return 0;
}

/* ---- words of the tests ---- */

/* From a block of just the right size, so that the sanitizer sees a step too far. */
static enum jwt_result verify_bytes(const struct keyring *keys, const struct jwt_policy *by,
                                    const char *token, size_t len, struct jwt_claims *claims,
                                    const char **why) {
    char *block = malloc(len ? len : 1);
    assert_non_null(block);
    memcpy(block, token, len);
    memset(claims, 0xee, sizeof(*claims));
    *why = "untouched";
    enum jwt_result result = jwt_verify(keys, by, block, len, NOW, claims, why);
    if (result == JWT_VALID) {
        assert_true(memchr(claims->sub, '\0', sizeof(claims->sub)) && *claims->sub);
        assert_true(memchr(claims->nickname, '\0', sizeof(claims->nickname)) && *claims->nickname);
        assert_true(claims->expires_at > 0);
    } else {
        assert_non_null(*why);
        assert_string_not_equal(*why, "untouched");
        assert_string_not_equal(*why, "");
    }
    free(block);
    return result;
}

static enum jwt_result verify(const struct keyring *keys, const char *token) {
    struct jwt_claims claims;
    const char *why;
    return verify_bytes(keys, &policy, token, strlen(token), &claims, &why);
}

static enum jwt_result verify_signed(const struct keyring *keys, EVP_PKEY *signer,
                                     const char *header, const char *payload) {
    char *token = sign_token(signer, NULL, header, payload);
    enum jwt_result result = verify(keys, token);
    free(token);
    return result;
}

static struct jwt_claims claims_of(const char *payload) {
    struct jwt_claims claims;
    const char *why;
    char *token = sign_token(key, NULL, RS256, payload);
    if (verify_bytes(&ring, &policy, token, strlen(token), &claims, &why) != JWT_VALID)
        fail_msg("%s: %s", why, payload);
    free(token);
    return claims;
}

/* ---- claims ---- */

static void test_claims(void **state) {
    struct jwt_claims claims = claims_of(PAYLOAD(",\"nickname\":\"Žofie 🎮\",\"more\":[{}]"));
    (void)state;
    assert_string_equal(claims.sub, "HL1");
    assert_string_equal(claims.nickname, "Žofie 🎮");
    assert_int_equal(claims.expires_at, 1700000060);
}

static const struct {
    const char *payload;
    bool valid;
} payloads[] = {
    {PAYLOAD(""), true},
    /* exp, with 30 s of leeway */
    {WITHOUT_EXP(",\"exp\":1700000000"), true},
    {WITHOUT_EXP(",\"exp\":1699999999"), true},
    {WITHOUT_EXP(",\"exp\":1699999971"), true},
    {WITHOUT_EXP(",\"exp\":1699999970"), false},
    {WITHOUT_EXP(",\"exp\":1699999969"), false},
    {WITHOUT_EXP(",\"exp\":1700000060.5"), true},
    {WITHOUT_EXP(",\"exp\":1.70000006e9"), true},
    {WITHOUT_EXP(",\"exp\":4102444800"), true},
    {WITHOUT_EXP(""), false},
    {WITHOUT_EXP(",\"exp\":0"), false},
    {WITHOUT_EXP(",\"exp\":-1"), false},
    {WITHOUT_EXP(",\"exp\":-1700000060"), false},
    {WITHOUT_EXP(",\"exp\":\"1700000060\""), false},
    {WITHOUT_EXP(",\"exp\":null"), false},
    {WITHOUT_EXP(",\"exp\":true"), false},
    {WITHOUT_EXP(",\"exp\":[1700000060]"), false},
    {WITHOUT_EXP(",\"exp\":{}"), false},
    {WITHOUT_EXP(",\"exp\":1e400"), false},
    {WITHOUT_EXP(",\"exp\":1e300"), false},
    {WITHOUT_EXP(",\"exp\":99999999999999999999"), false},
    {WITHOUT_EXP(",\"exp\":9223372036854775807"), false},
    {WITHOUT_EXP(",\"exp\":NaN"), false},
    {WITHOUT_EXP(",\"exp\":Infinity"), false},
    {WITHOUT_EXP(",\"EXP\":1700000060"), false},
    /* nbf, likewise, and only when it is there */
    {PAYLOAD(",\"nbf\":1700000000"), true},
    {PAYLOAD(",\"nbf\":1700000030"), true},
    {PAYLOAD(",\"nbf\":1700000031"), false},
    {PAYLOAD(",\"nbf\":0"), true},
    {PAYLOAD(",\"nbf\":-1"), false},
    {PAYLOAD(",\"nbf\":\"1700000000\""), false},
    {PAYLOAD(",\"nbf\":null"), false},
    {PAYLOAD(",\"nbf\":1e400"), false},
    {PAYLOAD(",\"iat\":1700000000"), true},
    /* aud */
    {WITHOUT_AUD(",\"aud\":[\"game\"]"), true},
    {WITHOUT_AUD(",\"aud\":[\"shop\",\"game\"]"), true},
    {WITHOUT_AUD(",\"aud\":[1,null,{},[\"x\"],\"game\"]"), true},
    {WITHOUT_AUD(""), false},
    {WITHOUT_AUD(",\"aud\":\"shop\""), false},
    {WITHOUT_AUD(",\"aud\":\"Game\""), false},
    {WITHOUT_AUD(",\"aud\":\"game \""), false},
    {WITHOUT_AUD(",\"aud\":\"gam\""), false},
    {WITHOUT_AUD(",\"aud\":\"game\\u0000\""), false},
    {WITHOUT_AUD(",\"aud\":\"\""), false},
    {WITHOUT_AUD(",\"aud\":[]"), false},
    {WITHOUT_AUD(",\"aud\":[\"shop\"]"), false},
    {WITHOUT_AUD(",\"aud\":[[\"game\"]]"), false},
    {WITHOUT_AUD(",\"aud\":{\"game\":1}"), false},
    {WITHOUT_AUD(",\"aud\":null"), false},
    {WITHOUT_AUD(",\"aud\":1"), false},
    /* sub */
    {WITHOUT_SUB(",\"sub\":\"" TEXT_128 "\""), true},
    {WITHOUT_SUB(",\"sub\":\"\\u017dofie\""), true},
    {WITHOUT_SUB(""), false},
    {WITHOUT_SUB(",\"sub\":\"\""), false},
    {WITHOUT_SUB(",\"sub\":\"" TEXT_128 "x\""), false},
    {WITHOUT_SUB(",\"sub\":\"HL1\\u0000\""), false},
    {WITHOUT_SUB(",\"sub\":\"\\u0000HL1\""), false},
    {WITHOUT_SUB(",\"sub\":\"HL1\\n\""), false},
    {WITHOUT_SUB(",\"sub\":\"\\u001b[2J\""), false},
    {WITHOUT_SUB(",\"sub\":\"HL1\\u007f\""), false},
    {WITHOUT_SUB(",\"sub\":1"), false},
    {WITHOUT_SUB(",\"sub\":null"), false},
    {WITHOUT_SUB(",\"sub\":[\"HL1\"]"), false},
    {WITHOUT_SUB(",\"sub\":\"\xff\""), false},
    {WITHOUT_SUB(",\"sub\":\"\xc0\x80\""), false},
    {WITHOUT_SUB(",\"sub\":\"\xed\xa0\x80\""), false},
    /* all of it */
    {"", false},
    {" ", false},
    {"null", false},
    {"[]", false},
    {"[" PAYLOAD("") "]", false},
    {"\"text\"", false},
    {"{", false},
    {"{}", false},
    {PAYLOAD("") "x", false},
    {PAYLOAD("") PAYLOAD(""), false},
    {PAYLOAD(",\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"), false},
    {PAYLOAD(",\"x\":[[[[[{\"y\":1}]]]]]"), true},
    {PAYLOAD(",\"x\":\"\xff\""), false},
};

static void test_payloads(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(payloads) / sizeof(*payloads); i++) {
        enum jwt_result want = payloads[i].valid ? JWT_VALID : JWT_INVALID;
        if (verify_signed(&ring, key, RS256, payloads[i].payload) != want)
            fail_msg("%s: %s", payloads[i].valid ? "refused" : "accepted", payloads[i].payload);
    }
}

/* A payload cannot hold a NUL between its members. */
static void test_payload_with_nul(void **state) {
    static const char payload[] = PAYLOAD("") "\0{}";
    char *head = encode(RS256, strlen(RS256)), *body = encode(payload, sizeof(payload) - 1);
    char *token = sign_parts(key, NULL, head, body);
    (void)state;
    assert_int_equal(verify(&ring, token), JWT_INVALID);
    free(token);
    free(head);
    free(body);
}

static void test_issuer(void **state) {
    static const struct {
        const char *more;
        bool valid;
    } rows[] = {
        {",\"iss\":\"https://id.example\"", true},
        {"", false},
        {",\"iss\":\"https://id.example/\"", false},
        {",\"iss\":\"https://id.exampl\"", false},
        {",\"iss\":\"https://id.example\\u0000\"", false},
        {",\"iss\":[\"https://id.example\"]", false},
        {",\"iss\":null", false},
    };
    struct jwt_policy strict = policy;
    (void)state;
    strict.issuer = "https://id.example";
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct jwt_claims claims;
        const char *why;
        char *payload =
            text_of("{\"sub\":\"HL1\",\"aud\":\"game\",\"exp\":1700000060%s}", rows[i].more);
        char *token = sign_token(key, NULL, RS256, payload);
        enum jwt_result result = verify_bytes(&ring, &strict, token, strlen(token), &claims, &why);
        if ((result == JWT_VALID) != rows[i].valid)
            fail_msg("iss, row %zu", i);
        if (verify(&ring, token) != JWT_VALID)
            fail_msg("any issuer, row %zu", i);
        free(token);
        free(payload);
    }
}

static void test_nicknames(void **state) {
    static const struct {
        const char *more, *nickname;
    } rows[] = {
        {"", "HL1"},
        {",\"nickname\":\"Hero\"", "Hero"},
        {",\"nickname\":\"Great Heavenland Hero\"", "Great Heavenland Hero"},
        {",\"nickname\":\"" TEXT_128 "\"", TEXT_128},
        {",\"nickname\":\"\\ud83c\\udfae\"", "🎮"},
        {",\"nickname\":\"\"", "HL1"},
        {",\"nickname\":null", "HL1"},
        {",\"nickname\":7", "HL1"},
        {",\"nickname\":[\"Hero\"]", "HL1"},
        {",\"nickname\":\"" TEXT_128 "x\"", "HL1"},
        {",\"nickname\":\"He\\u0000ro\"", "HL1"},
        {",\"nickname\":\"He\\nro\"", "HL1"}, /* control characters, as from the account service */
        {",\"nickname\":\"\\u001b[2J\"", "HL1"},
        {",\"nickname\":\"Hero\\u007f\"", "HL1"},
        {",\"name\":\"Hero\"", "HL1"},
        {",\"Nickname\":\"Hero\"", "HL1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char *payload =
            text_of("{\"sub\":\"HL1\",\"aud\":\"game\",\"exp\":1700000060%s}", rows[i].more);
        assert_string_equal(claims_of(payload).nickname, rows[i].nickname);
        free(payload);
    }
}

static void test_nickname_claim(void **state) {
    struct jwt_policy other = policy;
    struct jwt_claims claims;
    const char *why;
    char *token = sign_token(key, NULL, RS256,
                             PAYLOAD(",\"nickname\":\"Hero\",\"preferred_username\":\"ann\""));
    (void)state;
    other.nickname_claim = "preferred_username";
    assert_int_equal(verify_bytes(&ring, &other, token, strlen(token), &claims, &why), JWT_VALID);
    assert_string_equal(claims.nickname, "ann");
    free(token);
}

/* Half a surrogate pair: the JSON library puts U+FFFD in its place. Whatever it does, what comes
 * out is UTF-8. */
static void test_lone_surrogates(void **state) {
    static const char *const texts[] = {"\\ud800", "x\\udc00y", "\\ud800\\ud800", "\\udc00\\ud800",
                                        "\\ud83c", "\\ud83cx",  "\\ud83c\\n",     "\\uD83C\\u0041"};
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        char *payload = text_of("{\"sub\":\"%s\",\"nickname\":\"%s\",\"aud\":\"game\","
                                "\"exp\":1700000060}",
                                texts[i], texts[i]);
        char *token = sign_token(key, NULL, RS256, payload);
        struct jwt_claims claims;
        const char *why;
        if (verify_bytes(&ring, &policy, token, strlen(token), &claims, &why) == JWT_VALID) {
            assert_true(utf8_is_valid(claims.sub, strlen(claims.sub)));
            assert_true(utf8_is_valid(claims.nickname, strlen(claims.nickname)));
        }
        free(token);
        free(payload);
    }
}

/* ---- header, algorithms and keys ---- */

static const struct {
    const char *header;
    bool valid;
} headers[] = {
    {RS256, true},
    {"{\"typ\":\"JWT\",\"alg\":\"RS256\",\"x\":{}}", true},
    {"{\"typ\":\"at+jwt\",\"alg\":\"RS256\"}", true},
    {"{\"typ\":\"JWT\"}", false},
    {"{\"alg\":\"none\"}", false},
    {"{\"alg\":\"None\"}", false},
    {"{\"alg\":\"\"}", false},
    {"{\"alg\":\"rs256\"}", false},
    {"{\"alg\":\"RS256 \"}", false},
    {"{\"alg\":\"RS256\\u0000\"}", false},
    {"{\"alg\":\"RS384\"}", false},
    {"{\"alg\":\"RS512\"}", false},
    {"{\"alg\":\"PS256\"}", false},
    {"{\"alg\":\"ES256\"}", false},
    {"{\"alg\":\"HS256\"}", false},
    {"{\"alg\":null}", false},
    {"{\"alg\":256}", false},
    {"{\"alg\":[\"RS256\"]}", false},
    {"{\"ALG\":\"RS256\"}", false},
    {"{\"alg\":\"RS256\",\"crit\":[\"exp\"]}", false},
    {"{\"alg\":\"RS256\",\"crit\":[]}", false},
    {"{\"alg\":\"RS256\",\"crit\":null}", false},
    {"{\"alg\":\"RS256\",\"crit\":[\"b64\"],\"b64\":false}", false},
    {"{\"alg\":\"RS256\",\"kid\":\"\"}", false},
    {"{\"alg\":\"RS256\",\"kid\":1}", false},
    {"{\"alg\":\"RS256\",\"kid\":null}", false},
    {"{\"alg\":\"RS256\",\"kid\":[\"a\"]}", false},
    {"{\"alg\":\"RS256\",\"kid\":\"a\\u0000\"}", false},
    {"{\"alg\":\"RS256\",\"kid\":\"" TEXT_128 "x\"}", false},
    {"{\"alg\":\"RS256\",\"kid\":\"" TEXT_128 "\"}", true}, /* a stranger: unnamed keys are tried */
    {"{\"alg\":\"RS256\",\"jku\":\"https://evil.example/\",\"x5u\":\"https://evil.example/\"}",
     true}, /* not looked at */
    {"[]", false},
    {"null", false},
    {"{}", false},
    {"", false},
    {"{\"alg\":\"RS256\"", false},
    {"{\"alg\":\"RS256\"}x", false},
    {"{\"alg\":\"RS256\",\"x\":\"\xff\"}", false},
};

static void test_headers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
        enum jwt_result want = headers[i].valid ? JWT_VALID : JWT_INVALID;
        if (verify_signed(&ring, key, headers[i].header, PAYLOAD("")) != want)
            fail_msg("%s: %s", headers[i].valid ? "refused" : "accepted", headers[i].header);
    }
}

/* The policy names the algorithm; a token of another one, however well signed, is refused. */
static void test_algorithms(void **state) {
    static const char *const names[] = {"RS256", "RS384", "RS512"};
    const EVP_MD *digests[] = {EVP_sha256(), EVP_sha384(), EVP_sha512()};
    (void)state;
    for (size_t by = 0; by < 3; by++)
        for (size_t says = 0; says < 3; says++)
            for (size_t is = 0; is < 3; is++) {
                struct jwt_policy wanted = policy;
                struct jwt_claims claims;
                const char *why;
                wanted.algorithm = names[by];
                char *header = text_of("{\"alg\":\"%s\"}", names[says]);
                char *token = sign_token(key, digests[is], header, PAYLOAD(""));
                enum jwt_result want = by == says && says == is ? JWT_VALID : JWT_INVALID;
                if (verify_bytes(&ring, &wanted, token, strlen(token), &claims, &why) != want)
                    fail_msg("policy %s, header %s, signed by digest %zu", names[by], names[says],
                             is);
                free(token);
                free(header);
            }
}

/* The old trick: HS256 with the public key's text as the secret. */
static void test_hmac_with_the_public_key(void **state) {
    static const char *const algorithms[] = {"HS256", "RS256"};
    char *pem = pem_of(key);
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        unsigned char mac[EVP_MAX_MD_SIZE];
        unsigned mac_len = 0;
        char *header = text_of("{\"alg\":\"%s\"}", algorithms[i]);
        char *head = encode(header, strlen(header)),
             *body = encode(PAYLOAD(""), strlen(PAYLOAD("")));
        char *text = text_of("%s.%s", head, body);
        must(HMAC(EVP_sha256(), pem, (int)strlen(pem), (unsigned char *)text, strlen(text), mac,
                  &mac_len) != NULL);
        char *signature = encode(mac, mac_len), *token = text_of("%s.%s", text, signature);
        assert_int_equal(verify(&ring, token), JWT_INVALID);
        free(token);
        free(signature);
        free(text);
        free(body);
        free(head);
        free(header);
    }
    free(pem);
}

static const struct {
    const struct keyring *keys;
    EVP_PKEY **signer;
    const char *kid; /* NULL: none */
    enum jwt_result want;
} kids[] = {
    {&named, &key, "a", JWT_VALID},
    {&named, &other_key, "b", JWT_VALID},
    {&named, &key, "b", JWT_INVALID}, /* only the named one is tried */
    {&named, &other_key, "a", JWT_INVALID},
    {&named, &key, "c", JWT_UNKNOWN_KEY},
    {&named, &key, "A", JWT_UNKNOWN_KEY},
    {&named, &key, "aa", JWT_UNKNOWN_KEY},
    {&named, &key, NULL, JWT_VALID}, /* names none: each is tried */
    {&named, &other_key, NULL, JWT_VALID},
    {&named, &third_key, NULL, JWT_UNKNOWN_KEY}, /* the set may have been renewed */
    {&mixed, &key, NULL, JWT_VALID},
    {&mixed, &key, "c", JWT_VALID},
    {&mixed, &other_key, "b", JWT_VALID},
    {&mixed, &other_key, "c", JWT_UNKNOWN_KEY},
    {&mixed, &other_key, NULL, JWT_VALID},
    {&mixed, &key, "b", JWT_INVALID},
    {&set, &key, NULL, JWT_VALID},
    {&set, &key, "c", JWT_VALID}, /* a stranger: the unnamed ones are tried */
    {&set, &other_key, NULL, JWT_UNKNOWN_KEY},
    {&set, &other_key, "c", JWT_UNKNOWN_KEY},
    {&ring, &key, "c", JWT_VALID},
    {&ring, &other_key, NULL, JWT_INVALID},
    {&ring, &other_key, "c", JWT_UNKNOWN_KEY},
    {&empty, &key, NULL, JWT_INVALID},
    {&empty, &key, "a", JWT_UNKNOWN_KEY},
};

static void test_kids(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(kids) / sizeof(*kids); i++) {
        char *header = kids[i].kid ? text_of("{\"alg\":\"RS256\",\"kid\":\"%s\"}", kids[i].kid)
                                   : text_of(RS256);
        if (verify_signed(kids[i].keys, *kids[i].signer, header, PAYLOAD("")) != kids[i].want)
            fail_msg("row %zu, kid %s", i, kids[i].kid ? kids[i].kid : "(none)");
        free(header);
    }
}

/* Two unnamed keys, as in a rotation: either signs. */
static void test_two_unnamed_keys(void **state) {
    struct keyring two = {0};
    (void)state;
    add_pem(&two, key);
    add_pem(&two, other_key);
    assert_int_equal(verify_signed(&two, key, RS256, PAYLOAD("")), JWT_VALID);
    assert_int_equal(verify_signed(&two, other_key, RS256, PAYLOAD("")), JWT_VALID);
    keyring_clear(&two);
}

/* OpenSSL keeps a queue of errors for each thread. */
static void test_no_errors_are_left_behind(void **state) {
    (void)state;
    assert_int_equal(verify_signed(&ring, other_key, RS256, PAYLOAD("")), JWT_INVALID);
    assert_int_equal(ERR_peek_error(), 0);
}

/* Nothing is said about claims, true or not, before the signature is. */
static void test_signature_comes_first(void **state) {
    struct jwt_claims claims;
    const char *of_expired, *of_good;
    char *expired = sign_token(other_key, NULL, RS256, WITHOUT_EXP(",\"exp\":1"));
    char *good = sign_token(other_key, NULL, RS256, PAYLOAD(""));
    (void)state;
    verify_bytes(&ring, &policy, expired, strlen(expired), &claims, &of_expired);
    verify_bytes(&ring, &policy, good, strlen(good), &claims, &of_good);
    assert_string_equal(of_expired, of_good);
    free(expired);
    free(good);
}

/* ---- the token's text ---- */

/* Any character changed to any other, anywhere, makes a valid token invalid. */
static void test_changed_characters(void **state) {
    static const char changes[] = "AzQ9-_.=+/ \n";
    char *token = sign_token(key, NULL, RS256, PAYLOAD(""));
    (void)state;
    for (char *c = token; *c; c++) {
        char was = *c;
        const char *change = changes + (c - token) % (long)(sizeof(changes) - 1);
        *c = *change == was ? 'b' : *change;
        if (verify(&ring, token) == JWT_VALID)
            fail_msg("character %zu may be %c", (size_t)(c - token), *c);
        *c = was;
    }
    assert_int_equal(verify(&ring, token), JWT_VALID);
    free(token);
}

static void test_cut_tokens(void **state) {
    struct jwt_claims claims;
    const char *why;
    char *token = sign_token(key, NULL, RS256, PAYLOAD(""));
    (void)state;
    for (size_t len = 0; len < strlen(token); len++)
        assert_int_equal(verify_bytes(&ring, &policy, token, len, &claims, &why), JWT_INVALID);
    free(token);
}

/* Parts of a valid token, put together wrongly. */
static void test_shapes(void **state) {
    char *token = sign_token(key, NULL, RS256, PAYLOAD(""));
    char *head = encode(RS256, strlen(RS256)), *body = encode(PAYLOAD(""), strlen(PAYLOAD("")));
    const char *signature = strrchr(token, '.') + 1;
    char *shapes[] = {
        text_of("%s", ""),
        text_of("."),
        text_of(".."),
        text_of("..."),
        text_of("x"),
        text_of("%s.%s", head, body),
        text_of("%s.%s.", head, body),
        text_of("%s..%s", head, signature),
        text_of(".%s.%s", body, signature),
        text_of("%s.", token),
        text_of(".%s", token),
        text_of("%s.x", token),
        text_of("%s ", token),
        text_of(" %s", token),
        text_of("%s\n", token),
        text_of("%s=", token),
        text_of("%s==", token),
        text_of("%sA", token),
        text_of("%sAAAA", token),
        text_of("Bearer %s", token),
        text_of("%s=.%s.%s", head, body, signature),
        text_of("%s.%s=.%s", head, body, signature),
        text_of("%s.%s.%s", body, head, signature),
        text_of("%s.%s.%s", head, body, "AAAA"),
        text_of("%s.%s.%s", head, head, signature),
        text_of("{\"header\":1}.%s.%s", body, signature),
    };
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        if (verify(&ring, shapes[i]) != JWT_INVALID)
            fail_msg("shape %zu", i);
        free(shapes[i]);
    }
    struct jwt_claims claims;
    const char *why;
    /* a NUL behind the token is a part of it */
    assert_int_equal(verify_bytes(&ring, &policy, token, strlen(token) + 1, &claims, &why),
                     JWT_INVALID);
    free(head);
    free(body);
    free(token);
}

/* A valid token of exactly `len` bytes. */
static char *token_of_length(size_t len) {
    for (size_t padding = len / 2; padding < len; padding++) {
        for (int in_header = 0; in_header < 3; in_header++) {
            char *spaces = text_of("%*s", (int)padding, "");
            char *header = text_of("{%*s\"alg\":\"RS256\"}", in_header, "");
            char *payload =
                text_of("{%s\"sub\":\"HL1\",\"aud\":\"game\",\"exp\":1700000060}", spaces);
            size_t header_len = strlen(header), payload_len = strlen(payload);
            size_t total = (header_len * 4 + 2) / 3 + 1 + (payload_len * 4 + 2) / 3 + 1 + 342;
            char *token = total == len ? sign_token(key, NULL, header, payload) : NULL;
            free(spaces);
            free(header);
            free(payload);
            if (token)
                return token;
        }
    }
    fail_msg("no token of %zu bytes", len);
    return NULL;
}

static void test_8192_bytes(void **state) {
    char *fits = token_of_length(JWT_MAX), *too_long = token_of_length(JWT_MAX + 1);
    (void)state;
    assert_int_equal(strlen(fits), JWT_MAX);
    assert_int_equal(strlen(too_long), JWT_MAX + 1);
    assert_int_equal(verify(&ring, fits), JWT_VALID);
    assert_int_equal(verify(&ring, too_long), JWT_INVALID);
    free(fits);
    free(too_long);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_payloads),
        cmocka_unit_test(test_payload_with_nul),
        cmocka_unit_test(test_issuer),
        cmocka_unit_test(test_nicknames),
        cmocka_unit_test(test_nickname_claim),
        cmocka_unit_test(test_lone_surrogates),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_algorithms),
        cmocka_unit_test(test_hmac_with_the_public_key),
        cmocka_unit_test(test_kids),
        cmocka_unit_test(test_two_unnamed_keys),
        cmocka_unit_test(test_no_errors_are_left_behind),
        cmocka_unit_test(test_signature_comes_first),
        cmocka_unit_test(test_changed_characters),
        cmocka_unit_test(test_cut_tokens),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_8192_bytes),
    };
    return cmocka_run_group_tests(tests, make_rings, free_rings);
}
