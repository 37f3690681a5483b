#!/usr/bin/env bash
# HAProxy 3.2 warns of an empty argument in a line that a false .if leaves out.
#
# Seen with Debian's haproxy 3.2.26-1, and not with 3.0.11-1+deb13u4: `haproxy -dW -c` refuses the file below ("argument
# number 2 at position 16 is empty ..."), though its server is only for who sets SERVER. -dW makes warnings errors.
# What avoids it: no word may become empty, as in server one "stream+${SERVER}".
#
# Needs Debian's apt-get and dpkg-deb, and a mirror that still has these two versions (trixie, sid).
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mirror=$(apt-get --print-uris update | sed -nE "s;^'(.*[^/])/+dists/[a-z]+/InRelease'.*;\1;p" | sed -n 1p)

unpack() { # suite version: haproxy and its libraries, into $dir/$version
    local apt=$dir/apt-$1 deb
    mkdir -p "$apt"/{etc/apt/apt.conf.d,etc/apt/preferences.d,var/lib/{dpkg,apt/lists/partial},var/cache/apt/archives/partial} "$dir/$2"
    touch "$apt/var/lib/dpkg/status"
    apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' >"$apt/etc/apt/apt.conf.d/00host" || true
    printf 'Dir "%s";\nDir::State::status "%s";\nAPT::Sandbox::User "root";\n' "$apt" "$apt/var/lib/dpkg/status" >"$apt/apt.conf"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$apt/etc/apt/sources.list"
    APT_CONFIG=$apt/apt.conf apt-get -qq update
    APT_CONFIG=$apt/apt.conf apt-get -qq -y --no-install-recommends --download-only install "haproxy=$2" >/dev/null
    for deb in "$apt"/var/cache/apt/archives/{haproxy,lib}*.deb; do
        dpkg-deb --extract "$deb" "$dir/$2"
    done
}

haproxy() { # version argument...: by the loader of its own release
    local root=$dir/$1 loader libraries
    shift
    loader=$(find "$root" -type f -name 'ld-linux*.so.*')
    libraries=lib/$(basename "$(dirname "$loader")")
    "$loader" --library-path "$root/usr/$libraries:$root/$libraries" "$root/usr/sbin/haproxy" "$@"
}

cat >"$dir/file.cfg" <<'CFG'
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s

frontend all
    bind 127.0.0.1:18999
    default_backend some

backend some
.if strneq("${SERVER}","")
    server one "${SERVER}"
.endif
CFG

unset SERVER
unpack trixie 3.0.11-1+deb13u4
unpack sid 3.2.26-1
for version in 3.0.11-1+deb13u4 3.2.26-1; do
    status=0
    haproxy "$version" -dW -c -f "$dir/file.cfg" >"$dir/said" 2>&1 || status=$?
    echo "haproxy $version: exit status $status"
    cat "$dir/said"
    case $version in
    3.0.*) [ "$status" = 0 ] ;;
    3.2.*) [ "$status" = 1 ] && grep -q 'is empty and marks the end of the argument list' "$dir/said" ;;
    esac || {
        echo "this has changed" >&2
        exit 1
    }
done
