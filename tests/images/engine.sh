#!/usr/bin/env bash
# Runs a command with a Docker engine: engine.sh COMMAND...
#
# The engine is the one that answers already, else one of its own, which ends with the command. It
# needs the images that compose.yaml names; without a registry they are made of Debian packages.
# What was made is removed afterwards (but build/root, which another run can use).
#
# The command finds in its environment, beside what docker wants:
#
#   COMPOSE             docker compose, or docker-compose; may be set
#   COMPOSE_FILE        compose.yaml, and what this engine needs beside it
#   BASE, REDIS_IMAGE   as compose.yaml takes them; may be set
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

sudo=()
[[ $(id -u) = 0 ]] || sudo=(sudo)
folder=build/images # of an engine of our own: some gigabytes for a while
run='' pid='' made=()
unset COMPOSE_PROJECT_NAME COMPOSE_PROFILES
export COMPOSE_FILE=compose.yaml

fail() {
    echo "engine: $*" >&2
    exit 1
}

finish() {
    local status=$?
    trap '' INT TERM HUP
    set +e
    ((${#made[@]} == 0)) || docker image rm --force "${made[@]}" >/dev/null
    if [[ $pid ]]; then
        "${sudo[@]}" kill "$pid"
        wait "$pid"
        # The machine's own network, which it had used as a container's.
        "${sudo[@]}" umount "$run/exec/netns/default" 2>/dev/null
        "${sudo[@]}" rm -rf "$folder/engine" "$run"
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

# ---- the engine ----------------------------------------------------------------------------------

# Whether images may share files here: the alternative copies the whole image for each step.
has_overlay() {
    local work=$folder/engine/overlay missing=1
    "${sudo[@]}" mkdir -p "$work"/{lower,upper,work,merged}
    if "${sudo[@]}" mount -t overlay overlay "$work/merged" \
        -o "lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/work" 2>/dev/null; then
        "${sudo[@]}" umount "$work/merged"
        missing=0
    fi
    "${sudo[@]}" rm -rf "$work"
    return "$missing"
}

start() {
    local driver=vfs
    run=$(mktemp -d "${TMPDIR:-/tmp}/hlchat-engine.XXXXXX")
    mkdir -p "$folder"
    "${sudo[@]}" rm -rf "$folder/engine"
    ! has_overlay || driver=overlay2
    echo "engine: no Docker engine answers, so dockerd is started for a while ($driver)"
    # No rule of the machine's firewall is changed. Networks of containers work without; they lead
    # nowhere else, so images are built in the machine's own.
    "${sudo[@]}" setpriv --pdeathsig TERM dockerd --group "$(id -gn)" \
        --host "unix://$run/docker.sock" --pidfile "$run/docker.pid" --exec-root "$run/exec" \
        --data-root "$PWD/$folder/engine" --storage-driver "$driver" \
        --bridge=none --iptables=false --ip6tables=false --ip-forward=false \
        >"$folder/dockerd.log" 2>&1 &
    pid=$!
    export DOCKER_HOST=unix://$run/docker.sock
    local deadline=$((SECONDS + 60))
    until docker info >/dev/null 2>&1; do
        if ! kill -0 "$pid" 2>/dev/null || ((SECONDS >= deadline)); then
            tail -n 5 "$folder/dockerd.log" >&2
            fail "dockerd does not start (its last lines are above)"
        fi
        sleep 0.1
    done
    COMPOSE_FILE=compose.yaml:tests/images/build.yaml
}

docker info >/dev/null 2>&1 || start
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
if [[ -z ${COMPOSE-} ]]; then
    COMPOSE=docker-compose
    ! docker compose version >/dev/null 2>&1 || COMPOSE="docker compose"
fi
export COMPOSE

# ---- images that a registry would give -----------------------------------------------------------

is_there() { # image
    docker image inspect "$1" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$1" >/dev/null 2>&1
}

# As Debian's slim images, and able to reach the mirror that this machine uses.
make_base() { # image
    local root=build/root/13-image
    mkdir -p build/root
    "${sudo[@]}" shared/scripts/debian-root.sh 13 "$root"
    "${sudo[@]}" tar -C "$root" -c --exclude './var/cache/apt/*' --exclude './var/lib/apt/lists/*' \
        --exclude './usr/share/doc/*' --exclude './usr/share/info/*' \
        --exclude './usr/share/locale/*' --exclude './usr/share/man/*' . |
        docker import - "$1" >/dev/null
}

if [[ -z ${BASE-} ]]; then
    BASE=debian:trixie-slim
    if ! is_there "$BASE"; then
        echo "engine: no registry gives $BASE, so one is made"
        BASE=hlchat-test-debian
        make_base "$BASE"
        made+=("$BASE")
    fi
fi
if [[ -z ${REDIS_IMAGE-} ]]; then
    REDIS_IMAGE=redis:8
    if ! is_there "$REDIS_IMAGE"; then
        echo "engine: no registry gives $REDIS_IMAGE, so Debian's Redis stands in"
        REDIS_IMAGE=hlchat-test-redis
        docker build --quiet --network host --build-arg BASE="$BASE" \
            --tag "$REDIS_IMAGE" - <tests/images/redis.Dockerfile >"$folder/redis.log" 2>&1 || {
            tail -n 15 "$folder/redis.log" >&2
            fail "the image of Redis cannot be built (its last lines are above)"
        }
        made+=("$REDIS_IMAGE")
    fi
fi
export BASE REDIS_IMAGE

"$@"
