/*
 * broker.h: owns the event loop, makes and wires the parts, and stops them in order.
 */
#ifndef HLCHAT_BROKER_H
#define HLCHAT_BROKER_H

#include "shared/settings.h"

struct broker;

/** settings_check_cb: whether the files with keys can be used. */
int broker_check(const struct settings *settings, char error[SETTINGS_ERROR_MAX]);

/** Makes all parts and starts to listen. `settings` are borrowed, and change at SIGHUP. NULL: the
 * reason was logged. */
struct broker *broker_new(struct settings *settings);

/** Serves until SIGTERM or SIGINT, then sends everybody away and closes everything. Returns the
 * exit code: 0 after a clean stop. */
int broker_run(struct broker *broker);

void broker_free(struct broker *broker);

#endif
