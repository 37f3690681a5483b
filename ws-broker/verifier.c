#include "ws-broker/verifier.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "shared/log.h"
#include "shared/settings.h"
#include "shared/status.h"
#include "ws-broker/http.h"

enum {
    VERIFIED_PER_TURN = 20,
    PEM_MAX = 64 << 10,
    JWKS_TIMEOUT_MS = 5000,
    JWKS_REFRESH_MS = 3600 * 1000,
    JWKS_RETRY_MS = 60 * 1000,       /* after a failure */
    JWKS_UNKNOWN_KEY_MS = 60 * 1000, /* at most so often for tokens that name unknown keys */
    JWKS_NO_KEYS_MS = 5 * 1000,      /* while there are none at all */
};

struct verifier_wait {
    struct verifier_wait *prev, *next; /* in `queue` or `parked` (utlist's names) */
    bool is_parked;                    /* waits for newer keys */
    bool had_newer_keys;               /* and has got them */
    verifier_cb callback;
    void *user;
    size_t len;
    char token[];
};

struct verifier {
    struct verifier_options options;
    struct keyring ring;
    struct verifier_wait *queue, *parked;
    struct http_request *fetch; /* of the key set, under way */
    int64_t fetch_started_ms;
    int64_t unknown_key_ms; /* when a token that names an unknown key was last worth a fetch */
    bool fetch_failed;      /* the last one */
};

/* ---- PEM files ------------------------------------------------------------------------------- */

static int load_pem(struct keyring *ring, const char *path, char error[VERIFIER_ERROR_MAX]) {
    char pem[PEM_MAX + 1], why[KEYRING_ERROR_MAX];
    FILE *file = fopen(path, "re");
    size_t len = file ? fread(pem, 1, sizeof(pem), file) : 0;
    bool failed = !file || ferror(file);
    if (failed)
        snprintf(why, sizeof(why), "%s", strerror(errno));
    if (file)
        fclose(file);
    if (len > PEM_MAX) { /* a key at its end would be missing */
        failed = true;
        snprintf(why, sizeof(why), "larger than 64 KiB");
    }
    if (!failed && keyring_add_pem(ring, pem, len, why) == CHAT_OK)
        return CHAT_OK;
    snprintf(error, VERIFIER_ERROR_MAX, "JWT_PUBLIC_KEY_FILE: %.300s: %s", path, why);
    return CHAT_EINVAL;
}

static int load_pems(struct keyring *ring, const char *list, char error[VERIFIER_ERROR_MAX]) {
    char path[SETTINGS_FILES_MAX + 1];
    while (list && settings_next_file(&list, path)) {
        if (load_pem(ring, path, error) != CHAT_OK)
            return CHAT_EINVAL;
    }
    return CHAT_OK;
}

int verifier_check_files(const char *pem_files, char error[VERIFIER_ERROR_MAX]) {
    struct keyring ring = {0};
    int status = load_pems(&ring, pem_files, error);
    keyring_clear(&ring);
    return status;
}

/* ---- the key set ----------------------------------------------------------------------------- */

static void unpark(struct verifier *verifier) {
    struct verifier_wait *wait, *next;
    DL_FOREACH_SAFE(verifier->parked, wait, next) {
        DL_DELETE(verifier->parked, wait);
        wait->is_parked = false;
        wait->had_newer_keys = true;
        DL_APPEND(verifier->queue, wait);
    }
    if (verifier->queue)
        verifier->options.on_pending(verifier->options.user);
}

static void fetch_failed(struct verifier *verifier, const char *error) {
    verifier->fetch_failed = true;
    log_warn("verifier", "key_set_failed", log_str("error", error));
}

static void on_keys(void *user, const struct http_answer *answer) {
    struct verifier *verifier = user;
    char error[KEYRING_ERROR_MAX] = "";
    verifier->fetch = NULL;
    if (answer->status == 0)
        snprintf(error, sizeof(error), "%s", answer->error);
    else if (answer->status != 200)
        snprintf(error, sizeof(error), "HTTP status %d", answer->status);
    else
        keyring_replace_jwks(&verifier->ring, answer->body, answer->body_len, error);
    if (error[0]) {
        fetch_failed(verifier, error);
    } else {
        verifier->fetch_failed = false;
        log_info("verifier", "key_set_loaded", log_int("keys", (int64_t)verifier->ring.count));
    }
    unpark(verifier);
}

static void fetch_keys(struct verifier *verifier, int64_t now_ms) {
    verifier->fetch_started_ms = now_ms;
    struct http_options options = {.url = verifier->options.jwks_url,
                                   .timeout_ms = JWKS_TIMEOUT_MS};
    verifier->fetch = http_start(verifier->options.http, &options, on_keys, verifier);
    if (!verifier->fetch)
        fetch_failed(verifier, HTTP_CANNOT_START);
}

/* Whether newer keys are on their way, for a token that this ring cannot judge. */
static bool want_newer_keys(struct verifier *verifier, int64_t now_ms) {
    if (!verifier->options.jwks_url)
        return false;
    if (verifier->fetch)
        return true;
    bool is_due = verifier->ring.count > 0
                      ? now_ms - verifier->unknown_key_ms >= JWKS_UNKNOWN_KEY_MS
                      : now_ms - verifier->fetch_started_ms >= JWKS_NO_KEYS_MS;
    if (!is_due)
        return false;
    verifier->unknown_key_ms = now_ms;
    fetch_keys(verifier, now_ms);
    return verifier->fetch != NULL;
}

void verifier_tick(struct verifier *verifier, int64_t now_ms) {
    int64_t age_ms = now_ms - verifier->fetch_started_ms;
    int64_t due_ms = verifier->ring.count == 0 ? JWKS_NO_KEYS_MS
                     : verifier->fetch_failed  ? JWKS_RETRY_MS
                                               : JWKS_REFRESH_MS;
    if (verifier->options.jwks_url && !verifier->fetch && age_ms >= due_ms)
        fetch_keys(verifier, now_ms);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void forget(struct verifier *verifier, struct verifier_wait *wait) {
    if (wait->is_parked)
        DL_DELETE(verifier->parked, wait);
    else
        DL_DELETE(verifier->queue, wait);
    explicit_bzero(wait->token, wait->len);
    free(wait);
}

struct verifier_wait *verifier_submit(struct verifier *verifier, const char *token,
                                      verifier_cb callback, void *user) {
    size_t len = strlen(token);
    struct verifier_wait *wait = calloc(1, sizeof(*wait) + len);
    if (!wait)
        return NULL;
    wait->callback = callback;
    wait->user = user;
    wait->len = len;
    memcpy(wait->token, token, len);
    DL_APPEND(verifier->queue, wait);
    verifier->options.on_pending(verifier->options.user);
    return wait;
}

void verifier_cancel(struct verifier *verifier, struct verifier_wait *wait) {
    forget(verifier, wait);
}

static void verify(struct verifier *verifier, struct verifier_wait *wait, int64_t now_ms,
                   int64_t now_s) {
    struct jwt_claims claims;
    const char *why;
    enum jwt_result jwt = jwt_verify(&verifier->ring, &verifier->options.policy, wait->token,
                                     wait->len, now_s, &claims, &why);
    /* Without any key nothing can be said of any token. */
    bool no_keys = verifier->ring.count == 0;
    if ((jwt == JWT_UNKNOWN_KEY || (jwt != JWT_VALID && no_keys)) && !wait->had_newer_keys &&
        want_newer_keys(verifier, now_ms)) {
        DL_DELETE(verifier->queue, wait);
        wait->is_parked = true;
        DL_APPEND(verifier->parked, wait);
        return;
    }
    enum verifier_result result = VERIFIER_VALID;
    if (jwt != JWT_VALID) {
        bool keys_missing = no_keys || (jwt == JWT_UNKNOWN_KEY && verifier->fetch_failed);
        result = keys_missing ? VERIFIER_UNAVAILABLE : VERIFIER_INVALID;
        log_debug("verifier", "token_refused", log_str("why", why));
    }
    verifier_cb callback = wait->callback;
    void *user = wait->user;
    forget(verifier, wait);
    callback(user, result, result == VERIFIER_VALID ? &claims : NULL);
}

bool verifier_turn(struct verifier *verifier, int64_t now_ms, int64_t now_s) {
    for (int i = 0; i < VERIFIED_PER_TURN && verifier->queue; i++)
        verify(verifier, verifier->queue, now_ms, now_s);
    return verifier->queue != NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct verifier *verifier_new(const struct verifier_options *options, int64_t now_ms) {
    struct verifier *verifier = calloc(1, sizeof(*verifier));
    if (!verifier)
        return NULL;
    verifier->options = *options;
    verifier->unknown_key_ms = now_ms - JWKS_UNKNOWN_KEY_MS; /* the first one is worth it */
    char error[VERIFIER_ERROR_MAX];
    if (load_pems(&verifier->ring, options->pem_files, error) != CHAT_OK) {
        log_error("verifier", "key_file_refused", log_str("error", error));
        verifier_free(verifier);
        return NULL;
    }
    if (options->jwks_url)
        fetch_keys(verifier, now_ms);
    return verifier;
}

static bool is_same_url(const char *a, const char *b) {
    return a && b && strcmp(a, b) == 0;
}

int verifier_reload(struct verifier *verifier, const struct jwt_policy *policy,
                    const char *pem_files, const char *jwks_url, int64_t now_ms,
                    char error[VERIFIER_ERROR_MAX]) {
    struct keyring ring = {0};
    if (load_pems(&ring, pem_files, error) != CHAT_OK) {
        keyring_clear(&ring);
        return CHAT_EINVAL;
    }
    if (is_same_url(jwks_url, verifier->options.jwks_url)) /* until the new ones are here */
        keyring_copy_set(&ring, &verifier->ring);
    keyring_clear(&verifier->ring);
    verifier->ring = ring;
    verifier->options.policy = *policy;
    verifier->options.pem_files = pem_files;
    verifier->options.jwks_url = jwks_url;
    if (verifier->fetch)
        http_cancel(verifier->fetch);
    verifier->fetch = NULL;
    if (jwks_url)
        fetch_keys(verifier, now_ms);
    if (!verifier->fetch)
        unpark(verifier);
    return CHAT_OK;
}

void verifier_free(struct verifier *verifier) {
    if (!verifier)
        return;
    if (verifier->fetch)
        http_cancel(verifier->fetch);
    while (verifier->queue)
        forget(verifier, verifier->queue);
    while (verifier->parked)
        forget(verifier, verifier->parked);
    keyring_clear(&verifier->ring);
    free(verifier);
}
