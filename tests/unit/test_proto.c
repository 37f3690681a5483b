/*
 * proto.h: protocol v1 as text. One table says what each text is understood as, or why it is
 * refused; every text is parsed from memory of just its size, so that a sanitizer sees a read
 * beyond it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "tests/unit/secret_watch.h"
#include "ws-broker/proto.h"

enum { MESSAGE_MAX = 40 };

static struct proto *proto;

static int make_proto(void **state) {
    (void)state;
    proto = proto_new(PROTO_CHAT, MESSAGE_MAX);
    return proto ? 0 : -1;
}

static int free_proto(void **state) {
    (void)state;
    proto_free(proto);
    return 0;
}

/* ---- requests ---- */

/* The request in one line, as the table has it. */
static void describe(const struct proto_request *request, char *out, size_t size) {
    const struct identity_credentials *login = &request->login;
    switch (request->verb) {
    case VERB_LOGIN:
        if (login->token)
            snprintf(out, size, "login token %s", login->token);
        else
            snprintf(out, size, "login %s with %s", login->username, login->password);
        break;
    case VERB_MESSAGE:
        assert_int_equal(request->message.text_len, strlen(request->message.text));
        snprintf(out, size, "message '%s'%s%s", request->message.text,
                 request->message.channel ? " in " : "",
                 request->message.channel ? request->message.channel : "");
        break;
    case VERB_HISTORY:
        snprintf(out, size, "history %llu from %llu", (unsigned long long)request->history.limit,
                 (unsigned long long)request->history.offset);
        break;
    case VERB_SCHEDULER_START:
        snprintf(out, size, "start every %lld, in %lld", (long long)request->scheduler.period_s,
                 (long long)request->scheduler.offset_s);
        break;
    case VERB_SCHEDULER_STOP:
        snprintf(out, size, "stop");
        break;
    case VERB_SCHEDULER_INFO:
        snprintf(out, size, "info");
        break;
    case VERB_ONLINE_PLAYERS:
        snprintf(out, size, "online");
        break;
    case VERB_GAME_END: {
        int len = snprintf(out, size, "end %lld", (long long)request->game_end.number);
        for (size_t i = 0; i < request->game_end.count; i++)
            len +=
                snprintf(out + len, size - (size_t)len, " %s:%lld", request->game_end.places[i].id,
                         (long long)request->game_end.places[i].position);
        break;
    }
    case VERB_COUNT:
        fail_msg("no verb");
    }
}

/* Parses `len` bytes; `out` becomes the description or the error. */
static enum proto_refusal parse(const char *text, size_t len, char *out, size_t size) {
    struct proto_request request;
    char error[PROTO_ERROR_MAX] = "";
    char *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, text, len);
    enum proto_refusal refusal = proto_parse(proto, copy, len, &request, error);
    free(copy); /* the request does not live off the text */
    if (refusal == REFUSED_NOT) {
        describe(&request, out, size);
        proto_release(&request);
    } else {
        assert_true(strlen(error) > 0);
        snprintf(out, size, "%s", error);
    }
    return refusal;
}

#define TEXT(text) (text), sizeof(text) - 1
#define MALFORMED  REFUSED_MALFORMED
#define UNKNOWN    REFUSED_UNKNOWN_ACTION

#define NOT_JSON    "not JSON: one object in one text frame is expected"
#define NOT_OBJECT  "not a JSON object"
#define BAD_ACTION  "action: one of login, message, history"
#define NO_ACTION   "unknown action: one of login, message, history"
#define BAD_TOKEN   "token: a string of 1 to 8192 bytes"
#define NO_LOGIN    "login: a token is missing (or username and password)"
#define BAD_MESSAGE "message: a string of 1 to 40 bytes without U+0000"
#define BAD_CHANNEL "channel: a string of 1 to 64 bytes without U+0000, or an integer"
#define BAD_LIMIT   "limit: an integer from 0"
#define BAD_OFFSET  "offset: an integer from 0"
#define BAD_NAME    "a member's name with U+0000"

#define FORTY      "1234567890123456789012345678901234567890"
#define SIXTY_FOUR "1234567890123456789012345678901234567890123456789012345678901234"

static const struct {
    const char *text;
    size_t len;
    enum proto_refusal refusal;
    const char *result; /* the description or the error */
} cases[] = {
    /* login */
    {TEXT("{\"action\":\"login\",\"token\":\"abc\"}"), 0, "login token abc"},
    {TEXT("{\"token\":\"abc\",\"action\":\"login\"}"), 0, "login token abc"},
    {TEXT("{\"action\":\"login\",\"username\":\"ann\",\"password\":\"x\"}"), 0, "login ann with x"},
    {TEXT("{\"action\":\"login\",\"token\":\"t\",\"username\":\"ann\",\"password\":\"x\"}"), 0,
     "login token t"},
    {TEXT("{\"action\":\"login\",\"token\":\"\",\"username\":\"ann\",\"password\":\"x\"}"), 0,
     "login ann with x"},
    {TEXT("{\"action\":\"login\",\"token\":null,\"username\":\"ann\",\"password\":\"x\"}"), 0,
     "login ann with x"},
    {TEXT("{\"action\":\"login\",\"token\":\"t\",\"username\":5}"), 0, "login token t"},
    {TEXT("{\"action\":\"login\",\"token\":\"\\u017dofie\"}"), 0, "login token Žofie"},
    {TEXT("{\"action\":\"login\"}"), MALFORMED, NO_LOGIN},
    {TEXT("{\"action\":\"login\",\"token\":\"\"}"), MALFORMED, NO_LOGIN},
    {TEXT("{\"action\":\"login\",\"token\":null}"), MALFORMED, NO_LOGIN},
    {TEXT("{\"action\":\"login\",\"username\":\"ann\"}"), MALFORMED, NO_LOGIN},
    {TEXT("{\"action\":\"login\",\"password\":\"x\"}"), MALFORMED, NO_LOGIN},
    {TEXT("{\"action\":\"login\",\"username\":\"ann\",\"password\":\"\"}"), MALFORMED, NO_LOGIN},
    {TEXT("{\"action\":\"login\",\"username\":\"\",\"password\":\"x\"}"), MALFORMED, NO_LOGIN},
    {TEXT("{\"action\":\"login\",\"token\":5}"), MALFORMED, BAD_TOKEN},
    {TEXT("{\"action\":\"login\",\"token\":true}"), MALFORMED, BAD_TOKEN},
    {TEXT("{\"action\":\"login\",\"token\":[\"abc\"]}"), MALFORMED, BAD_TOKEN},
    {TEXT("{\"action\":\"login\",\"token\":{}}"), MALFORMED, BAD_TOKEN},
    {TEXT("{\"action\":\"login\",\"token\":\"a\\u0000b\"}"), MALFORMED, BAD_TOKEN},
    {TEXT("{\"action\":\"login\",\"token\":\"\\u0000\"}"), MALFORMED, BAD_TOKEN},
    {TEXT("{\"action\":\"login\",\"username\":1,\"password\":\"x\"}"), MALFORMED,
     "username: a string of 1 to 256 bytes"},
    {TEXT("{\"action\":\"login\",\"username\":\"ann\",\"password\":[]}"), MALFORMED,
     "password: a string of 1 to 256 bytes"},

    /* message: the text */
    {TEXT("{\"action\":\"message\",\"message\":\"hi\"}"), 0, "message 'hi'"},
    {TEXT("{\"action\":\"message\",\"message\":\" \"}"), 0, "message ' '"},
    {TEXT("{\"action\":\"message\",\"message\":\"\\u0041\\n\\\"\\\\\\/\"}"), 0,
     "message 'A\n\"\\/'"},
    {TEXT("{\"action\":\"message\",\"message\":\"" FORTY "\"}"), 0, "message '" FORTY "'"},
    {TEXT("{\"action\":\"message\",\"message\":\"日本語\"}"), 0, "message '日本語'"},
    {TEXT("{\"action\":\"message\",\"message\":\"\\ud83c\\udfae\"}"), 0, "message '🎮'"},
    {TEXT("{\"action\":\"message\",\"message\":\"\\ud83c!\"}"), 0, "message '\xef\xbf\xbd!'"},
    {TEXT("{\"action\":\"message\",\"message\":\"\\udfae!\"}"), 0, "message '\xef\xbf\xbd!'"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"user_id\":\"me\",\"nickname\":\"god\","
          "\"timestamp\":1,\"x\":{}}"),
     0, "message 'hi'"},
    {TEXT("{\"action\":\"message\"}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":\"\"}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":null}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":5}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":false}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":[\"hi\"]}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":{\"text\":\"hi\"}}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":\"" FORTY "x\"}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":\"123456789012345678901234567890123456789ž\"}"),
     MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":\"\\u0000\"}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\\u0000\"}"), MALFORMED, BAD_MESSAGE},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\\u0000there\"}"), MALFORMED, BAD_MESSAGE},

    /* message: the channel */
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":\"General\"}"), 0,
     "message 'hi' in General"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":\"" SIXTY_FOUR "\"}"), 0,
     "message 'hi' in " SIXTY_FOUR},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":null}"), 0, "message 'hi'"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":\"\"}"), 0, "message 'hi'"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":10}"), 0, "message 'hi' in 10"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":10.0}"), 0, "message 'hi' in 10"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":1e3}"), 0,
     "message 'hi' in 1000"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":0}"), 0, "message 'hi' in 0"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":-7}"), 0, "message 'hi' in -7"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":-0.0}"), 0, "message 'hi' in 0"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":9007199254740991.0}"), 0,
     "message 'hi' in 9007199254740991"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":-9007199254740991.0}"), 0,
     "message 'hi' in -9007199254740991"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":1000e-3}"), 0,
     "message 'hi' in 1"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":1.50E1}"), 0,
     "message 'hi' in 15"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":0.0e-9}"), 0,
     "message 'hi' in 0"},
    /* not exact */
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":9007199254740992.0}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":9007199254740993.0}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":-9007199254740993.0}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":1.00000000000000000001}"),
     MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":0.99999999999999999999}"),
     MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":1e-400}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":1001e-3}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":2147483648}"), 0,
     "message 'hi' in 2147483648"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":9007199254740992}"), 0,
     "message 'hi' in 9007199254740992"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":9223372036854775807}"), 0,
     "message 'hi' in 9223372036854775807"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":-9223372036854775807}"), 0,
     "message 'hi' in -9223372036854775807"},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":9223372036854775808}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":\"" SIXTY_FOUR "x\"}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":\"a\\u0000\"}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":1.5}"), MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":1e300}"), MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":99999999999999999999}"),
     MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":-99999999999999999999}"),
     MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":NaN}"), MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":Infinity}"), MALFORMED,
     BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":true}"), MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":[]}"), MALFORMED, BAD_CHANNEL},
    {TEXT("{\"action\":\"message\",\"message\":\"hi\",\"channel\":{}}"), MALFORMED, BAD_CHANNEL},

    /* history */
    {TEXT("{\"action\":\"history\"}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\",\"limit\":5,\"offset\":2}"), 0, "history 5 from 2"},
    {TEXT("{\"action\":\"history\",\"limit\":0}"), 0, "history 0 from 0"},
    {TEXT("{\"action\":\"history\",\"limit\":null,\"offset\":null}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\",\"limit\":5.0,\"offset\":1e2}"), 0, "history 5 from 100"},
    {TEXT("{\"action\":\"history\",\"limit\":-0.0}"), 0, "history 0 from 0"},
    {TEXT("{\"action\":\"history\",\"limit\":1.00000000000000000001}"), MALFORMED, BAD_LIMIT},
    {TEXT("{\"action\":\"history\",\"offset\":1e-400}"), MALFORMED, BAD_OFFSET},
    {TEXT("{\"action\":\"history\",\"limit\":9223372036854775807}"), 0,
     "history 9223372036854775807 from 0"},
    {TEXT("{\"action\":\"history\",\"limit\":18446744073709551615}"), 0,
     "history 9223372036854775807 from 0"},
    {TEXT("{\"action\":\"history\",\"offset\":99999999999999999999999}"), 0,
     "history 10 from 9223372036854775807"},
    {TEXT("{\"action\":\"history\",\"limit\":-1}"), MALFORMED, BAD_LIMIT},
    {TEXT("{\"action\":\"history\",\"limit\":1.5}"), MALFORMED, BAD_LIMIT},
    {TEXT("{\"action\":\"history\",\"limit\":\"5\"}"), MALFORMED, BAD_LIMIT},
    {TEXT("{\"action\":\"history\",\"limit\":true}"), MALFORMED, BAD_LIMIT},
    {TEXT("{\"action\":\"history\",\"limit\":NaN}"), MALFORMED, BAD_LIMIT},
    {TEXT("{\"action\":\"history\",\"limit\":-Infinity}"), MALFORMED, BAD_LIMIT},
    {TEXT("{\"action\":\"history\",\"limit\":-99999999999999999999}"), MALFORMED, BAD_LIMIT},
    {TEXT("{\"action\":\"history\",\"offset\":-1}"), MALFORMED, BAD_OFFSET},
    {TEXT("{\"action\":\"history\",\"offset\":[0]}"), MALFORMED, BAD_OFFSET},
    {TEXT("{\"action\":\"history\",\"offset\":{}}"), MALFORMED, BAD_OFFSET},

    /* action */
    {TEXT("{}"), MALFORMED, BAD_ACTION},
    {TEXT("{\"message\":\"hi\"}"), MALFORMED, BAD_ACTION},
    {TEXT("{\"Action\":\"history\"}"), MALFORMED, BAD_ACTION},
    {TEXT("{\"action\":null}"), MALFORMED, BAD_ACTION},
    {TEXT("{\"action\":1}"), MALFORMED, BAD_ACTION},
    {TEXT("{\"action\":[\"history\"]}"), MALFORMED, BAD_ACTION},
    {TEXT("{\"action\":\"history\\u0000\"}"), MALFORMED, BAD_ACTION},
    {TEXT("{\"action\":\"\"}"), UNKNOWN, NO_ACTION},
    {TEXT("{\"action\":\"ping\"}"), UNKNOWN, NO_ACTION},
    {TEXT("{\"action\":\"LOGIN\"}"), UNKNOWN, NO_ACTION},
    {TEXT("{\"action\":\" login\"}"), UNKNOWN, NO_ACTION},
    {TEXT("{\"action\":\"histor\"}"), UNKNOWN, NO_ACTION},

    /* not an object, not JSON */
    {TEXT("null "), MALFORMED, NOT_OBJECT},
    {TEXT("true "), MALFORMED, NOT_OBJECT},
    {TEXT("[]"), MALFORMED, NOT_OBJECT},
    {TEXT("[{\"action\":\"history\"}]"), MALFORMED, NOT_OBJECT},
    {TEXT("\"history\""), MALFORMED, NOT_OBJECT},
    {TEXT(""), MALFORMED, NOT_JSON},
    {TEXT(" "), MALFORMED, NOT_JSON},
    {TEXT("\0"), MALFORMED, NOT_JSON},
    {TEXT("hello"), MALFORMED, NOT_JSON},
    {TEXT("ping"), MALFORMED, NOT_JSON},
    {TEXT("{"), MALFORMED, NOT_JSON},
    {TEXT("}"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\""), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"hist"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":}"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\"}"), MALFORMED, NOT_JSON},
    {TEXT("{action:\"history\"}"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\" \"limit\":1}"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"message\",\"message\":\"\\u00\"}"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"message\",\"message\":\"\\x\"}"), MALFORMED, NOT_JSON},
    {TEXT("\xef\xbb\xbf{\"action\":\"history\"}"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"his\0tory\"}"), MALFORMED, NOT_JSON},

    /* blanks around it are JSON, anything else is garbage */
    {TEXT(" \t\r\n{\"action\":\"history\"}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\"} \t\r\n"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\"}x"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\"} x"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\"}}"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\"}{}"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\"},"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\"}\0"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\"}\0x"), MALFORMED, NOT_JSON},
    {TEXT("{\"action\":\"history\"}\v"), MALFORMED, NOT_JSON},

    /* where json-c is more lenient than JSON, so are we */
    {TEXT("{'action':'history'}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\",}"), 0, "history 10 from 0"},
    {TEXT("/* hello */{\"action\":\"history\"}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":/* what */\"history\"}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\",// how many\n\"limit\":3}"), 0, "history 3 from 0"},
    {TEXT("{\"action\":\"history\",\"limit\":NULL}"), 0, "history 10 from 0"},

    /* the last of two members with one name counts */
    {TEXT("{\"action\":\"login\",\"action\":\"history\"}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\",\"limit\":\"x\",\"limit\":4}"), 0, "history 4 from 0"},
    {TEXT("{\"action\":\"login\",\"token\":\"a\",\"token\":\"b\"}"), 0, "login token b"},

    /* escapes in names are undone */
    {TEXT("{\"\\u0061ction\":\"history\"}"), 0, "history 10 from 0"},
    {TEXT("{\"action\\u0000x\":\"history\"}"), MALFORMED, BAD_NAME},
    {TEXT("{\"action\\u0000x\" \t\n:\"history\"}"), MALFORMED, BAD_NAME},
    {TEXT("{'action\\u0000x' /* : */ :\"history\"}"), MALFORMED, BAD_NAME},
    {TEXT("{'action\\u0000x' // :\n :\"history\"}"), MALFORMED, BAD_NAME},
    {TEXT("{\"action\":\"history\",\"limit\\u0000\":\"x\"}"), MALFORMED, BAD_NAME},
    {TEXT("{\"action\":\"history\",\"x\":[{\"\\u0000\":1}]}"), MALFORMED, BAD_NAME},
    {TEXT("{\"action\":\"history\",\"x\":\"\\u0000\",\"y\":1}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\",\"x\":\"\\u0000\\\":\",\"y\":1}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\",\"x\\\\u0000\":1}"), 0, "history 10 from 0"},
    {TEXT("{\"action\":\"history\",\"x\":1/* '\\u0000': */}"), 0, "history 10 from 0"},
};

static void test_requests(void **state) {
    unsigned wrong = 0;
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char result[512];
        enum proto_refusal refusal = parse(cases[i].text, cases[i].len, result, sizeof(result));
        if (refusal == cases[i].refusal && strcmp(result, cases[i].result) == 0)
            continue;
        print_error("%s\n    is %d, %s\n    instead of %d, %s\n", cases[i].text, (int)refusal,
                    result, (int)cases[i].refusal, cases[i].result);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

/* What only game servers may ask, and all that they may. */
static void test_requests_of_game_servers(void **state) {
#define PLACES(places)      "{\"action\":\"game_end\",\"id\":\"HLG-7\",\"leaderboard\":[" places "]}"
#define PLACE(id, position) "{\"id\":\"" id "\",\"position\":" position "}"
    static const struct {
        const char *text;
        enum proto_refusal refusal;
        const char *result;
    } rows[] = {
        {"{\"action\":\"scheduler_start\"}", 0, "start every 600, in 300"},
        {"{\"action\":\"scheduler_start\",\"period\":1,\"offset\":86400}", 0,
         "start every 1, in 86400"},
        {"{\"action\":\"scheduler_start\",\"period\":86401}", MALFORMED,
         "period: an integer from 1 to 86400, seconds"},
        {"{\"action\":\"scheduler_start\",\"offset\":0}", MALFORMED,
         "offset: an integer from 1 to 86400, seconds"},
        {"{\"action\":\"scheduler_info\"}", 0, "info"},
        {PLACES(PLACE("a", "2") "," PLACE("b", "1")), 0, "end 7 a:2 b:1"},
        {PLACES(""), MALFORMED, "leaderboard: a list of 1 to 10 players"},
        {PLACES(PLACE("a", "0")), MALFORMED, "leaderboard[0].position: an integer from 1"},
        {PLACES(PLACE("a", "1") "," PLACE("", "2")), MALFORMED, "leaderboard[1].id: a player's id"},
        {PLACES(PLACE("a", "1") "," PLACE("b", "1")), MALFORMED,
         "leaderboard[1].position: it stands there twice"},
        {"{\"action\":\"message\",\"message\":\"hi\"}", UNKNOWN,
         "unknown action: one of login, scheduler_start, scheduler_stop, scheduler_info, "
         "online_players, game_end"},
    };
    struct proto *of_players = proto;
    char result[512];
    (void)state;
    proto = proto_new(PROTO_MINIGAME, MESSAGE_MAX);
    assert_non_null(proto);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        assert_int_equal(parse(rows[i].text, strlen(rows[i].text), result, sizeof(result)),
                         rows[i].refusal);
        assert_string_equal(result, rows[i].result);
    }
    proto_free(proto);
    proto = of_players;
    assert_int_equal(parse(TEXT("{\"action\":\"scheduler_stop\"}"), result, sizeof(result)),
                     UNKNOWN);
    assert_string_equal(result, NO_ACTION);
}

/* A game has ten players at most. */
static void test_longest_leaderboard(void **state) {
    struct proto *game = proto_new(PROTO_MINIGAME, MESSAGE_MAX);
    (void)state;
    assert_non_null(game);
    for (int count = 10; count <= 11; count++) {
        struct proto_request request;
        char text[1024] = "{\"action\":\"game_end\",\"id\":\"HLG-7\",\"leaderboard\":[",
             error[PROTO_ERROR_MAX];
        for (int i = 1; i <= count; i++)
            snprintf(text + strlen(text), sizeof(text) - strlen(text),
                     "{\"id\":\"player %d\",\"position\":%d}%s", i, i, i < count ? "," : "]}");
        enum proto_refusal refusal = proto_parse(game, text, strlen(text), &request, error);
        assert_int_equal(refusal, count == 10 ? REFUSED_NOT : MALFORMED);
        if (refusal)
            continue;
        assert_int_equal(request.game_end.count, 10);
        proto_release(&request);
    }
    proto_free(game);
}

/* A text that ends too early is refused, wherever that is, and does the next one no harm. */
static void test_cut_anywhere(void **state) {
    static const char text[] =
        "{\"action\":\"message\",\"message\":\"h\\u017e\",\"channel\":1.5e1,\"x\":[true,null]}";
    char result[512];
    (void)state;
    for (size_t len = 0; len < sizeof(text) - 1; len++)
        assert_int_equal(parse(text, len, result, sizeof(result)), REFUSED_MALFORMED);
    assert_int_equal(parse(text, sizeof(text) - 1, result, sizeof(result)), REFUSED_NOT);
    assert_string_equal(result, "message 'hž' in 15");
}

/* Objects in objects: those that nobody asked for are ignored, to a depth that the error names. */
static void test_deep_nesting(void **state) {
    static char text[40000];
    char result[512];
    (void)state;
    for (size_t depth = 1; depth < 10000; depth = depth < 40 ? depth + 1 : depth * 3) {
        size_t used = (size_t)snprintf(text, sizeof(text), "{\"action\":\"history\",\"x\":");
        memset(text + used, '[', depth);
        memset(text + used + depth, ']', depth);
        text[used + 2 * depth] = '}';
        enum proto_refusal refusal = parse(text, used + 2 * depth + 1, result, sizeof(result));
        assert_int_equal(refusal, depth <= PROTO_DEPTH_MAX ? REFUSED_NOT : REFUSED_MALFORMED);
        if (refusal)
            assert_non_null(strstr(result, "32 at most"));
        memset(text, '[', depth);
        assert_int_equal(parse(text, depth, result, sizeof(result)), REFUSED_MALFORMED);
    }
}

/* {"action":"login","<key>":"aaa..."<more>} with `len` a's. */
static enum proto_refusal parse_login(const char *key, size_t len, const char *more) {
    static char text[10000], result[10000];
    size_t used = (size_t)snprintf(text, sizeof(text), "{\"action\":\"login\",\"%s\":\"", key);
    memset(text + used, 'a', len);
    used += len;
    used += (size_t)snprintf(text + used, sizeof(text) - used, "\"%s}", more);
    return parse(text, used, result, sizeof(result));
}

static void test_ceilings_of_credentials(void **state) {
    static const char password[] = ",\"password\":\"x\"", username[] = ",\"username\":\"x\"";
    (void)state;
    assert_int_equal(parse_login("token", 1, ""), REFUSED_NOT);
    assert_int_equal(parse_login("token", PROTO_TOKEN_MAX, ""), REFUSED_NOT);
    assert_int_equal(parse_login("token", PROTO_TOKEN_MAX + 1, ""), REFUSED_MALFORMED);
    assert_int_equal(parse_login("username", PROTO_CREDENTIAL_MAX, password), REFUSED_NOT);
    assert_int_equal(parse_login("username", PROTO_CREDENTIAL_MAX + 1, password), MALFORMED);
    assert_int_equal(parse_login("password", PROTO_CREDENTIAL_MAX, username), REFUSED_NOT);
    assert_int_equal(parse_login("password", PROTO_CREDENTIAL_MAX + 1, username), MALFORMED);
}

/* What a client sent is never in the error that it gets: that may be logged. */
static void test_errors_repeat_nothing(void **state) {
    static const char *const texts[] = {
        "swordfish",
        "{\"swordfish",
        "{\"action\":\"swordfish\"}",
        "{\"action\":[\"swordfish\"]}",
        "{\"action\":\"login\",\"token\":[\"swordfish\"]}",
        "{\"action\":\"login\",\"token\":\"swordfish\\u0000\"}",
        "{\"action\":\"login\",\"username\":\"swordfish\"}",
        "{\"action\":\"login\",\"username\":\"x\",\"password\":{\"swordfish\":1}}",
        "{\"action\":\"message\",\"message\":{\"swordfish\":1}}",
        "{\"action\":\"message\",\"message\":\"x\",\"channel\":{\"swordfish\":1}}",
        "{\"action\":\"history\",\"limit\":\"swordfish\"}",
        "{\"action\":\"history\"} swordfish",
    };
    char result[512];
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        assert_true(parse(texts[i], strlen(texts[i]), result, sizeof(result)) != REFUSED_NOT);
        assert_null(strstr(result, "swordfish"));
    }
}

static void test_message_ceiling_is_a_setting(void **state) {
    static const char longest[] = "{\"action\":\"message\",\"message\":\"12345\"}";
    static const char longer[] = "{\"action\":\"message\",\"message\":\"123456\"}";
    struct proto *five = proto_new(PROTO_CHAT, 5);
    struct proto_request request;
    char error[PROTO_ERROR_MAX];
    (void)state;
    assert_non_null(five);
    assert_int_equal(proto_parse(five, longest, sizeof(longest) - 1, &request, error), REFUSED_NOT);
    assert_int_equal(request.message.text_len, 5);
    proto_release(&request);
    assert_int_equal(proto_parse(five, longer, sizeof(longer) - 1, &request, error),
                     REFUSED_MALFORMED);
    assert_string_equal(error, "message: a string of 1 to 5 bytes without U+0000");
    proto_free(five);
    proto_free(NULL);
}

/* ---- what we write ---- */

static void check_message(const struct proto_message *message, const char *want) {
    size_t len = 0;
    const char *json = proto_message_json(proto, message, &len);
    assert_non_null(json);
    assert_int_equal(len, strlen(want));
    assert_memory_equal(json, want, len);
}

/* The bytes of docs/protocol.md: order of the keys, no blanks, no escaped slash. */
static void test_message_json(void **state) {
    struct proto_message message = {
        .user_id = "HL365393213667",
        .timestamp = 1666259380,
        .text = "message",
        .text_len = 7,
        .channel = "General",
        .nickname = "Great Heavenland Hero",
    };
    (void)state;
    check_message(&message, "{\"user_id\":\"HL365393213667\",\"timestamp\":1666259380,"
                            "\"message\":\"message\",\"channel\":\"General\","
                            "\"nickname\":\"Great Heavenland Hero\"}");
    message.channel = NULL;
    check_message(&message, "{\"user_id\":\"HL365393213667\",\"timestamp\":1666259380,"
                            "\"message\":\"message\",\"nickname\":\"Great Heavenland Hero\"}");
    message.text = "http://x/ \"q\" \\ \n\t\x01 é 🎮 <b>";
    message.text_len = strlen(message.text);
    message.user_id = message.nickname = "\"/";
    message.channel = "\\";
    message.timestamp = 4102444800; /* beyond 32 bits */
    check_message(&message, "{\"user_id\":\"\\\"/\",\"timestamp\":4102444800,\"message\":"
                            "\"http://x/ \\\"q\\\" \\\\ \\n\\t\\u0001 é 🎮 <b>\","
                            "\"channel\":\"\\\\\",\"nickname\":\"\\\"/\"}");
}

/* Only `text_len` bytes of the text are the message. */
static void test_message_json_by_length(void **state) {
    struct proto_message message = {
        .user_id = "1", .timestamp = 0, .text = "hi there", .text_len = 2, .nickname = "n"};
    (void)state;
    check_message(&message,
                  "{\"user_id\":\"1\",\"timestamp\":0,\"message\":\"hi\",\"nickname\":\"n\"}");
}

/* docs/protocol.md says how long a message and an error can be. An id and a nickname have no
 * control characters. */
static void test_longest_frames(void **state) {
    char text[MESSAGE_MAX + 1] = "", channel[PROTO_CHANNEL_MAX + 1] = "",
                            name[IDENTITY_ID_MAX + 1] = "", error[PROTO_ERROR_MAX] = "";
    struct proto_message message = {.user_id = name,
                                    .timestamp = 9999999999,
                                    .text = text,
                                    .text_len = MESSAGE_MAX,
                                    .channel = channel,
                                    .nickname = name};
    size_t len = 0;
    (void)state;
    memset(text, 1, MESSAGE_MAX);
    memset(channel, 1, PROTO_CHANNEL_MAX);
    memset(name, '"', IDENTITY_ID_MAX);
    memset(error, '"', PROTO_ERROR_MAX - 1);
    assert_int_equal(IDENTITY_ID_MAX, IDENTITY_NICKNAME_MAX);
    assert_non_null(proto_message_json(proto, &message, &len));
    assert_int_equal(len, 6 * MESSAGE_MAX + 973);
    free(proto_error_reply(error, 0, &len));
    assert_int_equal(len, 522);
}

/* What one client sends is what all receive, whatever the escapes it came with. */
static void test_message_comes_through(void **state) {
    static const char text[] = "{\"action\":\"message\",\"message\":\"\\ud83c\\udfae \\/ \\u0022\","
                               "\"channel\":-7}";
    struct proto_request request;
    char error[PROTO_ERROR_MAX];
    (void)state;
    assert_int_equal(proto_parse(proto, text, sizeof(text) - 1, &request, error), REFUSED_NOT);
    struct proto_message message = {.user_id = "1",
                                    .text = request.message.text,
                                    .text_len = request.message.text_len,
                                    .channel = request.message.channel,
                                    .nickname = "n"};
    check_message(&message, "{\"user_id\":\"1\",\"timestamp\":0,\"message\":\"🎮 / \\\"\","
                            "\"channel\":\"-7\",\"nickname\":\"n\"}");
    proto_release(&request);
}

static void check_reply(char *(*make)(const char *, size_t, size_t *), const char *text,
                        const char *want) {
    for (size_t headroom = 0; headroom <= 48; headroom += 48) {
        size_t len = 0;
        char *reply = make(text, headroom, &len);
        assert_non_null(reply);
        assert_int_equal(len, strlen(want));
        assert_memory_equal(reply + headroom, want, len);
        memset(reply, 0, headroom); /* it is there */
        free(reply);
    }
}

static void test_replies(void **state) {
    (void)state;
    check_reply(proto_info_reply, "connected", "{\"info\":\"connected\"}");
    check_reply(proto_error_reply, "no \"way\"/", "{\"error\":\"no \\\"way\\\"/\"}");
    check_reply(proto_error_reply, "", "{\"error\":\"\"}");
}

static void test_names(void **state) {
    (void)state;
    for (int i = 0; i < REFUSED_COUNT; i++) {
        const char *name = proto_refusal_name((enum proto_refusal)i);
        assert_non_null(name);
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz_"), strlen(name));
        for (int j = 0; j < i; j++)
            assert_string_not_equal(name, proto_refusal_name((enum proto_refusal)j));
    }
}

/* A close frame's payload has at most 125 bytes, two of them the code. */
static void test_close_reasons(void **state) {
    static const int codes[] = {CLOSE_RESTART,       CLOSE_BINARY,        CLOSE_ERRORS,
                                CLOSE_TOO_BIG,       CLOSE_INTERNAL,      CLOSE_SLOW,
                                CLOSE_TOKEN_EXPIRED, CLOSE_LOGIN_TIMEOUT, CLOSE_LOST,
                                CLOSE_OVERLOAD,      CLOSE_LOGIN_ATTEMPTS};
    static const int numbers[] = {1001, 1003, 1008, 1009, 1011, 4001, 4002, 4003, 4004, 4005, 4501};
    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++) {
        assert_int_equal(codes[i], numbers[i]);
        /* Those between cannot be read by many libraries. */
        assert_true(codes[i] <= 1011 || codes[i] >= 4000);
        assert_in_range(strlen(proto_close_reason(codes[i])), 1, 123);
    }
    assert_string_equal(proto_close_reason(1000), "");
}

/* ---- secrets ---- */

#if defined(__SANITIZE_ADDRESS__)
static void test_secrets_are_wiped(void **state) {
    (void)state;
    print_message("[  SKIPPED ] the address sanitizer owns the allocator\n");
    skip();
}
#else

/* Escapes make the parser put a text together piece by piece. A new parser each time: one that has
 * parsed before may have room enough by that. */
static void test_secrets_are_wiped(void **state) {
    static const struct {
        const char *begin;
        int filling; /* between the two */
        const char *end;
        enum proto_refusal want;
    } frames[] = {
        {"{\"action\":\"login\",\"token\":\"CANARY\\u0041", 8000, "\"}", REFUSED_NOT},
        {"{\"token\":\"CANARY\\u0041", 8000, "\",\"action\":\"login\"}", REFUSED_NOT},
        {"{\"action\":\"login\",\"username\":\"ann\",\"password\":\"CANARY\\/\\u00e9", 200, "\"}",
         REFUSED_NOT},
        {"{\"action\":\"login\",\"token\":\"CANARY\\u0041", 8000, "", MALFORMED}, /* cut */
        {"{\"action\":\"login\",\"token\":\"CANARY\\u0041", 8000, "\"} more", MALFORMED},
        {"{\"action\":7,\"token\":\"CANARY\\u0041", 8000, "\"}", MALFORMED},
    };
    static char filling[PROTO_TOKEN_MAX], text[PROTO_TOKEN_MAX + 100];
    (void)state;
    memset(filling, 'x', sizeof(filling));
    for (size_t i = 0; i < sizeof(frames) / sizeof(*frames); i++) {
        struct proto_request request;
        char error[PROTO_ERROR_MAX];
        struct proto *fresh = proto_new(PROTO_CHAT, MESSAGE_MAX);
        assert_non_null(fresh);
        snprintf(text, sizeof(text), "%s%.*s%s", frames[i].begin, frames[i].filling, filling,
                 frames[i].end);
        secret_watch_start("CANARY");
        enum proto_refusal refusal = proto_parse(fresh, text, strlen(text), &request, error);
        if (refusal == REFUSED_NOT)
            proto_release(&request);
        proto_free(fresh);
        unsigned found = secret_watch_stop();
        if (found > 0 || refusal != frames[i].want)
            fail_msg("frame %zu: refusal %d, %u blocks with a secret", i, refusal, found);
    }
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_requests_of_game_servers),
        cmocka_unit_test(test_longest_leaderboard),
        cmocka_unit_test(test_longest_frames),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_ceilings_of_credentials),
        cmocka_unit_test(test_errors_repeat_nothing),
        cmocka_unit_test(test_message_ceiling_is_a_setting),
        cmocka_unit_test(test_message_json),
        cmocka_unit_test(test_message_json_by_length),
        cmocka_unit_test(test_message_comes_through),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_close_reasons),
        cmocka_unit_test(test_secrets_are_wiped),
    };
    return cmocka_run_group_tests(tests, make_proto, free_proto);
}
