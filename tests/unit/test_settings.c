#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include <stdlib.h>
#include <unistd.h>

#include "shared/log.h"
#include "shared/settings.h"
#include "shared/status.h"
#include "shared/version.h"
#include "tests/unit/log_watch.h"

enum { WORDS_MAX = 12 };

/* One load: what goes in, and all that came out. */
struct load {
    enum settings_program program;
    const char *flags[WORDS_MAX]; /* NULL ends them */
    const char *env[WORDS_MAX];
    settings_check_cb check;
    char *argv[WORDS_MAX + 2]; /* for a reload, too */
    enum settings_result result;
    struct settings settings;
    char out[8192];
    char err[2048];
};

static void read_back(FILE *file, char *text, size_t size) {
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static void run_load(struct load *load) {
    int argc = 1;

    load->argv[0] = (char *)(uintptr_t) "program";
    for (; load->flags[argc - 1]; argc++)
        load->argv[argc] = (char *)(uintptr_t)load->flags[argc - 1];
    FILE *out = tmpfile(), *err = tmpfile();
    assert_non_null(out);
    assert_non_null(err);
    load->result =
        settings_load(&load->settings, load->program ? load->program : PROGRAM_BROKER, argc,
                      load->argv, (char **)(uintptr_t)load->env, load->check, out, err);
    read_back(out, load->out, sizeof(load->out));
    read_back(err, load->err, sizeof(load->err));
}

#define LOAD(name, ...)                                                                            \
    struct load name = {__VA_ARGS__};                                                              \
    run_load(&name)

static void assert_runs(const struct load *load) {
    assert_string_equal(load->err, "");
    assert_string_equal(load->out, "");
    assert_int_equal(load->result, SETTINGS_RUN);
}

/* One line, this one, and no start. */
static void assert_refused(struct load *load, const char *line) {
    char expected[2048];

    snprintf(expected, sizeof(expected), "%s\n", line);
    assert_string_equal(load->err, expected);
    assert_string_equal(load->out, "");
    assert_int_equal(load->result, SETTINGS_BAD);
    settings_deinit(&load->settings);
}

/* A file of this test, one at a time. */
static char file_path[64];
static char file_flag[80];

static void write_file(const char *text, size_t len) {
    FILE *file = fopen(file_path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    fclose(file);
}

static int make_file(void **state) {
    (void)state;
    snprintf(file_path, sizeof(file_path), "/tmp/hlchat-test-settings-XXXXXX");
    int fd = mkstemp(file_path);
    if (fd < 0)
        return -1;
    close(fd);
    snprintf(file_flag, sizeof(file_flag), "--env-file=%s", file_path);
    return 0;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(file_path);
}

/* ---- Values ---------------------------------------------------------------------------------- */

static void defaults_are_those_of_the_design(void **state) {
    LOAD(load, .flags = {NULL});

    (void)state;
    assert_runs(&load);
    const struct settings *settings = &load.settings;
    assert_int_equal(settings->chat_env, PROFILE_DEV);
    assert_string_equal(settings->listen.host, "127.0.0.1");
    assert_int_equal(settings->listen.port, 9001);
    assert_int_equal(settings->ops_listen.port, 9101);
    assert_int_equal(settings->trusted_proxies.count, 2);
    assert_true(settings->trusted_proxies.has_unix);
    assert_int_equal(settings->fcgi_listen.port, 9000);
    assert_int_equal(settings->fcgi_threads, 8);
    assert_int_equal(settings->store, STORE_MEMORY);
    assert_int_equal(settings->identity, IDENTITY_DEV);
    assert_string_equal(settings->chat_name, "main");
    assert_int_equal(settings->history_limit, 100);
    assert_int_equal(settings->history_max_bytes, 61440);
    assert_int_equal(settings->log_maxlen, 10000);
    assert_int_equal(settings->message_max_bytes, 2048);
    assert_int_equal(settings->frame_max_bytes, 16384);
    assert_int_equal(settings->rate_messages, 5);
    assert_int_equal(settings->rate_burst, 20);
    assert_int_equal(settings->conn_per_address, 0);
    assert_int_equal(settings->connect_rate_per_address, 0);
    assert_int_equal(settings->login_timeout_s, 120);
    assert_int_equal(settings->login_attempts, 5);
    assert_int_equal(settings->ping_interval_s, 25);
    assert_int_equal(settings->max_clients, 0);
    assert_int_equal(settings->flush_interval_ms, 0);
    assert_int_equal(settings->log_level, LOG_LEVEL_INFO);
    assert_int_equal(settings->log_format, LOG_FORMAT_TEXT);
    settings_deinit(&load.settings);
}

static void ranges_hold_at_their_ends(void **state) {
    static const struct {
        const char *name;
        long min, max;
        const char *with; /* what the other end of the range needs */
    } cases[] = {
        {"HISTORY_LIMIT", 0, 1000, NULL},
        {"HISTORY_MAX_BYTES", 4096, 16777216, NULL},
        {"LOG_MAXLEN", 100, 1000000, NULL},
        {"MESSAGE_MAX_BYTES", 1, 16384, "FRAME_MAX_BYTES=131072"},
        {"FRAME_MAX_BYTES", 1024, 131072, "MESSAGE_MAX_BYTES=1"},
        {"RATE_MESSAGES", 0, 100000, NULL},
        {"RATE_BURST", 1, 1000000, NULL},
        {"CONN_PER_ADDRESS", 0, 1000000, NULL},
        {"CONNECT_RATE_PER_ADDRESS", 0, 100000, NULL},
        {"LOGIN_TIMEOUT_S", 1, 3600, NULL},
        {"LOGIN_ATTEMPTS", 1, 1000, NULL},
        {"PING_INTERVAL_S", 1, 3600, NULL},
        {"MAX_CLIENTS", 0, 1000000, NULL},
        {"FLUSH_INTERVAL_MS", 0, 1000, NULL},
        {"FCGI_THREADS", 2, 256, NULL},
        {"HTTP_PORT", 1, 65535, NULL},
        {"PORT", 1, 65535, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const long values[] = {cases[i].min, cases[i].max, cases[i].min - 1, cases[i].max + 1};
        for (int v = 0; v < 4; v++) {
            char entry[64], line[256];
            snprintf(entry, sizeof(entry), "%s=%ld", cases[i].name, values[v]);
            LOAD(load, .env = {entry, cases[i].with});
            if (v < 2) {
                assert_runs(&load);
                settings_deinit(&load.settings);
                continue;
            }
            snprintf(line, sizeof(line),
                     "ws-broker: environment: %s is '%ld', but must be a whole number from %ld to "
                     "%ld",
                     cases[i].name, values[v], cases[i].min, cases[i].max);
            assert_refused(&load, line);
        }
    }
}

static void numbers_are_nothing_but_digits(void **state) {
    static const char *const cases[] = {" 5",  "5 ",  "+5",   "-0",    "0x5",
                                        "5.0", "5e1", "five", "5,000", "99999999999999999999",
                                        "\t5"};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        LOAD(load, .flags = {"--rate-messages", cases[i]});
        assert_int_equal(load.result, SETTINGS_BAD);
        assert_non_null(strstr(load.err, "but must be a whole number from 0 to 100000\n"));
        settings_deinit(&load.settings);
    }
}

static void choices_are_words(void **state) {
    static const char *const levels[] = {"error", "warn", "info", "debug"};

    (void)state;
    for (int i = 0; i < 4; i++) {
        LOAD(load, .flags = {"--log-level", levels[i]});
        assert_runs(&load);
        assert_int_equal(load.settings.log_level, i);
        settings_deinit(&load.settings);
    }
    LOAD(json, .flags = {"--log-format", "json"});
    assert_runs(&json);
    assert_int_equal(json.settings.log_format, LOG_FORMAT_JSON);
    settings_deinit(&json.settings);
    LOAD(upper, .flags = {"--log-level", "INFO"});
    assert_refused(&upper, "ws-broker: --log-level: LOG_LEVEL is 'INFO', but must be error or warn "
                           "or info or debug");
    LOAD(store, .env = {"STORE=disk"});
    assert_refused(&store, "ws-broker: environment: STORE is 'disk', but must be memory or redis");
}

/* A secret has no flag, may come from a file, and is shown nowhere. */
static void secrets_are_kept(void **state) {
    char file_variable[96], flags_line[160];

    (void)state;
    LOAD(given, .env = {"REDIS_URL=redis://:hunter2@h:1/2"}, .flags = {"--print-config"});
    assert_int_equal(given.result, SETTINGS_DONE);
    assert_string_equal(given.settings.redis_url.password, "hunter2");
    assert_null(strstr(given.out, "hunter2"));
    assert_non_null(strstr(given.out, "# REDIS_URL is set, and secret\n"));
    settings_deinit(&given.settings);

    write_file("redis://:hunter2@h:1/2\nsecond line\n", 35);
    snprintf(file_variable, sizeof(file_variable), "REDIS_URL_FILE=%s", file_path);
    LOAD(filed, .env = {file_variable});
    assert_runs(&filed);
    assert_string_equal(filed.settings.redis_url.password, "hunter2");
    settings_deinit(&filed.settings);

    LOAD(missing, .env = {"REDIS_URL_FILE=/nowhere/at/all"});
    assert_refused(&missing, "ws-broker: environment: REDIS_URL_FILE: /nowhere/at/all: No such "
                             "file or directory");
    LOAD(bad, .env = {"REDIS_URL=redis://:hunter2@h:99999"});
    assert_refused(&bad, "ws-broker: environment: REDIS_URL: the port must be 1..65535");
    LOAD(tls, .env = {"REDIS_URL=rediss://:hunter2@h"});
    assert_refused(&tls, "ws-broker: environment: REDIS_URL: rediss:// (TLS) is not spoken: put "
                         "HAProxy or stunnel in front, see docs/redis.md");
    static const char *const names[] = {"MINIGAME_SECRET", "WEBHOOK_SECRET"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char variable[96], shown[160];
        snprintf(variable, sizeof(variable), "%s=hunter2", names[i]);
        snprintf(shown, sizeof(shown), "# %s is set, and secret\n", names[i]);
        LOAD(secret, .env = {variable}, .flags = {"--print-config"});
        assert_int_equal(secret.result, SETTINGS_DONE);
        assert_non_null(strstr(secret.out, shown));
        assert_null(strstr(secret.out, "hunter2"));
        settings_deinit(&secret.settings);
        snprintf(variable, sizeof(variable), "%s=hunter2 hunter2", names[i]);
        snprintf(shown, sizeof(shown),
                 "ws-broker: environment: %s: it must have 1 to 256 visible ASCII characters "
                 "without blanks",
                 names[i]);
        LOAD(blank, .env = {variable});
        assert_refused(&blank, shown);
    }
    LOAD(flag, .flags = {"--redis-url", "redis://:hunter2@h"});
    snprintf(flags_line, sizeof(flags_line),
             "ws-broker: there is no option '--redis-url' (see "
             "--help)");
    assert_refused(&flag, flags_line);
}

/* Which one is meant? Between two sources the stronger one wins as ever. */
static void a_secret_stands_in_one_place_of_a_source(void **state) {
    char variable[96], line[256];

    (void)state;
    write_file("redis://:hunter2@h:1/2\n", 23);
    snprintf(variable, sizeof(variable), "REDIS_URL_FILE=%s", file_path);
    LOAD(both, .env = {"REDIS_URL=redis://h", variable});
    assert_refused(&both, "ws-broker: environment: REDIS_URL and REDIS_URL_FILE are both set");
    LOAD(empty, .env = {"REDIS_URL=", variable});
    assert_runs(&empty);
    assert_string_equal(empty.settings.redis_url.password, "hunter2");
    settings_deinit(&empty.settings);

    static const char text[] =
        "# a comment\nWEBHOOK_SECRET_FILE=/proc/self/comm\nWEBHOOK_SECRET=b\n";
    write_file(text, strlen(text));
    LOAD(file, .flags = {file_flag});
    snprintf(line, sizeof(line),
             "ws-broker: %s:3: WEBHOOK_SECRET and WEBHOOK_SECRET_FILE are both set", file_path);
    assert_refused(&file, line);

    write_file("WEBHOOK_SECRET_FILE=/proc/self/comm\n", 36);
    LOAD(stronger, .flags = {file_flag}, .env = {"WEBHOOK_SECRET=b"});
    assert_runs(&stronger);
    assert_string_equal(stronger.settings.webhook_secret, "b");
    settings_deinit(&stronger.settings);
}

static void names_are_letters(void **state) {
    char longest[66] = "";

    (void)state;
    memset(longest, 'x', 64);
    LOAD(good, .flags = {"--chat-name", longest});
    assert_runs(&good);
    assert_string_equal(good.settings.chat_name, longest);
    settings_deinit(&good.settings);
    longest[64] = 'x';
    static const char *const bad[] = {"a b", "a:b", "{a}", "\xc3\xbc", "a\n", "a*", ""};
    for (size_t i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
        LOAD(load, .flags = {"--chat-name", i < sizeof(bad) / sizeof(bad[0]) ? bad[i] : longest});
        assert_int_equal(load.result, SETTINGS_BAD);
        assert_non_null(strstr(load.err, "must be 1 to 64 of A-Z a-z 0-9 _ -\n"));
        settings_deinit(&load.settings);
    }
}

/* A password in a URL would be printed by --print-config; and an error does not repeat it. */
static void urls_hold_no_password(void **state) {
    static const char *const flags[] = {"--jwks-url", "--heavenland-api-url"};
    static const char *const names[] = {"JWKS_URL", "HEAVENLAND_API_URL"};
    static const char *const bad[] = {"https://ann:swordfish@id.example/keys",
                                      "https://swordfish@id.example", "ftp://id.example/swordfish",
                                      "https://id.example/ swordfish"};
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        char line[128], variable[128];
        snprintf(line, sizeof(line),
                 "%s must be http://host[:port]/... or https://host[:port]/... without user and "
                 "password\n",
                 names[f]);
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
            snprintf(variable, sizeof(variable), "%s=%s", names[f], bad[i]);
            LOAD(by_flag, .flags = {flags[f], bad[i]});
            LOAD(by_environment, .env = {variable});
            const struct load *loads[] = {&by_flag, &by_environment};
            for (size_t n = 0; n < 2; n++) {
                assert_int_equal(loads[n]->result, SETTINGS_BAD);
                assert_non_null(strstr(loads[n]->err, line));
                assert_null(strstr(loads[n]->err, "swordfish"));
                assert_null(strstr(loads[n]->err, "ann"));
            }
            settings_deinit(&by_flag.settings);
            settings_deinit(&by_environment.settings);
        }
        LOAD(good, .flags = {flags[f], "https://id.example:8443/keys"});
        assert_runs(&good);
        settings_deinit(&good.settings);
    }
}

/* A URL that no request can go to stops the start: later it would only look like a service that is
 * down. */
static void urls_that_cannot_be_asked(void **state) {
    static const char *const flags[] = {"--jwks-url", "--heavenland-api-url"};
    static const char *const good[] = {
        "http://host",  "http://host:1",       "https://host:65535/a",  "http://127.0.0.1:8081",
        "http://[::1]", "http://[::1]:8081/a", "http://my_host.x-y/a:b"};
    static const char *const bad[] = {"http://",
                                      "http:///x",
                                      "http://:80/x",
                                      "http://?x",
                                      "http://host:/x",
                                      "http://host:0",
                                      "http://host:65536",
                                      "http://host:99999",
                                      "http://host:8x",
                                      "http://host:-1",
                                      "http://host:99999999999999999999",
                                      "http://[::1",
                                      "http://::1]",
                                      "http://[]",
                                      "http://[::1]8081",
                                      "http://[::1]:",
                                      "http://[host]/x",
                                      "http://[127.0.0.1]",
                                      "http://[::1]]:80",
                                      "http://ho%20st",
                                      "http://host:80:80"};

    (void)state;
    for (size_t f = 0; f < 2; f++) {
        for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
            LOAD(load, .flags = {flags[f], good[i]});
            assert_runs(&load);
            settings_deinit(&load.settings);
        }
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
            LOAD(load, .flags = {flags[f], bad[i]});
            if (load.result != SETTINGS_BAD || !strstr(load.err, " must be http://host"))
                fail_msg("%s: %s", bad[i], load.err);
            settings_deinit(&load.settings);
        }
    }
    LOAD(with_query, .flags = {"--jwks-url", "https://id.example?p=1"});
    assert_runs(&with_query);
    settings_deinit(&with_query.settings);
    LOAD(api, .flags = {"--heavenland-api-url", "http://host/api?x=y"});
    assert_refused(&api,
                   "ws-broker: HEAVENLAND_API_URL must not have a ?: paths are appended to it");
}

static void files_are_separated_by_commas(void **state) {
    static const struct {
        const char *list, *files[4];
    } rows[] = {{"a", {"a"}},
                {"a,b", {"a", "b"}},
                {"  /a b/c , d  ,e,", {"/a b/c", "d", "e"}},
                {"a,,b", {"a", "", "b"}},
                {" ", {""}},
                {"", {NULL}}};
    char path[SETTINGS_FILES_MAX + 1], list[2 * sizeof(file_path) + 8];

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *rest = rows[i].list;
        for (const char *const *file = rows[i].files; *file; file++) {
            assert_true(settings_next_file(&rest, path));
            assert_string_equal(path, *file);
        }
        assert_false(settings_next_file(&rest, path));
    }
    snprintf(list, sizeof(list), " %s , %s ", file_path, file_path);
    LOAD(good, .flags = {"--jwt-public-key-file", list});
    assert_runs(&good);
    settings_deinit(&good.settings);
    snprintf(list, sizeof(list), "%s, /nonexistent", file_path);
    LOAD(bad, .flags = {"--jwt-public-key-file", list});
    assert_refused(&bad, "ws-broker: JWT_PUBLIC_KEY_FILE: /nonexistent: No such file or directory");
}

static void addresses_and_networks(void **state) {
    LOAD(load, .flags = {"--listen", "unix:/run/b.sock", "--ops-listen", "[::1]:9101",
                         "--trusted-proxies", "10.0.0.0/8"});

    (void)state;
    assert_runs(&load);
    assert_string_equal(load.settings.listen.path, "/run/b.sock");
    assert_string_equal(load.settings.ops_listen.host, "::1");
    assert_int_equal(load.settings.trusted_proxies.count, 1);
    assert_false(load.settings.trusted_proxies.has_unix);
    settings_deinit(&load.settings);

    LOAD(none, .env = {"TRUSTED_PROXIES=none"});
    assert_runs(&none);
    assert_int_equal(none.settings.trusted_proxies.count, 0);
    assert_false(none.settings.trusted_proxies.has_unix);
    settings_deinit(&none.settings);

    LOAD(host, .env = {"LISTEN=localhost:9001"});
    assert_refused(&host,
                   "ws-broker: environment: LISTEN is 'localhost:9001', but must be address:port "
                   "(numeric, [::1]:9000 for IPv6) or unix:/path");
    LOAD(network, .env = {"TRUSTED_PROXIES=10.0.0.1/8"});
    assert_refused(&network,
                   "ws-broker: environment: TRUSTED_PROXIES is '10.0.0.1/8', but must be a list "
                   "such as 10.0.0.0/8, ::1, unix (at most 64, no host bits) or none");
}

static void haproxy_rows_are_checked_and_ignored(void **state) {
    LOAD(good, .env = {"HTTP_BIND=0.0.0.0", "PORT=80", "HTTP_PORT=65535"});

    (void)state;
    assert_runs(&good);
    settings_deinit(&good.settings);
    LOAD(star, .env = {"HTTP_BIND=*"});
    assert_runs(&star);
    settings_deinit(&star.settings);
    LOAD(bad, .env = {"HTTP_BIND=localhost"});
    assert_refused(&bad, "ws-broker: environment: HTTP_BIND is 'localhost', but must be an IPv4 or "
                         "IPv6 address or *");
    LOAD(flag, .flags = {"--http-port", "80"});
    assert_refused(&flag, "ws-broker: there is no option '--http-port' (see --help)");
}

/* ---- Sources --------------------------------------------------------------------------------- */

static void the_stronger_source_wins(void **state) {
    static const char text[] = "RATE_BURST=2\nRATE_MESSAGES=2\nLOGIN_ATTEMPTS=2\n";

    (void)state;
    write_file(text, strlen(text));
    LOAD(load, .flags = {file_flag, "--login-attempts=4"},
         .env = {"RATE_MESSAGES=3", "LOGIN_ATTEMPTS=3"});
    assert_runs(&load);
    assert_int_equal(load.settings.rate_burst, 2);
    assert_int_equal(load.settings.rate_messages, 3);
    assert_int_equal(load.settings.login_attempts, 4);
    settings_deinit(&load.settings);
}

static void a_profile_is_weaker_than_anybody(void **state) {
    LOAD(profile, .program = PROGRAM_API, .env = {"CHAT_ENV=cloud_run"});

    (void)state;
    assert_runs(&profile);
    assert_int_equal(profile.settings.log_format, LOG_FORMAT_JSON);
    settings_deinit(&profile.settings);
    LOAD(asked, .program = PROGRAM_API, .env = {"CHAT_ENV=cloud_run", "LOG_FORMAT=text"});
    assert_runs(&asked);
    assert_int_equal(asked.settings.log_format, LOG_FORMAT_TEXT);
    settings_deinit(&asked.settings);
}

static void the_later_file_and_flag_win(void **state) {
    char other[] = "/tmp/hlchat-test-settings-XXXXXX";
    int fd = mkstemp(other);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "RATE_BURST=7\n", 13), 13);
    close(fd);
    write_file("RATE_BURST=6\nRATE_MESSAGES=6\n", 29);
    LOAD(load, .flags = {"--env-file", file_path, "--env-file", other, "--login-attempts", "1",
                         "--login-attempts", "2"});
    unlink(other);
    assert_runs(&load);
    assert_int_equal(load.settings.rate_burst, 7);
    assert_int_equal(load.settings.rate_messages, 6);
    assert_int_equal(load.settings.login_attempts, 2);
    settings_deinit(&load.settings);
}

static void empty_is_not_set(void **state) {
    (void)state;
    write_file("RATE_BURST=\nCHAT_NAME=\n", 23);
    LOAD(load, .flags = {file_flag}, .env = {"HISTORY_LIMIT=", "STORE="});
    assert_runs(&load);
    assert_int_equal(load.settings.rate_burst, 20);
    assert_string_equal(load.settings.chat_name, "main");
    assert_int_equal(load.settings.history_limit, 100);
    settings_deinit(&load.settings);
}

static void other_names_in_the_environment_are_ignored(void **state) {
    LOAD(load, .env = {"PATH=/bin", "HISTORY_LIMITS=5", "HISTORY", "history_limit=5", "=", ""});

    (void)state;
    assert_runs(&load);
    assert_int_equal(load.settings.history_limit, 100);
    settings_deinit(&load.settings);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void files_that_are_read(void **state) {
    static const char *const cases[] = {
        "HISTORY_LIMIT=42\n",
        "HISTORY_LIMIT=42",
        "HISTORY_LIMIT=42\r\n",
        "# HISTORY_LIMIT=1\n\n   \t\n\r\nHISTORY_LIMIT=42\n#",
        "HISTORY_LIMIT=1\nHISTORY_LIMIT=42\n",
        "HTTP_PORT=80\nFCGI_THREADS=4\nHISTORY_LIMIT=42\n", /* for other programs */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        write_file(cases[i], strlen(cases[i]));
        LOAD(load, .flags = {file_flag});
        assert_runs(&load);
        assert_int_equal(load.settings.history_limit, 42);
        settings_deinit(&load.settings);
    }
    write_file("", 0);
    LOAD(empty, .flags = {file_flag});
    assert_runs(&empty);
    settings_deinit(&empty.settings);
}

static void values_are_taken_as_they_stand(void **state) {
    static const char text[] = "LISTEN=unix:/run/$HOME #x \"y\"=z\n";

    (void)state;
    write_file(text, strlen(text));
    LOAD(load, .flags = {file_flag});
    assert_runs(&load);
    assert_string_equal(load.settings.listen.path, "/run/$HOME #x \"y\"=z");
    settings_deinit(&load.settings);
}

static void errors_name_file_and_line(void **state) {
    static const struct {
        const char *text;
        const char *error; /* after the file's name */
    } cases[] = {
        {"# x\n\nHISTORY_LIMIT=x\n",
         ":3: HISTORY_LIMIT is 'x', but must be a whole number from 0 to 1000"},
        {"HISTORY_LIMIT=\"5\"\n",
         ":1: HISTORY_LIMIT is '\"5\"', but must be a whole number from 0 to 1000"},
        {"HISTORY_LIMIT=5\nNOTHING=1\n", ":2: there is no setting 'NOTHING'"},
        {"HISTORY_LIMITS=5\n", ":1: there is no setting 'HISTORY_LIMITS'"},
        {"NOTHING=\n", ":1: there is no setting 'NOTHING'"},
        {"history_limit=5\n", ":1: there is no setting 'history_limit'"},
        {" HISTORY_LIMIT=5\n", ":1: there is no setting ' HISTORY_LIMIT'"},
        {"HISTORY_LIMIT =5\n", ":1: there is no setting 'HISTORY_LIMIT '"},
        {"=5\n", ":1: there is no setting ''"},
        {"HISTORY_LIMIT\n", ":1: 'HISTORY_LIMIT' is not KEY=value"},
        {"  # x\n", ":1: '  # x' is not KEY=value"},
        {"\xef\xbb\xbfPORT=1\n", ":1: there is no setting '???PORT'"},
        {"FCGI_THREADS=1\n", ":1: FCGI_THREADS is '1', but must be a whole number from 2 to 256"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char line[512];
        write_file(cases[i].text, strlen(cases[i].text));
        LOAD(load, .flags = {file_flag});
        snprintf(line, sizeof(line), "ws-broker: %s%s", file_path, cases[i].error);
        assert_refused(&load, line);
    }
}

static void bytes_that_no_file_should_have(void **state) {
    char line[512], text[3000];

    (void)state;
    write_file("PORT=1\nPORT=1\0002\n", 16);
    LOAD(nul, .flags = {file_flag});
    snprintf(line, sizeof(line), "ws-broker: %s:2: a NUL byte", file_path);
    assert_refused(&nul, line);

    /* A long line is an error of its own kind only by its value; the message stays short. */
    snprintf(text, sizeof(text), "PORT=1\n#%02000d\nCHAT_NAME=%0500d\n", 0, 0);
    write_file(text, strlen(text));
    LOAD(longest, .flags = {file_flag});
    snprintf(line, sizeof(line),
             "ws-broker: %s:3: CHAT_NAME is '%080d...', but must be 1 to 64 of A-Z a-z 0-9 _ -",
             file_path, 0);
    assert_refused(&longest, line);

    /* Nothing in a value forges a second line. */
    LOAD(forged, .env = {"CHAT_NAME=a\nws-broker: \x1b[1mready"});
    assert_refused(&forged, "ws-broker: environment: CHAT_NAME is 'a?ws-broker: ?[1mready', but "
                            "must be 1 to 64 of A-Z a-z 0-9 _ -");
}

static void files_that_cannot_be_read(void **state) {
    LOAD(missing, .flags = {"--env-file", "/nowhere/x.env"});

    (void)state;
    assert_refused(&missing, "ws-broker: /nowhere/x.env: No such file or directory");
    LOAD(folder, .flags = {"--env-file", "/tmp"});
    assert_refused(&folder, "ws-broker: /tmp: Is a directory");
}

/* ---- Flags ----------------------------------------------------------------------------------- */

static void flags_have_two_forms(void **state) {
    LOAD(load, .flags = {"--history-limit", "5", "--rate-burst=6", "--listen=unix:/a=b"});

    (void)state;
    assert_runs(&load);
    assert_int_equal(load.settings.history_limit, 5);
    assert_int_equal(load.settings.rate_burst, 6);
    assert_string_equal(load.settings.listen.path, "/a=b");
    settings_deinit(&load.settings);
}

static void flags_that_are_refused(void **state) {
    static const struct {
        const char *flag;
        const char *error;
    } cases[] = {
        {"--history", "there is no option '--history' (see --help)"},
        {"--history_limit=5", "there is no option '--history_limit' (see --help)"},
        {"--HISTORY-LIMIT=5", "there is no option '--HISTORY-LIMIT' (see --help)"},
        {"--fcgi-threads=5", "there is no option '--fcgi-threads' (see --help)"},
        {"-h", "there is no option '-h' (see --help)"},
        {"--", "there is no option '--' (see --help)"},
        {"serve", "there is no option 'serve' (see --help)"},
        {"", "there is no option '' (see --help)"},
        {"=5", "there is no option '' (see --help)"},
        {"--history-limit", "--history-limit wants a value"},
        {"--env-file", "--env-file wants a value"},
        {"--check=yes", "--check takes no value"},
        {"--history-limit=",
         "--history-limit: HISTORY_LIMIT is '', but must be a whole number from 0 to 1000"},
        {"--history-limit=--check",
         "--history-limit: HISTORY_LIMIT is '--check', but must be a whole number from 0 to 1000"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char line[256];
        LOAD(load, .flags = {cases[i].flag});
        snprintf(line, sizeof(line), "ws-broker: %s", cases[i].error);
        assert_refused(&load, line);
    }
}

/* ---- Rules that join several rows ------------------------------------------------------------ */

static void production_refuses_what_suits_development(void **state) {
    static const char *const profiles[] = {"cloud_run", "prod"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        char line[256];
        LOAD(broker, .flags = {"--chat-env", profiles[i]});
        snprintf(
            line, sizeof(line),
            "ws-broker: IDENTITY=dev lets anybody be anybody: CHAT_ENV=%s wants jwt or heavenland",
            profiles[i]);
        assert_refused(&broker, line);
        /* api-fcgi has neither */
        LOAD(api, .program = PROGRAM_API, .flags = {"--chat-env", profiles[i]});
        assert_runs(&api);
        assert_int_equal(api.settings.chat_env, i + 1);
        settings_deinit(&api.settings);
    }
}

static void history_fits_the_log(void **state) {
    LOAD(good, .env = {"HISTORY_LIMIT=500", "LOG_MAXLEN=500"});

    (void)state;
    assert_runs(&good);
    settings_deinit(&good.settings);
    LOAD(bad, .env = {"HISTORY_LIMIT=501", "LOG_MAXLEN=500"});
    assert_refused(&bad, "ws-broker: HISTORY_LIMIT is 501, but must not be more than LOG_MAXLEN, "
                         "500");
    /* not api-fcgi's business */
    LOAD(api, .program = PROGRAM_API, .env = {"HISTORY_LIMIT=501", "LOG_MAXLEN=500"});
    assert_runs(&api);
    settings_deinit(&api.settings);
}

static void a_frame_holds_the_longest_message(void **state) {
    LOAD(good, .env = {"MESSAGE_MAX_BYTES=1000", "FRAME_MAX_BYTES=6512"});

    (void)state;
    assert_runs(&good);
    settings_deinit(&good.settings);
    LOAD(bad, .env = {"MESSAGE_MAX_BYTES=1000", "FRAME_MAX_BYTES=6511"});
    assert_refused(&bad, "ws-broker: FRAME_MAX_BYTES is 6511, but must be at least 6512: 6 x "
                         "MESSAGE_MAX_BYTES (1000) + 512");
}

/* Unless the token is a nickname. */
static void a_frame_holds_the_longest_token(void **state) {
    LOAD(good, .env = {"IDENTITY=jwt", "JWKS_URL=http://id/keys", "MESSAGE_MAX_BYTES=1000",
                       "FRAME_MAX_BYTES=8704"});

    (void)state;
    assert_runs(&good);
    settings_deinit(&good.settings);
    LOAD(bad, .env = {"IDENTITY=jwt", "JWKS_URL=http://id/keys", "MESSAGE_MAX_BYTES=1000",
                      "FRAME_MAX_BYTES=8703"});
    assert_refused(&bad, "ws-broker: FRAME_MAX_BYTES is 8703, but must be at least 8704: a login's "
                         "token may have 8192 bytes");
}

/* ---- What a person asks for ------------------------------------------------------------------ */

static void assert_done(const struct load *load) {
    assert_string_equal(load->err, "");
    assert_int_equal(load->result, SETTINGS_DONE);
}

static void check_says_one_line(void **state) {
    LOAD(good, .flags = {"--check"});

    (void)state;
    assert_done(&good);
    assert_string_equal(good.out, "ws-broker: the settings are valid\n");
    settings_deinit(&good.settings);
    LOAD(bad, .flags = {"--check", "--rate-burst", "0"});
    assert_refused(&bad, "ws-broker: --rate-burst: RATE_BURST is '0', but must be a whole number "
                         "from 1 to 1000000");
}

static int dislikes_it(const struct settings *settings, char error[SETTINGS_ERROR_MAX]) {
    snprintf(error, SETTINGS_ERROR_MAX, "CHAT_NAME: I do not like %s", settings->chat_name);
    return CHAT_EINVAL;
}

static void check_asks_the_program_too(void **state) {
    (void)state;
    LOAD(refused, .flags = {"--check"}, .env = {"CHAT_NAME=blue"}, .check = dislikes_it);
    assert_refused(&refused, "ws-broker: CHAT_NAME: I do not like blue");
    LOAD(bad, .flags = {"--check"}, .env = {"CHAT_NAME=\t"}, .check = dislikes_it);
    assert_int_equal(bad.result, SETTINGS_BAD);
    assert_null(strstr(bad.err, "I do not like"));
    settings_deinit(&bad.settings);
    LOAD(start, .check = dislikes_it);
    assert_runs(&start); /* which finds out itself */
    settings_deinit(&start.settings);
}

static void version_and_help_are_always_answered(void **state) {
    char line[64];

    (void)state;
    LOAD(version, .program = PROGRAM_API, .flags = {"--check", "--version", "--print-config"},
         .env = {"FCGI_THREADS=bad"});
    assert_done(&version);
    snprintf(line, sizeof(line), "api-fcgi %s\n", chat_version());
    assert_string_equal(version.out, line);
    settings_deinit(&version.settings);
    LOAD(help, .program = PROGRAM_API, .flags = {"--help"}, .env = {"FCGI_THREADS=bad"});
    assert_done(&help);
    settings_deinit(&help.settings);
}

static void help_names_each_setting_of_the_program(void **state) {
    LOAD(broker, .flags = {"--help"});

    (void)state;
    assert_done(&broker);
    assert_non_null(strstr(broker.out, "\n  --history-limit 0..1000  "));
    assert_non_null(strstr(broker.out, "newest messages a client can ask for [100]\n"));
    assert_non_null(strstr(broker.out, "\n  --chat-env dev|cloud_run|prod  "));
    assert_non_null(strstr(broker.out, "\n  --trusted-proxies NETWORKS  "));
    assert_null(strstr(broker.out, "--fcgi"));
    assert_null(strstr(broker.out, "--port"));
    assert_null(strstr(broker.out, "\nHAProxy\n"));
    settings_deinit(&broker.settings);
    LOAD(api, .program = PROGRAM_API, .flags = {"--help"});
    assert_done(&api);
    assert_non_null(strstr(api.out, "\n  --fcgi-threads 2..256  "));
    assert_null(strstr(api.out, "--history-limit"));
    settings_deinit(&api.settings);
}

static void printed_config_can_be_read_back(void **state) {
    LOAD(first, .flags = {"--print-config", "--rate-burst=7", "--listen=unix:/a #b=c"},
         .env = {"TRUSTED_PROXIES=none", "CHAT_NAME=other", "PORT=80"});

    (void)state;
    assert_done(&first);
    assert_non_null(strstr(first.out, "RATE_BURST=7\n"));
    assert_non_null(strstr(first.out, "\nLISTEN=unix:/a #b=c\n"));
    assert_non_null(strstr(first.out, "\nTRUSTED_PROXIES=none\n"));
    assert_non_null(strstr(first.out, "\nHISTORY_LIMIT=100\n"));
    assert_null(strstr(first.out, "PORT="));
    assert_null(strstr(first.out, "FCGI_"));
    settings_deinit(&first.settings);

    write_file(first.out, strlen(first.out));
    LOAD(second, .flags = {file_flag, "--print-config"});
    assert_done(&second);
    assert_string_equal(second.out, first.out);
    settings_deinit(&second.settings);
}

/* ---- Reading them again ---------------------------------------------------------------------- */

static const char *reload_file(struct load *load, const char *text, int want,
                               settings_prepare_cb prepare, void *user) {
    write_file(text, strlen(text));
    log_watch_start(LOG_LEVEL_ERROR);
    assert_int_equal(settings_reload(&load->settings, prepare, user), want);
    return strchr(log_watch_stop(), ' ') + 1; /* without the time */
}

static void a_reload_takes_what_may_change(void **state) {
    static const char before[] =
        "LOG_LEVEL=info\nRATE_MESSAGES=5\nJWT_ISSUER=a\nLOGIN_ATTEMPTS=4\n";
    static const char after[] = "LOG_LEVEL=info\nRATE_MESSAGES=9\nJWT_AUDIENCE=b\n"
                                "TRUSTED_PROXIES=10.0.0.0/8\nLOGIN_ATTEMPTS=4\nFCGI_THREADS=20\n";
    (void)state;
    write_file(before, strlen(before));
    LOAD(load, .flags = {file_flag, "--rate-burst=7"}, .env = {"LOGIN_TIMEOUT_S=9"});
    assert_runs(&load);
    assert_string_equal(reload_file(&load, after, CHAT_OK, NULL, NULL),
                        "info settings reloaded "
                        "changed=TRUSTED_PROXIES,JWT_AUDIENCE,JWT_ISSUER,RATE_MESSAGES\n");
    assert_int_equal(load.settings.rate_messages, 9);
    assert_int_equal(load.settings.rate_burst, 7);
    assert_int_equal(load.settings.login_timeout_s, 9);
    assert_int_equal(load.settings.login_attempts, 4);
    assert_int_equal(load.settings.trusted_proxies.count, 1);
    assert_string_equal(load.settings.jwt_audience, "b");
    assert_null(load.settings.jwt_issuer);
    /* And again: it is compared with what is in force. */
    assert_string_equal(reload_file(&load, after, CHAT_OK, NULL, NULL),
                        "info settings reloaded changed=-\n");
    settings_deinit(&load.settings);
}

static void a_reload_tells_what_needs_a_restart(void **state) {
    static const char text[] = "LISTEN=127.0.0.1:9\nCHAT_NAME=other\nRATE_MESSAGES=9\n"
                               "HEAVENLAND_API_URL=http://a\n";
    (void)state;
    write_file("LOG_LEVEL=info\n", 15);
    LOAD(load, .flags = {file_flag});
    assert_runs(&load);
    for (int i = 0; i < 2; i++) {
        const char *logged = reload_file(&load, text, CHAT_OK, NULL, NULL);
        assert_non_null(strstr(logged, "warn settings need_a_restart "
                                       "names=LISTEN,CHAT_NAME,HEAVENLAND_API_URL\n"));
        assert_int_equal(load.settings.listen.port, 9001);
        assert_string_equal(load.settings.chat_name, "main");
        assert_null(load.settings.heavenland_api_url);
        assert_int_equal(load.settings.rate_messages, 9);
    }
    settings_deinit(&load.settings);
}

static void a_bad_reload_changes_nothing(void **state) {
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        {"RATE_MESSAGES=9\nLOGIN_ATTEMPTS=0\n",
         ":2: LOGIN_ATTEMPTS is '0', but must be a whole number from 1 to 1000\"\n"},
        {"RATE_MESSAGES=9\nNONSENSE=1\n", ":2: there is no setting 'NONSENSE'\"\n"},
        {"RATE_MESSAGES=9\nJWT_PUBLIC_KEY_FILE=/nonexistent/key\n",
         "JWT_PUBLIC_KEY_FILE: /nonexistent/key: No such file or directory\"\n"},
        {"RATE_MESSAGES=9\nREDIS_URL=http://user:sesame@host\n", ""},
    };
    (void)state;
    write_file("", 0);
    LOAD(load, .flags = {file_flag});
    assert_runs(&load);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *logged = reload_file(&load, cases[i].text, CHAT_EINVAL, NULL, NULL);
        assert_non_null(strstr(logged, cases[i].complaint));
        assert_int_equal(strncmp(logged, "error settings reload_refused error=", 36), 0);
        assert_int_equal(strcspn(logged, "\n"), strlen(logged) - 1); /* one line */
        assert_null(strstr(logged, "sesame"));
        assert_int_equal(load.settings.rate_messages, 5);
    }
    settings_deinit(&load.settings);
}

/* What is in force and stays must go with what is new. */
static void a_reload_that_does_not_fit_what_stays(void **state) {
    static const char before[] = "IDENTITY=jwt\nJWKS_URL=http://a/keys\n";
    (void)state;
    write_file(before, strlen(before));
    LOAD(load, .flags = {file_flag});
    assert_runs(&load);
    const char *logged = reload_file(&load, "IDENTITY=dev\n", CHAT_EINVAL, NULL, NULL);
    assert_non_null(strstr(logged, "IDENTITY=jwt wants JWT_PUBLIC_KEY_FILE or JWKS_URL"));
    assert_string_equal(load.settings.jwks_url, "http://a/keys");
    settings_deinit(&load.settings);
}

static int prepare_or_not(void *user, const struct settings *next, char error[SETTINGS_ERROR_MAX]) {
    const char **issuer = user;
    snprintf(error, SETTINGS_ERROR_MAX, "not with me");
    *issuer = next->jwt_issuer;
    return strcmp(next->jwt_issuer, "bad") == 0 ? CHAT_EINVAL : CHAT_OK;
}

static void who_prepares_may_refuse_and_borrow(void **state) {
    const char *issuer;
    (void)state;
    write_file("JWT_ISSUER=a\n", 13);
    LOAD(load, .flags = {file_flag});
    assert_runs(&load);
    assert_string_equal(
        reload_file(&load, "JWT_ISSUER=bad\n", CHAT_EINVAL, prepare_or_not, &issuer),
        "error settings reload_refused error=\"not with me\"\n");
    assert_string_equal(load.settings.jwt_issuer, "a");
    for (int i = 0; i < 2; i++) { /* whether it has changed or not */
        reload_file(&load, "JWT_ISSUER=good\n", CHAT_OK, prepare_or_not, &issuer);
        assert_ptr_equal(issuer, load.settings.jwt_issuer);
    }
    settings_deinit(&load.settings);
}

static void a_reload_tells_at_the_old_level_or_the_new(void **state) {
    static const char *const levels[] = {"LOG_LEVEL=error\n", "LOG_LEVEL=info\n"};
    (void)state;
    write_file(levels[1], strlen(levels[1]));
    LOAD(load, .flags = {file_flag});
    assert_runs(&load);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(reload_file(&load, levels[i], CHAT_OK, NULL, NULL),
                            "info settings reloaded changed=LOG_LEVEL\n");
        log_watch_start(LOG_LEVEL_DEBUG);
        settings_reload(&load.settings, NULL, NULL);
        assert_int_equal(log_enabled(LOG_LEVEL_INFO), i);
        log_watch_stop();
    }
    settings_deinit(&load.settings);
}

static void profiles_have_labels(void **state) {
    (void)state;
    assert_string_equal(settings_profile_label(PROFILE_DEV), "LOCAL DEV");
    assert_string_equal(settings_profile_label(PROFILE_CLOUD_RUN), "DEVELOPMENT");
    assert_string_equal(settings_profile_label(PROFILE_PROD), "PRODUCTION");
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, make_file, remove_file)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_design),
        cmocka_unit_test(ranges_hold_at_their_ends),
        cmocka_unit_test(numbers_are_nothing_but_digits),
        cmocka_unit_test(choices_are_words),
        WITH_FILE(secrets_are_kept),
        WITH_FILE(a_secret_stands_in_one_place_of_a_source),
        cmocka_unit_test(names_are_letters),
        cmocka_unit_test(urls_hold_no_password),
        cmocka_unit_test(urls_that_cannot_be_asked),
        WITH_FILE(files_are_separated_by_commas),
        cmocka_unit_test(addresses_and_networks),
        cmocka_unit_test(haproxy_rows_are_checked_and_ignored),
        WITH_FILE(the_stronger_source_wins),
        cmocka_unit_test(a_profile_is_weaker_than_anybody),
        WITH_FILE(the_later_file_and_flag_win),
        WITH_FILE(empty_is_not_set),
        cmocka_unit_test(other_names_in_the_environment_are_ignored),
        WITH_FILE(files_that_are_read),
        WITH_FILE(values_are_taken_as_they_stand),
        WITH_FILE(errors_name_file_and_line),
        WITH_FILE(bytes_that_no_file_should_have),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(flags_have_two_forms),
        cmocka_unit_test(flags_that_are_refused),
        cmocka_unit_test(production_refuses_what_suits_development),
        cmocka_unit_test(history_fits_the_log),
        cmocka_unit_test(a_frame_holds_the_longest_message),
        cmocka_unit_test(a_frame_holds_the_longest_token),
        cmocka_unit_test(check_says_one_line),
        cmocka_unit_test(check_asks_the_program_too),
        cmocka_unit_test(version_and_help_are_always_answered),
        cmocka_unit_test(help_names_each_setting_of_the_program),
        WITH_FILE(printed_config_can_be_read_back),
        WITH_FILE(a_reload_takes_what_may_change),
        WITH_FILE(a_reload_tells_what_needs_a_restart),
        WITH_FILE(a_bad_reload_changes_nothing),
        WITH_FILE(a_reload_that_does_not_fit_what_stays),
        WITH_FILE(who_prepares_may_refuse_and_borrow),
        WITH_FILE(a_reload_tells_at_the_old_level_or_the_new),
        cmocka_unit_test(profiles_have_labels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
