/*
 * settings.h: one table that is parser, validator, --help, --check and --print-config of all
 * programs.
 *
 * A value comes from, weakest first: the row's default, the profile (CHAT_ENV), --env-file FILE
 * (repeatable, later wins), the environment, a flag (--history-limit 50 or --history-limit=50).
 * A key in a file that no row has, or a bad value anywhere, refuses the start with one line: where
 * (file and line, environment, flag), key, value and what is allowed. An env file is `KEY=value` a
 * line: no quotes, no expansion, # at line start; keys of other programs are allowed (checked all
 * the same), so one file can serve all.
 * An empty value in the environment or a file is the same as none. A secret may be in a file of its
 * own, which <NAME>_FILE names; one source that has both is refused.
 *
 * A new setting is one row in settings.c, one member here.
 */
#ifndef HLCHAT_SETTINGS_H
#define HLCHAT_SETTINGS_H

#include <stdbool.h>
#include <stdio.h>

#include "shared/address.h"
#include "shared/redis_url.h"

/** Who reads a setting; a bit set. PROGRAM_HAPROXY: its config does, we only check and document the
 * value. */
enum settings_program { PROGRAM_API = 1, PROGRAM_BROKER = 2, PROGRAM_HAPROXY = 4 };

enum settings_profile { PROFILE_DEV = 0, PROFILE_CLOUD_RUN = 1, PROFILE_PROD = 2 };
enum settings_store { STORE_MEMORY = 0, STORE_REDIS = 1 };
enum settings_identity { IDENTITY_DEV = 0, IDENTITY_JWT = 1, IDENTITY_HEAVENLAND = 2 };
enum settings_token_expiry { TOKEN_EXPIRY_LOGIN = 0, TOKEN_EXPIRY_SESSION = 1 };

/** All values, typed and checked. Texts are owned by the struct, or NULL when not set. */
struct settings {
    int chat_env; /* enum settings_profile */
    struct address_listen listen;
    struct address_listen ops_listen;
    struct address_networks trusted_proxies;
    struct address_listen fcgi_listen;
    int fcgi_threads;
    int store;                  /* enum settings_store */
    int identity;               /* enum settings_identity */
    struct redis_url redis_url; /* a secret */
    char *chat_name;
    int history_limit; /* messages */
    int history_max_bytes;
    int log_maxlen; /* messages */
    int message_max_bytes;
    int frame_max_bytes;
    int rate_messages; /* per second and user; 0 = no limit */
    int rate_burst;
    int conn_per_address;         /* 0 = off */
    int connect_rate_per_address; /* per second; 0 = off */
    int login_timeout_s;
    int login_attempts;
    int login_failures_per_minute; /* per address; 0 = off */
    int token_expiry;              /* enum settings_token_expiry */
    int jwt_algorithm;             /* index of settings_jwt_algorithms */
    char *jwt_public_key_file;     /* for settings_next_file(), or NULL */
    char *jwks_url;                /* or NULL */
    char *jwt_audience;
    char *jwt_issuer; /* or NULL: any */
    char *jwt_nickname_claim;
    char *heavenland_api_url; /* or NULL; no slash at its end */
    char *minigame_secret;    /* or NULL; visible ASCII */
    struct address_networks minigame_allow_from;
    char *webhook_secret; /* or NULL; visible ASCII */
    int ping_interval_s;
    int max_clients; /* 0 = what the file limit allows */
    int flush_interval_ms;
    int drain_rate; /* clients per second */
    int drain_deadline_s;
    int log_level;  /* enum log_level */
    int log_format; /* enum log_format */

    struct settings_origin *_origin; /* private */
};

enum settings_result {
    SETTINGS_RUN = 0, /* go on and start */
    SETTINGS_DONE =
        1, /* --help, --version, --check or --print-config did all there is to do: exit 0 */
    SETTINGS_BAD = 2, /* one line was written to `err`: exit 2 */
};

enum { SETTINGS_ERROR_MAX = 512 };

/** What --check asks the program, whose start looks closer at what settings name. Anything but
 * CHAT_OK, with one line in `error`: the start would fail. */
typedef int (*settings_check_cb)(const struct settings *settings, char error[SETTINGS_ERROR_MAX]);

/**
 * Loads the settings of `program` from the command line, files and `environ`-style `env`.
 * What was asked for goes to `out`, a refusal to `err`. `check` may be NULL. `settings` needs
 * settings_deinit() whatever the result.
 */
enum settings_result settings_load(struct settings *settings, enum settings_program program,
                                   int argc, char **argv, char **env, settings_check_cb check,
                                   FILE *out, FILE *err);

void settings_deinit(struct settings *settings);

/** Makes ready for new values that are about to be taken. Texts that may change while the program
 * runs stay where they are until the next reload. Anything but CHAT_OK, with one line in `error`:
 * the old values stay. */
typedef int (*settings_prepare_cb)(void *user, const struct settings *next,
                                   char error[SETTINGS_ERROR_MAX]);

/**
 * Reads everything again for a program that runs (at SIGHUP): the env files may have changed. Takes
 * the settings that may change meanwhile, the level and form of the log among them, and logs what
 * has changed and what would need a restart. CHAT_OK; else all is as it was, and one line was
 * logged. `prepare` may be NULL. argv and env must be as settings_load() got them.
 */
int settings_reload(struct settings *settings, settings_prepare_cb prepare, void *user);

enum { SETTINGS_FILES_MAX = 4096 }; /* bytes of a list of files */

/** Takes the next path off `*list`, which commas separate, without blanks around it. False: none is
 * left. */
bool settings_next_file(const char **list, char path[SETTINGS_FILES_MAX + 1]);

/** The names that JWT_ALGORITHM takes; NULL ends them. */
extern const char *const settings_jwt_algorithms[];

/** "LOCAL DEV", "DEVELOPMENT" or "PRODUCTION": what /api/version calls the profile. */
const char *settings_profile_label(int profile);

#endif
