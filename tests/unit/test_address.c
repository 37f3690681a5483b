#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/cmocka.h"

#include "shared/address.h"
#include "shared/status.h"

/* 107 bytes fit into a sockaddr_un with their NUL, 108 do not. */
#define DIGITS_50 "12345678901234567890123456789012345678901234567890"
#define PATH_106  "/23456" DIGITS_50 DIGITS_50

static struct address_ip ip_of(const char *text) {
    struct address_ip ip;

    if (address_ip_parse(text, strlen(text), &ip) != CHAT_OK)
        fail_msg("not an address: %s", text);
    return ip;
}

static void listen_takes_ports_and_paths(void **state) {
    static const struct {
        const char *text;
        const char *host;
        uint16_t port;
        const char *path;
    } cases[] = {
        {"127.0.0.1:9001", "127.0.0.1", 9001, ""},
        {"0.0.0.0:1", "0.0.0.0", 1, ""},
        {"127.0.0.1:0", "127.0.0.1", 0, ""},
        {"127.0.0.1:65535", "127.0.0.1", 65535, ""},
        {"[::1]:9001", "::1", 9001, ""},
        {"[::]:80", "::", 80, ""},
        {"[2001:db8:0:1:2:3:4:5]:80", "2001:db8:0:1:2:3:4:5", 80, ""},
        {"[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80, ""},
        {"unix:/run/hlchat/broker.sock", "", 0, "/run/hlchat/broker.sock"},
        {"unix:/run/with blank:9001", "", 0, "/run/with blank:9001"},
        {"unix:" PATH_106 "7", "", 0, PATH_106 "7"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct address_listen address;
        char text[ADDRESS_LISTEN_TEXT_MAX];
        assert_int_equal(address_listen_parse(cases[i].text, &address), CHAT_OK);
        assert_int_equal(address.is_unix, cases[i].path[0] != '\0');
        assert_string_equal(address.host, cases[i].host);
        assert_int_equal(address.port, cases[i].port);
        assert_string_equal(address.path, cases[i].path);
        address_listen_text(&address, text);
        assert_string_equal(text, cases[i].text);
    }
}

static void listen_refuses_the_rest(void **state) {
    static const char *const cases[] = {
        "",
        ":",
        "9001",
        ":9001",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1: 1",
        "127.0.0.1:1 ",
        "127.0.0.1:65536",
        "127.0.0.1:99999999999999999999",
        " 127.0.0.1:80",
        "127.0.0.256:80",
        "127.1:80",
        "localhost:80",
        "*:80",
        "::1:9001",
        "[::1]",
        "[::1]9001",
        "[::1:9001",
        "::1]:9001",
        "[]:9001",
        "[127.0.0.1]:9001",
        "[fe80::1%lo]:9001",
        "[::1]x:9001",
        "unix:",
        "unix:relative.sock",
        "unix:/",
        "unix:/run/",
        "unix:/run/a\nb",
        "unix:" PATH_106 "78",
        "[00000000000000000000000000000000000000000000000000000000000000000000000000::1]:9001",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct address_listen address = {.port = 7};
        if (address_listen_parse(cases[i], &address) != CHAT_EINVAL)
            fail_msg("taken: '%s'", cases[i]);
        assert_int_equal(address.port, 7); /* untouched */
    }
}

static void ip_reads_and_writes(void **state) {
    static const struct {
        const char *text;
        const char *written;
    } cases[] = {
        {"10.1.2.3", "10.1.2.3"},         {"::ffff:10.1.2.3", "10.1.2.3"},
        {"::ffff:0a01:0203", "10.1.2.3"}, {"::1", "::1"},
        {"2001:DB8::0:1", "2001:db8::1"}, {"0.0.0.0", "0.0.0.0"},
        {"::10.1.2.3", "::10.1.2.3"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct address_ip ip = ip_of(cases[i].text);
        char text[ADDRESS_TEXT_MAX];
        assert_false(ip.is_unix);
        address_ip_text(&ip, text);
        assert_string_equal(text, cases[i].written);
    }
    struct address_ip peer = {.is_unix = true};
    char text[ADDRESS_TEXT_MAX];
    address_ip_text(&peer, text);
    assert_string_equal(text, "unix");
}

static void ip_refuses_the_rest(void **state) {
    static const char *const cases[] = {
        "",
        " ",
        "10.1.2",
        "10.1.2.3 ",
        "10.1.2.3:80",
        "010.1.2.3",
        "10.1.2.3.4",
        "[::1]",
        "::1%lo",
        "unix",
        "1:2:3:4:5:6:7:8:9",
        "0000000000000000000000000000000000000000000000000000000000000000000000000000::1",
    };
    struct address_ip ip;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (address_ip_parse(cases[i], strlen(cases[i]), &ip) != CHAT_EINVAL)
            fail_msg("taken: '%s'", cases[i]);
    }
    assert_int_equal(address_ip_parse("::1\0", 4, &ip), CHAT_EINVAL);
    /* only len bytes are read */
    assert_int_equal(address_ip_parse("10.1.2.34", 8, &ip), CHAT_OK);
    char text[ADDRESS_TEXT_MAX];
    address_ip_text(&ip, text);
    assert_string_equal(text, "10.1.2.3");
}

static void group_is_a_household(void **state) {
    static const struct {
        const char *text;
        const char *group;
    } cases[] = {
        {"10.1.2.3", "10.1.2.3"},
        {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
        {"2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct address_ip ip = ip_of(cases[i].text);
        struct address_ip group = address_ip_group(&ip);
        char text[ADDRESS_TEXT_MAX];
        address_ip_text(&group, text);
        assert_string_equal(text, cases[i].group);
    }
    struct address_ip peer = {.is_unix = true};
    assert_true(address_ip_group(&peer).is_unix);
}

static void networks_contain(void **state) {
    static const struct {
        const char *list;
        const char *ip;
        bool inside;
    } cases[] = {
        {"", "10.0.0.1", false},
        {"10.0.0.1", "10.0.0.1", true},
        {"10.0.0.1", "10.0.0.2", false},
        {"10.0.0.1", "::ffff:10.0.0.1", true},
        {"::ffff:10.0.0.1", "10.0.0.1", true},
        {"::ffff:10.0.0.0/104", "10.255.0.1", true},
        {"10.0.0.0/8", "10.255.255.255", true},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.0.0.0/8", "9.255.255.255", false},
        {"10.0.0.128/25", "10.0.0.127", false},
        {"10.0.0.128/25", "10.0.0.128", true},
        {"10.0.0.2/31", "10.0.0.3", true},
        {"10.0.0.2/31", "10.0.0.4", false},
        {"10.0.0.3/32", "10.0.0.3", true},
        {"10.0.0.3/32", "10.0.0.2", false},
        {"0.0.0.0/0", "255.255.255.255", true},
        {"0.0.0.0/0", "::1", false},
        {"::/0", "::1", true},
        {"::/0", "10.0.0.1", true}, /* as it is written: everything */
        {"2001:db8::/33", "2001:db8:7fff::1", true},
        {"2001:db8::/33", "2001:db8:8000::1", false},
        {"::1/128", "::1", true},
        {"::1/128", "::2", false},
        {"127.0.0.0/8, ::1, unix", "127.9.9.9", true},
        {"127.0.0.0/8, ::1, unix", "::1", true},
        {"127.0.0.0/8, ::1, unix", "128.0.0.1", false},
        {"127.0.0.0/8\t::1,,10.0.0.1 ,", "10.0.0.1", true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct address_networks networks;
        struct address_ip ip = ip_of(cases[i].ip);
        assert_int_equal(address_networks_parse(cases[i].list, &networks), CHAT_OK);
        if (address_networks_contain(&networks, &ip) != cases[i].inside)
            fail_msg("'%s' and %s", cases[i].list, cases[i].ip);
    }
}

static void networks_know_unix_peers(void **state) {
    struct address_networks networks;
    struct address_ip peer = {.is_unix = true};

    (void)state;
    assert_int_equal(address_networks_parse("::/0 0.0.0.0/0", &networks), CHAT_OK);
    assert_false(address_networks_contain(&networks, &peer));
    assert_int_equal(address_networks_parse("unix", &networks), CHAT_OK);
    assert_true(address_networks_contain(&networks, &peer));
    /* all of its address is zero, which is not the address :: */
    struct address_ip any = ip_of("::");
    assert_false(address_networks_contain(&networks, &any));
}

static void networks_refuse_bad_items(void **state) {
    static const char *const cases[] = {
        "10.0.0.0/",   "10.0.0.0/33", "10.0.0.0/-1",
        "10.0.0.0/8x", "10.0.0.0/ 8", "10.0.0.0/999999999999",
        "::/129",      "/8",          "10.0.0.0//8",
        "10.0.0.1/8",  "10.0.0.1/31", "::1/127",
        "0.0.0.1/0",   "localhost",   "unix/8",
        "unixx",       "uni",         "127.0.0.1; ::1",
        "127.0.0.1\n", "[::1]",       "10.0.0.1, 10.0",
        "none",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct address_networks networks = {.count = 7};
        if (address_networks_parse(cases[i], &networks) != CHAT_EINVAL)
            fail_msg("taken: '%s'", cases[i]);
        assert_int_equal(networks.count, 7); /* untouched */
    }
}

static void networks_have_a_ceiling(void **state) {
    struct address_networks networks;
    char list[ADDRESS_NETWORKS_MAX * 10 + 10] = "unix ";

    (void)state;
    for (int i = 0; i < ADDRESS_NETWORKS_MAX; i++)
        strncat(list, "10.0.0.1 ", sizeof(list) - strlen(list) - 1);
    assert_int_equal(address_networks_parse(list, &networks), CHAT_OK);
    assert_int_equal(networks.count, ADDRESS_NETWORKS_MAX);
    strncat(list, "::1", sizeof(list) - strlen(list) - 1);
    assert_int_equal(address_networks_parse(list, &networks), CHAT_ERANGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listen_takes_ports_and_paths), cmocka_unit_test(listen_refuses_the_rest),
        cmocka_unit_test(ip_reads_and_writes),          cmocka_unit_test(ip_refuses_the_rest),
        cmocka_unit_test(group_is_a_household),         cmocka_unit_test(networks_contain),
        cmocka_unit_test(networks_know_unix_peers),     cmocka_unit_test(networks_refuse_bad_items),
        cmocka_unit_test(networks_have_a_ceiling),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
