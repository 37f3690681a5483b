#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <unistd.h>

#include "shared/log.h"

enum { TIME_LEN = 24 };

/* What was logged since read_log() or start, from a file that stands in for stderr. */
static int captured, real_stderr;
static char logged[64 * 1024];

static int capture(void **state) {
    FILE *file = tmpfile();

    (void)state;
    if (!file)
        return -1;
    captured = fileno(file);
    real_stderr = dup(STDERR_FILENO);
    fcntl(captured, F_SETFL, O_APPEND);
    dup2(captured, STDERR_FILENO);
    return 0;
}

static int restore(void **state) {
    (void)state;
    dup2(real_stderr, STDERR_FILENO);
    return 0;
}

static const char *read_log(void) {
    ssize_t len = pread(captured, logged, sizeof(logged) - 1, 0);

    logged[len > 0 ? len : 0] = '\0';
    assert_int_equal(ftruncate(captured, 0), 0);
    return logged;
}

/* The one line without its time, which has to look like one. */
static const char *read_line(void) {
    static const char pattern[] = "0000-00-00T00:00:00.000Z ";
    const char *text = read_log();

    assert_int_equal(strlen(pattern), TIME_LEN + 1);
    for (int i = 0; pattern[i]; i++) {
        if (pattern[i] == '0')
            assert_in_range(text[i], '0', '9');
        else
            assert_int_equal(text[i], pattern[i]);
    }
    return text + TIME_LEN + 1;
}

/* The one line's value of `key`, which has to be a text. */
static const char *read_json(const char *key) {
    static struct json_object *line;
    struct json_object *value;

    json_object_put(line);
    line = json_tokener_parse(read_log());
    assert_non_null(line);
    assert_true(json_object_object_get_ex(line, key, &value));
    return json_object_get_string(value);
}

static void text_line(void **state) {
    (void)state;
    log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_info("broker", "ready", log_str("listen", "127.0.0.1:9001"), log_int("clients", 0));
    assert_string_equal(read_line(), "info broker ready listen=127.0.0.1:9001 clients=0\n");
    log_error("api", "stop");
    assert_string_equal(read_line(), "error api stop\n");
    log_warn("api", "odd", log_int("low", INT64_MIN), log_int("high", INT64_MAX));
    assert_string_equal(read_line(),
                        "warn api odd low=-9223372036854775808 high=9223372036854775807\n");
}

static void json_line(void **state) {
    (void)state;
    log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    log_info("broker", "ready", log_str("listen", "127.0.0.1:9001"), log_int("clients", -3));
    const char *line = read_log();
    assert_memory_equal(line, "{\"time\":\"20", 11);
    assert_string_equal(line + strlen("{\"time\":\"") + TIME_LEN,
                        "\",\"level\":\"info\",\"module\":\"broker\",\"event\":\"ready\","
                        "\"listen\":\"127.0.0.1:9001\",\"clients\":-3}\n");
}

static void levels(void **state) {
    static const enum log_level all[] = {LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO,
                                         LOG_LEVEL_DEBUG};

    (void)state;
    for (size_t limit = 0; limit < 4; limit++) {
        log_init(all[limit], LOG_FORMAT_TEXT);
        for (size_t level = 0; level < 4; level++) {
            assert_int_equal(log_enabled(all[level]), level <= limit);
            log_write(all[level], "m", "e", (const struct log_field[]){{0}});
            assert_int_equal(read_log()[0] != '\0', level <= limit);
        }
    }
}

static void text_values_are_quoted_and_escaped(void **state) {
    static const struct {
        const char *value;
        const char *written;
    } cases[] = {
        {"plain-1.2/3:4,5{6}", "plain-1.2/3:4,5{6}"},
        {"", "\"\""},
        {"two words", "\"two words\""},
        {"a=b", "\"a=b\""},
        {"say \"hi\"", "\"say \\\"hi\\\"\""},
        {"back\\slash", "\"back\\\\slash\""},
        {"forged\n2026-11-23T10:03:04.123Z info broker ready",
         "\"forged\\n2026-11-23T10:03:04.123Z info broker ready\""},
        {"\r\t\x1b[2J\x7f", "\"\\r\\t\\x1b[2J\\x7f\""},
        {"Gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80",
         "\"Gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80\""},
        /* C1 control, line separator, bidirectional override */
        {"\xc2\x9b \xe2\x80\xa8 \xe2\x80\xae", "\"\\x9b \\u2028 \\u202e\""},
        /* not UTF-8: alone, cut, overlong, surrogate, too high */
        {"\x80 \xc3", "\"\\x80 \\xc3\""},
        {"\xc0\xaf \xe0\x80\xaf", "\"\\xc0\\xaf \\xe0\\x80\\xaf\""},
        {"\xed\xa0\x80 \xf4\x90\x80\x80 \xff", "\"\\xed\\xa0\\x80 \\xf4\\x90\\x80\\x80 \\xff\""},
    };

    (void)state;
    log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char expected[512];
        log_info("m", "e", log_str("key", cases[i].value));
        snprintf(expected, sizeof(expected), "info m e key=%s\n", cases[i].written);
        assert_string_equal(read_line(), expected);
    }
    log_info("m", "e", log_strn("key", "a\0b and more", 3), log_str("none", NULL));
    assert_string_equal(read_line(), "info m e key=\"a\\x00b\" none=-\n");
}

static void json_values_can_be_read_back(void **state) {
    static const struct {
        const char *value;
        const char *read;
    } cases[] = {
        {"plain", "plain"},
        {"", ""},
        {"a \"b\" \\ / c", "a \"b\" \\ / c"},
        {"forged\n{\"time\":1}", "forged\n{\"time\":1}"},
        {"\x01\x1f\x7f\r\t", "\x01\x1f\x7f\r\t"},
        {"Gr\xc3\xbc\xc3\x9f \xe2\x80\xa8 \xf0\x9f\x98\x80",
         "Gr\xc3\xbc\xc3\x9f \xe2\x80\xa8 \xf0\x9f\x98\x80"},
        /* a replacement character for each byte that is not UTF-8 */
        {"a\x80 \xc3", "a\xef\xbf\xbd \xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    };

    (void)state;
    log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        log_info("m", "e", log_str("key", cases[i].value));
        assert_string_equal(read_json("key"), cases[i].read);
        const char *newline = strchr(logged, '\n');
        assert_string_equal(newline, "\n"); /* one line */
    }
}

static void long_values_are_cut(void **state) {
    char value[300], expected[400];

    (void)state;
    log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    memset(value, 'x', sizeof(value));
    log_info("m", "e", log_strn("key", value, 256));
    snprintf(expected, sizeof(expected), "info m e key=%.256s\n", value);
    assert_string_equal(read_line(), expected);
    log_info("m", "e", log_strn("key", value, 257));
    snprintf(expected, sizeof(expected), "info m e key=%.256s...\n", value);
    assert_string_equal(read_line(), expected);
    /* not within a character: the 255th byte begins one of three */
    memcpy(value + 254, "\xe2\x82\xac", 3);
    log_info("m", "e", log_strn("key", value, sizeof(value)));
    snprintf(expected, sizeof(expected), "info m e key=%.254s...\n", value);
    assert_string_equal(read_line(), expected);
}

static void long_lines_stay_whole(void **state) {
    struct log_field fields[21];
    char value[256];

    (void)state;
    log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    memset(value, 1, sizeof(value)); /* each byte becomes \u0001 */
    for (int i = 0; i < 20; i++)
        fields[i] = log_strn(i == 0 ? "first" : "more", value, sizeof(value));
    fields[20] = (struct log_field){0};
    log_write(LOG_LEVEL_INFO, "m", "e", fields);
    assert_int_equal(strlen(read_json("first")), sizeof(value));
    assert_in_range(strlen(logged), 1536, 8192);
    assert_string_equal(logged + strlen(logged) - 3, "\"}\n");
}

static void errno_is_kept(void **state) {
    (void)state;
    log_init(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    errno = ENOENT;
    log_info("m", "e", log_errno());
    assert_int_equal(errno, ENOENT);
    assert_string_equal(read_line(), "info m e error=\"No such file or directory\"\n");
    errno = 9999;
    log_info("m", "e", log_errno());
    assert_string_equal(read_line(), "info m e error=-\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(text_line, capture, restore),
        cmocka_unit_test_setup_teardown(json_line, capture, restore),
        cmocka_unit_test_setup_teardown(levels, capture, restore),
        cmocka_unit_test_setup_teardown(text_values_are_quoted_and_escaped, capture, restore),
        cmocka_unit_test_setup_teardown(json_values_can_be_read_back, capture, restore),
        cmocka_unit_test_setup_teardown(long_values_are_cut, capture, restore),
        cmocka_unit_test_setup_teardown(long_lines_stay_whole, capture, restore),
        cmocka_unit_test_setup_teardown(errno_is_kept, capture, restore),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
