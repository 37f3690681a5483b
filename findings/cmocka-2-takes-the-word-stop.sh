#!/usr/bin/env bash
# cmocka 2.0.2 defines a macro stop() without parameters: behind its header a call of a member `stop` with an argument does
# not compile.
#
# Seen with Debian's libcmocka-dev 2.0.2-1+b1 ("macro "stop" passed 1 arguments, but takes just 0"), and not with
# 1.1.7-3+b1. What helps: #undef stop behind the #include.
#
# Needs gcc, Debian's apt-get and dpkg-deb, and a mirror that still has these two versions (trixie, sid).
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mirror=$(apt-get --print-uris update | sed -nE "s;^'(.*[^/])/+dists/[a-z]+/InRelease'.*;\1;p" | sed -n 1p)

unpack() { # suite version: the header, into $dir/version
    local apt=$dir/apt-$1
    mkdir -p "$apt"/{etc/apt/apt.conf.d,etc/apt/preferences.d,var/lib/{dpkg,apt/lists/partial},var/cache/apt/archives/partial}
    touch "$apt/var/lib/dpkg/status"
    apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' >"$apt/etc/apt/apt.conf.d/00host" || true
    printf 'Dir "%s";\nDir::State::status "%s";\nAPT::Sandbox::User "root";\n' "$apt" "$apt/var/lib/dpkg/status" >"$apt/apt.conf"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$apt/etc/apt/sources.list"
    APT_CONFIG=$apt/apt.conf apt-get -qq update
    (cd "$apt" && APT_CONFIG=$apt/apt.conf apt-get -qq download "libcmocka-dev=$2" && dpkg-deb --extract ./*.deb "$dir/$2")
}

cat >"$dir/test.c" <<'C'
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

struct timer {
    void (*stop)(int how);
};

void end(struct timer *timer);

void end(struct timer *timer) {
    timer->stop(1);
}
C

unpack trixie 1.1.7-3+b1
unpack sid 2.0.2-1+b1
for version in 1.1.7-3+b1 2.0.2-1+b1; do
    status=0
    gcc -std=c17 -fsyntax-only -I "$dir/$version/usr/include" "$dir/test.c" >"$dir/said" 2>&1 || status=$?
    echo "cmocka $version: gcc's exit status $status"
    cat "$dir/said"
    case $version in
    1.*) [ "$status" = 0 ] ;;
    2.*) [ "$status" = 1 ] && grep -q 'macro "stop" passed 1 arguments' "$dir/said" ;;
    esac || {
        echo "this has changed" >&2
        exit 1
    }
done
