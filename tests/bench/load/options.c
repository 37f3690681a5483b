#include "tests/bench/load/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/status.h"
#include "tests/bench/load/checker.h"

static const char help[] =
    "usage: chatload --connect ADDRESS [option]...\n"
    "\n"
    "Connects clients to a chat server, logs them in, has some of them send messages, and checks\n"
    "that every client receives every message, once, in one order. What it measured is one line "
    "of\n"
    "JSON on stdout; what it is doing goes to stderr. Exit 0: nothing was lost, doubled or out of\n"
    "order, and nobody was refused or closed; 1: something was; 2: it could not run.\n"
    "\n"
    "Who\n"
    "  --connect ADDRESS      127.0.0.1:8080, [::1]:8080 or unix:/path; several: clients take "
    "turns\n"
    "  --path PATH            of the WebSocket                                       (/chat)\n"
    "  --clients N            how many                                               (100)\n"
    "  --login JSON           each client's first frame: %d is its number, %t its line of "
    "--tokens;\n"
    "                         empty: none          ({\"action\":\"login\",\"token\":\"user-%d\"})\n"
    "  --login-reply TEXT     what the answer to it contains                 "
    "(\"info\":\"connected\")\n"
    "  --lines                a text of the server may be several messages, one a line\n"
    "  --tokens FILE          one token a line; clients take turns\n"
    "  --connect-rate N       connections begun a second; 0: as fast as it goes      (0)\n"
    "  --at-once N            connections and logins under way at a time             (128)\n"
    "  --connect-timeout S    for all of them to be logged in                        (60)\n"
    "  --stalled N            of the clients read nothing once they are logged in    (0)\n"
    "\n"
    "What\n"
    "  --publishers N         clients that send                                      (1)\n"
    "  --rate N               messages a second, all together; each is sent when it is due,\n"
    "                         whatever came back (open loop)                         (10)\n"
    "  --window N             instead: so many messages are on the way at any time, until\n"
    "                         everybody has them (closed loop)\n"
    "  --message JSON         a message: %m is its text\n"
    "                                   ({\"action\":\"message\",\"message\":\"%m\"})\n"
    "  --size N               bytes of its text, 18 or more                          (80)\n"
    "  --seconds S            how long to measure; 0: only connect                   (10)\n"
    "  --warm-up S            of the same load before that, until all of it arrived  (1)\n"
    "  --idle S               of silence before that, measured too                   (0)\n"
    "  --drain S              to wait for the last messages                          (10)\n"
    "\n"
    "The server\n"
    "  --pid NAME=PID         of which CPU time and memory are reported; several; those of one "
    "name\n"
    "                         are added up. Only on the machine where they run.\n"
    "\n"
    "Latency is counted from when a message was due, not from when it could be sent.\n"
    "docs/sizing.md tells how to read the result.\n";

static _Noreturn __attribute__((format(printf, 1, 2))) void refuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("chatload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs(" (--help lists the options)\n", stderr);
    va_end(arguments);
    exit(2);
}

static double number(const char *name, const char *text, double least, double most) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno != 0 || !(value >= least && value <= most))
        refuse("--%s %s: must be a number, %g to %g", name, text, least, most);
    return value;
}

static uint32_t whole(const char *name, const char *text, double least, double most) {
    return (uint32_t)number(name, text, least, most);
}

static void read_tokens(const char *path, struct options *options) {
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;
    ssize_t len;
    if (!file)
        refuse("--tokens %s: %s", path, strerror(errno));
    while ((len = getline(&line, &room, file)) > 0) {
        line[strcspn(line, "\r\n")] = '\0';
        char **more = realloc(options->tokens, (options->token_count + 1) * sizeof(*more));
        if (!more)
            refuse("no memory");
        options->tokens = more;
        options->tokens[options->token_count++] = line;
        line = NULL;
        room = 0;
    }
    free(line);
    fclose(file);
    if (options->token_count == 0)
        refuse("--tokens %s: is empty", path);
}

static void read_pid(const char *text, struct options *options) {
    const char *equals = strchr(text, '=');
    size_t len = equals ? (size_t)(equals - text) : 0;
    if (len == 0 || len >= OPTIONS_NAME_MAX || options->pid_count == OPTIONS_PIDS_MAX)
        refuse("--pid %s: must be NAME=PID, at most %d of them", text, OPTIONS_PIDS_MAX);
    memcpy(options->pids[options->pid_count].name, text, len);
    options->pids[options->pid_count++].pid = (pid_t)whole("pid", equals + 1, 1, INT32_MAX);
}

static void read_server(const char *text, struct options *options) {
    if (options->server_count == OPTIONS_SERVERS_MAX)
        refuse("--connect: at most %d", OPTIONS_SERVERS_MAX);
    if (address_listen_parse(text, &options->servers[options->server_count++]) < 0)
        refuse("--connect %s: must be a numeric address and port, or unix:/path", text);
}

enum kind { TEXT, WHOLE, NUMBER, FLAG, PARSED };

struct row {
    const char *name;
    enum kind kind;
    void *into; /* const char *, uint32_t, double, bool */
    double least, most;
    void (*read)(const char *text, struct options *options); /* PARSED */
};

static void read_value(const struct row *row, const char *text, struct options *options) {
    switch (row->kind) {
    case TEXT:
        *(const char **)row->into = text;
        break;
    case WHOLE:
        *(uint32_t *)row->into = whole(row->name, text, row->least, row->most);
        break;
    case NUMBER:
        *(double *)row->into = number(row->name, text, row->least, row->most);
        break;
    case FLAG:
        *(bool *)row->into = true;
        break;
    case PARSED:
        row->read(text, options);
        break;
    }
}

void options_read(int argc, char **argv, struct options *options) {
    const struct row rows[] = {
        {"connect", PARSED, NULL, 0, 0, read_server},
        {"path", TEXT, &options->path, 0, 0, NULL},
        {"clients", WHOLE, &options->clients, 1, 1e6, NULL},
        {"login", TEXT, &options->login, 0, 0, NULL},
        {"login-reply", TEXT, &options->login_reply, 0, 0, NULL},
        {"lines", FLAG, &options->lines, 0, 0, NULL},
        {"tokens", PARSED, NULL, 0, 0, read_tokens},
        {"connect-rate", NUMBER, &options->connect_rate, 0, 1e6, NULL},
        {"at-once", WHOLE, &options->at_once, 1, 1e6, NULL},
        {"connect-timeout", NUMBER, &options->connect_timeout, 0.1, 3600, NULL},
        {"stalled", WHOLE, &options->stalled, 0, 1e6, NULL},
        {"publishers", WHOLE, &options->publishers, 1, 1e6, NULL},
        {"rate", NUMBER, &options->rate, 0.001, 1e6, NULL},
        {"window", WHOLE, &options->window, 1, 1e6, NULL},
        {"message", TEXT, &options->message, 0, 0, NULL},
        {"size", WHOLE, &options->size, CHECKER_MARKER, OPTIONS_SIZE_MAX, NULL},
        {"seconds", NUMBER, &options->seconds, 0, 86400, NULL},
        {"warm-up", NUMBER, &options->warm_up, 0, 3600, NULL},
        {"idle", NUMBER, &options->idle, 0, 86400, NULL},
        {"drain", NUMBER, &options->drain, 0, 3600, NULL},
        {"pid", PARSED, NULL, 0, 0, read_pid},
    };
    enum { ROWS = sizeof(rows) / sizeof(*rows) };
    struct option names[ROWS + 2] = {[ROWS] = {.name = "help"}};
    for (int i = 0; i < ROWS; i++)
        names[i] =
            (struct option){.name = rows[i].name,
                            .has_arg = rows[i].kind == FLAG ? no_argument : required_argument};
    *options = (struct options){
        .path = "/chat",
        .login = "{\"action\":\"login\",\"token\":\"user-%d\"}",
        .login_reply = "\"info\":\"connected\"",
        .message = "{\"action\":\"message\",\"message\":\"%m\"}",
        .clients = 100,
        .publishers = 1,
        .size = 80,
        .seconds = 10,
        .warm_up = 1,
        .drain = 10,
        .connect_timeout = 60,
        .at_once = 128,
    };
    int which, option;
    while ((option = getopt_long(argc, argv, "", names, &which)) != -1) {
        if (option == '?')
            exit(2); /* it has said what */
        if (which == ROWS) {
            fputs(help, stdout);
            exit(0);
        }
        read_value(&rows[which], optarg, options);
    }
    if (optind < argc)
        refuse("unexpected argument %s", argv[optind]);
    if (options->server_count == 0)
        refuse("--connect is required");
    if (options->rate > 0 && options->window > 0)
        refuse("--rate or --window, not both");
    if (options->rate <= 0 && options->window == 0)
        options->rate = 10;
    if (options->stalled + options->publishers > options->clients)
        refuse("there are fewer --clients than --publishers and --stalled together");
    if (!strstr(options->message, "%m"))
        refuse("--message must contain %%m");
}
