/*
 * api-fcgi: GET /api and /api/version, by FastCGI, for HAProxy. Stateless: as many may run as
 * anybody likes.
 *
 * The main thread waits for signals; server.c serves; route.c knows what to say.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "api-fcgi/server.h"
#include "shared/listen.h"
#include "shared/log.h"
#include "shared/notify.h"
#include "shared/settings.h"
#include "shared/version.h"

/* Blocks them in all threads to come, so that sigwait() gets them. */
static void block_signals(sigset_t *signals) {
    sigemptyset(signals);
    sigaddset(signals, SIGHUP);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, signals, NULL);
}

static void wait_for_stop_signal(const sigset_t *signals, struct settings *settings) {
    int number;

    for (;;) {
        if (sigwait(signals, &number) != 0)
            continue;
        if (number != SIGHUP)
            return;
        settings_reload(settings, NULL, NULL);
    }
}

static int run(struct settings *settings) {
    char error[LISTEN_ERROR_MAX], listen_text[ADDRESS_LISTEN_TEXT_MAX];
    sigset_t signals;

    log_init((enum log_level)settings->log_level, (enum log_format)settings->log_format);
    log_info("api", "start", log_str("version", chat_version()),
             log_str("env", settings_profile_label(settings->chat_env)));
    block_signals(&signals);
    int listen_fd = listen_open(&settings->fcgi_listen, error);
    if (listen_fd < 0) {
        log_error("api", "listen_failed", log_str("error", error));
        return EXIT_FAILURE;
    }
    struct server *server =
        server_start(listen_fd, settings->fcgi_threads, settings_profile_label(settings->chat_env));
    if (!server) {
        log_error("api", "start_failed", log_errno());
        listen_close(listen_fd, &settings->fcgi_listen);
        return EXIT_FAILURE;
    }
    address_listen_text(&settings->fcgi_listen, listen_text);
    log_info("api", "ready", log_str("listen", listen_text),
             log_int("threads", settings->fcgi_threads));
    notify_ready();

    wait_for_stop_signal(&signals, settings);

    log_info("api", "stopping");
    int left = server_stop(server);
    listen_close(listen_fd, &settings->fcgi_listen);
    if (left > 0)
        log_warn("api", "threads_left_behind", log_int("threads", left));
    log_info("api", "stop");
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    struct settings settings;
    int status = EXIT_SUCCESS;

    switch (settings_load(&settings, PROGRAM_API, argc, argv, environ, NULL, stdout, stderr)) {
    case SETTINGS_RUN:
        status = run(&settings);
        break;
    case SETTINGS_DONE:
        break;
    case SETTINGS_BAD:
        status = 2;
        break;
    }
    settings_deinit(&settings);
    return status;
}
