#!/usr/bin/env bash
# Does what README tells a new user to do, on a machine that has nothing: fresh.sh 12|13|sid
#
# The machine is a new root of that Debian with git, make, gcc and ca-certificates, below build/fresh. The last commit
# is cloned into it; `make run` must answer and stop there, and `make test` must pass. The root is removed afterwards.
# The package clients in the root reach what those of this machine reach: see carry() and environment().
#
#   fresh.sh --can   only says, in one line and by exit status 1, when no root can be made and entered here
#   HTTP_PORT        for `make run` (default 8080): the root shares this machine's network
#   FRESH_TEST       another command than `make test`
#   WERROR, STORE_PROGRAM, PYTEST, PYTEST_WORKERS   as for `make test`
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "fresh: $*" >&2
    exit 1
}

can() {
    [ "$(id -u)" = 0 ] || fail "only root can make a root of Debian"
    shared/scripts/debian-mirror.sh >/dev/null 2>&1 || fail "apt of this machine has no mirror of Debian"
    unshare --mount --pid --ipc --uts --fork true 2>/dev/null || fail "namespaces cannot be made here"
}

can
[[ ${1-} != --can ]] || exit 0
debian=${1-}
[[ $debian =~ ^(12|13|sid)$ ]] || fail "Debian '$debian' is not known (12, 13, sid)"
shared/scripts/deps.sh root

root=$PWD/build/fresh/$debian
mkdir -p build/fresh
exec {lock}>"$root.lock"
flock --nonblock "$lock" || fail "build/fresh/$debian is in use: the same runs already"

nspawn=
finish() {
    trap '' INT TERM HUP
    # (Its PID namespace ends with it.)
    [[ -z $nspawn ]] || { kill -KILL "$nspawn" && wait "$nspawn"; } 2>/dev/null
    rm -rf "$root" "$root.made" "$root.log"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What this machine's package clients are told by their environment.
environment() {
    env | grep -E '^(PIP_[A-Z_]+|(SSL_CERT|GIT_SSL)_[A-Z]+|(REQUESTS|CURL)_CA_BUNDLE|[A-Za-z]+_(proxy|PROXY))=' || true
    env | grep -E '^(WERROR|STORE_PROGRAM|PYTEST|PYTEST_WORKERS|HTTP_PORT)=' || true
}

# What they are told by files: certificates of one's own, pip's files, and those that the environment names.
carry() {
    local path
    local files=(/usr/local/share/ca-certificates /etc/pip.conf "$HOME/.config/pip" "$HOME/.pip")
    while IFS= read -r path; do
        [[ $path = /etc/ssl/certs* ]] || files+=("$path")
    done < <(environment | sed -n 's;^[^=]*=/;/;p')
    for path in "${files[@]}"; do
        [[ ! -e $path ]] || cp -a --parents "$path" "$root"
    done
    in_root update-ca-certificates >"$root.log" 2>&1 || fail "update-ca-certificates failed: $(tail -n 1 "$root.log")"
}

in_root() { # command...
    local variables=() variable
    while IFS= read -r variable; do
        variables+=("--setenv=$variable")
    done < <(environment)
    systemd-nspawn --quiet --register=no --keep-unit --as-pid2 --pipe --directory="$root" --chdir="$HOME" \
        --rlimit="NOFILE=$(ulimit -Sn):$(ulimit -Hn)" --setenv=HOME="$HOME" "${variables[@]}" "$@" </dev/null &
    nspawn=$!
    wait "$nspawn"
    nspawn=
}

rm -rf "$root" "$root.made"
shared/scripts/debian-root.sh "$debian" "$root" git make gcc ca-certificates
# As an installer and every container engine write it.
[ -e "$root/etc/hosts" ] || printf '%s\n' '127.0.0.1 localhost' '::1 localhost ip6-localhost' >"$root/etc/hosts"
mkdir -p "$root$HOME"
carry
commit=$(git rev-parse HEAD)
git clone --quiet --no-local . "$root$HOME/hlchat"
git -C "$root$HOME/hlchat" checkout --quiet --detach "$commit"
[ -z "$(git status --porcelain --untracked-files=no)" ] || echo "fresh: what is not committed is not tested" >&2

# shellcheck disable=SC2016 # for the shell in the root
in_root bash -euc '
    cd hlchat
    url=http://127.0.0.1:${HTTP_PORT:-8080}/api/version
    echo "fresh: make run"
    make run >/tmp/run 2>&1 &
    run=$!
    until grep -qs "Ctrl-C stops it" /tmp/run && curl --silent --fail --noproxy "*" "$url"; do
        ((SECONDS < 600)) && kill -0 "$run" 2>/dev/null || { cat /tmp/run; echo "fresh: make run did not come up" >&2; exit 1; }
        sleep 0.2
    done
    echo
    echo "fresh: it answers after $SECONDS s"
    kill "$run"
    wait "$run" || true
    ! curl --silent --noproxy "*" "$url" || { echo "fresh: make run did not stop" >&2; exit 1; }
    echo "fresh: $0"
    exec bash -c "$0"
' "${FRESH_TEST:-make test}"
echo "fresh: Debian $debian passes, after $SECONDS s"
