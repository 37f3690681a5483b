/* identity.h as identity_dev.c answers it: the token is the nickname. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "ws-broker/identity.h"

static struct identity_answer check(const char *token) {
    struct identity_credentials credentials = {.token = token};
    struct identity_answer answer;
    memset(&answer, 0xee, sizeof(answer)); /* every member is the callee's to fill */
    assert_true(identity_check(identity_dev(), &credentials, 1, &answer));
    return answer;
}

static void test_accepted(void **state) {
    static const char *const tokens[] = {
        "a",     "Great Heavenland Hero",
        "Žofie", "日本語",
        "🎮",     "\"quoted\\\"",
        " ",     "<b>",
        "%s%n",  "1234567890123456789012345678901234567890123456789012345678901234", /* 64 bytes */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(tokens) / sizeof(*tokens); i++) {
        struct identity_answer answer = check(tokens[i]);
        char id[IDENTITY_ID_MAX + 1];
        snprintf(id, sizeof(id), "dev-%s", tokens[i]);
        assert_int_equal(answer.status, IDENTITY_ACCEPTED);
        assert_string_equal(answer.user_id, id);
        assert_string_equal(answer.nickname, tokens[i]);
    }
}

/* The refusal says what would be accepted, and never repeats the token. */
static void test_refused(void **state) {
    static const char *const tokens[] = {
        "",
        "secret\n",
        "\001secret",
        "\x1fsecret",
        "sec\tret",
        "secret\x7f",
        "secret7890123456789012345678901234567890123456789012345678901234x", /* 65 bytes */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(tokens) / sizeof(*tokens); i++) {
        struct identity_answer answer = check(tokens[i]);
        assert_int_equal(answer.status, IDENTITY_REFUSED);
        assert_non_null(strstr(answer.error, "1 to 64 bytes"));
        assert_null(strstr(answer.error, "secret"));
    }
}

static void test_passwords_are_refused(void **state) {
    static const struct identity_credentials credentials = {.username = "ann",
                                                            .password = "swordfish"};
    struct identity_answer answer;
    (void)state;
    assert_true(identity_check(identity_dev(), &credentials, 1, &answer));
    assert_int_equal(answer.status, IDENTITY_REFUSED);
    assert_non_null(strstr(answer.error, "token"));
    assert_null(strstr(answer.error, "swordfish"));
    assert_null(strstr(answer.error, "ann"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_passwords_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
