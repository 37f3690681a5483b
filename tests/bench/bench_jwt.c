/*
 * bench_jwt.c: what jwt_verify() costs, beside OpenSSL's bare signature check of the same token in
 * the same run, which is the limit. Each figure is the median of ROUNDS rounds; the two take turns,
 * so that a slow moment of the machine hits both.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/token_maker.h"
#include "ws-broker/base64url.h"
#include "ws-broker/jwt.h"

enum { ROUNDS = 15, ROUND_NS = 30 * 1000 * 1000 };

struct subject {
    struct keyring ring;
    EVP_PKEY *key;
    char *token;
    size_t signed_len;
    unsigned char signature[1024];
    size_t signature_len;
};

static const struct jwt_policy policy = {
    .algorithm = "RS256", .audience = "heavenland-api", .nickname_claim = "nickname"};

static void verify(const struct subject *subject) {
    struct jwt_claims claims;
    const char *why;
    must(jwt_verify(&subject->ring, &policy, subject->token, strlen(subject->token), 1700000000,
                    &claims, &why) == JWT_VALID);
}

static void verify_bare(const struct subject *subject) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    must(EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, subject->key) == 1 &&
         EVP_DigestVerify(context, subject->signature, subject->signature_len,
                          (const unsigned char *)subject->token, subject->signed_len) == 1);
    EVP_MD_CTX_free(context);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Microseconds for one call, over one round. */
static double measure(void (*work)(const struct subject *), const struct subject *subject) {
    int64_t start = now_ns(), spent = 0;
    int calls = 0;
    while (spent < ROUND_NS) {
        work(subject);
        calls++;
        spent = now_ns() - start;
    }
    return (double)spent / 1e3 / calls;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double values[ROUNDS]) {
    qsort(values, ROUNDS, sizeof(*values), compare);
    return values[ROUNDS / 2];
}

static void subject_init(struct subject *subject, unsigned bits) {
    char error[KEYRING_ERROR_MAX];
    *subject = (struct subject){.key = make_key(bits)};
    char *pem = pem_of(subject->key);
    must(keyring_add_pem(&subject->ring, pem, strlen(pem), error) == 0);
    free(pem);
    subject->token = sign_token(subject->key, NULL, "{\"alg\":\"RS256\",\"typ\":\"JWT\"}",
                                "{\"sub\":\"8b2ff3c6-3f3c-4f0e-9c1a-0f6f0c6f1d5e\","
                                "\"aud\":\"heavenland-api\",\"iss\":\"https://id.example\","
                                "\"iat\":1699999000,\"exp\":1700003600,\"nickname\":\"Hero\"}");
    const char *dot = strrchr(subject->token, '.');
    subject->signed_len = (size_t)(dot - subject->token);
    must(base64url_decode(dot + 1, strlen(dot + 1), subject->signature, &subject->signature_len) ==
         0);
}

static void subject_deinit(struct subject *subject) {
    keyring_clear(&subject->ring);
    EVP_PKEY_free(subject->key);
    free(subject->token);
}

static void bench(unsigned bits, int goal_us) {
    struct subject subject;
    double ours[ROUNDS], bare[ROUNDS];
    subject_init(&subject, bits);
    measure(verify, &subject); /* warm */
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = measure(verify, &subject);
        bare[i] = measure(verify_bare, &subject);
    }
    double us = median(ours), limit_us = median(bare);
    printf("RS256-%-6u %10.1f %10.1f %10.2f %8d\n", bits, us, limit_us, us / limit_us, goal_us);
    subject_deinit(&subject);
}

int main(void) {
    printf("%-12s %10s %10s %10s %8s\n", "key", "us/verify", "openssl", "ratio", "goal us");
    bench(2048, 100);
    bench(4096, 200);
    return 0;
}
