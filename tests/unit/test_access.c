/* access.h: secrets and addresses of game servers, by every setting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/status.h"
#include "ws-broker/access.h"

static struct settings with(int profile, const char *secret, const char *networks) {
    struct settings settings = {.chat_env = profile, .minigame_secret = (char *)(uintptr_t)secret};
    assert_int_equal(address_networks_parse(networks, &settings.minigame_allow_from), CHAT_OK);
    return settings;
}

static enum access_result ask(const struct settings *settings, const char *address,
                              const char *authorization) {
    struct address_ip ip;
    assert_int_equal(address_ip_parse(address, strlen(address), &ip), CHAT_OK);
    return access_ask(settings, &ip, authorization);
}

static void test_secret_alone(void **state) {
    struct settings settings = with(PROFILE_PROD, "s3cret", "");
    (void)state;
    assert_int_equal(ask(&settings, "10.0.0.1", NULL), ACCESS_MUST_LOG_IN);
    assert_int_equal(ask(&settings, "10.0.0.1", "Bearer s3cret"), ACCESS_KNOWN);
    assert_int_equal(ask(&settings, "10.0.0.1", "bearer   s3cret"), ACCESS_KNOWN);
    static const char *const wrong[] = {"",
                                        "Bearer",
                                        "Bearer ",
                                        "s3cret",
                                        "Bearer s3",
                                        "Bearer s3crets",
                                        "BearerX s3cret",
                                        "Basic s3cret",
                                        "Bearer s3cret "};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_int_equal(ask(&settings, "10.0.0.1", wrong[i]), ACCESS_WRONG_SECRET);
}

static void test_address_alone(void **state) {
    struct settings settings = with(PROFILE_PROD, NULL, "10.1.0.0/16");
    (void)state;
    assert_int_equal(ask(&settings, "10.1.2.3", NULL), ACCESS_KNOWN);
    assert_int_equal(ask(&settings, "10.1.2.3", "Bearer anything"), ACCESS_KNOWN);
    assert_int_equal(ask(&settings, "10.2.0.1", NULL), ACCESS_FORBIDDEN);
    assert_int_equal(ask(&settings, "10.2.0.1", "Bearer anything"), ACCESS_FORBIDDEN);
}

static void test_open(void **state) {
    struct settings open = with(PROFILE_DEV, NULL, ""), prod = with(PROFILE_PROD, NULL, ""),
                    secret = with(PROFILE_DEV, "x", ""), address = with(PROFILE_DEV, NULL, "::1");
    (void)state;
    assert_true(access_is_open(&open));
    assert_false(access_is_open(&prod));
    assert_false(access_is_open(&secret));
    assert_false(access_is_open(&address));
}

static void test_either(void **state) {
    struct settings settings = with(PROFILE_DEV, "s3cret", "10.1.0.0/16");
    (void)state;
    assert_int_equal(ask(&settings, "10.1.2.3", NULL), ACCESS_KNOWN);
    assert_int_equal(ask(&settings, "10.1.2.3", "Bearer wrong"), ACCESS_WRONG_SECRET);
    assert_int_equal(ask(&settings, "10.2.0.1", NULL), ACCESS_MUST_LOG_IN);
    assert_int_equal(ask(&settings, "10.2.0.1", "Bearer s3cret"), ACCESS_KNOWN);
}

static void test_neither(void **state) {
    struct settings settings = with(PROFILE_DEV, NULL, "");
    (void)state;
    assert_int_equal(ask(&settings, "10.2.0.1", NULL), ACCESS_KNOWN);
    assert_int_equal(ask(&settings, "10.2.0.1", "Bearer x"), ACCESS_KNOWN);
    settings.chat_env = PROFILE_PROD;
    assert_int_equal(ask(&settings, "10.2.0.1", NULL), ACCESS_FORBIDDEN);
}

static void test_whether_there_is_one(void **state) {
    static const int profiles[] = {PROFILE_CLOUD_RUN, PROFILE_PROD};
    struct settings dev = with(PROFILE_DEV, NULL, "");
    (void)state;
    assert_true(access_has_minigame(&dev));
    for (size_t i = 0; i < 2; i++) {
        struct settings none = with(profiles[i], NULL, ""), secret = with(profiles[i], "x", ""),
                        address = with(profiles[i], NULL, "::1"),
                        peers = with(profiles[i], NULL, "unix");
        assert_false(access_has_minigame(&none));
        assert_true(access_has_minigame(&secret));
        assert_true(access_has_minigame(&address));
        assert_true(access_has_minigame(&peers));
    }
}

static void test_no_secret_matches_nothing(void **state) {
    (void)state;
    assert_false(access_secret_matches(NULL, NULL));
    assert_false(access_secret_matches(NULL, ""));
    assert_false(access_secret_matches("x", NULL));
    assert_true(access_secret_matches("x", "x"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_secret_alone),
        cmocka_unit_test(test_address_alone),
        cmocka_unit_test(test_either),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_neither),
        cmocka_unit_test(test_whether_there_is_one),
        cmocka_unit_test(test_no_secret_matches_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
