/*
 * options.h: the command line of chatload, and its --help.
 */
#ifndef HLCHAT_LOAD_OPTIONS_H
#define HLCHAT_LOAD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shared/address.h"

enum {
    OPTIONS_SERVERS_MAX = 16,
    OPTIONS_PIDS_MAX = 16,
    OPTIONS_NAME_MAX = 32,
    OPTIONS_SIZE_MAX = 65536,
};

struct options {
    struct address_listen servers[OPTIONS_SERVERS_MAX];
    uint32_t server_count;
    const char *path;
    const char *login;       /* template; empty: no login */
    const char *login_reply; /* what the answer to a good one contains */
    bool lines;              /* a text frame may hold several messages, one a line */
    const char *message;     /* template */
    char **tokens;           /* one for each client, in turns */
    uint32_t token_count;
    uint32_t clients, publishers, stalled;
    double rate;     /* messages a second, all publishers together; 0: not open loop */
    uint32_t window; /* messages on the way, all publishers together; 0: not closed loop */
    uint32_t size;   /* bytes of a message's text */
    double seconds, warm_up, idle, drain, connect_timeout;
    double connect_rate; /* a second; 0: as fast as it goes */
    uint32_t at_once;    /* connections and logins under way */
    struct {
        char name[OPTIONS_NAME_MAX];
        pid_t pid;
    } pids[OPTIONS_PIDS_MAX];
    uint32_t pid_count;
};

/** Reads the command line, or ends the program: with 0 after --help, with 2 and a line on stderr
 * for what cannot be. `options` points into argv; it lives as long as the program. */
void options_read(int argc, char **argv, struct options *options);

#endif
