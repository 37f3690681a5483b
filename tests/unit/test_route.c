#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "api-fcgi/route.h"
#include "shared/version.h"

static void routes(void **state) {
    static const struct {
        const char *method;
        const char *path;
        int status;
    } cases[] = {
        {"GET", "/api", 200},
        {"GET", "/api/", 200},
        {"HEAD", "/api", 200},
        {"HEAD", "/api/", 200},
        {"GET", "/api/version", 200},
        {"HEAD", "/api/version", 200},
        {"POST", "/api", 405},
        {"PUT", "/api/version", 405},
        {"DELETE", "/api/", 405},
        {"OPTIONS", "/api", 405},
        {"get", "/api", 405},
        {"GETS", "/api", 405},
        {"", "/api", 405},
        {"GET", "/api/version/", 404},
        {"GET", "/api/versions", 404},
        {"GET", "/api/Version", 404},
        {"GET", "/api//version", 404},
        {"GET", "/api/../api", 404},
        {"GET", "//api", 404},
        {"GET", "/API", 404},
        {"GET", "/", 404},
        {"GET", "", 404},
        {"HEAD", "/api/nothing", 404},
        {"POST", "/api/nothing", 404},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct route_reply reply;
        route(cases[i].method, cases[i].path, "LOCAL DEV", &reply);
        if (reply.status != cases[i].status)
            fail_msg("%s %s: %d", cases[i].method, cases[i].path, reply.status);
        assert_int_equal(reply.head, strcmp(cases[i].method, "HEAD") == 0);
        assert_int_equal(reply.allow != NULL, reply.status == 405);
    }
}

static void assert_reply(const char *method, const char *path, const char *expected) {
    struct route_reply reply;
    char text[ROUTE_TEXT_MAX];

    route(method, path, "PRODUCTION", &reply);
    size_t len = route_text(&reply, text);
    assert_string_equal(text, expected);
    assert_int_equal(len, strlen(expected));
}

static void no_body_no_type(void **state) {
    (void)state;
    assert_reply("GET", "/api",
                 "Status: 200 OK\r\n"
                 "Access-Control-Allow-Origin: *\r\n"
                 "Content-Length: 0\r\n"
                 "\r\n");
}

static void errors_are_json(void **state) {
    (void)state;
    assert_reply("GET", "/api/x",
                 "Status: 404 Not Found\r\n"
                 "Access-Control-Allow-Origin: *\r\n"
                 "Content-Type: application/json\r\n"
                 "Content-Length: 21\r\n"
                 "\r\n"
                 "{\"error\":\"not found\"}");
    assert_reply("POST", "/api",
                 "Status: 405 Method Not Allowed\r\n"
                 "Access-Control-Allow-Origin: *\r\n"
                 "Allow: GET, HEAD\r\n"
                 "Content-Type: application/json\r\n"
                 "Content-Length: 30\r\n"
                 "\r\n"
                 "{\"error\":\"method not allowed\"}");
}

static void version_says_which_and_where(void **state) {
    char body[ROUTE_BODY_MAX], expected[ROUTE_TEXT_MAX];

    (void)state;
    snprintf(body, sizeof(body),
             "{\"api\":\"v%s\",\"env\":\"PRODUCTION\",\"desc\":\"Websocket Server C\"}",
             chat_version());
    snprintf(expected, sizeof(expected),
             "Status: 200 OK\r\n"
             "Access-Control-Allow-Origin: *\r\n"
             "Content-Type: application/json\r\n"
             "Content-Length: %zu\r\n"
             "\r\n"
             "%s",
             strlen(body), body);
    assert_reply("GET", "/api/version", expected);
    /* HEAD: the same headers, and nothing behind them */
    expected[strlen(expected) - strlen(body)] = '\0';
    assert_reply("HEAD", "/api/version", expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes),
        cmocka_unit_test(no_body_no_type),
        cmocka_unit_test(errors_are_json),
        cmocka_unit_test(version_says_which_and_where),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
