#!/usr/bin/env bash
# Debian's redis-tools, which has no redis-server, has the whole server: its redis-check-rdb is one when it is called
# redis-server. The kernel goes on naming such a process redis-check-rdb.
#
# Seen with Debian 12's redis-tools and redis-server 5:7.0.15-1~deb12u7. Started by `exec -a redis-server redis-check-rdb`
# it answers PING, its arguments begin with redis-server, and its comm is redis-check-rdb, so `pgrep -x redis-server` and
# `ps -C redis-server` do not find it. Started by the link that the package redis-server has (redis-server ->
# redis-check-rdb) it is the same file, and its comm is redis-server. What helps: look at the arguments.
#
# Needs Debian 12 or later, its apt-get and dpkg-deb, and a mirror that still has this version (bookworm).
set -euo pipefail

dir=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill "$server"
    wait
    rm -rf "$dir"
}
trap finish EXIT
mirror=$(apt-get --print-uris update | sed -nE "s;^'(.*[^/])/+dists/[a-z]+/InRelease'.*;\1;p" | sed -n 1p)
version=5:7.0.15-1~deb12u7

# Both packages with their libraries, into $dir/root.
apt=$dir/apt
mkdir -p "$apt"/{etc/apt/apt.conf.d,etc/apt/preferences.d,var/lib/{dpkg,apt/lists/partial},var/cache/apt/archives/partial} "$dir/root"
touch "$apt/var/lib/dpkg/status"
apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' >"$apt/etc/apt/apt.conf.d/00host" || true
printf 'Dir "%s";\nDir::State::status "%s";\nAPT::Sandbox::User "root";\n' "$apt" "$apt/var/lib/dpkg/status" >"$apt/apt.conf"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >"$apt/etc/apt/sources.list"
export APT_CONFIG=$apt/apt.conf
apt-get -qq update
apt-get -qq -y --no-install-recommends --download-only install "redis-server=$version" "redis-tools=$version" >/dev/null
rm -f "$apt"/var/cache/apt/archives/libc6_*.deb # this machine's own, which is not older
for deb in "$apt"/var/cache/apt/archives/{redis,lib}*.deb; do
    dpkg-deb --extract "$deb" "$dir/root"
done
bin=$dir/root/usr/bin
libraries=$(find "$dir/root" -name 'lib*.so*' -printf '%h\n' | sort -u | paste -sd:)

try_as() { # comm-that-is-expected program
    local comm arguments deadline=$((SECONDS + 20))
    # In a shell of its own, so that nobody's libraries but the server's are others.
    (
        export LD_LIBRARY_PATH=$libraries
        exec -a redis-server "$2" --port 0 --unixsocket "$dir/socket" --save ''
    ) >"$dir/log" &
    server=$!
    until [ "$(LD_LIBRARY_PATH=$libraries "$bin/redis-cli" -s "$dir/socket" PING 2>&1)" = PONG ]; do
        ((SECONDS < deadline)) || { cat "$dir/log" && exit 1; }
        sleep 0.1
    done
    comm=$(<"/proc/$server/comm")
    arguments=$(tr '\0' ' ' <"/proc/$server/cmdline")
    kill "$server"
    wait "$server" || true
    server=
    echo "${2##*/}: comm $comm, arguments '${arguments%% *} ...', answers PING"
    [[ $comm = "$1" && $arguments = redis-server\ * ]] || {
        echo "this has changed" >&2
        exit 1
    }
}

[ "$(readlink "$bin/redis-server")" = redis-check-rdb ] || {
    echo "this has changed: redis-server is no link to redis-check-rdb" >&2
    exit 1
}
try_as redis-server "$bin/redis-server"
rm "$bin/redis-server" # now all that is left is of redis-tools
try_as redis-check-rdb "$bin/redis-check-rdb"
