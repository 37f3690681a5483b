#!/usr/bin/env bash
# Makes a Debian root, to build or test in: debian-root.sh 12|13|sid DIR [PACKAGE...]
#
# Does nothing when DIR is one with these packages already. The mirror, and what it takes to reach it, are those of
# this machine's apt. Needs root, and the packages of `deps.sh root`.
set -euo pipefail

fail() {
    echo "debian-root: $*" >&2
    exit 1
}

case ${1-} in
12) suite=bookworm ;;
13) suite=trixie ;;
sid) suite=sid ;;
*) fail "Debian '${1-}' is not known (12, 13, sid)" ;;
esac
dir=${2:?}
shift 2
made_of=$suite\ $*
[[ ! -e $dir.made || $(<"$dir.made") != "$made_of" ]] || exit 0
[ "$(id -u)" = 0 ] || fail "a Debian root can only be made by root"

mirror=$("${BASH_SOURCE%/*}/debian-mirror.sh")
proxy=$(apt-config shell proxy Acquire::http::Proxy | sed "s/^proxy='\(.*\)'$/\1/")
[ -z "$proxy" ] || export http_proxy=$proxy

in_root() { # command...
    systemd-nspawn --quiet --register=no --keep-unit --pipe --directory="$dir" \
        --setenv=DEBIAN_FRONTEND=noninteractive "$@" </dev/null
}
quietly() { # command...
    "$@" >>"$dir.log" 2>&1 || {
        tail -n 15 "$dir.log" >&2
        fail "'$*' failed (its last lines are above)"
    }
}

echo "making a root of Debian $suite in $dir"
rm -rf "$dir" "$dir.made" "$dir.log"
mkdir -p "$dir"
PATH=$PATH:/usr/sbin:/sbin
quietly debootstrap --variant=minbase "$suite" "$dir" "$mirror"
apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' >"$dir/etc/apt/apt.conf.d/00host" || true
quietly in_root apt-get -q update
quietly in_root apt-get -q -y --no-install-recommends install "$@"
echo "$made_of" >"$dir.made"
