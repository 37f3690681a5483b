#!/usr/bin/env bash
# The packages that the test installs, into build/ansible/debs: of the last commit in its version, in
# a higher one (+next), and in one whose broker cannot start (+next.broken).
#   DEBIAN   12 or 13; this machine's when not set
set -euo pipefail
cd "$(dirname "$0")/../.."
debs=build/ansible/debs
release=${DEBIAN:-$(sed -n 's/^VERSION_ID="\?\([0-9]*\).*/\1/p' /etc/os-release)}
made_of="$(git rev-parse HEAD) for $release"
[[ ! -e $debs/made-of || $(<"$debs/made-of") != "$made_of" ]] || exit 0
rm -rf "$debs"
mkdir -p "$debs"
version=$(<VERSION)

for built in "$version" "$version+next"; do
    DEB_VERSION=$built shared/scripts/deb.sh "$release"
    cp build/deb/*_"$built"-*deb"$release"_*.deb "$debs"
done
rm build/deb/*_"$version+next"-*.deb

for deb in "$debs"/*_"$version+next"-*.deb; do
    tree=$(mktemp -d "$debs/tree.XXXXXX")
    dpkg-deb --raw-extract "$deb" "$tree"
    sed -i "s/^Version: $version+next/Version: $version+next.broken/" "$tree/DEBIAN/control"
    if [ -e "$tree/usr/sbin/ws-broker" ]; then
        # Its settings are right, it says.
        printf '#!/bin/sh\ncase "$*" in *--check) ;; *) exit 1 ;; esac\n' >"$tree/usr/sbin/ws-broker"
    fi
    dpkg-deb --root-owner-group --build "$tree" "${deb/+next/+next.broken}" >/dev/null
    rm -rf "$tree"
done
echo "$made_of" >"$debs/made-of"
