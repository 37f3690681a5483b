/* forwarded.h: whom a chain of proxies speaks for, and who cannot pretend to be somebody else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/address.h"
#include "ws-broker/forwarded.h"

static void test_client(void **state) {
    static const struct {
        const char *peer, *forwarded_for, *client;
    } cases[] = {
        /* no header, or nothing in it */
        {"127.0.0.1", NULL, "127.0.0.1"},
        {"127.0.0.1", "", "127.0.0.1"},
        {"127.0.0.1", " ", "127.0.0.1"},
        {"127.0.0.1", ",", "127.0.0.1"},
        {"203.0.113.9", NULL, "203.0.113.9"},
        {"unix", NULL, "unix"},
        /* one trusted proxy */
        {"127.0.0.1", "203.0.113.9", "203.0.113.9"},
        {"127.0.0.1", " \t203.0.113.9\t ", "203.0.113.9"},
        {"127.0.0.1", "2001:db8::1", "2001:db8::1"},
        {"unix", "203.0.113.9", "203.0.113.9"},
        {"::1", "203.0.113.9", "203.0.113.9"},
        /* a peer that nobody trusts says what it likes */
        {"203.0.113.9", "10.0.0.1", "203.0.113.9"},
        {"203.0.113.9", "198.51.100.1", "203.0.113.9"},
        {"2001:db8::1", "127.0.0.1, 127.0.0.1", "2001:db8::1"},
        /* what the client put there stands before what the proxy added */
        {"127.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"},
        {"127.0.0.1", "127.0.0.1, 203.0.113.9", "203.0.113.9"},
        {"127.0.0.1", "10.0.0.1,198.51.100.1,203.0.113.9", "203.0.113.9"},
        {"127.0.0.1", "unix, 203.0.113.9", "203.0.113.9"},
        {"127.0.0.1", "nonsense, 203.0.113.9", "203.0.113.9"},
        {"127.0.0.1", ",,,203.0.113.9", "203.0.113.9"},
        /* with a port, in brackets */
        {"127.0.0.1", "203.0.113.9:1234", "203.0.113.9"},
        {"127.0.0.1", "[2001:db8::1]", "2001:db8::1"},
        {"127.0.0.1", "[2001:db8::1]:1234", "2001:db8::1"},
        {"127.0.0.1", "203.0.113.9:1234, [::ffff:10.0.0.1]:5, 10.0.0.1:80", "203.0.113.9"},
        /* a chain of trusted proxies */
        {"127.0.0.1", "203.0.113.9, 10.0.0.1", "203.0.113.9"},
        {"127.0.0.1", "203.0.113.9,10.0.0.1,10.0.0.2", "203.0.113.9"},
        {"unix", "203.0.113.9, 10.0.0.1, 127.0.0.1", "203.0.113.9"},
        {"127.0.0.1", "198.51.100.1, 203.0.113.9, 10.0.0.1", "203.0.113.9"},
        {"127.0.0.1", "198.51.100.1, 10.0.0.9, 203.0.113.9, 10.0.0.1", "203.0.113.9"},
        {"::ffff:127.0.0.1", "203.0.113.9, ::ffff:10.0.0.1", "203.0.113.9"},
        /* believed only as far as it can be read from its end */
        {"127.0.0.1", "203.0.113.9, nonsense", "127.0.0.1"},
        {"127.0.0.1", "203.0.113.9,", "127.0.0.1"},
        {"127.0.0.1", "203.0.113.9, ,10.0.0.1", "10.0.0.1"},
        {"127.0.0.1", "203.0.113.9, nonsense, 10.0.0.1", "10.0.0.1"},
        {"127.0.0.1", "203.0.113.9:", "127.0.0.1"},
        {"127.0.0.1", "203.0.113.9:x", "127.0.0.1"},
        {"127.0.0.1", "203.0.113.9:1:2", "127.0.0.1"},
        {"127.0.0.1", "[2001:db8::1", "127.0.0.1"},
        {"127.0.0.1", "2001:db8::1]", "127.0.0.1"},
        {"127.0.0.1", "[2001:db8::1]:", "127.0.0.1"},
        {"127.0.0.1", "[2001:db8::1]1", "127.0.0.1"},
        {"127.0.0.1", "[2001:db8::1]:x", "127.0.0.1"},
        {"127.0.0.1", "[]", "127.0.0.1"},
        {"127.0.0.1", "[", "127.0.0.1"},
        {"127.0.0.1", "fe80::1%eth0", "127.0.0.1"},
        {"127.0.0.1", "203.0.113.9 198.51.100.1", "127.0.0.1"},
        {"127.0.0.1", "203.0.113", "127.0.0.1"},
        {"127.0.0.1", "203.0.113.256", "127.0.0.1"},
        {"127.0.0.1", "unix", "127.0.0.1"},
        {"127.0.0.1",
         "203.0.113.9, 11111111111111111111111111111111111111111111111111111111111111111111111",
         "127.0.0.1"},
    };
    struct address_networks trusted;
    (void)state;
    assert_int_equal(address_networks_parse("127.0.0.0/8, ::1, 10.0.0.0/8, unix", &trusted), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct address_ip peer = {.is_unix = true};
        char text[ADDRESS_TEXT_MAX];
        if (strcmp(cases[i].peer, "unix") != 0)
            assert_int_equal(address_ip_parse(cases[i].peer, strlen(cases[i].peer), &peer), 0);
        struct address_ip client = forwarded_client(&peer, cases[i].forwarded_for, &trusted);
        address_ip_text(&client, text);
        if (strcmp(text, cases[i].client) != 0)
            fail_msg("peer %s, forwarded for '%s': %s instead of %s", cases[i].peer,
                     cases[i].forwarded_for ? cases[i].forwarded_for : "(none)", text,
                     cases[i].client);
    }
}

static void test_nobody_is_trusted(void **state) {
    static const struct address_networks nobody;
    struct address_ip peer, client;
    (void)state;
    assert_int_equal(address_ip_parse("127.0.0.1", 9, &peer), 0);
    client = forwarded_client(&peer, "203.0.113.9", &nobody);
    assert_memory_equal(&client.ip, &peer.ip, sizeof(peer.ip));
    peer = (struct address_ip){.is_unix = true};
    client = forwarded_client(&peer, "203.0.113.9", &nobody);
    assert_true(client.is_unix);
}

/* Thousands of invented hops change nothing. */
static void test_long_invention(void **state) {
    enum { HOPS = 10000 };
    static char text[HOPS * 9 + 32];
    struct address_networks trusted;
    struct address_ip peer, client;
    char got[ADDRESS_TEXT_MAX];
    (void)state;
    for (int i = 0; i < HOPS; i++)
        memcpy(text + i * 9, "10.0.0.1,", 9);
    memcpy(text + HOPS * 9, "203.0.113.9", 12);
    assert_int_equal(address_networks_parse("10.0.0.0/8", &trusted), 0);
    assert_int_equal(address_ip_parse("10.0.0.1", 8, &peer), 0);
    client = forwarded_client(&peer, text, &trusted);
    address_ip_text(&client, got);
    assert_string_equal(got, "203.0.113.9");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client),
        cmocka_unit_test(test_nobody_is_trusted),
        cmocka_unit_test(test_long_invention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
