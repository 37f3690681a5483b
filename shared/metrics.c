#include "shared/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void metrics_register(struct metrics *metrics, struct metric *metric) {
    metric->_next = NULL;
    if (metrics->_last)
        metrics->_last->_next = metric;
    else
        metrics->_first = metric;
    metrics->_last = metric;
}

void metric_observe(struct metric *metric, uint64_t value) {
    size_t bucket = 0;

    while (bucket < METRIC_BUCKETS_MAX && metric->bounds[bucket] > 0 &&
           value > metric->bounds[bucket])
        bucket++;
    metric->counts[bucket]++;
    metric->sum += value;
}

/* HELP and TYPE. In HELP, a backslash and a newline are escaped. */
static void write_head(FILE *out, const struct metric *metric) {
    static const char *const types[] = {"counter", "gauge", "histogram"};

    fprintf(out, "# HELP %s ", metric->name);
    for (const char *c = metric->help; *c; c++) {
        if (*c == '\n')
            fputs("\\n", out);
        else if (*c == '\\')
            fputs("\\\\", out);
        else
            fputc(*c, out);
    }
    fprintf(out, "\n# TYPE %s %s\n", metric->name, types[metric->type]);
}

/* `name suffix {labels,extra} ` with braces only when there is something in them. */
static void write_name(FILE *out, const struct metric *metric, const char *suffix,
                       const char *extra) {
    const char *labels = metric->labels ? metric->labels : "";
    const char *comma = labels[0] && extra[0] ? "," : "";

    fprintf(out, "%s%s", metric->name, suffix);
    if (labels[0] || extra[0])
        fprintf(out, "{%s%s%s}", labels, comma, extra);
    fputc(' ', out);
}

static void write_value(FILE *out, const struct metric *metric) {
    if (metric->scale > 0)
        fprintf(out, "%.15g\n", (double)metric->value * metric->scale);
    else
        fprintf(out, "%" PRIu64 "\n", metric->value);
}

static void write_histogram(FILE *out, const struct metric *metric) {
    double scale = metric->scale > 0 ? metric->scale : 1;
    uint64_t total = 0; /* buckets are cumulative */
    size_t bucket = 0;
    char le[48];

    for (; bucket < METRIC_BUCKETS_MAX && metric->bounds[bucket] > 0; bucket++) {
        total += metric->counts[bucket];
        /* 12 digits: 0.0025, not 0.0025000000000000001 */
        snprintf(le, sizeof(le), "le=\"%.12g\"", (double)metric->bounds[bucket] * scale);
        write_name(out, metric, "_bucket", le);
        fprintf(out, "%" PRIu64 "\n", total);
    }
    total += metric->counts[bucket];
    write_name(out, metric, "_bucket", "le=\"+Inf\"");
    fprintf(out, "%" PRIu64 "\n", total);
    write_name(out, metric, "_sum", "");
    fprintf(out, "%.15g\n", (double)metric->sum * scale);
    write_name(out, metric, "_count", "");
    fprintf(out, "%" PRIu64 "\n", total);
}

char *metrics_text(const struct metrics *metrics, size_t *len) {
    char *text = NULL;
    const char *name = "";

    FILE *out = open_memstream(&text, len);
    if (!out)
        return NULL;
    for (const struct metric *metric = metrics->_first; metric; metric = metric->_next) {
        if (strcmp(name, metric->name) != 0)
            write_head(out, metric);
        name = metric->name;
        if (metric->type == METRIC_HISTOGRAM) {
            write_histogram(out, metric);
        } else {
            write_name(out, metric, "", "");
            write_value(out, metric);
        }
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
