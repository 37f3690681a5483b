#!/usr/bin/env bash
# Builds the Debian packages of the last commit: deb.sh [12|13 [FOLDER]], into build/deb when no other is named.
#
# For this machine's Debian; for the other one in a root of it, below build/root, which needs root.
#   DEB_VERSION   another version than that in the file VERSION, to try an upgrade
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "deb: $*" >&2
    exit 1
}

here=$(sed -n 's/^VERSION_ID="\?\([0-9]*\).*/\1/p' /etc/os-release)
release=${1:-$here}
folder=${2:-build/deb}
version=${DEB_VERSION:-$(<VERSION)}
[[ $version =~ ^[0-9][0-9A-Za-z.+~]*$ ]] || fail "DEB_VERSION=$version is not a version of Debian's"
[ -z "$(git status --porcelain --untracked-files=no)" ] || echo "deb: what is not committed is not in the packages" >&2

mkdir -p "$folder"
work=$(mktemp -d "$PWD/build/deb-work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/hlchat"
git archive HEAD | tar -x -C "$work/hlchat"
echo "$version" >"$work/hlchat/VERSION"
cat >"$work/hlchat/debian/changelog" <<TEXT
hlchat ($version-1~deb$release) stable; urgency=medium

  * What is new tells changelog.gz beside this.

 -- $(sed -n 's/^Maintainer: //p' debian/control)  $(git log -1 --format=%cd --date=rfc2822)
TEXT

build() { # command...: runs a command in the exported tree
    if [ "$release" = "$here" ]; then
        (cd "$work/hlchat" && "$@")
    else
        systemd-nspawn --quiet --register=no --keep-unit --pipe --directory="build/root/$release-build" \
            --bind="$work:/build" --chdir=/build/hlchat --setenv=DEBIAN_FRONTEND=noninteractive "$@" </dev/null
    fi
}
quietly() { # command...
    "$@" >"$work/log" 2>&1 || {
        tail -n 30 "$work/log" >&2
        fail "'$*' failed (its last lines are above)"
    }
}

if [ "$release" != "$here" ]; then
    shared/scripts/deps.sh root
    shared/scripts/debian-root.sh "$release" "build/root/$release-build" build-essential debhelper lintian
    quietly build apt-get -q update
    quietly build apt-get -q -y --no-install-recommends build-dep .
fi
echo "building the packages of $version for Debian $release"
quietly build env -u MAKEFLAGS -u MAKELEVEL DEB_BUILD_OPTIONS="noautodbgsym parallel=$(nproc)" \
    dpkg-buildpackage --build=binary --unsigned-source --unsigned-changes
# (What systemd-nspawn has to say is not about the packages.)
build sh -c 'exec lintian --allow-root --fail-on error ../*.changes >../lintian 2>&1' 2>/dev/null || {
    cat "$work/lintian" >&2
    fail "lintian has found errors"
}
cat "$work/lintian"
for file in "$work"/*.deb; do
    mv -f "$file" "$folder"
    echo "$folder/${file##*/}"
done
