/* Any text frame: parsed, and a message that was understood written out and parsed again. */
#include <assert.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "ws-broker/proto.h"

enum { MESSAGE_MAX = 2048 };

/* What everybody receives is JSON again: an object of which only the action is missing. */
static void broadcast(struct proto *proto, struct proto *reader,
                      const struct proto_request *request) {
    struct proto_message message = {.user_id = "HL1",
                                    .timestamp = 1666259380,
                                    .text = request->message.text,
                                    .text_len = request->message.text_len,
                                    .channel = request->message.channel,
                                    .nickname = request->message.text};
    struct proto_request again;
    char error[PROTO_ERROR_MAX];
    size_t len = 0;
    const char *json = proto_message_json(proto, &message, &len);
    assert(json && strlen(json) == len);
    assert(proto_parse(reader, json, len, &again, error) == REFUSED_MALFORMED);
    assert(strncmp(error, "action:", 7) == 0);
}

static void parse_as_game_server(const uint8_t *data, size_t size) {
    static struct proto *proto;
    struct proto_request request;
    char error[PROTO_ERROR_MAX] = "";
    if (!proto)
        proto = proto_new(PROTO_MINIGAME, MESSAGE_MAX);
    if (proto_parse(proto, (const char *)data, size, &request, error) != REFUSED_NOT) {
        assert(error[0] && memchr(error, '\0', sizeof(error)));
        return;
    }
    if (request.verb == VERB_GAME_END) {
        assert(request.game_end.count >= 1 && request.game_end.count <= MINIGAME_PLAYERS_MAX);
        for (size_t i = 0; i < request.game_end.count; i++)
            assert(request.game_end.places[i].id[0] && request.game_end.places[i].position >= 1);
    } else if (request.verb == VERB_SCHEDULER_START) {
        assert(request.scheduler.period_s >= 1 &&
               request.scheduler.period_s <= MINIGAME_SECONDS_MAX);
        assert(request.scheduler.offset_s >= 1 &&
               request.scheduler.offset_s <= MINIGAME_SECONDS_MAX);
    } else {
        assert(request.verb != VERB_MESSAGE && request.verb != VERB_HISTORY);
    }
    proto_release(&request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct proto *proto, *reader;
    struct proto_request request;
    char error[PROTO_ERROR_MAX] = "";
    if (!proto) {
        proto = proto_new(PROTO_CHAT, MESSAGE_MAX);
        reader = proto_new(PROTO_CHAT, MESSAGE_MAX);
    }
    parse_as_game_server(data, size);
    if (proto_parse(proto, (const char *)data, size, &request, error) != REFUSED_NOT) {
        assert(error[0] && memchr(error, '\0', sizeof(error)));
        return 0;
    }
    if (request.verb == VERB_MESSAGE) {
        assert(request.message.text_len >= 1 && request.message.text_len <= MESSAGE_MAX);
        assert(strlen(request.message.text) == request.message.text_len);
        assert(!request.message.channel || strlen(request.message.channel) <= PROTO_CHANNEL_MAX);
        broadcast(proto, reader, &request);
    } else if (request.verb == VERB_HISTORY) {
        assert(request.history.limit <= INT64_MAX && request.history.offset <= INT64_MAX);
    } else if (request.login.token) {
        assert(request.login.token[0] && strlen(request.login.token) <= PROTO_TOKEN_MAX);
    } else {
        assert(request.login.username[0] && request.login.password[0]);
    }
    proto_release(&request);
    return 0;
}
