/* subprotocol.h: which of the WebSocket subprotocols that a client offers is selected. Pure. */
#ifndef HLCHAT_SUBPROTOCOL_H
#define HLCHAT_SUBPROTOCOL_H

enum {
    SUBPROTOCOL_MAX = 63, /* bytes of a name with its NUL; libwebsockets has no room for more */
    SUBPROTOCOL_OFFER_MAX = 128, /* of all that is offered, likewise */
};

/**
 * Selects one of `offer`, the value of Sec-WebSocket-Protocol: a list of names with commas between
 * them. There is only protocol v1, which goes by any name: the first that was offered is given
 * back, for many clients fail a handshake in which none is. CHAT_EINVAL: the first is no token, has
 * no room, or has an asterisk or is a number, which libwebsockets does not take for a name.
 */
int subprotocol_select(const char *offer, char name[SUBPROTOCOL_MAX]);

#endif
