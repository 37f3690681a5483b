/*
 * notify.h: tells systemd how the start and the stop go (sd_notify(3), without its library).
 *
 * Does nothing where nobody has asked for that ($NOTIFY_SOCKET). It can fail only in ways that
 * systemd notices.
 */
#ifndef HLCHAT_NOTIFY_H
#define HLCHAT_NOTIFY_H

/** We serve. Both programs call it once, when they listen. */
void notify_ready(void);

/** We stop, and are not to be killed before `within_s` seconds have passed, whatever the unit says.
 * The broker calls it when its drain begins. */
void notify_stopping(int within_s);

#endif
