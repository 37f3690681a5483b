#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "shared/log.h"
#include "shared/settings.h"
#include "shared/version.h"
#include "ws-broker/broker.h"

/* Memory holds tokens and passwords for a moment: it is not for core files, nor for other processes
 * of the same user. */
static void keep_memory_private(void) {
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    prctl(PR_SET_DUMPABLE, 0);
}

int main(int argc, char **argv) {
    struct settings settings;
    enum settings_result loaded =
        settings_load(&settings, PROGRAM_BROKER, argc, argv, environ, broker_check, stdout, stderr);
    if (loaded != SETTINGS_RUN) {
        settings_deinit(&settings);
        return loaded == SETTINGS_DONE ? EXIT_SUCCESS : 2;
    }
    log_init((enum log_level)settings.log_level, (enum log_format)settings.log_format);
    log_info("broker", "start", log_str("version", chat_version()),
             log_str("chat", settings.chat_name));
    signal(SIGPIPE, SIG_IGN);
    keep_memory_private();

    struct broker *broker = broker_new(&settings);
    int code = broker ? broker_run(broker) : EXIT_FAILURE;
    if (broker)
        broker_free(broker);
    settings_deinit(&settings);
    return code;
}
