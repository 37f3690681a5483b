#include "shared/status.h"

const char *chat_status_text(int status) {
    if (status >= 0)
        return "ok";
    switch ((enum chat_status)status) {
    case CHAT_OK:
        break;
    case CHAT_EINVAL:
        return "invalid";
    case CHAT_ERANGE:
        return "too large";
    case CHAT_EBUSY:
        return "busy";
    case CHAT_EUNAVAILABLE:
        return "unavailable";
    case CHAT_EUNCERTAIN:
        return "not confirmed";
    case CHAT_ENOMEM:
        return "out of memory";
    case CHAT_ESYS:
        return "system error";
    }
    return "unknown error";
}
