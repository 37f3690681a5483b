/* keyring.h: which keys are taken from PEM texts and key sets. Keys are made at the start; where
 * only the size matters, nobody has their private half. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include <openssl/x509.h>

#include "shared/status.h"
#include "tests/unit/token_maker.h"
#include "ws-broker/keyring.h"

static EVP_PKEY *key, *other_key; /* 2048 bits, public */
static struct keyring ring;

static int make_keys(void **state) {
    (void)state;
    key = make_key(2048);
    other_key = make_public_key(2048);
    return 0;
}

static int free_keys(void **state) {
    (void)state;
    EVP_PKEY_free(key);
    EVP_PKEY_free(other_key);
    return 0;
}

static int clear_ring(void **state) {
    (void)state;
    keyring_clear(&ring);
    assert_int_equal(ring.count, 0);
    return 0;
}

/* ---- words of the tests ---- */

static void check_error(int status, const char *error) {
    if (status == CHAT_OK)
        return;
    assert_int_equal(status, CHAT_EINVAL);
    assert_in_range(strnlen(error, KEYRING_ERROR_MAX), 1, KEYRING_ERROR_MAX - 1);
}

/* From a block of just the right size, as a file is read: without a NUL behind it. */
static int add_pem(const char *pem) {
    char error[KEYRING_ERROR_MAX];
    size_t len = strlen(pem);
    char *block = malloc(len ? len : 1);
    assert_non_null(block);
    memcpy(block, pem, len);
    int status = keyring_add_pem(&ring, block, len, error);
    free(block);
    check_error(status, error);
    return status;
}

static int replace(const char *json) {
    char error[KEYRING_ERROR_MAX];
    size_t len = strlen(json);
    char *block = malloc(len ? len : 1);
    assert_non_null(block);
    memcpy(block, json, len);
    int status = keyring_replace_jwks(&ring, block, len, error);
    free(block);
    check_error(status, error);
    return status;
}

static int add_key(EVP_PKEY *pkey) {
    char *pem = pem_of(pkey);
    int status = add_pem(pem);
    free(pem);
    return status;
}

static int replace_by(const EVP_PKEY *pkey, const char *kid) {
    char *jwks = jwks_of(pkey, kid);
    int status = replace(jwks);
    free(jwks);
    return status;
}

static bool holds(const EVP_PKEY *pkey) {
    for (size_t i = 0; i < ring.count; i++)
        if (EVP_PKEY_eq(ring.keys[i].pkey, pkey) == 1)
            return true;
    return false;
}

/* ---- PEM ---- */

static void test_pem_public_key(void **state) {
    (void)state;
    assert_int_equal(add_key(key), CHAT_OK);
    assert_int_equal(ring.count, 1);
    assert_string_equal(ring.keys[0].kid, "");
    assert_true(holds(key));
}

static char *certificate_of(EVP_PKEY *pkey) {
    X509 *certificate = X509_new();
    BIO *bio = BIO_new(BIO_s_mem());
    must(certificate && bio && X509_set_version(certificate, 2) &&
         ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1) &&
         X509_gmtime_adj(X509_getm_notBefore(certificate), 0) &&
         X509_gmtime_adj(X509_getm_notAfter(certificate), 60) &&
         X509_set_pubkey(certificate, pkey) && X509_sign(certificate, pkey, EVP_sha256()) &&
         PEM_write_bio_X509(bio, certificate));
    X509_free(certificate);
    return text_of_bio(bio);
}

static void test_pem_certificate(void **state) {
    char *pem = certificate_of(key);
    (void)state;
    assert_int_equal(add_pem(pem), CHAT_OK);
    assert_int_equal(ring.count, 1);
    assert_true(holds(key));
    free(pem);
}

static void test_pem_with_words_around_it(void **state) {
    char *pem = pem_of(key), *text = text_of("the chat's key\n%s\nthat was it\n", pem);
    (void)state;
    assert_int_equal(add_pem(text), CHAT_OK);
    assert_true(holds(key));
    free(text);
    free(pem);
}

static void test_pem_of_several_keys(void **state) {
    char *first = pem_of(key), *second = pem_of(other_key), *text = text_of("%s%s", first, second);
    (void)state;
    assert_int_equal(add_pem(text), CHAT_OK);
    assert_int_equal(ring.count, 2);
    assert_true(holds(key));
    assert_true(holds(other_key));
    free(text);
    free(first);
    free(second);
}

/* All or nothing: a file that is half good is a mistake that somebody should hear of. */
static void test_pem_of_a_good_and_a_small_key(void **state) {
    EVP_PKEY *small = make_public_key(1024);
    char *first = pem_of(key), *second = pem_of(small), *text = text_of("%s%s", first, second);
    (void)state;
    assert_int_equal(add_pem(text), CHAT_EINVAL);
    assert_int_equal(ring.count, 0);
    free(text);
    free(first);
    free(second);
    EVP_PKEY_free(small);
}

/* Those behind the first are its issuers'. */
static void test_pem_certificate_chain(void **state) {
    EVP_PKEY *issuer = make_key(2048);
    char *leaf = certificate_of(key), *above = certificate_of(issuer);
    char *text = text_of("%s%s", leaf, above);
    (void)state;
    assert_int_equal(add_pem(text), CHAT_OK);
    assert_int_equal(ring.count, 1);
    assert_true(holds(key));
    free(text);
    free(leaf);
    free(above);
    EVP_PKEY_free(issuer);
}

static void test_pem_of_a_good_and_a_broken_block(void **state) {
    static const char *const broken[] = {
        "-----BEGIN PUBLIC KEY-----\nQUJD\n-----END PUBLIC KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\nQUJD\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
        char *good = pem_of(key), *text = text_of("%s%s", good, broken[i]);
        assert_int_equal(add_pem(text), CHAT_EINVAL);
        assert_int_equal(ring.count, 0);
        free(text);
        free(good);
    }
}

static void test_pem_refused(void **state) {
    static const char *const texts[] = {
        "",
        "\n",
        "hello",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\nQUJD\n-----END PUBLIC KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----\n",
        "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n",
        "{\"keys\":[]}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        if (add_pem(texts[i]) != CHAT_EINVAL)
            fail_msg("accepted: %s", texts[i]);
    assert_int_equal(ring.count, 0);
}

static void test_pem_kinds_of_keys(void **state) {
    EVP_PKEY *ec = EVP_EC_gen("P-256"), *ed = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    EVP_PKEY *pss = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA-PSS", NULL);
    (void)state;
    must(context && EVP_PKEY_keygen_init(context) > 0 && EVP_PKEY_generate(context, &pss) > 0);
    EVP_PKEY_CTX_free(context);
    assert_int_equal(add_key(ec), CHAT_EINVAL);
    assert_int_equal(add_key(ed), CHAT_EINVAL);
    assert_int_equal(add_key(pss), CHAT_EINVAL);
    assert_int_equal(ring.count, 0);
    EVP_PKEY_free(ec);
    EVP_PKEY_free(ed);
    EVP_PKEY_free(pss);
}

/* A private key is a mistake, and never becomes a part of the ring. */
static void test_pem_private_key(void **state) {
    BIO *bio = BIO_new(BIO_s_mem());
    (void)state;
    must(bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL));
    char *pem = text_of_bio(bio);
    assert_int_equal(add_pem(pem), CHAT_EINVAL);
    assert_int_equal(ring.count, 0);
    free(pem);
}

static const struct {
    int bits;
    int status;
} sizes[] = {{512, CHAT_EINVAL}, {1024, CHAT_EINVAL}, {2040, CHAT_EINVAL}, {2047, CHAT_EINVAL},
             {2048, CHAT_OK},    {2049, CHAT_OK},     {3072, CHAT_OK},     {4096, CHAT_OK}};

static void test_sizes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        EVP_PKEY *pkey = make_public_key(sizes[i].bits);
        if (add_key(pkey) != sizes[i].status || holds(pkey) != (sizes[i].status == CHAT_OK))
            fail_msg("PEM, %d bits", sizes[i].bits);
        keyring_clear(&ring);
        if (replace_by(pkey, "k") != sizes[i].status || holds(pkey) != (sizes[i].status == CHAT_OK))
            fail_msg("key set, %d bits", sizes[i].bits);
        keyring_clear(&ring);
        EVP_PKEY_free(pkey);
    }
}

static void test_64_pem_keys(void **state) {
    (void)state;
    for (int i = 0; i < KEYRING_KEYS_MAX; i++)
        assert_int_equal(add_key(key), CHAT_OK);
    assert_int_equal(add_key(key), CHAT_EINVAL);
    assert_int_equal(ring.count, KEYRING_KEYS_MAX);
    assert_int_equal(replace_by(key, "k"), CHAT_EINVAL); /* no room */
    assert_int_equal(ring.count, KEYRING_KEYS_MAX);
}

/* ---- key sets ---- */

static void test_jwks(void **state) {
    (void)state;
    assert_int_equal(replace_by(key, "2026-11"), CHAT_OK);
    assert_int_equal(ring.count, 1);
    assert_string_equal(ring.keys[0].kid, "2026-11");
    assert_true(holds(key));
    assert_true(keyring_has(&ring, "2026-11"));
    assert_false(keyring_has(&ring, "2026-1"));
    assert_false(keyring_has(&ring, "2026-111"));
}

static void test_jwks_replaces_the_named_and_keeps_pem(void **state) {
    (void)state;
    assert_int_equal(replace_by(other_key, "old"), CHAT_OK);
    assert_int_equal(add_key(key), CHAT_OK); /* behind a named one */
    assert_int_equal(replace_by(key, "new"), CHAT_OK);
    assert_int_equal(ring.count, 2);
    assert_false(keyring_has(&ring, "old"));
    assert_true(keyring_has(&ring, "new"));
    assert_false(holds(other_key));
    size_t unnamed = 0;
    for (size_t i = 0; i < ring.count; i++)
        unnamed += ring.keys[i].kid[0] == '\0';
    assert_int_equal(unnamed, 1);
}

/* A set of `count` copies of a key, named k0, k1, ... */
static char *big_set(size_t count) {
    char *text = text_of("{\"keys\":[");
    for (size_t i = 0; i < count; i++) {
        char *kid = text_of("k%zu", i), *jwk = jwk_of(key, kid);
        char *longer = text_of("%s%s%s", text, i ? "," : "", jwk);
        free(text);
        free(jwk);
        free(kid);
        text = longer;
    }
    char *all = text_of("%s]}", text);
    free(text);
    return all;
}

static void test_jwks_of_more_than_fit(void **state) {
    char *set = big_set(KEYRING_KEYS_MAX + 6);
    (void)state;
    assert_int_equal(replace(set), CHAT_OK);
    assert_int_equal(ring.count, KEYRING_KEYS_MAX);
    assert_true(keyring_has(&ring, "k0"));
    assert_true(keyring_has(&ring, "k63"));
    assert_false(keyring_has(&ring, "k64"));
    assert_int_equal(add_key(key), CHAT_EINVAL); /* full */

    keyring_clear(&ring);
    assert_int_equal(add_key(other_key), CHAT_OK);
    assert_int_equal(replace(set), CHAT_OK);
    assert_int_equal(replace(set), CHAT_OK); /* again: the old ones count no more */
    assert_int_equal(ring.count, KEYRING_KEYS_MAX);
    assert_true(holds(other_key));
    assert_true(keyring_has(&ring, "k62"));
    assert_false(keyring_has(&ring, "k63"));
    free(set);
}

/* Members in place of one key's; N and E stand for its numbers. */
static char *jwk_like(const char *pattern) {
    char *n = encoded_number(key, OSSL_PKEY_PARAM_RSA_N), *text = text_of("{");
    for (const char *c = pattern; *c; c++) {
        char *longer = *c == 'N'    ? text_of("%s%s", text, n)
                       : *c == '\'' ? text_of("%s\"", text)
                                    : text_of("%s%c", text, *c);
        free(text);
        text = longer;
    }
    char *all = text_of("%s}", text);
    free(text);
    free(n);
    return all;
}

/* Alone, and beside a good key, which is taken all the same. */
static void test_jwks_keys_left_out(void **state) {
    static const char *const patterns[] = {
        "'kty':'EC','kid':'k','crv':'P-256','x':'AA','y':'AA'",
        "'kty':'oct','kid':'k','k':'c2VjcmV0'",
        "'kty':'rsa','kid':'k','n':'N','e':'AQAB'",
        "'kid':'k','n':'N','e':'AQAB'",
        "'kty':['RSA'],'kid':'k','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':1,'n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','use':'enc','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','use':'SIG','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','alg':'PS256','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','alg':'RSA-OAEP','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','alg':'','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','alg':1,'n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','e':'AQAB'",
        "'kty':'RSA','kid':'k','n':'N'",
        "'kty':'RSA','kid':'k','n':'','e':'AQAB'",
        "'kty':'RSA','kid':'k','n':'N','e':''",
        "'kty':'RSA','kid':'k','n':'N=','e':'AQAB'",
        "'kty':'RSA','kid':'k','n':'N ','e':'AQAB'",
        "'kty':'RSA','kid':'k','n':'+N','e':'AQAB'",
        "'kty':'RSA','kid':'k','n':'AQAB','e':'AQAB'", /* 17 bits */
        "'kty':'RSA','kid':'k','n':12345,'e':65537",
        "'kty':'RSA','kid':'k','n':['N'],'e':'AQAB'",
        "'kty':'RSA','kid':'k','n':'N','e':null",
        "'kty':'RSA','kid':'k','n':'N','e':'AQ'",   /* e = 1: anybody could sign */
        "'kty':'RSA','kid':'k','n':'N','e':'AA'",   /* e = 0 */
        "'kty':'RSA','kid':'k','n':'N','e':'AQAA'", /* e even */
        "'kty':'RSA','kid':'k','n':'N','e':'N'",    /* costs milliseconds for each token */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++) {
        char *bad = jwk_like(patterns[i]), *good = jwk_of(other_key, "good");
        char *alone = text_of("{\"keys\":[%s]}", bad);
        char *both = text_of("{\"keys\":[%s,%s]}", bad, good);
        if (replace(alone) != CHAT_EINVAL || ring.count != 0)
            fail_msg("taken: %s", patterns[i]);
        if (replace(both) != CHAT_OK || ring.count != 1 || !holds(other_key))
            fail_msg("no good key beside: %s", patterns[i]);
        keyring_clear(&ring);
        free(alone);
        free(both);
        free(bad);
        free(good);
    }
}

static void test_jwks_good_forms(void **state) {
    static const char *const patterns[] = {
        "'kty':'RSA','kid':'k','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','use':'sig','n':'N','e':'AQAB','x5c':['AA'],'x5t':'AA'",
        "'kty':'RSA','kid':'k','key_ops':['verify'],'n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','alg':'RS384','n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','alg':null,'n':'N','e':'AQAB'",
        "'kty':'RSA','kid':'k','n':'N','e':'AAEAAQ'", /* a zero in front */
        "'kty':'RSA','kid':'k','n':'N','e':'Aw'",     /* e = 3 */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++) {
        char *jwk = jwk_like(patterns[i]), *set = text_of(" {\"keys\": [%s], \"more\": 1} ", jwk);
        if (replace(set) != CHAT_OK || !keyring_has(&ring, "k"))
            fail_msg("refused: %s", patterns[i]);
        free(set);
        free(jwk);
    }
}

/* OpenID lets a set of one key go without; it is replaced like the others. */
static void test_jwks_key_without_kid(void **state) {
    (void)state;
    assert_int_equal(add_key(other_key), CHAT_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(replace_by(key, NULL), CHAT_OK);
        assert_int_equal(ring.count, 2);
        assert_string_equal(ring.keys[1].kid, "");
        assert_true(holds(key));
    }
    char *jwk = jwk_like("'kty':'RSA','kid':null,'n':'N','e':'AQAB'");
    char *of_null = text_of("{\"keys\":[%s]}", jwk);
    assert_int_equal(replace(of_null), CHAT_OK); /* null is as good as none */
    assert_int_equal(replace_by(key, "named"), CHAT_OK);
    assert_int_equal(ring.count, 2);
    assert_true(keyring_has(&ring, "named"));
    assert_true(holds(other_key)); /* the PEM file's */
    free(of_null);
    free(jwk);
}

static void test_jwks_kid_lengths(void **state) {
    char kid[KEYRING_KID_MAX + 2];
    (void)state;
    memset(kid, 'k', sizeof(kid));
    kid[KEYRING_KID_MAX + 1] = '\0';
    assert_int_equal(replace_by(key, kid), CHAT_EINVAL); /* 129 bytes */
    kid[KEYRING_KID_MAX] = '\0';
    assert_int_equal(replace_by(key, kid), CHAT_OK);
    assert_true(keyring_has(&ring, kid));
}

/* What is no key set changes nothing. */
static void test_jwks_hostile(void **state) {
    static const char *const texts[] = {
        "",
        " ",
        "null",
        "true",
        "1",
        "\"keys\"",
        "[]",
        "{}",
        "{",
        "{\"keys\"",
        "{\"keys\":",
        "{\"keys\":[",
        "{\"keys\":[]}",
        "{\"keys\":{}}",
        "{\"keys\":null}",
        "{\"keys\":\"RSA\"}",
        "{\"keys\":[null,1,\"x\",[],{}]}",
        "{\"keys\":[[{\"kty\":\"RSA\"}]]}",
        "<html><body>Bad gateway</body></html>",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        "{\"keys\":[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]}",
        "\xff\xfe",
    };
    (void)state;
    assert_int_equal(replace_by(key, "kept"), CHAT_OK);
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        if (replace(texts[i]) != CHAT_EINVAL)
            fail_msg("taken: %s", texts[i]);
        assert_int_equal(ring.count, 1);
        assert_true(keyring_has(&ring, "kept"));
    }
}

/* A set whose key is cut off in the middle is none. */
static void test_jwks_cut(void **state) {
    char *jwks = jwks_of(key, "k");
    (void)state;
    for (size_t len = strlen(jwks) - 1; len > 0; len -= len > 7 ? 7 : len) {
        jwks[len] = '\0';
        assert_int_equal(replace(jwks), CHAT_EINVAL);
    }
    free(jwks);
}

static void test_jwks_huge_numbers(void **state) {
    static const int sizes_left_out[] = {8193, 16384};
    char number[60001];
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        EVP_PKEY *pkey = make_public_key(sizes_left_out[i]);
        assert_int_equal(replace_by(pkey, "k"), CHAT_EINVAL);
        EVP_PKEY_free(pkey);
    }
    memset(number, '_', sizeof(number) - 1); /* 360000 bits */
    number[sizeof(number) - 1] = '\0';
    char *set =
        text_of("{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"k\",\"n\":\"%s\",\"e\":\"AQAB\"}]}", number);
    assert_int_equal(replace(set), CHAT_EINVAL);
    free(set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_pem_public_key, clear_ring),
        cmocka_unit_test_teardown(test_pem_certificate, clear_ring),
        cmocka_unit_test_teardown(test_pem_with_words_around_it, clear_ring),
        cmocka_unit_test_teardown(test_pem_of_several_keys, clear_ring),
        cmocka_unit_test_teardown(test_pem_of_a_good_and_a_small_key, clear_ring),
        cmocka_unit_test_teardown(test_pem_certificate_chain, clear_ring),
        cmocka_unit_test_teardown(test_pem_of_a_good_and_a_broken_block, clear_ring),
        cmocka_unit_test_teardown(test_pem_refused, clear_ring),
        cmocka_unit_test_teardown(test_pem_kinds_of_keys, clear_ring),
        cmocka_unit_test_teardown(test_pem_private_key, clear_ring),
        cmocka_unit_test_teardown(test_sizes, clear_ring),
        cmocka_unit_test_teardown(test_64_pem_keys, clear_ring),
        cmocka_unit_test_teardown(test_jwks, clear_ring),
        cmocka_unit_test_teardown(test_jwks_replaces_the_named_and_keeps_pem, clear_ring),
        cmocka_unit_test_teardown(test_jwks_of_more_than_fit, clear_ring),
        cmocka_unit_test_teardown(test_jwks_keys_left_out, clear_ring),
        cmocka_unit_test_teardown(test_jwks_good_forms, clear_ring),
        cmocka_unit_test_teardown(test_jwks_key_without_kid, clear_ring),
        cmocka_unit_test_teardown(test_jwks_kid_lengths, clear_ring),
        cmocka_unit_test_teardown(test_jwks_hostile, clear_ring),
        cmocka_unit_test_teardown(test_jwks_cut, clear_ring),
        cmocka_unit_test_teardown(test_jwks_huge_numbers, clear_ring),
    };
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
