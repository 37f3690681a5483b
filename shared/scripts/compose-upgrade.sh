#!/usr/bin/env bash
# Replaces each api-fcgi and each broker of the chat of compose.yaml by a container of the images
# and settings of now, one at a time, while people talk (docs/containers.md). The new one comes
# first; once HAProxy leads to it an old one is stopped, which sends its clients away.
#
# Exit 1: one line says why. A new container that HAProxy does not lead to is removed, after its
# last lines; old ones that are left go on. Run it again: it begins anew.
#
#   COMPOSE   docker compose, or docker-compose; may be set
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "compose-upgrade: $*" >&2
    exit 1
}

read -ra compose <<<"${COMPOSE-}"
if ((${#compose[@]} == 0)); then
    compose=(docker-compose)
    ! docker compose version >/dev/null 2>&1 || compose=(docker compose)
fi
haproxy=$("${compose[@]}" ps -q haproxy)
[[ $haproxy ]] || fail "no HAProxy runs: docker compose up -d"
project=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.project"}}' "$haproxy")

containers() { # service
    docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1"
}

servers() { # backend: how many HAProxy leads to
    # shellcheck disable=SC2016 # for the inner shell
    docker exec "$haproxy" bash -c 'exec 3<>/dev/tcp/127.0.0.1/8404 &&
        printf "GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n" >&3 && cat <&3' |
        sed -n "s/^haproxy_backend_active_servers{proxy=\"$1\"} //p"
}

wait_for_servers() { # backend count [new container]
    local deadline=$((SECONDS + 60)) hold=0 since=
    # HAProxy takes one that it has just found for up, until it has been asked.
    [[ -z ${3-} ]] || hold=5
    while true; do
        if [[ $(servers "$1") = "$2" ]]; then
            since=${since:-$SECONDS}
            ((SECONDS - since < hold)) || return 0
        else
            since=
        fi
        ((SECONDS < deadline)) || return 1
        # It ends, and is started again, and again.
        [[ -z ${3-} || $(docker inspect --format '{{.RestartCount}}' "$3") = 0 ]] || return 1
        sleep 0.3
    done
}

replace_all() { # service backend
    local service=$1 backend=$2 old count before new id
    mapfile -t old < <(containers "$service")
    count=${#old[@]}
    for id in "${old[@]}"; do
        wait_for_servers "$backend" "$count" ||
            fail "HAProxy leads to $(servers "$backend") of $count $service: see to that first"
        before=$(containers "$service")
        "${compose[@]}" up -d --no-deps --no-recreate --scale "$service=$((count + 1))" "$service"
        new=$(containers "$service" | grep -vxF "$before") || fail "there is no new $service"
        if ! wait_for_servers "$backend" $((count + 1)) "$new"; then
            docker logs --tail 5 "$new" >&2
            docker rm --force "$new" >/dev/null
            fail "HAProxy does not come to lead to the new $service, whose last lines are above"
        fi
        docker stop "$id" >/dev/null # it has stop_grace_period
        docker rm "$id" >/dev/null
    done
}

replace_all api-fcgi api
replace_all ws-broker brokers_ready
