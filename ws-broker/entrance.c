#include "ws-broker/entrance.h"

#include "shared/metrics.h"
#include "shared/settings.h"
#include "ws-broker/access.h"
#include "ws-broker/admission.h"
#include "ws-broker/chat.h"
#include "ws-broker/endpoints.h"
#include "ws-broker/forwarded.h"
#include "ws-broker/games.h"

static const struct rate_limit webhook_limit = {.per_second = 10, .burst = 20};

static struct metric refused[] = {
    [ADMISSION_FULL] = {.name = "hlchat_connections_refused_total",
                        .help = "WebSockets refused",
                        .labels = "reason=\"full\""},
    [ADMISSION_ADDRESS] = {.name = "hlchat_connections_refused_total",
                           .help = "WebSockets refused",
                           .labels = "reason=\"address_connections\""},
    [ADMISSION_RATE] = {.name = "hlchat_connections_refused_total",
                        .help = "WebSockets refused",
                        .labels = "reason=\"address_rate\""},
};

void entrance_register_metrics(struct metrics *metrics) {
    for (int why = ADMISSION_FULL; why <= ADMISSION_RATE; why++)
        metrics_register(metrics, &refused[why]);
}

bool entrance_has_minigame(const struct entrance *entrance) {
    return entrance->game_servers->log != NULL;
}

static struct address_ip client_of(const struct entrance *entrance,
                                   const struct ws_request *request) {
    return forwarded_client(&request->peer, request->forwarded_for,
                            &entrance->settings->trusted_proxies);
}

/* Whether there were so many wrong secrets from there that no more are looked at. */
static bool is_guessing(const struct entrance *entrance, const struct address_ip *address,
                        int64_t now_ms) {
    return admission_login_wait_s(entrance->admission, address, now_ms) > 0;
}

/* Counts a wrong one. */
static struct endpoint_answer refuse_secret(struct entrance *entrance,
                                            const struct address_ip *address, int64_t now_ms) {
    admission_login_failed(entrance->admission, address, now_ms);
    return endpoint_unauthorized();
}

/* True: this game server may come in. */
static bool let_game_server_in(struct entrance *entrance, const struct ws_request *request,
                               int64_t now_ms, struct ws_client *client,
                               struct endpoint_answer *answer) {
    if (request->authorization && is_guessing(entrance, &client->address, now_ms)) {
        *answer = endpoint_too_often();
        return false;
    }
    enum access_result result =
        access_ask(entrance->settings, &client->address, request->authorization);
    client->is_known = result == ACCESS_KNOWN;
    if (result == ACCESS_WRONG_SECRET)
        *answer = refuse_secret(entrance, &client->address, now_ms);
    else if (result == ACCESS_FORBIDDEN)
        *answer = endpoint_forbidden();
    else if (!chatlog_is_loaded(entrance->game_servers->log))
        *answer = endpoint_starting();
    else
        return true;
    return false;
}

static enum ws_verdict ask_upgrade(struct entrance *entrance, const struct ws_request *request,
                                   int64_t now_ms, struct ws_client *client,
                                   struct endpoint_answer *answer) {
    bool is_game_server = endpoint_is_minigame(request->path) && entrance_has_minigame(entrance);
    if (!is_game_server && !endpoint_is_chat(request->path)) {
        *answer = endpoint_not_found();
        return WS_ANSWERED;
    }
    if (entrance->drain->phase >= DRAIN_CLOSING) {
        *answer = endpoint_restarting();
        return WS_ANSWERED;
    }
    client->address = client_of(entrance, request);
    client->chat = is_game_server ? entrance->game_servers : entrance->players;
    client->fanout = client->chat->fanout;
    if (is_game_server && !let_game_server_in(entrance, request, now_ms, client, answer))
        return WS_ANSWERED;
    enum admission_result result = admission_ask(entrance->admission, &client->address, now_ms);
    if (result == ADMISSION_OK)
        return WS_LET_IN;
    refused[result].value++;
    *answer = endpoint_refused(result);
    return WS_ANSWERED;
}

static enum ws_verdict ask_live(struct entrance *entrance, const struct ws_request *request,
                                enum games_verb verb, int64_t now_ms,
                                struct endpoint_answer *answer) {
    struct address_ip client = client_of(entrance, request);
    const char *secret = verb == GAMES_UPDATE ? entrance->settings->webhook_secret : NULL;
    struct games_request asked = {.verb = verb};
    struct games_answer games_answer;
    if (verb == GAMES_UPDATE && request->is_head)
        *answer = endpoint_only_get();
    else if (secret && is_guessing(entrance, &client, now_ms))
        *answer = endpoint_too_often();
    else if (secret && !access_is_bearer(secret, request->authorization))
        *answer = refuse_secret(entrance, &client, now_ms);
    else if (verb == GAMES_UPDATE && rate_take(&entrance->_webhooks, &webhook_limit, now_ms) > 0)
        *answer = endpoint_too_often();
    else if (!games_ask(entrance->game_servers->games, &asked, request->id, &games_answer))
        return WS_ANSWERS_LATER;
    else
        *answer = endpoint_live(&games_answer);
    return WS_ANSWERED;
}

enum ws_verdict entrance_ask(struct entrance *entrance, const struct ws_request *request,
                             int64_t now_ms, struct ws_client *client,
                             struct endpoint_answer *answer) {
    bool has_minigame = entrance_has_minigame(entrance);
    enum games_verb verb;
    if (!request->is_get) {
        *answer = endpoint_wrong_method();
        return WS_ANSWERED;
    }
    if (request->is_upgrade)
        return ask_upgrade(entrance, request, now_ms, client, answer);
    if (has_minigame && endpoint_is_live(request->path, &verb))
        return ask_live(entrance, request, verb, now_ms, answer);
    struct endpoint_state state = {.draining = entrance->drain->phase != DRAIN_NOT,
                                   .ready = chatlog_is_ready(entrance->players->log),
                                   .has_minigame = has_minigame};
    *answer = endpoint_get(request->path, &state);
    return WS_ANSWERED;
}
