#include "ws-broker/access.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <string.h>
#include <strings.h>

bool access_secret_matches(const char *secret, const char *given) {
    /* Digests are of one length, and say nothing of how much was right. */
    unsigned char wanted[SHA256_DIGEST_LENGTH], got[SHA256_DIGEST_LENGTH];
    if (!secret || !given)
        return false;
    SHA256((const unsigned char *)secret, strlen(secret), wanted);
    SHA256((const unsigned char *)given, strlen(given), got);
    return CRYPTO_memcmp(wanted, got, sizeof(got)) == 0;
}

bool access_is_bearer(const char *secret, const char *authorization) {
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return false;
    authorization += 7;
    return access_secret_matches(secret, authorization + strspn(authorization, " "));
}

static bool has_allowed_addresses(const struct settings *settings) {
    return settings->minigame_allow_from.count > 0 || settings->minigame_allow_from.has_unix;
}

bool access_has_minigame(const struct settings *settings) {
    return settings->chat_env == PROFILE_DEV || settings->minigame_secret ||
           has_allowed_addresses(settings);
}

bool access_is_open(const struct settings *settings) {
    return settings->chat_env == PROFILE_DEV && !settings->minigame_secret &&
           !has_allowed_addresses(settings);
}

enum access_result access_ask(const struct settings *settings, const struct address_ip *address,
                              const char *authorization) {
    const char *secret = settings->minigame_secret;
    if (secret && authorization)
        return access_is_bearer(secret, authorization) ? ACCESS_KNOWN : ACCESS_WRONG_SECRET;
    if (access_is_open(settings) ||
        address_networks_contain(&settings->minigame_allow_from, address))
        return ACCESS_KNOWN;
    /* In production, without both: they were taken away while it runs. */
    return secret ? ACCESS_MUST_LOG_IN : ACCESS_FORBIDDEN;
}
