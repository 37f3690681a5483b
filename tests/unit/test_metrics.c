#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/metrics.h"

static void assert_text(const struct metrics *metrics, const char *expected) {
    size_t len = 0;
    char *text = metrics_text(metrics, &len);

    assert_non_null(text);
    assert_string_equal(text, expected);
    assert_int_equal(len, strlen(expected));
    free(text);
}

static void nothing_is_an_empty_text(void **state) {
    struct metrics metrics = {0};

    (void)state;
    assert_text(&metrics, "");
}

static void counters_and_gauges(void **state) {
    struct metrics metrics = {0};
    struct metric sent = {
        .name = "hlchat_messages_total", .help = "Messages sent.", .type = METRIC_COUNTER};
    struct metric clients = {
        .name = "hlchat_clients", .help = "Clients \\ now,\nall.", .type = METRIC_GAUGE};
    struct metric lag = {.name = "hlchat_lag_seconds",
                         .help = "Lag.",
                         .type = METRIC_GAUGE,
                         .value = 1250,
                         .scale = 1e-3};

    (void)state;
    metrics_register(&metrics, &sent);
    metrics_register(&metrics, &clients);
    metrics_register(&metrics, &lag);
    sent.value = UINT64_MAX;
    clients.value = 3;
    assert_text(&metrics, "# HELP hlchat_messages_total Messages sent.\n"
                          "# TYPE hlchat_messages_total counter\n"
                          "hlchat_messages_total 18446744073709551615\n"
                          "# HELP hlchat_clients Clients \\\\ now,\\nall.\n"
                          "# TYPE hlchat_clients gauge\n"
                          "hlchat_clients 3\n"
                          "# HELP hlchat_lag_seconds Lag.\n"
                          "# TYPE hlchat_lag_seconds gauge\n"
                          "hlchat_lag_seconds 1.25\n");
}

static void one_head_for_one_name(void **state) {
    struct metrics metrics = {0};
    struct metric logins[] = {
        {.name = "hlchat_logins_total", .labels = "result=\"ok\"", .help = "Logins.", .value = 2},
        {.name = "hlchat_logins_total", .labels = "result=\"refused\"", .help = "Logins."},
    };

    (void)state;
    metrics_register(&metrics, &logins[0]);
    metrics_register(&metrics, &logins[1]);
    assert_text(&metrics, "# HELP hlchat_logins_total Logins.\n"
                          "# TYPE hlchat_logins_total counter\n"
                          "hlchat_logins_total{result=\"ok\"} 2\n"
                          "hlchat_logins_total{result=\"refused\"} 0\n");
}

static void histogram_is_cumulative(void **state) {
    struct metrics metrics = {0};
    struct metric flush = {.name = "hlchat_flush_bytes",
                           .help = "Bytes.",
                           .type = METRIC_HISTOGRAM,
                           .bounds = {10, 100, 1000}};

    (void)state;
    metrics_register(&metrics, &flush);
    static const uint64_t values[] = {0, 10, 11, 100, 1000, 1001, 5000};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        metric_observe(&flush, values[i]);
    assert_text(&metrics, "# HELP hlchat_flush_bytes Bytes.\n"
                          "# TYPE hlchat_flush_bytes histogram\n"
                          "hlchat_flush_bytes_bucket{le=\"10\"} 2\n"
                          "hlchat_flush_bytes_bucket{le=\"100\"} 4\n"
                          "hlchat_flush_bytes_bucket{le=\"1000\"} 5\n"
                          "hlchat_flush_bytes_bucket{le=\"+Inf\"} 7\n"
                          "hlchat_flush_bytes_sum 7122\n"
                          "hlchat_flush_bytes_count 7\n");
}

static void histogram_in_base_units_with_labels(void **state) {
    struct metrics metrics = {0};
    struct metric lag = {.name = "hlchat_lag_seconds",
                         .labels = "loop=\"main\"",
                         .help = "Lag.",
                         .type = METRIC_HISTOGRAM,
                         .bounds = {250, 1500000},
                         .scale = 1e-6};

    (void)state;
    metrics_register(&metrics, &lag);
    metric_observe(&lag, 100);
    metric_observe(&lag, 2000000);
    assert_text(&metrics, "# HELP hlchat_lag_seconds Lag.\n"
                          "# TYPE hlchat_lag_seconds histogram\n"
                          "hlchat_lag_seconds_bucket{loop=\"main\",le=\"0.00025\"} 1\n"
                          "hlchat_lag_seconds_bucket{loop=\"main\",le=\"1.5\"} 1\n"
                          "hlchat_lag_seconds_bucket{loop=\"main\",le=\"+Inf\"} 2\n"
                          "hlchat_lag_seconds_sum{loop=\"main\"} 2.0001\n"
                          "hlchat_lag_seconds_count{loop=\"main\"} 2\n");
}

static void histogram_with_every_bucket_in_use(void **state) {
    struct metrics metrics = {0};
    struct metric all = {.name = "hlchat_all", .help = "All.", .type = METRIC_HISTOGRAM};

    (void)state;
    metrics_register(&metrics, &all);
    for (uint64_t i = 0; i < METRIC_BUCKETS_MAX; i++)
        all.bounds[i] = i + 1;
    for (uint64_t value = 1; value <= METRIC_BUCKETS_MAX + 1; value++)
        metric_observe(&all, value);
    size_t len;
    char *text = metrics_text(&metrics, &len);
    assert_non_null(strstr(text, "hlchat_all_bucket{le=\"16\"} 16\n"));
    assert_non_null(strstr(text, "hlchat_all_bucket{le=\"+Inf\"} 17\n"));
    assert_non_null(strstr(text, "hlchat_all_count 17\n"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_an_empty_text),
        cmocka_unit_test(counters_and_gauges),
        cmocka_unit_test(one_head_for_one_name),
        cmocka_unit_test(histogram_is_cumulative),
        cmocka_unit_test(histogram_in_base_units_with_labels),
        cmocka_unit_test(histogram_with_every_bucket_in_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
