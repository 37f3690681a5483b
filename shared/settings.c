#include "shared/settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/log.h"
#include "shared/status.h"
#include "shared/version.h"

/* ---- the table ------------------------------------------------------------------------------- */

/* To add a setting: a row here, a member in settings.h, and, when its value has to fit another
 * one, a few lines in check_together(). */

enum row_type {
    ROW_INT = 0,  /* int: min..max */
    ROW_CHOICE,   /* int: the index in choices */
    ROW_NAME,     /* char *: 1..max of [A-Za-z0-9_-] */
    ROW_LISTEN,   /* struct address_listen */
    ROW_TEXT,     /* char *: 1..max printable bytes; NULL when not set */
    ROW_URL,      /* char *: http(s)://host[:port]..., 1..max bytes; NULL when not set */
    ROW_REDIS,    /* struct redis_url; secret: no flag, never shown, and <NAME>_FILE may hold it */
    ROW_SECRET,   /* char *: 1..max visible ASCII bytes; secret likewise; NULL when not set */
    ROW_NETWORKS, /* struct address_networks */
    ROW_IP,       /* checked, kept nowhere */
};

struct row {
    const char *group; /* headline in --help */
    const char *name;
    unsigned programs; /* enum settings_program, and LIVE */
    enum row_type type;
    size_t offset;     /* of the member in struct settings, or NO_MEMBER */
    const char *usual; /* "": not set */
    int min, max;
    const char *const *choices; /* in the order of the enum; NULL ends them */
    const char *help;
};

#define NO_MEMBER    SIZE_MAX
#define MEMBER(name) offsetof(struct settings, name)

/* LIVE: may change while the program runs. Whoever uses such a value asks for it each time, or gets
 * it in a settings_prepare_cb. */
enum { API = PROGRAM_API, BROKER = PROGRAM_BROKER, HAPROXY = PROGRAM_HAPROXY, LIVE = 8 };

static const char *const profiles[] = {"dev", "cloud_run", "prod", NULL};
static const char *const stores[] = {"memory", "redis", NULL};
static const char *const identities[] = {"dev", "jwt", "heavenland", NULL};
static const char *const expiries[] = {"login", "session", NULL};
const char *const settings_jwt_algorithms[] = {"RS256", "RS384", "RS512", NULL};
static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
static const char *const formats[] = {"text", "json", NULL};

static const struct row rows[] = {
    {"General", "CHAT_ENV", API | BROKER, ROW_CHOICE, MEMBER(chat_env), "dev", 0, 0, profiles,
     "where this runs; only dev allows IDENTITY=dev and STORE=memory"},
    {"General", "LOG_LEVEL", API | BROKER | LIVE, ROW_CHOICE, MEMBER(log_level), "info", 0, 0,
     levels, "how much is logged, to stderr"},
    {"General", "LOG_FORMAT", API | BROKER | LIVE, ROW_CHOICE, MEMBER(log_format), "text", 0, 0,
     formats, "form of the log lines; json when CHAT_ENV is cloud_run"},
    {"Network", "FCGI_LISTEN", API, ROW_LISTEN, MEMBER(fcgi_listen), "127.0.0.1:9000", 0, 0, NULL,
     "where HAProxy reaches it by FastCGI"},
    {"Network", "FCGI_THREADS", API, ROW_INT, MEMBER(fcgi_threads), "8", 2, 256, NULL,
     "requests served at the same time; more wait for a thread"},
    {"Network", "LISTEN", BROKER, ROW_LISTEN, MEMBER(listen), "127.0.0.1:9001", 0, 0, NULL,
     "where HAProxy reaches it: players, /healthz, /readyz"},
    {"Network", "OPS_LISTEN", BROKER, ROW_LISTEN, MEMBER(ops_listen), "127.0.0.1:9101", 0, 0, NULL,
     "for operators: /metrics"},
    {"Network", "TRUSTED_PROXIES", BROKER | LIVE, ROW_NETWORKS, MEMBER(trusted_proxies),
     "127.0.0.0/8, ::1, unix", 0, 0, NULL, "whose X-Forwarded-For is believed"},
    {"Chat", "STORE", BROKER, ROW_CHOICE, MEMBER(store), "memory", 0, 0, stores,
     "what keeps the log of messages"},
    {"Chat", "REDIS_URL", BROKER, ROW_REDIS, MEMBER(redis_url), "redis://127.0.0.1:6379", 0, 0,
     NULL, "where Redis is, for STORE=redis"},
    {"Chat", "IDENTITY", BROKER, ROW_CHOICE, MEMBER(identity), "dev", 0, 0, identities,
     "who says who a player is; dev: the token is the nickname"},
    {"Chat", "CHAT_NAME", BROKER, ROW_NAME, MEMBER(chat_name), "main", 1, 64, NULL,
     "which chat: brokers of one name share it"},
    {"Chat", "HISTORY_LIMIT", BROKER, ROW_INT, MEMBER(history_limit), "100", 0, 1000, NULL,
     "newest messages a client can ask for"},
    {"Chat", "HISTORY_MAX_BYTES", BROKER | LIVE, ROW_INT, MEMBER(history_max_bytes), "61440", 4096,
     16777216, NULL, "longest history reply; one message at least"},
    {"Chat", "LOG_MAXLEN", BROKER, ROW_INT, MEMBER(log_maxlen), "10000", 100, 1000000, NULL,
     "messages the log keeps"},
    {"Login", "JWT_PUBLIC_KEY_FILE", BROKER | LIVE, ROW_TEXT, MEMBER(jwt_public_key_file), "", 1,
     SETTINGS_FILES_MAX, NULL, "PEM files, separated by commas, of the keys that sign tokens"},
    {"Login", "JWKS_URL", BROKER | LIVE, ROW_URL, MEMBER(jwks_url), "", 1, 512, NULL,
     "where the key set of the identity provider is"},
    {"Login", "JWT_ALGORITHM", BROKER | LIVE, ROW_CHOICE, MEMBER(jwt_algorithm), "RS256", 0, 0,
     settings_jwt_algorithms, "how tokens are signed"},
    {"Login", "JWT_AUDIENCE", BROKER | LIVE, ROW_TEXT, MEMBER(jwt_audience), "heavenland-api", 1,
     256, NULL, "what must be among a token's aud"},
    {"Login", "JWT_ISSUER", BROKER | LIVE, ROW_TEXT, MEMBER(jwt_issuer), "", 1, 512, NULL,
     "what a token's iss must be; any when not set"},
    {"Login", "JWT_NICKNAME_CLAIM", BROKER | LIVE, ROW_TEXT, MEMBER(jwt_nickname_claim), "nickname",
     1, 128, NULL, "which claim of a token is the nickname"},
    {"Login", "TOKEN_EXPIRY", BROKER | LIVE, ROW_CHOICE, MEMBER(token_expiry), "login", 0, 0,
     expiries, "when a token must be valid: at the login, or all the time"},
    {"Login", "HEAVENLAND_API_URL", BROKER, ROW_URL, MEMBER(heavenland_api_url), "", 1, 512, NULL,
     "the account service, for IDENTITY=heavenland"},
    {"Limits", "MESSAGE_MAX_BYTES", BROKER, ROW_INT, MEMBER(message_max_bytes), "2048", 1, 16384,
     NULL, "longest message text"},
    {"Limits", "FRAME_MAX_BYTES", BROKER, ROW_INT, MEMBER(frame_max_bytes), "16384", 1024, 131072,
     NULL, "longest request; 6 x MESSAGE_MAX_BYTES + 512 or more"},
    {"Limits", "RATE_MESSAGES", BROKER | LIVE, ROW_INT, MEMBER(rate_messages), "5", 0, 100000, NULL,
     "messages per second and user; 0: no limit"},
    {"Limits", "RATE_BURST", BROKER | LIVE, ROW_INT, MEMBER(rate_burst), "20", 1, 1000000, NULL,
     "messages a user may send at once before that"},
    {"Limits", "MAX_CLIENTS", BROKER | LIVE, ROW_INT, MEMBER(max_clients), "0", 0, 1000000, NULL,
     "connections; 0: what the file limit allows"},
    {"Limits", "CONN_PER_ADDRESS", BROKER | LIVE, ROW_INT, MEMBER(conn_per_address), "0", 0,
     1000000, NULL, "connections from one address; 0: no limit"},
    {"Limits", "CONNECT_RATE_PER_ADDRESS", BROKER | LIVE, ROW_INT, MEMBER(connect_rate_per_address),
     "0", 0, 100000, NULL, "new ones per second from one address; 0: no limit"},
    {"Limits", "LOGIN_ATTEMPTS", BROKER | LIVE, ROW_INT, MEMBER(login_attempts), "5", 1, 1000, NULL,
     "refused logins that close a connection"},
    {"Limits", "LOGIN_FAILURES_PER_MINUTE", BROKER | LIVE, ROW_INT,
     MEMBER(login_failures_per_minute), "60", 0, 100000, NULL,
     "refused logins from one address; 0: no limit"},
    {"Timing", "LOGIN_TIMEOUT_S", BROKER | LIVE, ROW_INT, MEMBER(login_timeout_s), "120", 1, 3600,
     NULL, "seconds without a login before a connection is closed"},
    {"Timing", "PING_INTERVAL_S", BROKER | LIVE, ROW_INT, MEMBER(ping_interval_s), "25", 1, 3600,
     NULL, "seconds between pings; two missed pongs close"},
    {"Timing", "FLUSH_INTERVAL_MS", BROKER, ROW_INT, MEMBER(flush_interval_ms), "0", 0, 1000, NULL,
     "milliseconds messages are collected; 0: sent at once"},
    {"Timing", "DRAIN_RATE", BROKER | LIVE, ROW_INT, MEMBER(drain_rate), "200", 1, 100000, NULL,
     "clients per second that are sent away when it stops"},
    {"Timing", "DRAIN_DEADLINE_S", BROKER | LIVE, ROW_INT, MEMBER(drain_deadline_s), "30", 5, 3600,
     NULL, "seconds after which it stops whoever is left"},
    {"Minigame", "MINIGAME_SECRET", BROKER | LIVE, ROW_SECRET, MEMBER(minigame_secret), "", 1, 256,
     NULL, "what game servers on /minigame show"},
    {"Minigame", "MINIGAME_ALLOW_FROM", BROKER | LIVE, ROW_NETWORKS, MEMBER(minigame_allow_from),
     "", 0, 0, NULL, "game servers that need no secret, by address"},
    {"Minigame", "WEBHOOK_SECRET", BROKER | LIVE, ROW_SECRET, MEMBER(webhook_secret), "", 1, 256,
     NULL, "what the caller of /api/webhook/minigame shows"},
    /* HAProxy reads these three from its environment; here so that one env file can hold them. */
    {"HAProxy", "HTTP_BIND", HAPROXY, ROW_IP, NO_MEMBER, "127.0.0.1", 0, 0, NULL,
     "address players connect to"},
    {"HAProxy", "HTTP_PORT", HAPROXY, ROW_INT, NO_MEMBER, "8080", 1, 65535, NULL,
     "port players connect to"},
    {"HAProxy", "PORT", HAPROXY, ROW_INT, NO_MEMBER, "8080", 1, 65535, NULL,
     "the same, as Cloud Run calls it; wins"},
};

enum {
    ROW_COUNT = sizeof(rows) / sizeof(rows[0]),
    FLAG_MAX = 40, /* bytes of the longest flag or choice, with the NUL, and some air */
    TOKEN_FRAME_MIN = 8192 + 512,
    HELP_COLUMN = 36, /* where the text starts in --help */
};

/* Defaults that depend on CHAT_ENV. */
static const struct {
    int profile;
    const char *name;
    const char *value;
} profile_values[] = {
    {PROFILE_CLOUD_RUN, "LOG_FORMAT", "json"}, /* what Cloud Logging takes apart */
};

/* Secrets have no flag, for arguments are for everybody to see, and are never shown. */
static bool is_secret(const struct row *row) {
    return row->type == ROW_REDIS || row->type == ROW_SECRET;
}

/* ---- loading --------------------------------------------------------------------------------- */

enum mode { MODE_RUN = 0, MODE_HELP, MODE_VERSION, MODE_CHECK, MODE_PRINT_CONFIG };

/* Where settings came from, to read them again; and each value as it was written, to see what has
 * changed. */
struct settings_origin {
    enum settings_program program;
    int argc;
    char **argv;
    char **env;
    char *text[ROW_COUNT]; /* NULL: not set */
};

struct loader {
    struct settings *settings;
    enum settings_program program;
    settings_check_cb check;
    FILE *err;
    enum mode mode;
    bool is_reload;
    char **text;                    /* ROW_COUNT of them: the value that won, as it was written */
    bool given[ROW_COUNT];          /* by somebody, so the profile has no say */
    unsigned char forms[ROW_COUNT]; /* of a secret in the source that is being read; enum form */
};

/* A bit set. */
enum form { FORM_VALUE = 1, FORM_FILE = 2 };

static const char *program_name(enum settings_program program) {
    return program == PROGRAM_API ? "api-fcgi" : "ws-broker";
}

/* Writes the one line that refuses the settings. Always CHAT_EINVAL, to be returned. */
__attribute__((format(printf, 2, 3))) static int complain(const struct loader *loader,
                                                          const char *format, ...) {
    va_list arguments;

    if (!loader->is_reload)
        fprintf(loader->err, "%s: ", program_name(loader->program));
    va_start(arguments, format);
    vfprintf(loader->err, format, arguments);
    va_end(arguments);
    fputc('\n', loader->err);
    return CHAT_EINVAL;
}

/* A text from outside, fit for an error line: nothing unprintable, not too long. */
struct shown {
    char text[84];
};

static struct shown show(const char *text) {
    struct shown shown;
    size_t len = 0;

    for (; *text && len < sizeof(shown.text) - 4; text++)
        shown.text[len++] = isprint((unsigned char)*text) ? *text : '?';
    snprintf(&shown.text[len], sizeof(shown.text) - len, "%s", *text ? "..." : "");
    return shown;
}

static int parse_int(const struct row *row, const char *text, int *out) {
    char *end;

    errno = 0;
    long number = strtol(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno)
        return CHAT_EINVAL;
    if (number < row->min || number > row->max)
        return CHAT_ERANGE;
    *out = (int)number;
    return CHAT_OK;
}

static int parse_choice(const struct row *row, const char *text, int *out) {
    for (int i = 0; row->choices[i]; i++) {
        if (strcmp(text, row->choices[i]) == 0) {
            *out = i;
            return CHAT_OK;
        }
    }
    return CHAT_EINVAL;
}

static int keep_text(const char *text, char **out) {
    char *copy = strdup(text);
    if (!copy)
        return CHAT_ENOMEM;
    free(*out);
    *out = copy;
    return CHAT_OK;
}

static int parse_name(const struct row *row, const char *text, char **out) {
    size_t len = strlen(text);
    size_t good = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");

    if (good != len || len < (size_t)row->min || len > (size_t)row->max)
        return CHAT_EINVAL;
    return keep_text(text, out);
}

static int parse_text(const struct row *row, const char *text, char **out) {
    size_t len = strlen(text);

    if (len > (size_t)row->max)
        return CHAT_EINVAL;
    for (size_t i = 0; i < len; i++) {
        if (iscntrl((unsigned char)text[i]))
            return CHAT_EINVAL;
    }
    return keep_text(text, out);
}

/* What a header can carry as it is: "Authorization: Bearer <secret>". */
static int parse_secret(const struct row *row, const char *text, char **out, const char **why) {
    size_t len = strlen(text);

    *why = "it must have 1 to 256 visible ASCII characters without blanks";
    for (size_t i = 0; i < len; i++) {
        if (!isgraph((unsigned char)text[i]))
            return CHAT_EINVAL;
    }
    return len <= (size_t)row->max ? keep_text(text, out) : CHAT_EINVAL;
}

static bool is_port(const char *text, size_t len) {
    int port = 0;

    for (size_t i = 0; i < len && port <= UINT16_MAX; i++) {
        if (!isdigit((unsigned char)text[i]))
            return false;
        port = 10 * port + text[i] - '0';
    }
    return port >= 1 && port <= UINT16_MAX;
}

/* host, host:port, [IPv6] or [IPv6]:port. */
static bool is_authority(const char *text, size_t len) {
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    const char *bracket = text[0] == '[' ? memchr(text, ']', len) : NULL;
    size_t host_len = bracket ? (size_t)(bracket - text) + 1 : strspn(text, letters);
    struct address_ip ignored;

    if (host_len == 0 ||
        (bracket && (!memchr(text, ':', host_len) ||
                     address_ip_parse(text + 1, host_len - 2, &ignored) != CHAT_OK)))
        return false;
    return host_len == len ||
           (text[host_len] == ':' && is_port(text + host_len + 1, len - host_len - 1));
}

static int parse_url(const struct row *row, const char *text, char **out) {
    size_t scheme_len = strncmp(text, "http://", 7) == 0    ? 7
                        : strncmp(text, "https://", 8) == 0 ? 8
                                                            : 0;
    const char *authority = text + scheme_len;

    if (scheme_len == 0 || !is_authority(authority, strcspn(authority, "/?")))
        return CHAT_EINVAL;
    /* Nothing that would have to be escaped, and no user:password@, which would be shown. */
    return strpbrk(text, " \t\"<>\\^`{|}@#") ? CHAT_EINVAL : parse_text(row, text, out);
}

static int parse_networks(const char *text, struct address_networks *out) {
    /* An empty value means "not set" everywhere, so an empty list needs a word. */
    return address_networks_parse(strcmp(text, "none") == 0 ? "" : text, out);
}

static int parse_ip(const char *text) {
    struct address_ip ignored;

    return strcmp(text, "*") == 0 ? CHAT_OK : address_ip_parse(text, strlen(text), &ignored);
}

/* `*why` is set where a type has more to say than what is allowed. */
static int parse_value(const struct row *row, const char *text, struct settings *settings,
                       const char **why) {
    int ignored;
    void *member = row->offset == NO_MEMBER ? (void *)&ignored : (char *)settings + row->offset;

    if (text[0] == '\0')
        return CHAT_EINVAL;
    switch (row->type) {
    case ROW_INT:
        return parse_int(row, text, member);
    case ROW_CHOICE:
        return parse_choice(row, text, member);
    case ROW_NAME:
        return parse_name(row, text, member);
    case ROW_TEXT:
        return parse_text(row, text, member);
    case ROW_URL:
        return parse_url(row, text, member);
    case ROW_REDIS:
        return redis_url_parse(text, member, why);
    case ROW_SECRET:
        return parse_secret(row, text, member, why);
    case ROW_LISTEN:
        return address_listen_parse(text, member);
    case ROW_NETWORKS:
        return parse_networks(text, member);
    case ROW_IP:
        return parse_ip(text);
    }
    return CHAT_EINVAL;
}

static void join_choices(const struct row *row, const char *separator, char *out, size_t size) {
    size_t len = 0;

    for (size_t i = 0; row->choices[i] && len < size; i++)
        len += (size_t)snprintf(out + len, size - len, "%s%s", i > 0 ? separator : "",
                                row->choices[i]);
}

/* What a row takes, in words for an error. */
static void describe_allowed(const struct row *row, char *out, size_t size) {
    switch (row->type) {
    case ROW_INT:
        snprintf(out, size, "a whole number from %d to %d", row->min, row->max);
        return;
    case ROW_CHOICE:
        join_choices(row, " or ", out, size);
        return;
    case ROW_NAME:
        snprintf(out, size, "%d to %d of A-Z a-z 0-9 _ -", row->min, row->max);
        return;
    case ROW_TEXT:
        snprintf(out, size, "at most %d bytes without control characters", row->max);
        return;
    case ROW_URL:
        snprintf(out, size,
                 "http://host[:port]/... or https://host[:port]/... without user and password");
        return;
    case ROW_REDIS:
        snprintf(out, size, "redis://[user][:password]@host[:port][/db] or unix:///path");
        return;
    case ROW_SECRET: /* a refusal says it, see parse_secret() */
        return;
    case ROW_LISTEN:
        snprintf(out, size, "address:port (numeric, [::1]:9000 for IPv6) or unix:/path");
        return;
    case ROW_NETWORKS:
        snprintf(out, size,
                 "a list such as 10.0.0.0/8, ::1, unix (at most %d, no host bits) or none",
                 ADDRESS_NETWORKS_MAX);
        return;
    case ROW_IP:
        snprintf(out, size, "an IPv4 or IPv6 address or *");
        return;
    }
}

static void forget_text(char **text) {
    if (*text)
        explicit_bzero(*text, strlen(*text)); /* it may be a secret */
    free(*text);
    *text = NULL;
}

/* Takes a value; `origin` says in an error where it was written. */
static int set_value(struct loader *loader, const struct row *row, const char *text,
                     const char *origin) {
    const char *why = NULL;
    int status = parse_value(row, text, loader->settings, &why);
    char *copy = status == CHAT_OK ? strdup(text) : NULL;

    if (copy) {
        forget_text(&loader->text[row - rows]);
        loader->text[row - rows] = copy;
        loader->given[row - rows] = true;
        return CHAT_OK;
    }
    if (status == CHAT_OK || status == CHAT_ENOMEM)
        return complain(loader, "%s", chat_status_text(CHAT_ENOMEM));
    if (why) /* a secret: its value is not shown */
        return complain(loader, "%s: %s: %s", origin, row->name, why);
    char allowed[128];
    describe_allowed(row, allowed, sizeof(allowed));
    if (row->type == ROW_URL) /* it may be refused for the password in it */
        return complain(loader, "%s: %s must be %s", origin, row->name, allowed);
    return complain(loader, "%s: %s is '%s', but must be %s", origin, row->name, show(text).text,
                    allowed);
}

static const struct row *find_row(const char *name) {
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        if (strcmp(row->name, name) == 0)
            return row;
    }
    return NULL;
}

/* The secret that <NAME>_FILE stands for; NULL: another name. */
static const struct row *find_secret_file(const char *name) {
    size_t len = strlen(name);

    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        size_t row_len = strlen(row->name);
        if (is_secret(row) && len == row_len + 5 && strncmp(name, row->name, row_len) == 0 &&
            strcmp(name + row_len, "_FILE") == 0)
            return row;
    }
    return NULL;
}

/* Takes the first line of a file as the value of a secret. */
static int set_from_file(struct loader *loader, const struct row *row, const char *path,
                         const char *origin) {
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "re");
    ssize_t len = file ? getline(&line, &size, file) : -1;
    int status = CHAT_OK;

    if (len < 0) {
        status = complain(loader, "%s: %s_FILE: %s: %s", origin, row->name, show(path).text,
                          file ? "empty" : strerror(errno));
    } else {
        line[strcspn(line, "\r\n")] = '\0';
        status = set_value(loader, row, line, origin);
        explicit_bzero(line, size);
    }
    free(line);
    if (file)
        fclose(file);
    return status;
}

/* Takes what a source says of a row: the value, or for <NAME>_FILE the file that holds it. */
static int take(struct loader *loader, const struct row *row, enum form form, const char *text,
                const char *origin) {
    unsigned char *forms = &loader->forms[row - rows];

    *forms |= (unsigned char)form;
    if (*forms == (FORM_VALUE | FORM_FILE))
        return complain(loader, "%s: %s and %s_FILE are both set", origin, row->name, row->name);
    return form == FORM_FILE ? set_from_file(loader, row, text, origin)
                             : set_value(loader, row, text, origin);
}

/* Takes one line, already without its end. */
static int load_line(struct loader *loader, char *line, size_t len, const char *origin) {
    if (strlen(line) != len)
        return complain(loader, "%s: a NUL byte", origin);
    if (line[0] == '#' || line[strspn(line, " \t")] == '\0')
        return CHAT_OK;
    char *equals = strchr(line, '=');
    if (!equals)
        return complain(loader, "%s: '%s' is not KEY=value", origin, show(line).text);
    *equals = '\0';
    const struct row *row = find_row(line), *secret = find_secret_file(line);
    if (!row && !secret)
        return complain(loader, "%s: there is no setting '%s'", origin, show(line).text);
    if (!equals[1])
        return CHAT_OK;
    return row ? take(loader, row, FORM_VALUE, equals + 1, origin)
               : take(loader, secret, FORM_FILE, equals + 1, origin);
}

static int load_file(struct loader *loader, const char *path) {
    char *line = NULL;
    size_t size = 0;
    ssize_t len = 0;
    int status = CHAT_OK;

    memset(loader->forms, 0, sizeof(loader->forms));
    FILE *file = fopen(path, "re");
    for (int number = 1; file && status == CHAT_OK; number++) {
        char origin[128];
        errno = 0;
        len = getline(&line, &size, file);
        if (len < 0)
            break;
        if (len > 0 && line[len - 1] == '\n')
            line[--len] = '\0';
        if (len > 0 && line[len - 1] == '\r')
            line[--len] = '\0';
        snprintf(origin, sizeof(origin), "%s:%d", show(path).text, number);
        status = load_line(loader, line, (size_t)len, origin);
    }
    /* A directory opens, and fails only when it is read. */
    if (!file || (len < 0 && !feof(file)))
        status = complain(loader, "%s: %s", show(path).text, strerror(errno));
    free(line);
    if (file)
        fclose(file);
    return status;
}

/* The value of a name in the environment; NULL: not there, or empty. */
static const char *find_in(char **env, const char *name) {
    size_t len = strlen(name);

    for (char **entry = env; *entry; entry++) {
        if (strncmp(*entry, name, len) == 0 && (*entry)[len] == '=' && (*entry)[len + 1])
            return *entry + len + 1;
    }
    return NULL;
}

static int load_environment(struct loader *loader, char **env) {
    memset(loader->forms, 0, sizeof(loader->forms));
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        char file_name[FLAG_MAX];
        snprintf(file_name, sizeof(file_name), "%s_FILE", row->name);
        const char *value = find_in(env, row->name);
        const char *path = is_secret(row) ? find_in(env, file_name) : NULL;
        if (path && take(loader, row, FORM_FILE, path, "environment") != CHAT_OK)
            return CHAT_EINVAL;
        if (value && take(loader, row, FORM_VALUE, value, "environment") != CHAT_OK)
            return CHAT_EINVAL;
    }
    return CHAT_OK;
}

static int load_defaults(struct loader *loader) {
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        if (row->usual[0] && set_value(loader, row, row->usual, "default") != CHAT_OK)
            return CHAT_EINVAL;
        loader->given[row - rows] = false;
    }
    return CHAT_OK;
}

static int load_profile(struct loader *loader) {
    for (size_t i = 0; i < sizeof(profile_values) / sizeof(profile_values[0]); i++) {
        const struct row *row = find_row(profile_values[i].name);
        if (profile_values[i].profile == loader->settings->chat_env && !loader->given[row - rows] &&
            set_value(loader, row, profile_values[i].value, "profile") != CHAT_OK)
            return CHAT_EINVAL;
    }
    return CHAT_OK;
}

/* ---- the command line ------------------------------------------------------------------------ */

/* `--history-limit` for HISTORY_LIMIT. */
static void flag_of_row(const struct row *row, char out[FLAG_MAX]) {
    snprintf(out, FLAG_MAX, "--%s", row->name);
    for (; *out; out++)
        *out = *out == '_' ? '-' : (char)tolower((unsigned char)*out);
}

/* One option of the command line, with its value if it takes one. */
struct option {
    const char *name;      /* as it stands there, up to '=' */
    const struct row *row; /* a setting; NULL: one of the words below */
    enum mode mode;        /* a word that asks for something to be done; MODE_RUN: --env-file */
    const char *value;
};

static int find_option(struct loader *loader, const char *name, struct option *out) {
    static const struct {
        const char *name;
        enum mode mode;
    } words[] = {{"--help", MODE_HELP},
                 {"--version", MODE_VERSION},
                 {"--check", MODE_CHECK},
                 {"--print-config", MODE_PRINT_CONFIG},
                 {"--env-file", MODE_RUN}};
    char flag[FLAG_MAX];

    *out = (struct option){.name = name};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(name, words[i].name) == 0) {
            out->mode = words[i].mode;
            return CHAT_OK;
        }
    }
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        flag_of_row(row, flag);
        if (row->programs & loader->program && !is_secret(row) && strcmp(name, flag) == 0) {
            out->row = row;
            return CHAT_OK;
        }
    }
    return complain(loader, "there is no option '%s' (see --help)", show(name).text);
}

/* Calls `on_option` for each option, from left to right, until it fails. */
static int each_option(struct loader *loader, int argc, char **argv,
                       int (*on_option)(struct loader *loader, const struct option *option)) {
    int status = CHAT_OK;

    for (int i = 1; i < argc && status == CHAT_OK; i++) {
        const char *equals = strchr(argv[i], '=');
        size_t name_len = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        char *name = strndup(argv[i], name_len);
        if (!name)
            return complain(loader, "%s", chat_status_text(CHAT_ENOMEM));

        struct option option;
        status = find_option(loader, name, &option);
        if (status == CHAT_OK) {
            bool wants_value = option.mode == MODE_RUN; /* --env-file or a setting */
            option.value = equals ? equals + 1 : NULL;
            if (wants_value && !option.value && i + 1 < argc)
                option.value = argv[++i];
            if (wants_value != !!option.value)
                status = complain(loader, "%s %s", name,
                                  wants_value ? "wants a value" : "takes no value");
            else
                status = on_option(loader, &option);
        }
        free(name);
    }
    return status;
}

static int take_mode(struct loader *loader, const struct option *option) {
    /* --help and --version are answered whatever else was asked for. */
    if (option->mode != MODE_RUN && loader->mode != MODE_HELP && loader->mode != MODE_VERSION)
        loader->mode = option->mode;
    return CHAT_OK;
}

static int take_env_file(struct loader *loader, const struct option *option) {
    if (option->mode != MODE_RUN || option->row)
        return CHAT_OK;
    return load_file(loader, option->value);
}

static int take_flag(struct loader *loader, const struct option *option) {
    return option->row ? set_value(loader, option->row, option->value, option->name) : CHAT_OK;
}

/* ---- rules that join several rows ------------------------------------------------------------ */

/* Each of the files of a list separated by commas must be there to be read. */
static int check_files(const struct loader *loader, const char *name, const char *list) {
    char path[SETTINGS_FILES_MAX + 1];

    while (list && settings_next_file(&list, path)) {
        if (access(path, R_OK) < 0)
            return complain(loader, "%s: %s: %s", name, show(path).text, strerror(errno));
    }
    return CHAT_OK;
}

static int check_together(const struct loader *loader) {
    const struct settings *settings = loader->settings;
    const char *profile = profiles[settings->chat_env];
    int frame_min = 6 * settings->message_max_bytes + 512;

    if (!(loader->program & PROGRAM_BROKER))
        return CHAT_OK;
    if (settings->chat_env != PROFILE_DEV && settings->identity == IDENTITY_DEV)
        return complain(loader,
                        "IDENTITY=dev lets anybody be anybody: CHAT_ENV=%s wants jwt or heavenland",
                        profile);
    if (settings->identity != IDENTITY_DEV && !settings->jwt_public_key_file && !settings->jwks_url)
        return complain(loader, "IDENTITY=%s wants JWT_PUBLIC_KEY_FILE or JWKS_URL",
                        identities[settings->identity]);
    if (check_files(loader, "JWT_PUBLIC_KEY_FILE", settings->jwt_public_key_file) != CHAT_OK)
        return CHAT_EINVAL;
    if (settings->identity == IDENTITY_HEAVENLAND && !settings->heavenland_api_url)
        return complain(loader, "IDENTITY=heavenland wants HEAVENLAND_API_URL");
    if (settings->heavenland_api_url &&
        settings->heavenland_api_url[strlen(settings->heavenland_api_url) - 1] == '/')
        return complain(loader, "HEAVENLAND_API_URL must not end with a slash");
    if (settings->heavenland_api_url && strchr(settings->heavenland_api_url, '?'))
        return complain(loader, "HEAVENLAND_API_URL must not have a ?: paths are appended to it");
    if (settings->chat_env != PROFILE_DEV && settings->store == STORE_MEMORY)
        return complain(
            loader, "STORE=memory forgets the chat at a restart: CHAT_ENV=%s wants redis", profile);
    if (settings->identity != IDENTITY_DEV && settings->frame_max_bytes < TOKEN_FRAME_MIN)
        return complain(loader,
                        "FRAME_MAX_BYTES is %d, but must be at least %d: a login's token may have "
                        "8192 bytes",
                        settings->frame_max_bytes, TOKEN_FRAME_MIN);
    if (settings->history_limit > settings->log_maxlen)
        return complain(loader, "HISTORY_LIMIT is %d, but must not be more than LOG_MAXLEN, %d",
                        settings->history_limit, settings->log_maxlen);
    /* A JSON string may hold each byte as \u00XX. */
    if (settings->frame_max_bytes < frame_min)
        return complain(
            loader,
            "FRAME_MAX_BYTES is %d, but must be at least %d: 6 x MESSAGE_MAX_BYTES (%d) + 512",
            settings->frame_max_bytes, frame_min, settings->message_max_bytes);
    return CHAT_OK;
}

/* ---- what a person asks for ------------------------------------------------------------------ */

/* What stands behind a flag in --help. */
static void describe_value(const struct row *row, char *out, size_t size) {
    switch (row->type) {
    case ROW_INT:
        snprintf(out, size, "%d..%d", row->min, row->max);
        return;
    case ROW_CHOICE:
        join_choices(row, "|", out, size);
        return;
    case ROW_NAME:
        snprintf(out, size, "NAME");
        return;
    case ROW_TEXT:
        snprintf(out, size, "TEXT");
        return;
    case ROW_URL:
        snprintf(out, size, "URL");
        return;
    case ROW_REDIS:
        snprintf(out, size, "URL");
        return;
    case ROW_SECRET:
        snprintf(out, size, "SECRET");
        return;
    case ROW_LISTEN:
    case ROW_IP:
        snprintf(out, size, "ADDRESS");
        return;
    case ROW_NETWORKS:
        snprintf(out, size, "NETWORKS");
        return;
    }
}

static void print_help(enum settings_program program, FILE *out) {
    const char *name = program_name(program);
    const char *group = "";

    fprintf(out, "%s %s, %s\n\n", name, chat_version(),
            program == PROGRAM_API ? "the HTTP API of hlchat: FastCGI, behind HAProxy"
                                   : "the chat server of hlchat: WebSocket, behind HAProxy");
    fprintf(out, "Usage: %s [OPTION]...\n\n", name);
    fputs("  --env-file FILE  read settings from FILE; may be repeated, the later one wins\n"
          "  --check          say whether the settings are valid, and exit\n"
          "  --print-config   print the settings as lines for --env-file, and exit\n"
          "  --version        print the version, and exit\n"
          "  --help           print this, and exit\n\n"
          "A setting is given as a flag (--log-level debug), in the environment (LOG_LEVEL=debug)\n"
          "or as a line LOG_LEVEL=debug of an env file; the first of these wins.\n"
          "Those with a * may change while it runs: it reads its env files again at SIGHUP.\n"
          "ADDRESS is 127.0.0.1:9000, [::1]:9000 or unix:/path.\n",
          out);
    if (program == PROGRAM_BROKER)
        fputs(
            "NETWORKS is a list such as 10.0.0.0/8, ::1, unix (peers of a unix socket), or none.\n",
            out);
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        char flag[FLAG_MAX], value[FLAG_MAX];
        if (!(row->programs & program))
            continue;
        if (strcmp(group, row->group) != 0)
            fprintf(out, "\n%s\n", row->group);
        group = row->group;
        flag_of_row(row, flag);
        if (is_secret(row))
            snprintf(flag, sizeof(flag), "%s[_FILE]", row->name);
        describe_value(row, value, sizeof(value));
        fprintf(out, "  %s %-*s  %s [%s]%s\n", flag, HELP_COLUMN - (int)strlen(flag), value,
                row->help, row->usual, row->programs & LIVE ? " *" : "");
    }
}

static void print_config(const struct loader *loader, FILE *out) {
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        const char *text = loader->text[row - rows] ? loader->text[row - rows] : "";
        if (row->programs & loader->program && is_secret(row) && strcmp(text, row->usual) != 0)
            fprintf(out, "# %s is set, and secret\n", row->name);
        else if (row->programs & loader->program)
            fprintf(out, "%s=%s\n", row->name, text);
    }
}

static enum settings_result do_check(const struct loader *loader, FILE *out) {
    char error[SETTINGS_ERROR_MAX];

    if (loader->check && loader->check(loader->settings, error) != CHAT_OK) {
        complain(loader, "%s", error);
        return SETTINGS_BAD;
    }
    fprintf(out, "%s: the settings are valid\n", program_name(loader->program));
    return SETTINGS_DONE;
}

static enum settings_result do_mode(const struct loader *loader, FILE *out) {
    switch (loader->mode) {
    case MODE_RUN:
        return SETTINGS_RUN;
    case MODE_HELP:
        print_help(loader->program, out);
        break;
    case MODE_VERSION:
        fprintf(out, "%s %s\n", program_name(loader->program), chat_version());
        break;
    case MODE_CHECK:
        return do_check(loader, out);
    case MODE_PRINT_CONFIG:
        print_config(loader, out);
        break;
    }
    return SETTINGS_DONE;
}

/* Weakest first. */
static int load_all(struct loader *loader, int argc, char **argv, char **env) {
    int status = load_defaults(loader);

    if (status == CHAT_OK)
        status = each_option(loader, argc, argv, take_env_file);
    if (status == CHAT_OK)
        status = load_environment(loader, env);
    if (status == CHAT_OK)
        status = each_option(loader, argc, argv, take_flag);
    if (status == CHAT_OK)
        status = load_profile(loader);
    if (status == CHAT_OK)
        status = check_together(loader);
    return status;
}

/* The origin is the settings' own, for settings_deinit() to free. */
static int load_from(struct loader *loader, int argc, char **argv, char **env) {
    struct settings_origin *origin = calloc(1, sizeof(*origin));

    if (!origin)
        return complain(loader, "%s", chat_status_text(CHAT_ENOMEM));
    *origin = (struct settings_origin){loader->program, argc, argv, env, {NULL}};
    loader->settings->_origin = origin;
    loader->text = origin->text;
    return load_all(loader, argc, argv, env);
}

enum settings_result settings_load(struct settings *settings, enum settings_program program,
                                   int argc, char **argv, char **env, settings_check_cb check,
                                   FILE *out, FILE *err) {
    struct loader loader = {.settings = settings, .program = program, .check = check, .err = err};

    memset(settings, 0, sizeof(*settings));
    if (each_option(&loader, argc, argv, take_mode) != CHAT_OK)
        return SETTINGS_BAD;
    /* Both are answered even where the settings are bad. */
    if (loader.mode == MODE_HELP || loader.mode == MODE_VERSION)
        return do_mode(&loader, out);
    if (load_from(&loader, argc, argv, env) != CHAT_OK)
        return SETTINGS_BAD;
    return do_mode(&loader, out);
}

static bool is_string(const struct row *row) {
    return row->type == ROW_NAME || row->type == ROW_TEXT || row->type == ROW_URL ||
           row->type == ROW_SECRET;
}

static void forget_string(const struct row *row, struct settings *settings) {
    char **text = (char **)(void *)((char *)settings + row->offset);
    free(*text);
    *text = NULL;
}

void settings_deinit(struct settings *settings) {
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        if (is_string(row))
            forget_string(row, settings);
    }
    for (size_t i = 0; settings->_origin && i < ROW_COUNT; i++)
        forget_text(&settings->_origin->text[i]);
    free(settings->_origin);
    settings->_origin = NULL;
}

/* ---- reading them again ---------------------------------------------------------------------- */

/* What is not what it was: names, separated by commas. */
struct changes {
    char taken[512];
    char need_restart[512];
};

static void add_name(char list[512], const char *name) {
    size_t len = strlen(list);
    snprintf(list + len, 512 - len, "%s%s", len > 0 ? "," : "", name);
}

static size_t size_of(const struct row *row) {
    switch (row->type) {
    case ROW_INT:
    case ROW_CHOICE:
        return sizeof(int);
    case ROW_NAME:
    case ROW_TEXT:
    case ROW_URL:
    case ROW_SECRET:
        return sizeof(char *);
    case ROW_LISTEN:
        return sizeof(struct address_listen);
    case ROW_REDIS:
        return sizeof(struct redis_url);
    case ROW_NETWORKS:
        return sizeof(struct address_networks);
    case ROW_IP:
        break;
    }
    return 0;
}

static bool is_same(const char *a, const char *b) {
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Takes the old value, as the program goes on with it. */
static int keep_old(struct loader *loader, const struct row *row, const char *text) {
    if (text)
        return set_value(loader, row, text, "before");
    if (is_string(row))
        forget_string(row, loader->settings);
    forget_text(&loader->text[row - rows]);
    return CHAT_OK;
}

static int compare(struct loader *loader, char *const *old_text, struct changes *changes) {
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        size_t i = (size_t)(row - rows);
        if (!(row->programs & loader->program) || is_same(old_text[i], loader->text[i]))
            continue;
        if (row->programs & LIVE) {
            add_name(changes->taken, row->name);
            continue;
        }
        add_name(changes->need_restart, row->name);
        if (keep_old(loader, row, old_text[i]) != CHAT_OK)
            return CHAT_EINVAL;
    }
    return CHAT_OK;
}

/* All that `settings` came from, into `next`; values that cannot change stay. */
static int read_again(const struct settings *settings, struct settings *next,
                      struct changes *changes, char error[SETTINGS_ERROR_MAX]) {
    const struct settings_origin *origin = settings->_origin;
    FILE *err = fmemopen(error, SETTINGS_ERROR_MAX - 1, "w");
    struct loader loader = {
        .settings = next, .program = origin->program, .err = err, .is_reload = true};
    int status = err ? CHAT_OK : CHAT_ENOMEM;

    if (status == CHAT_OK)
        status = load_from(&loader, origin->argc, origin->argv, origin->env);
    if (status == CHAT_OK)
        status = compare(&loader, origin->text, changes);
    if (status == CHAT_OK) /* the new ones must go with those that stay */
        status = check_together(&loader);
    if (err)
        fclose(err);
    error[strcspn(error, "\n")] = '\0';
    return status;
}

/* Exchanges the values that may change, and all texts. */
static void swap_live(struct settings *settings, struct settings *next) {
    for (const struct row *row = rows; row < rows + ROW_COUNT; row++) {
        char value[sizeof(struct settings)];
        size_t size = size_of(row);
        if (!(row->programs & LIVE))
            continue;
        memcpy(value, (char *)settings + row->offset, size);
        memcpy((char *)settings + row->offset, (char *)next + row->offset, size);
        memcpy((char *)next + row->offset, value, size);
    }
    struct settings_origin *origin = settings->_origin;
    settings->_origin = next->_origin;
    next->_origin = origin;
}

int settings_reload(struct settings *settings, settings_prepare_cb prepare, void *user) {
    struct settings next = {0};
    struct changes changes = {0};
    char error[SETTINGS_ERROR_MAX] = "";
    int status = read_again(settings, &next, &changes, error);

    if (status == CHAT_OK && prepare)
        status = prepare(user, &next, error);
    if (status != CHAT_OK) {
        log_error("settings", "reload_refused", log_str("error", error));
    } else {
        swap_live(settings, &next);
        /* At the more talkative of both levels: who changes it wants to see that it works. */
        log_init((enum log_level)(next.log_level > settings->log_level ? next.log_level
                                                                       : settings->log_level),
                 (enum log_format)settings->log_format);
        log_info("settings", "reloaded",
                 log_str("changed", changes.taken[0] ? changes.taken : NULL));
        if (changes.need_restart[0])
            log_warn("settings", "need_a_restart", log_str("names", changes.need_restart));
        log_init((enum log_level)settings->log_level, (enum log_format)settings->log_format);
    }
    settings_deinit(&next);
    return status;
}

bool settings_next_file(const char **list, char path[SETTINGS_FILES_MAX + 1]) {
    const char *start = *list, *end = start + strcspn(start, ",");

    if (!*start)
        return false;
    *list = end + (*end == ',');
    start += strspn(start, " "); /* no further than `end` */
    while (end > start && end[-1] == ' ')
        end--;
    snprintf(path, SETTINGS_FILES_MAX + 1, "%.*s", (int)(end - start), start);
    return true;
}

const char *settings_profile_label(int profile) {
    static const char *const labels[] = {"LOCAL DEV", "DEVELOPMENT", "PRODUCTION"};

    return labels[profile];
}
