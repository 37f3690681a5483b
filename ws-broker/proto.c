#include "ws-broker/proto.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <json-c/printbuf.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* json-c counts what is in the innermost one as a level more. */
enum {
    DEPTH_MAX = PROTO_DEPTH_MAX + 1,
    OUTPUT_FLAGS = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE
};

/* A whole number from here on that was written as 1e17 or 1.0 may have been another one. */
static const int64_t DOUBLE_EXACT_END = (int64_t)1 << 53;

struct proto {
    struct json_tokener *tokener;
    struct json_object *entry; /* owns the text that proto_message_json() returned last */
    enum proto_side side;
    size_t message_max;
};

struct proto *proto_new(enum proto_side side, size_t message_max) {
    struct proto *proto = calloc(1, sizeof(*proto));
    if (!proto)
        return NULL;
    proto->side = side;
    proto->message_max = message_max;
    /* Without JSON_TOKENER_STRICT: json-c 0.18 then refuses every string that is not ASCII. */
    proto->tokener = json_tokener_new_ex(DEPTH_MAX);
    /* Room for the longest token: a buffer that grows is moved, and its old place is not wiped. */
    if (!proto->tokener || printbuf_memset(proto->tokener->pb, 0, 0, PROTO_TOKEN_MAX + 1) != 0) {
        proto_free(proto);
        return NULL;
    }
    return proto;
}

void proto_free(struct proto *proto) {
    if (!proto)
        return;
    json_object_put(proto->entry);
    if (proto->tokener) /* NULL makes it crash */
        json_tokener_free(proto->tokener);
    free(proto);
}

const char *proto_refusal_name(enum proto_refusal refusal) {
    static const char *const names[REFUSED_COUNT] = {"none",          "malformed", "unknown_action",
                                                     "not_logged_in", "login",     "rate",
                                                     "unavailable",   "minigame"};
    return names[refusal];
}

/* Says why, and is the refusal at once: return refuse(error, "..."). */
static enum proto_refusal refuse(char error[PROTO_ERROR_MAX], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static enum proto_refusal refuse(char error[PROTO_ERROR_MAX], const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error, PROTO_ERROR_MAX, format, args);
    va_end(args);
    return REFUSED_MALFORMED;
}

/* The member of that name; NULL when it is absent or null, which is the same to us. */
static struct json_object *member(const struct json_object *root, const char *key) {
    struct json_object *value = NULL;
    json_object_object_get_ex(root, key, &value);
    return value;
}

/* Its text, when the value is a string without NUL of at most `max` bytes; else NULL. */
static const char *text_of(struct json_object *value, size_t max) {
    if (!json_object_is_type(value, json_type_string))
        return NULL;
    const char *text = json_object_get_string(value);
    size_t len = (size_t)json_object_get_string_len(value);
    return len <= max && strlen(text) == len ? text : NULL;
}

/* Whether a number is whole as it is written: 1.00000000000000000001 is 1 only as a double. */
static bool is_whole(struct json_object *value) {
    const char *text = json_object_to_json_string_ext(value, OUTPUT_FLAGS);
    const char *end = text ? text + strcspn(text, "eE") : NULL;
    if (!text)
        return false;
    long power = *end ? strtol(end + 1, NULL, 10) : 0;
    const char *point = memchr(text, '.', (size_t)(end - text));
    const char *last = end; /* behind the last digit that is not 0 */
    while (last > text && !(last[-1] >= '1' && last[-1] <= '9'))
        last--;
    if (last == text)
        return true;
    long place =
        point && last > point ? (long)(point + 1 - last) : (long)((point ? point : end) - last);
    return power >= -place;
}

/* A whole number that is written with a point or a power of ten. */
static bool is_whole_double(struct json_object *value) {
    return json_object_is_type(value, json_type_double) &&
           isfinite(json_object_get_double(value)) && is_whole(value);
}

/* Whether the value is a whole number of 64 bits; 10.0 is one. */
static bool integer_of(struct json_object *value, int64_t *out) {
    if (json_object_is_type(value, json_type_int)) {
        *out = json_object_get_int64(value);
        /* What does not fit is clamped: above that shows, below the last number is given up. */
        return *out != INT64_MIN && (*out < 0 || json_object_get_uint64(value) <= INT64_MAX);
    }
    double number = json_object_get_double(value);
    if (!is_whole_double(value) || fabs(number) >= (double)DOUBLE_EXACT_END)
        return false;
    *out = (int64_t)number;
    return true;
}

static enum proto_refusal parse_credential(const struct json_object *root, const char *key,
                                           size_t max, const char **out,
                                           char error[PROTO_ERROR_MAX]) {
    struct json_object *value = member(root, key);
    *out = NULL;
    if (!value)
        return REFUSED_NOT;
    *out = text_of(value, max);
    if (!*out)
        return refuse(error, "%s: a string of 1 to %zu bytes", key, max);
    if (!**out)
        *out = NULL; /* an empty string counts as absent */
    return REFUSED_NOT;
}

static enum proto_refusal parse_login(struct proto *proto, const struct json_object *root,
                                      struct proto_request *request, char error[PROTO_ERROR_MAX]) {
    (void)proto;
    struct identity_credentials *login = &request->login;
    enum proto_refusal refusal =
        parse_credential(root, "token", PROTO_TOKEN_MAX, &login->token, error);
    if (refusal || login->token) /* the token wins: nothing else is looked at */
        return refusal;
    refusal = parse_credential(root, "username", PROTO_CREDENTIAL_MAX, &login->username, error);
    if (!refusal)
        refusal = parse_credential(root, "password", PROTO_CREDENTIAL_MAX, &login->password, error);
    if (!refusal && (!login->username || !login->password))
        return refuse(error, "login: a token is missing (or username and password)");
    return refusal;
}

static enum proto_refusal parse_message(struct proto *proto, const struct json_object *root,
                                        struct proto_request *request,
                                        char error[PROTO_ERROR_MAX]) {
    struct json_object *text = member(root, "message"), *channel = member(root, "channel");
    request->message.text = text_of(text, proto->message_max);
    if (!request->message.text || !*request->message.text)
        return refuse(error, "message: a string of 1 to %zu bytes without U+0000",
                      proto->message_max);
    request->message.text_len = (size_t)json_object_get_string_len(text);

    int64_t number;
    if (integer_of(channel, &number)) {
        snprintf(request->message.channel_number, sizeof(request->message.channel_number),
                 "%" PRId64, number);
        request->message.channel = request->message.channel_number;
    } else {
        request->message.channel = text_of(channel, PROTO_CHANNEL_MAX);
        if (channel && !request->message.channel)
            return refuse(error, "channel: a string of 1 to %d bytes without U+0000, or an integer",
                          PROTO_CHANNEL_MAX);
        if (channel && !*request->message.channel)
            request->message.channel = NULL;
    }
    return REFUSED_NOT;
}

/* A number from 0 on, of any size: what is too large for us is as good as the largest. */
static bool count_of(struct json_object *value, uint64_t fallback, uint64_t *out) {
    *out = fallback;
    if (!value)
        return true;
    if (json_object_is_type(value, json_type_int)) {
        int64_t number = json_object_get_int64(value);
        *out = (uint64_t)number;
        return number >= 0;
    }
    double number = json_object_get_double(value);
    if (!is_whole_double(value) || number < 0)
        return false;
    *out = number < (double)DOUBLE_EXACT_END ? (uint64_t)number : (uint64_t)DOUBLE_EXACT_END;
    return true;
}

static enum proto_refusal parse_history(struct proto *proto, const struct json_object *root,
                                        struct proto_request *request,
                                        char error[PROTO_ERROR_MAX]) {
    (void)proto;
    if (!count_of(member(root, "limit"), 10, &request->history.limit))
        return refuse(error, "limit: an integer from 0");
    if (!count_of(member(root, "offset"), 0, &request->history.offset))
        return refuse(error, "offset: an integer from 0");
    return REFUSED_NOT;
}

/* Seconds, as the scheduler wants them. */
static enum proto_refusal parse_seconds(const struct json_object *root, const char *key,
                                        int64_t fallback, int64_t *out,
                                        char error[PROTO_ERROR_MAX]) {
    struct json_object *value = member(root, key);
    *out = fallback;
    if (value && (!integer_of(value, out) || *out < 1 || *out > MINIGAME_SECONDS_MAX))
        return refuse(error, "%s: an integer from 1 to %d, seconds", key, MINIGAME_SECONDS_MAX);
    return REFUSED_NOT;
}

static enum proto_refusal parse_scheduler_start(struct proto *proto, const struct json_object *root,
                                                struct proto_request *request,
                                                char error[PROTO_ERROR_MAX]) {
    (void)proto;
    enum proto_refusal refusal =
        parse_seconds(root, "period", MINIGAME_PERIOD_S, &request->scheduler.period_s, error);
    return refusal ? refusal
                   : parse_seconds(root, "offset", MINIGAME_OFFSET_S, &request->scheduler.offset_s,
                                   error);
}

static enum proto_refusal parse_place(struct json_object *line, size_t index,
                                      struct minigame_place *place, char error[PROTO_ERROR_MAX]) {
    if (!json_object_is_type(line, json_type_object))
        return refuse(error, "leaderboard[%zu]: an object with id and position", index);
    place->id = text_of(member(line, "id"), IDENTITY_ID_MAX);
    if (!place->id || !*place->id)
        return refuse(error, "leaderboard[%zu].id: a player's id", index);
    if (!integer_of(member(line, "position"), &place->position) || place->position < 1)
        return refuse(error, "leaderboard[%zu].position: an integer from 1", index);
    return REFUSED_NOT;
}

static enum proto_refusal parse_game_end(struct proto *proto, const struct json_object *root,
                                         struct proto_request *request,
                                         char error[PROTO_ERROR_MAX]) {
    (void)proto;
    struct json_object *leaderboard = member(root, "leaderboard");
    struct minigame_place *places = request->game_end.places;
    const char *id = text_of(member(root, "id"), SIZE_MAX);
    bool is_list = json_object_is_type(leaderboard, json_type_array);
    size_t count = is_list ? json_object_array_length(leaderboard) : 0, index = 0;
    if (!id)
        return refuse(error, "id: a game's id, such as HLG-1");
    if (count < 1 || count > MINIGAME_PLAYERS_MAX)
        return refuse(error, "leaderboard: a list of 1 to %d players", MINIGAME_PLAYERS_MAX);
    for (size_t i = 0; i < count; i++)
        if (parse_place(json_object_array_get_idx(leaderboard, i), i, &places[i], error))
            return REFUSED_MALFORMED;
    const char *repeat = minigame_repeat(places, count, &index);
    if (repeat)
        return refuse(error, "leaderboard[%zu].%s: it stands there twice", index, repeat);
    request->game_end.number = minigame_number(id);
    request->game_end.count = count;
    return REFUSED_NOT;
}

static enum proto_refusal parse_nothing(struct proto *proto, const struct json_object *root,
                                        struct proto_request *request,
                                        char error[PROTO_ERROR_MAX]) {
    (void)proto, (void)root, (void)request, (void)error;
    return REFUSED_NOT;
}

enum { CHAT = 1 << PROTO_CHAT, MINIGAME = 1 << PROTO_MINIGAME };

static const struct {
    const char *action;
    unsigned sides; /* who may ask it */
    enum proto_refusal (*parse)(struct proto *, const struct json_object *, struct proto_request *,
                                char error[PROTO_ERROR_MAX]);
} verbs[VERB_COUNT] = {
    [VERB_LOGIN] = {"login", CHAT | MINIGAME, parse_login},
    [VERB_MESSAGE] = {"message", CHAT, parse_message},
    [VERB_HISTORY] = {"history", CHAT, parse_history},
    [VERB_SCHEDULER_START] = {"scheduler_start", MINIGAME, parse_scheduler_start},
    [VERB_SCHEDULER_STOP] = {"scheduler_stop", MINIGAME, parse_nothing},
    [VERB_SCHEDULER_INFO] = {"scheduler_info", MINIGAME, parse_nothing},
    [VERB_ONLINE_PLAYERS] = {"online_players", MINIGAME, parse_nothing},
    [VERB_GAME_END] = {"game_end", MINIGAME, parse_game_end},
};

/* "<what>: one of login, message, history" */
static enum proto_refusal refuse_action(const struct proto *proto, const char *what,
                                        char error[PROTO_ERROR_MAX]) {
    char actions[PROTO_ERROR_MAX / 2] = "";
    size_t len = 0;
    for (unsigned i = 0; i < VERB_COUNT; i++)
        if (verbs[i].sides & 1U << proto->side)
            len += (size_t)snprintf(actions + len, sizeof(actions) - len, "%s%s",
                                    len > 0 ? ", " : "", verbs[i].action);
    return refuse(error, "%s: one of %s", what, actions);
}

static enum proto_refusal parse_action(struct proto *proto, const struct json_object *root,
                                       struct proto_request *request, char error[PROTO_ERROR_MAX]) {
    const char *action = text_of(member(root, "action"), SIZE_MAX);
    if (!action)
        return refuse_action(proto, "action", error);
    for (unsigned i = 0; i < VERB_COUNT; i++)
        if (strcmp(action, verbs[i].action) == 0 && verbs[i].sides & 1U << proto->side) {
            request->verb = (enum proto_verb)i;
            return verbs[i].parse(proto, root, request, error);
        }
    refuse_action(proto, "unknown action", error);
    return REFUSED_UNKNOWN_ACTION;
}

static bool is_blank(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (!strchr(" \t\r\n", text[i]) || !text[i])
            return false;
    return true;
}

static const char *skip_comment(const char *at, const char *end) {
    bool is_line = at + 1 < end && at[1] == '/', is_block = at + 1 < end && at[1] == '*';
    const char *stop = is_line    ? memchr(at, '\n', (size_t)(end - at))
                       : is_block ? memmem(at + 2, (size_t)(end - at - 2), "*/", 2)
                                  : at;
    return stop ? stop + (is_block ? 2 : 1) : end;
}

/* Behind the string that begins at `at`; whether it has an escaped U+0000. */
static const char *skip_string(const char *at, const char *end, bool *has_nul) {
    char quote = *at++;
    for (*has_nul = false; at < end && *at != quote; at++)
        if (*at == '\\' && ++at < end && *at == 'u' && end - at > 4 && memcmp(at, "u0000", 5) == 0)
            *has_nul = true;
    return at < end ? at + 1 : end;
}

/* json-c ends a member's name at U+0000: "action\u0000x" would be taken for "action". It knows
 * comments and either quote. */
static bool has_cut_name(const char *text, size_t len) {
    const char *end = text + len;
    bool has_nul = false; /* the string behind which only blanks and comments have come */
    if (!memmem(text, len, "\\u0000", 6))
        return false;
    for (const char *at = text; at < end;) {
        if (*at == '"' || *at == '\'') {
            at = skip_string(at, end, &has_nul);
        } else if (*at == '/') {
            at = skip_comment(at, end);
        } else {
            if (*at == ':' && has_nul)
                return true;
            has_nul = has_nul && strchr(" \t\r\n\f\v", *at);
            at++;
        }
    }
    return false;
}

/* The parser keeps the strings that it has read of a text of `len` bytes: none is longer. */
static void wipe_parser(struct proto *proto, size_t len) {
    struct printbuf *strings = proto->tokener->pb;
    explicit_bzero(strings->buf, len < (size_t)strings->size ? len : (size_t)strings->size);
}

enum proto_refusal proto_parse(struct proto *proto, const char *text, size_t len,
                               struct proto_request *request, char error[PROTO_ERROR_MAX]) {
    *request = (struct proto_request){0};
    json_tokener_reset(proto->tokener);
    struct json_object *root = json_tokener_parse_ex(proto->tokener, text, (int)len);
    size_t end = json_tokener_get_parse_end(proto->tokener);
    enum json_tokener_error parse_error = json_tokener_get_error(proto->tokener);
    enum proto_refusal refusal;
    if (parse_error == json_tokener_error_depth)
        refusal =
            refuse(error, "too deep: objects and lists in each other, %d at most", PROTO_DEPTH_MAX);
    else if (parse_error != json_tokener_success || !is_blank(text + end, len - end))
        refusal = refuse(error, "not JSON: one object in one text frame is expected");
    else if (!json_object_is_type(root, json_type_object))
        refusal = refuse(error, "not a JSON object");
    else if (has_cut_name(text, len))
        refusal = refuse(error, "a member's name with U+0000");
    else
        refusal = parse_action(proto, root, request, error);
    request->_root = root;
    if (request->verb == VERB_LOGIN)
        wipe_parser(proto, len);
    if (refusal)
        proto_release(request);
    return refusal;
}

/* The JSON library frees without wiping; a text is ours until then. */
static void wipe_member(const struct json_object *root, const char *key) {
    struct json_object *value = member(root, key);
    if (json_object_is_type(value, json_type_string))
        explicit_bzero((char *)(uintptr_t)json_object_get_string(value),
                       (size_t)json_object_get_string_len(value));
}

void proto_release(struct proto_request *request) {
    if (request->verb == VERB_LOGIN) {
        wipe_member(request->_root, "token");
        wipe_member(request->_root, "password");
    }
    json_object_put(request->_root);
    request->_root = NULL;
}

/* Takes over `value`. False: no memory. */
static bool add(struct json_object *object, const char *key, struct json_object *value) {
    if (value &&
        json_object_object_add_ex(
            object, key, value, JSON_C_OBJECT_ADD_KEY_IS_NEW | JSON_C_OBJECT_KEY_IS_CONSTANT) == 0)
        return true;
    json_object_put(value);
    return false;
}

static bool add_text(struct json_object *object, const char *key, const char *text, size_t len) {
    return add(object, key, json_object_new_string_len(text, (int)len));
}

const char *proto_message_json(struct proto *proto, const struct proto_message *message,
                               size_t *len) {
    json_object_put(proto->entry);
    struct json_object *entry = proto->entry = json_object_new_object();
    if (!entry)
        return NULL;
    if (!add_text(entry, "user_id", message->user_id, strlen(message->user_id)) ||
        !add(entry, "timestamp", json_object_new_int64(message->timestamp)) ||
        !add_text(entry, "message", message->text, message->text_len) ||
        (message->channel &&
         !add_text(entry, "channel", message->channel, strlen(message->channel))) ||
        !add_text(entry, "nickname", message->nickname, strlen(message->nickname)))
        return NULL;
    return json_object_to_json_string_length(entry, OUTPUT_FLAGS, len);
}

static char *one_member_reply(const char *key, const char *text, size_t headroom, size_t *len) {
    struct json_object *object = json_object_new_object();
    if (!object)
        return NULL;
    const char *json = NULL;
    if (add_text(object, key, text, strlen(text)))
        json = json_object_to_json_string_length(object, OUTPUT_FLAGS, len);
    char *reply = json ? malloc(headroom + *len) : NULL;
    if (reply)
        memcpy(reply + headroom, json, *len);
    json_object_put(object);
    return reply;
}

char *proto_error_reply(const char *text, size_t headroom, size_t *len) {
    return one_member_reply("error", text, headroom, len);
}

char *proto_info_reply(const char *text, size_t headroom, size_t *len) {
    return one_member_reply("info", text, headroom, len);
}

const char *proto_close_reason(int code) {
    switch ((enum proto_close)code) {
    case CLOSE_RESTART:
        return "server restarts, reconnect";
    case CLOSE_BINARY:
        return "binary frames are not accepted";
    case CLOSE_ERRORS:
        return "too many errors in a row, or too many frames";
    case CLOSE_TOO_BIG:
        return "message too big";
    case CLOSE_INTERNAL:
        return "internal error";
    case CLOSE_SLOW:
        return "too slow, reconnect";
    case CLOSE_TOKEN_EXPIRED:
        return "the access token has expired, get a new one";
    case CLOSE_LOGIN_TIMEOUT:
        return "no login in time";
    case CLOSE_LOST:
        return "messages were lost, reconnect and load the history";
    case CLOSE_OVERLOAD:
        return "the server is overloaded, reconnect";
    case CLOSE_LOGIN_ATTEMPTS:
        return "login attempts used up";
    }
    return "";
}
