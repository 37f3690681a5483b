/* endpoints.h: every answer over plain HTTP, whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/metrics.h"
#include "ws-broker/endpoints.h"

static void check(struct endpoint_answer answer, int status, const char *headers,
                  const char *body) {
    assert_int_equal(answer.status, status);
    assert_string_equal(answer.headers, headers);
    assert_string_equal(answer.body, body);
    assert_null(answer.to_free);
    /* Errors, and only these, are JSON. */
    assert_string_equal(answer.type,
                        body[0] == '{' ? "application/json" : "text/plain; charset=utf-8");
}

static void test_where_the_chat_is(void **state) {
    static const char *const elsewhere[] = {"",       "/",       "chat",    "/chat//", "/chats",
                                            "/Chat",  "/chat/x", "//chat",  "/cha",    "/minigame",
                                            "/chat ", "/chat?",  "/healthz"};
    (void)state;
    assert_true(endpoint_is_chat("/chat"));
    assert_true(endpoint_is_chat("/chat/"));
    for (size_t i = 0; i < sizeof(elsewhere) / sizeof(*elsewhere); i++)
        assert_false(endpoint_is_chat(elsewhere[i]));
}

static void test_health(void **state) {
    static const struct endpoint_state any[] = {{.draining = false},
                                                {.ready = true},
                                                {.draining = true},
                                                {.draining = true, .ready = true}};
    (void)state;
    for (size_t i = 0; i < 4; i++)
        check(endpoint_get("/healthz", &any[i]), 200, "", "alive\n");
}

/* 404 while draining, even when all else is well: HAProxy then sends nobody new. */
static void test_readiness(void **state) {
    (void)state;
    check(endpoint_get("/readyz", &(struct endpoint_state){.ready = true}), 200, "", "ready\n");
    check(endpoint_get("/readyz", &(struct endpoint_state){.ready = false}), 503, "",
          "cannot publish or follow\n");
    check(endpoint_get("/readyz", &(struct endpoint_state){.ready = true, .draining = true}), 404,
          "", "draining\n");
    check(endpoint_get("/readyz", &(struct endpoint_state){.ready = false, .draining = true}), 404,
          "", "draining\n");
}

static void test_live_paths(void **state) {
    static const struct endpoint_state with = {.has_minigame = true}, without = {.ready = true};
    enum games_verb verb;
    (void)state;
    assert_true(endpoint_is_live("/api/gaming/events", &verb));
    assert_int_equal(verb, GAMES_NEWEST);
    assert_true(endpoint_is_live("/api/webhook/minigame", &verb));
    assert_int_equal(verb, GAMES_UPDATE);
    assert_false(endpoint_is_live("/api/gaming/events/", &verb));
    assert_false(endpoint_is_live("/api", &verb));
    assert_true(endpoint_is_minigame("/minigame"));
    assert_true(endpoint_is_minigame("/minigame/"));
    assert_false(endpoint_is_minigame("/minigames"));
    check(endpoint_get("/minigame", &with), 426, "Upgrade: websocket\r\n",
          "{\"error\":\"this is a WebSocket: upgrade required\"}");
    check(endpoint_get("/minigame", &without), 404, "", "{\"error\":\"not found\"}");
}

static void test_chat_without_upgrade(void **state) {
    static const struct endpoint_state ready = {.ready = true};
    (void)state;
    check(endpoint_get("/chat", &ready), 426, "Upgrade: websocket\r\n",
          "{\"error\":\"this is a WebSocket: upgrade required\"}");
    check(endpoint_get("/chat/", &ready), 426, "Upgrade: websocket\r\n",
          "{\"error\":\"this is a WebSocket: upgrade required\"}");
}

static void test_not_found(void **state) {
    static const char *const paths[] = {"", "/", "/metrics", "/healthz/", "/api", "/../readyz"};
    static const struct endpoint_state ready = {.ready = true};
    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
        check(endpoint_get(paths[i], &ready), 404, "", "{\"error\":\"not found\"}");
    check(endpoint_not_found(), 404, "", "{\"error\":\"not found\"}");
}

static void test_wrong_method(void **state) {
    (void)state;
    check(endpoint_wrong_method(), 405, "Allow: GET, HEAD\r\n",
          "{\"error\":\"method not allowed\"}");
}

static void test_refused(void **state) {
    (void)state;
    check(endpoint_refused(ADMISSION_FULL), 503, "Retry-After: 5\r\n",
          "{\"error\":\"the server is full\"}");
    check(endpoint_refused(ADMISSION_ADDRESS), 503, "Retry-After: 5\r\n",
          "{\"error\":\"too many connections from your address\"}");
    check(endpoint_refused(ADMISSION_RATE), 503, "Retry-After: 5\r\n",
          "{\"error\":\"your address connects too often\"}");
}

static void test_metrics(void **state) {
    static struct metric answer_metric = {
        .name = "hlchat_answer", .help = "All", .type = METRIC_GAUGE, .value = 42};
    struct metrics metrics = {0};
    (void)state;
    metrics_register(&metrics, &answer_metric);
    struct endpoint_answer answer = endpoint_get_ops("/metrics", &metrics);
    assert_int_equal(answer.status, 200);
    assert_string_equal(answer.type, "text/plain; version=0.0.4; charset=utf-8");
    assert_string_equal(answer.headers, "");
    assert_non_null(strstr(answer.body, "\nhlchat_answer 42\n"));
    assert_ptr_equal(answer.to_free, answer.body);
    free(answer.to_free);
}

static void test_ops_serves_nothing_else(void **state) {
    static const char *const paths[] = {"", "/", "/chat", "/healthz", "/readyz", "/metrics/"};
    struct metrics metrics = {0};
    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
        check(endpoint_get_ops(paths[i], &metrics), 404, "", "{\"error\":\"not found\"}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_where_the_chat_is),
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_readiness),
        cmocka_unit_test(test_live_paths),
        cmocka_unit_test(test_chat_without_upgrade),
        cmocka_unit_test(test_not_found),
        cmocka_unit_test(test_wrong_method),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_ops_serves_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
