#!/usr/bin/env bash
# Prints the mirror of Debian that this machine's apt uses.
set -euo pipefail

# What an update would fetch: the lists themselves may not be there.
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
mirror=$(apt-get --print-uris update |
    sed -nE "s;^'(.*[^/])/+dists/($codename|oldstable|stable|testing|unstable|sid)/InRelease'.*;\1;p" | sed -n 1p)
[ -n "$mirror" ] || {
    echo "debian-mirror: apt of this machine has no mirror of Debian $codename" >&2
    exit 1
}
echo "$mirror"
