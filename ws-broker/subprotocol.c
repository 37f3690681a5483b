#include "ws-broker/subprotocol.h"

#include <string.h>

#include "shared/status.h"

#define DIGITS  "0123456789"
#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
/* RFC 9110, section 5.6.2, without `*`, which libwebsockets 4.3 does not take into a name. */
#define TOKEN DIGITS LETTERS "!#$%&'+-.^_`|~"

int subprotocol_select(const char *offer, char name[SUBPROTOCOL_MAX]) {
    const char *first = offer + strspn(offer, " \t");
    size_t len = strspn(first, TOKEN);
    const char *rest = first + len + strspn(first + len, " \t");
    if (len == 0 || len >= SUBPROTOCOL_MAX || (*rest && *rest != ',') ||
        strspn(first, DIGITS ".") == len)
        return CHAT_EINVAL;
    memcpy(name, first, len);
    name[len] = '\0';
    return CHAT_OK;
}
