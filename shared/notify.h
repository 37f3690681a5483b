/*
 * notify.h: tells systemd how the start goes (sd_notify(3), without its library).
 */
#ifndef HLCHAT_NOTIFY_H
#define HLCHAT_NOTIFY_H

/** Tells who started us that we serve, where it has asked for that ($NOTIFY_SOCKET). Both programs
 * call it once, when they listen. It can fail only in ways that its listener notices. */
void notify_ready(void);

#endif
