#!/usr/bin/env bash
# The packages that the test installs, into build/ansible/debs: of the last commit in its version, in
# a higher one (+next), and in one whose broker cannot start (+broken).
set -euo pipefail
cd "$(dirname "$0")/../.."
debs=build/ansible/debs
commit=$(git rev-parse HEAD)
[[ ! -e $debs/commit || $(<"$debs/commit") != "$commit" ]] || exit 0
rm -rf "$debs"
mkdir -p "$debs"
version=$(<VERSION)

for built in "$version" "$version+next"; do
    DEB_VERSION=$built shared/scripts/deb.sh
    mv build/deb/*_"$built"-*.deb "$debs"
done

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
echo "$commit" >"$debs/commit"
