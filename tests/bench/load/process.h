/*
 * process.h: what a process has used, while it runs, as the kernel counts it.
 */
#ifndef HLCHAT_LOAD_PROCESS_H
#define HLCHAT_LOAD_PROCESS_H

#include <sys/types.h>

/** CPU seconds of all its threads since its start, user and kernel; negative when there is no such
 * process. */
double process_cpu_s(pid_t pid);

/** Resident memory in KiB; negative when there is no such process. */
long process_rss_kib(pid_t pid);

#endif
