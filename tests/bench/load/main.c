/*
 * chatload: the load generator, and the tool to size a chat with. `chatload --help` is its manual.
 *
 *   connect all ─> (silence) ─> warm-up, drain ─> measure, drain ─> one line of JSON
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "shared/status.h"
#include "tests/bench/load/crowd.h"
#include "tests/bench/load/options.h"
#include "tests/bench/load/process.h"

/* What the servers have used so far, by options.pids. */
struct usage {
    double cpu_s[OPTIONS_PIDS_MAX];
    long rss_kib[OPTIONS_PIDS_MAX];
    double own_cpu_s, at_s;
};

struct run {
    struct options options;
    struct crowd crowd;
    struct usage start, connected, idle, begin, end;
    struct histogram late; /* how long after they were due messages were sent */
    uint64_t sent, begin_deliveries, end_deliveries;
    double connect_s;
};

static void need(int result, const char *what) {
    if (result >= 0)
        return;
    fprintf(stderr, "chatload: %s: %s\n", what,
            result == CHAT_ESYS ? strerror(errno) : chat_status_text(result));
    exit(2);
}

static struct usage usage_now(const struct options *options) {
    struct usage usage = {.own_cpu_s = process_cpu_s(getpid()),
                          .at_s = (double)crowd_now_ns() * 1e-9};
    for (uint32_t i = 0; i < options->pid_count; i++) {
        usage.cpu_s[i] = process_cpu_s(options->pids[i].pid);
        usage.rss_kib[i] = process_rss_kib(options->pids[i].pid);
        if (usage.cpu_s[i] < 0 || usage.rss_kib[i] < 0) {
            fprintf(stderr, "chatload: --pid %s=%d: there is no such process\n",
                    options->pids[i].name, options->pids[i].pid);
            exit(2);
        }
    }
    return usage;
}

/* ---- the phases ------------------------------------------------------------------------------ */

static uint64_t after(uint64_t from_ns, double seconds) {
    return from_ns + (uint64_t)(seconds * 1e9);
}

static void turn_until(struct run *run, uint64_t until_ns) {
    while (crowd_now_ns() < until_ns)
        need(crowd_turn(&run->crowd, until_ns), "receiving");
}

static void connect_all(struct run *run) {
    const struct options *options = &run->options;
    struct crowd *crowd = &run->crowd;
    uint64_t begin_ns = crowd_now_ns(), deadline_ns = after(begin_ns, options->connect_timeout);
    run->start = usage_now(options);
    while (crowd->logged_in + crowd->failed + crowd->stalled_out < options->clients) {
        uint64_t now_ns = crowd_now_ns(), next_ns = deadline_ns;
        if (now_ns >= deadline_ns)
            break;
        while (crowd->begun < options->clients && crowd->under_way < options->at_once) {
            if (options->connect_rate > 0) {
                next_ns = after(begin_ns, crowd->begun / options->connect_rate);
                if (next_ns > now_ns)
                    break;
            }
            crowd_connect(crowd);
        }
        need(crowd_turn(crowd, next_ns < deadline_ns ? next_ns : deadline_ns), "connecting");
    }
    crowd_give_up(crowd);
    run->connected = usage_now(options);
    run->connect_s = run->connected.at_s - run->start.at_s;
    fprintf(stderr, "chatload: %u of %u clients logged in after %.2f s%s%s\n", crowd->logged_in,
            options->clients, run->connect_s, *crowd->first_error ? "; first error: " : "",
            crowd->first_error);
}

static bool has_readers(const struct run *run) {
    return run->crowd.logged_in > run->options.stalled - run->crowd.stalled_out;
}

static bool send_one(struct run *run, uint64_t due_ns) {
    int sent = crowd_send(&run->crowd, due_ns);
    need(sent, "sending");
    if (sent > 0) {
        histogram_add(&run->late, (crowd_now_ns() - due_ns) / 1000);
        run->sent++;
    }
    return sent > 0;
}

/* Sends what is due in that time, or what the window has room for. */
static void send_for(struct run *run, double seconds) {
    const struct options *options = &run->options;
    uint64_t begin_ns = crowd_now_ns(), end_ns = after(begin_ns, seconds), paced = 0;
    for (;;) {
        uint64_t now_ns = crowd_now_ns(), next_ns = end_ns;
        while (options->window > run->crowd.checker.on_the_way && now_ns < end_ns &&
               send_one(run, now_ns)) {
        }
        while (options->rate > 0) {
            uint64_t due_ns = after(begin_ns, (double)paced / options->rate);
            if (due_ns >= now_ns || due_ns >= end_ns) {
                next_ns = due_ns < end_ns ? due_ns : end_ns;
                break;
            }
            send_one(run, due_ns);
            paced++;
        }
        if (now_ns >= end_ns || !has_readers(run))
            return;
        need(crowd_turn(&run->crowd, next_ns), "receiving");
    }
}

/* Until everybody has everything. */
static void drain(struct run *run) {
    uint64_t deadline_ns = after(crowd_now_ns(), run->options.drain);
    while (run->crowd.checker.on_the_way > 0 && has_readers(run) && crowd_now_ns() < deadline_ns)
        need(crowd_turn(&run->crowd, deadline_ns), "receiving");
}

/* Nothing is on the way when measuring begins, nor when it ends: so all deliveries of what was sent
 * meanwhile are counted, and all that they cost. */
static void load(struct run *run) {
    struct checker *checker = &run->crowd.checker;
    checker->measured_from_ns = UINT64_MAX;
    send_for(run, run->options.warm_up);
    drain(run);
    run->late = (struct histogram){0};
    run->sent = 0;
    run->begin = usage_now(&run->options);
    run->begin_deliveries = checker->deliveries;
    checker->measured_from_ns = crowd_now_ns();
    send_for(run, run->options.seconds);
    drain(run);
    run->end = usage_now(&run->options);
    run->end_deliveries = checker->deliveries;
    /* What comes twice may come a little later. */
    turn_until(run, after(crowd_now_ns(), 0.1));
}

/* ---- the report ------------------------------------------------------------------------------ */

static double ms(const struct histogram *histogram, double share) {
    return (double)histogram_quantile(histogram, share) / 1000;
}

static void print_histogram(const char *name, const struct histogram *histogram) {
    printf(",\"%s\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", name,
           ms(histogram, 0.5), ms(histogram, 0.9), ms(histogram, 0.99), ms(histogram, 0.999),
           (double)histogram->max_us / 1000);
}

static bool is_first_of_name(const struct options *options, uint32_t at) {
    for (uint32_t i = 0; i < at; i++)
        if (strcmp(options->pids[i].name, options->pids[at].name) == 0)
            return false;
    return true;
}

/* {"NAME": what they used between the two, times `scale`}; rss: what they have more, or (from
 * NULL) what they have. */
static void print_used(const char *name, const struct options *options, const struct usage *from,
                       const struct usage *to, bool rss, double scale) {
    const char *comma = "";
    printf(",\"%s\":{", name);
    for (uint32_t i = 0; i < options->pid_count; i++) {
        double sum = 0;
        if (!is_first_of_name(options, i))
            continue;
        for (uint32_t j = i; j < options->pid_count; j++)
            if (strcmp(options->pids[j].name, options->pids[i].name) == 0)
                sum += rss ? (double)(to->rss_kib[j] - (from ? from->rss_kib[j] : 0))
                           : to->cpu_s[j] - from->cpu_s[j];
        printf("%s\"%s\":%.6g", comma, options->pids[i].name, sum * scale);
        comma = ",";
    }
    printf("}");
}

static double cpu_between(const struct options *options, const struct usage *from,
                          const struct usage *to) {
    double sum = 0;
    for (uint32_t i = 0; i < options->pid_count; i++)
        sum += to->cpu_s[i] - from->cpu_s[i];
    return sum;
}

static void print_text(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        if ((unsigned char)*text >= ' ')
            putchar(*text);
    }
    putchar('"');
}

static uint32_t closed_count(const struct crowd *crowd) {
    uint32_t count = 0;
    for (int i = 0; i < CROWD_CODES; i++)
        count += crowd->closes[i].count;
    return count;
}

static void print_load(const struct run *run) {
    const struct options *options = &run->options;
    const struct checker *checker = &run->crowd.checker;
    uint64_t deliveries = run->end_deliveries - run->begin_deliveries;
    double seconds = run->end.at_s - run->begin.at_s;
    double cpu_s = cpu_between(options, &run->begin, &run->end);
    printf(",\"seconds\":%.3f,\"sent\":%lu,\"deliveries\":%lu,\"deliveries_per_s\":%.0f", seconds,
           run->sent, deliveries, (double)deliveries / seconds);
    if (cpu_s > 0)
        printf(",\"deliveries_per_cpu_s\":%.0f", (double)deliveries / cpu_s);
    print_used("cpu_s", options, &run->begin, &run->end, false, 1);
    printf(",\"own_cpu_s\":%.3f", run->end.own_cpu_s - run->begin.own_cpu_s);
    print_used("rss_kib", options, NULL, &run->end, true, 1);
    print_histogram("latency_ms", &checker->latency);
    print_histogram("fanout_ms", &checker->fanout);
    if (options->rate > 0)
        print_histogram("sent_late_ms", &run->late);
    if (checker->_entry_count > 0)
        printf(",\"frame_bytes\":%.1f",
               (double)checker->_byte_count / (double)checker->_entry_count);
}

static void report(const struct run *run) {
    const struct options *options = &run->options;
    const struct crowd *crowd = &run->crowd;
    const struct checker *checker = &crowd->checker;
    const char *comma = "";
    double each = crowd->logged_in > 0 ? 1.0 / crowd->logged_in : 0;
    printf("{\"clients\":%u,\"logged_in\":%u,\"failed\":%u,\"connect_s\":%.3f", options->clients,
           crowd->logged_in,
           options->clients - crowd->logged_in - closed_count(crowd) - crowd->stalled_out,
           run->connect_s);
    print_histogram("login_ms", &crowd->login);
    print_used("login_cpu_us", options, &run->start, &run->connected, false, each * 1e6);
    print_used("client_rss_kib", options, &run->start, &run->connected, true, each);
    if (options->idle > 0)
        print_used("idle_cores", options, &run->connected, &run->idle, false,
                   1 / (run->idle.at_s - run->connected.at_s));
    if (options->seconds > 0)
        print_load(run);
    printf(",\"errors\":%lu,\"others\":%lu,\"lost\":%lu,\"duplicates\":%lu,\"reordered\":%lu,"
           "\"altered\":%lu,\"undelivered\":%lu,\"stalled\":%u,\"stalled_closed\":%u,\"closed\":{",
           crowd->errors, crowd->others, checker->lost, checker->duplicates, checker->reordered,
           checker->altered, checker->undelivered, options->stalled, crowd->stalled_out);
    for (int i = 0; i < CROWD_CODES && crowd->closes[i].count > 0; i++, comma = ",")
        printf("%s\"%d\":%u", comma, crowd->closes[i].code, crowd->closes[i].count);
    printf("},\"first_error\":");
    print_text(crowd->first_error);
    printf("}\n");
}

static bool is_good(const struct run *run) {
    const struct crowd *crowd = &run->crowd;
    const struct checker *checker = &crowd->checker;
    return crowd->logged_in + crowd->stalled_out == run->options.clients && crowd->errors == 0 &&
           checker->lost + checker->duplicates + checker->reordered + checker->altered +
                   checker->undelivered ==
               0;
}

int main(int argc, char **argv) {
    static struct run run;
    struct rlimit files;
    options_read(argc, argv, &run.options);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    need(crowd_init(&run.crowd, &run.options), "starting");
    connect_all(&run);
    if (run.options.idle > 0) {
        turn_until(&run, after(crowd_now_ns(), run.options.idle));
        run.idle = usage_now(&run.options);
    }
    if (run.options.seconds > 0)
        load(&run);
    crowd_finish(&run.crowd);
    report(&run);
    bool good = is_good(&run);
    crowd_deinit(&run.crowd);
    return good ? 0 : 1;
}
