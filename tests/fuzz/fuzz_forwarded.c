/* Any X-Forwarded-For text, behind a peer that is trusted or not (the first byte says which). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "ws-broker/forwarded.h"

static const char hop[] = ", 10.1.2.3"; /* a trusted proxy more */

static int same(const struct address_ip *a, const struct address_ip *b) {
    return a->is_unix == b->is_unix && memcmp(&a->ip, &b->ip, sizeof(a->ip)) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const peers[] = {"127.0.0.1", "::1", "203.0.113.9", "2001:db8::1"};
    struct address_networks trusted;
    struct address_ip peer, client, longer;
    if (size == 0)
        return 0;
    address_networks_parse("127.0.0.0/8, ::1, 10.0.0.0/8", &trusted);
    const char *from = peers[data[0] % 4];
    address_ip_parse(from, strlen(from), &peer);

    char *text = malloc(size + sizeof(hop));
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    client = forwarded_client(&peer, text, &trusted);
    memcpy(text + strlen(text), hop, sizeof(hop));
    longer = forwarded_client(&peer, text, &trusted);

    if (!address_networks_contain(&trusted, &peer))
        assert(same(&client, &peer)); /* nobody believes it */
    else if (!same(&client, &peer))
        assert(same(&client, &longer)); /* one honest proxy more changes nothing */
    assert(!client.is_unix);
    free(text);
    return 0;
}
