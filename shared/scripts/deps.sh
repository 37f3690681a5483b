#!/usr/bin/env bash
# Installs the Debian packages that a purpose needs: deps.sh build|run|stub|tls|check|test|fuzz|bench|deb|root|ansible|images|clients ...
# Says what it installs; uses sudo when not root. deps.sh --list PURPOSE...: only prints their names.
set -euo pipefail

build=(gcc make pkgconf libc6-dev libwebsockets-dev libuv1-dev libjson-c-dev libcurl4-openssl-dev libssl-dev libfcgi-dev libhiredis-dev uthash-dev)
run=(haproxy curl ca-certificates)
# Not redis-server, which starts a service: see redis-server.sh. Any that is there will do.
redis=()
{ [[ ${1-} != --list ]] && "${BASH_SOURCE%/*}/redis-server.sh" --version >/dev/null 2>&1; } || case ${STORE_PROGRAM-} in
valkey-server) redis=(valkey-tools) ;;
*) redis=(redis-tools) ;;
esac
stub=(python3 openssl) # of the account service: make run IDENTITY=heavenland
tls=(openssl) # make run TLS=1
check=(libcmocka-dev shellcheck git python3 python3-venv)
fuzz=(clang libclang-rt-dev)
bench=(wrk libpcre2-8-0 zlib1g) # nginx with nchan is unpacked, as it would start a service
tests=(chromium chromium-driver dnsmasq-base socat)
deb=(debhelper dpkg-dev fakeroot lintian git)
root=(debootstrap debian-archive-keyring systemd-container) # Debian roots: make test-deb, test-images
ansible=(openssh-client iproute2) # machines to manage: make test-ansible
clients=(libwslay-dev libqt5websockets5-dev ruby ruby-faye-websocket lua5.1 lua-http) # make test-clients
# Toolchains of client libraries, which may be here from elsewhere: command:package.
toolchains=(node:nodejs npm:npm go:golang-go cargo:cargo javac:default-jdk-headless mvn:maven c++:g++)

fail() {
    echo "deps: $*" >&2
    exit 1
}

list=
[[ ${1-} != --list ]] || { list=1 && shift; }
wanted=()
for purpose in "$@"; do
    case $purpose in
    build) wanted+=("${build[@]}") ;;
    run)
        wanted+=("${build[@]}" "${run[@]}")
        # A Redis of its own is started for who names none.
        [[ ${STORE-} != redis || -n ${REDIS_URL-}${REDIS_URL_FILE-} ]] || wanted+=("${redis[@]}")
        ;;
    stub) wanted+=("${stub[@]}") ;;
    tls) wanted+=("${tls[@]}") ;;
    check) wanted+=("${build[@]}" "${check[@]}") ;;
    fuzz) wanted+=("${build[@]}" "${fuzz[@]}") ;;
    test) wanted+=("${build[@]}" "${run[@]}" "${stub[@]}" "${redis[@]}" "${check[@]}" "${tests[@]}") ;;
    bench) wanted+=("${build[@]}" "${run[@]}" "${stub[@]}" "${redis[@]}" "${check[@]}" "${bench[@]}") ;;
    deb) wanted+=("${build[@]}" "${deb[@]}") ;;
    root) wanted+=("${root[@]}") ;;
    ansible) wanted+=("${ansible[@]}") ;;
    images)
        # What is there stays: Docker's own packages and Debian's exclude each other.
        PATH=$PATH:/usr/sbin
        docker info >/dev/null 2>&1 || command -v dockerd >/dev/null || wanted+=(docker.io)
        # Before Debian 13 docker.io is the client, too.
        command -v docker >/dev/null || grep -q '^VERSION_ID="12"' /etc/os-release || wanted+=(docker-cli)
        docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || wanted+=(docker-compose)
        wanted+=("${root[@]}" openssl socat)
        ;;
    clients)
        wanted+=("${clients[@]}")
        for toolchain in "${toolchains[@]}"; do
            command -v "${toolchain%:*}" >/dev/null || wanted+=("${toolchain#*:}")
        done
        ;;
    *) fail "unknown purpose '$purpose' (build, run, stub, tls, check, test, fuzz, bench, deb, root, ansible, images, clients)" ;;
    esac
done

[ -z "$list" ] || { printf '%s\n' "${wanted[@]}" && exit 0; }
command -v dpkg-query >/dev/null || fail "this is not Debian; install by hand: ${wanted[*]}"

missing=()
installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p')
for package in "${wanted[@]}"; do
    grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "not root and no sudo; as root: apt-get install ${missing[*]}"
    sudo=(sudo)
fi
echo "installing from Debian: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt_get() {
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -o DPkg::Lock::Timeout=120 "$@" </dev/null >"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        return 1
    }
}
# Old lists may do, where one of the machine's sources is out of order.
apt_get update || echo "deps: apt-get update failed (its last lines are above), going on" >&2
apt_get install -y --no-install-recommends "${missing[@]}" ||
    fail "apt-get install failed (its last lines are above); missing: ${missing[*]}"
