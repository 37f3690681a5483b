#include "shared/version.h"

const char *chat_version(void) {
    return HLCHAT_VERSION;
}
