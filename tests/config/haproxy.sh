#!/usr/bin/env bash
# A version of HAProxy, to ask what it says of a configuration: haproxy.sh 2.6|3.0|3.2|3.4 DIR
#
# DIR/haproxy is that program, with the libraries of its release of Debian, for a machine of any release. Nothing is
# installed, so this needs no root. The mirror, and what it takes to reach it, are those of this machine's apt.
set -euo pipefail
cd "$(dirname "$0")/../.."

# A version that no stable release has is gone one day: why is then in DIR/missing, and its tests are skipped.
moves=
fail() {
    echo "haproxy.sh: $*" >&2
    [[ $moves ]] || exit 1
    echo "$*" >"$dir/missing"
    exit 0
}

version=${1-}
case $version in
2.6) suites=(bookworm) ;;
3.0) suites=(trixie) ;;
# What is not in a stable release moves on from the last of these to the first.
3.2) suites=(forky sid) moves=1 ;;
3.4) suites=(forky sid experimental) moves=1 ;;
*) fail "HAProxy '$version' is not known (2.6, 3.0, 3.2, 3.4)" ;;
esac
dir=$PWD/${2:?}
mirror=$(shared/scripts/debian-mirror.sh)

echo "unpacking HAProxy $version of Debian (${suites[*]}) into $2"
rm -rf "$dir"
mkdir -p "$dir/root"
# An apt of its own, on which nothing is installed yet: it fetches the libraries too.
apt=$dir/apt
mkdir -p "$apt"/{etc/apt/apt.conf.d,var/lib/{dpkg,apt/lists/partial},var/cache/apt/archives/partial}
touch "$apt/var/lib/dpkg/status"
apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' >"$apt/etc/apt/apt.conf.d/00host" || true
cat >"$apt/apt.conf" <<CONF
Dir "$apt";
Dir::State::status "$apt/var/lib/dpkg/status";
APT::Sandbox::User "root";
CONF
for suite in "${suites[@]}"; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg target=Packages] $mirror $suite main"
done >"$apt/etc/apt/sources.list"
apt_get() {
    APT_CONFIG=$apt/apt.conf apt-get -q -o APT::Update::Error-Mode=any "$@" </dev/null >"$apt/log" 2>&1 || {
        tail -n 5 "$apt/log" >&2
        fail "HAProxy $version of Debian (${suites[*]}) cannot be fetched from $mirror (apt's last lines are above)"
    }
}
apt_get update
apt_get -y --no-install-recommends --download-only install "haproxy=$version.*"
for package in "$apt"/var/cache/apt/archives/{haproxy,lib}*.deb; do
    dpkg-deb --extract "$package" "$dir/root"
done

# Its own release's loader starts it, as it may need a newer libc than this machine has.
loader=$(find "$dir/root" -type f -name 'ld-linux*.so.*' -printf '%P')
libraries=lib/$(basename "$(dirname "$loader")")
cat >"$dir/new" <<SH
#!/bin/sh
root=\${0%/*}/root
exec "\$root/$loader" --library-path "\$root/usr/$libraries:\$root/$libraries" "\$root/usr/sbin/haproxy" "\$@"
SH
chmod +x "$dir/new"
"$dir/new" -v >/dev/null || fail "HAProxy $version does not run here"
rm -r "$apt"
mv "$dir/new" "$dir/haproxy"
