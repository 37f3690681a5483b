/* forwarded.h: whose connection is this, when a proxy that we trust says so? Pure. */
#ifndef HLCHAT_FORWARDED_H
#define HLCHAT_FORWARDED_H

#include "shared/address.h"

/**
 * The client's address: the peer's own, unless the peer is one of `trusted` and `forwarded_for`
 * (the X-Forwarded-For text, may be NULL) names somebody: then the last address in it that is not
 * itself trusted, for what stands before that could be anybody's invention. A text that is not a
 * list of addresses is believed only as far as it can be read from its end.
 */
struct address_ip forwarded_client(const struct address_ip *peer, const char *forwarded_for,
                                   const struct address_networks *trusted);

#endif
