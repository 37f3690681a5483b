/* version.h: the version of this build, from the VERSION file; --version, /api/version and the
 * first log line agree. */
#ifndef HLCHAT_VERSION_H
#define HLCHAT_VERSION_H

/** "1.1.0": the VERSION file's text, set by the Makefile. */
const char *chat_version(void);

#endif
