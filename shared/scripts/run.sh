#!/usr/bin/env bash
# Runs the whole chat as one foreground job: api-fcgi, BROKERS ws-brokers and HAProxy. This is what
# `make run` starts when all is built. Settings reach every part through the environment.
#
# STORE=redis without a REDIS_URL: also a Redis of its own, whose chat is gone when it ends. With
# STORE_PROGRAM=valkey-server it is a Valkey.
# IDENTITY=heavenland without HEAVENLAND_API_URL adds a stub of the account service, on STUB_PORT
# (default: the port after HTTP_PORT).
# TLS=1 without a TLS_CERT: HTTPS on HTTPS_PORT (8443) with a certificate that signs itself.
#
# Ctrl-C or SIGTERM stops all parts, the players' side first: exit 0. A part that dies takes the
# others along: exit 1. Nothing stays behind in either case.
#
# The parts listen on unix sockets in a folder of their own, so chats on different ports run side
# by side. Each has a session of its own, so Ctrl-C reaches this script alone, and the kernel kills
# them when this script is killed.
set -euo pipefail

# The same for us when make is killed. (SIGTERM make passes on.)
if [[ -n ${MAKELEVEL-} && ${1-} != --with-parent ]]; then
    exec setpriv --pdeathsig TERM "$0" --with-parent
fi

trap 'exit 0' INT TERM HUP
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin # haproxy is there
build=${HLCHAT_BUILD:-build}
brokers=${BROKERS:-1}
bind=${HTTP_BIND:-127.0.0.1}
port=${PORT:-${HTTP_PORT:-8080}}
https_port=${HTTPS_PORT:-8443}
stub= # address:port of the stub of the account service, when there is one

fail() {
    echo "run: $*" >&2
    exit 1
}

is_port() { # text
    [[ $1 =~ ^[1-9][0-9]{0,4}$ && $1 -le 65535 ]]
}

is_in_use() { # host port
    # shellcheck disable=SC2016 # for the inner shell
    timeout 1 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null
}

# ---- refusals, before anything is started --------------------------------------------------------

[[ $brokers =~ ^[1-8]$ ]] || fail "BROKERS=$brokers: must be 1 to 8"
is_port "$port" || fail "HTTP_PORT=$port: must be 1 to 65535"
[[ ${TLS-} =~ ^[01]?$ ]] || fail "TLS=$TLS: must be 0 or 1"
is_port "$https_port" || fail "HTTPS_PORT=$https_port: must be 1 to 65535"

# Heavenland's logins want the account service. Without the address of one: a stub of it.
if [[ ${IDENTITY-} = heavenland && -z ${HEAVENLAND_API_URL-} ]]; then
    stub_port=${STUB_PORT:-$((port < 65535 ? port + 1 : port - 1))}
    is_port "$stub_port" || fail "STUB_PORT=$stub_port: must be 1 to 65535"
    ! is_in_use 127.0.0.1 "$stub_port" ||
        fail "port $stub_port is in use; choose another one for the account stub: STUB_PORT=18081"
    { command -v python3 && command -v openssl; } >/dev/null || shared/scripts/deps.sh stub
    stub=127.0.0.1:$stub_port
    export HEAVENLAND_API_URL=http://$stub
    if [[ -z ${JWT_PUBLIC_KEY_FILE-}${JWKS_URL-} ]]; then
        python3 tests/stub/account_api.py --make-key
        export JWT_PUBLIC_KEY_FILE=build/account-stub/public.pem
    fi
fi

command -v haproxy >/dev/null || fail "haproxy is not installed: make deps"
for program in "$build/api-fcgi" "$build/ws-broker"; do
    [[ -x $program ]] || fail "$program is not there: build it with make"
    "$program" --check >/dev/null # says itself what is wrong
done

config=$("$build/ws-broker" --print-config)
setting() { # NAME: its value, wherever it comes from
    sed -n "s/^$1=//p" <<<"$config"
}
if [[ $(setting STORE) = memory && $brokers -gt 1 ]]; then
    fail "STORE=memory is one broker's own: BROKERS=$brokers would be $brokers separate chats"
fi
private_redis=
if [[ $(setting STORE) = redis && -z ${REDIS_URL-}${REDIS_URL_FILE-} ]]; then
    private_redis=1
    shared/scripts/redis-server.sh --version >/dev/null # says itself what is wrong
fi

# Where to reach what listens on $bind.
case $bind in
0.0.0.0 | '*') host=127.0.0.1 ;;
::) host=::1 ;;
*) host=$bind ;;
esac
name=$host
[[ $host != *:* ]] || name="[$host]"
url=http://$name:$port

! is_in_use "$host" "$port" ||
    fail "port $port is in use; choose another one: make run HTTP_PORT=18080"

curl_tls=() websocat_tls=()
if [[ ${TLS-} = 1 || -n ${TLS_CERT-} ]]; then
    url=https://$name:$https_port
    { ((port != https_port)) && ! is_in_use "$host" "$https_port"; } ||
        fail "port $https_port is in use; choose another one: make run TLS=1 HTTPS_PORT=18443"
    curl_tls=(--insecure) websocat_tls=(--insecure)
    # Browsers would insist on HTTPS for all that runs on this machine.
    export HSTS_MAX_AGE=${HSTS_MAX_AGE:-0}
fi
if [[ ${TLS-} = 1 && -z ${TLS_CERT-} ]]; then
    command -v openssl >/dev/null || shared/scripts/deps.sh tls
    export TLS_CERT=$build/run/localhost.pem
    curl_tls=(--cacert "$TLS_CERT")
    mkdir -p "$build/run"
    # Of two runs at once one makes it.
    exec {lock}>"$build/run/lock"
    flock "$lock"
    if ! openssl x509 -in "$TLS_CERT" -noout -checkend 86400 >/dev/null 2>&1; then
        (umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
            -days 365 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1 \
            -keyout - >"$TLS_CERT.new" 2>/dev/null) || fail "openssl cannot make a certificate"
        mv "$TLS_CERT.new" "$TLS_CERT"
    fi
    exec {lock}>&-
fi

# ---- parts ---------------------------------------------------------------------------------------

declare -A pids=() loggers=()
tick= # what the end of this file waits for

start() { # name command...
    local name=$1
    shift
    mkfifo "$dir/$name.pipe"
    # Lines go to the terminal as they come, each in one write; the last ones are kept for end_of().
    # shellcheck disable=SC2016 # for the inner shell
    setsid bash -c '
        { while IFS= read -r line || [[ -n $line ]]; do
            printf "%s | %s\n" "$0" "$line" >&3
            printf "%s | %s\n" "$0" "$line"
        done | tail -n 5 >"$1"; } 3>&2' \
        "$name" "$dir/$name.last" <"$dir/$name.pipe" &
    loggers[$name]=$!
    setsid setpriv --pdeathsig KILL "$@" </dev/null >"$dir/$name.pipe" 2>&1 &
    pids[$name]=$!
}

is_alive() { # name
    kill -0 "${pids[$1]}" 2>/dev/null
}

# How a part ended that should not have.
end_of() { # name
    local status=0 how
    wait "${pids[$1]}" || status=$?
    wait "${loggers[$1]}" || true
    how="ended with status $status"
    ((status <= 128)) || how="was killed by SIG$(kill -l "$status")"
    # In one write, as the other parts have their word meanwhile.
    { echo "run: $1 $how; its last lines:" && cat "$dir/$1.last"; } >"$dir/$1.end"
    cat "$dir/$1.end" >&2
}

require_all_alive() {
    local name
    for name in "${!pids[@]}"; do
        if ! is_alive "$name"; then
            end_of "$name"
            unset "pids[$name]"
            exit 1
        fi
    done
}

wait_for() { # what command...
    local what=$1 deadline=$((SECONDS + 20))
    shift
    until "$@"; do
        require_all_alive
        ((SECONDS < deadline)) || fail "$what is not ready within 20 s"
        sleep 0.02
    done
}

stop() { # name...: all of them at once
    local name status deadline=$((SECONDS + 15))
    for name in "$@"; do
        kill -TERM "${pids[$name]}" 2>/dev/null
    done
    for name in "$@"; do
        while is_alive "$name" && ((SECONDS < deadline)); do
            sleep 0.02
        done
        kill -KILL "${pids[$name]}" 2>/dev/null && echo "run: $name did not stop in 15 s" >&2
        wait "${pids[$name]}"
        status=$?
        # By the signal: HAProxy without its master process, or a part that had not come up yet.
        if ((status != 0 && status != 128 + 15)); then
            end_of "$name"
            exit_status=1
        fi
        wait "${loggers[$name]}"
        unset "pids[$name]"
    done
}

finish() {
    exit_status=$?
    local name servers=()
    trap '' INT TERM HUP
    set +e
    [[ -z $tick ]] || kill "$tick" 2>/dev/null
    [[ -z ${pids[haproxy]-} ]] || stop haproxy
    # Nobody talks to the brokers and api-fcgi any more; but a broker finishes what it has accepted.
    for name in "${!pids[@]}"; do
        [[ $name = redis ]] || servers+=("$name")
    done
    stop "${servers[@]}"
    stop "${!pids[@]}"
    rm -rf "$dir"
    exit "$exit_status"
}

umask 077
dir=$(mktemp -d "${TMPDIR:-/tmp}/hlchat-run.XXXXXX")
trap finish EXIT

# ---- start ---------------------------------------------------------------------------------------

broker_is_ready() { # number
    curl --silent --fail --max-time 2 --output /dev/null --unix-socket "$dir/broker$1.sock" \
        http://broker/readyz
}

stub_answers() {
    curl --silent --fail --max-time 2 --noproxy '*' --output /dev/null \
        "http://$stub/.well-known/jwks.json"
}

# As players reach it: the page, the api, and a WebSocket handshake on /chat.
chat_answers() {
    local status=
    local curl=(curl --silent --max-time 2 --noproxy '*' "${curl_tls[@]}")
    "${curl[@]}" --fail --fail-early --output /dev/null "$url/" --output /dev/null "$url/api" ||
        return 1
    # curl waits for more after a 101.
    read -r -t 2 status < <(
        exec "${curl[@]}" --http1.1 --dump-header - "$url/chat" \
            --header 'Connection: Upgrade' --header 'Upgrade: websocket' \
            --header 'Sec-WebSocket-Version: 13' \
            --header 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='
    ) || true
    kill $! 2>/dev/null || true
    [[ $status = 'HTTP/1.1 101 '* ]]
}

if [[ -n $private_redis ]]; then
    # Without a port nobody else finds it; without --save it writes no file.
    start redis shared/scripts/redis-server.sh --port 0 --unixsocket "$dir/redis.sock" \
        --dir "$dir" --save '' --maxmemory-policy noeviction
    wait_for redis test -S "$dir/redis.sock"
    export REDIS_URL="unix://$dir/redis.sock"
fi

if [[ $stub ]]; then
    start account-stub python3 tests/stub/account_api.py --listen "$stub"
    wait_for account-stub stub_answers
fi

# Only the servers started here.
unset {API,BROKER}_{1..8}
export API_1="unix@$dir/api.sock"
start api "$build/api-fcgi" --fcgi-listen "unix:$dir/api.sock"
for ((i = 1; i <= brokers; i++)); do
    export "BROKER_$i=unix@$dir/broker$i.sock"
    start "broker$i" "$build/ws-broker" --listen "unix:$dir/broker$i.sock" \
        --ops-listen "unix:$dir/broker$i-ops.sock"
done
wait_for api test -S "$dir/api.sock"
for ((i = 1; i <= brokers; i++)); do
    wait_for "broker$i" broker_is_ready "$i"
done

# HAProxy comes last: it takes a server that is not there yet for a dead one.
start haproxy env HTTP_BIND="$bind" PORT="$port" PAGE_DIR=haproxy/page RUN_DIR="$dir" \
    HAPROXY_OPS_BIND="${HAPROXY_OPS_BIND:-unix@$dir/haproxy-ops.sock}" \
    haproxy -db -f haproxy/haproxy.cfg
wait_for haproxy test -S "$dir/admin.sock"
wait_for "the chat" chat_answers
# It answers; but is it ours, or one that took the port in the meantime?
require_all_alive

websocat=websocat
[[ ! -x build/venv/bin/websocat ]] || websocat=build/venv/bin/websocat
case $(setting IDENTITY) in
dev) login='"token":"Anna"' ;;
heavenland) login='"username":"hero","password":"password"' ;;
*) login='"token":"..."' ;;
esac
redis_cli=redis-cli
command -v redis-cli >/dev/null || redis_cli=valkey-cli
accounts=
[[ -z $stub ]] || accounts="
  accounts http://$stub is a stub, not the real service: tests/stub/account_api.py --help
  token    make token USER=HL1 NICK=Hero"
cat <<BANNER

  hlchat $(cat VERSION) is up: CHAT_ENV=$(setting CHAT_ENV) STORE=$(setting STORE) IDENTITY=$(setting IDENTITY) BROKERS=$brokers

  page     $url/
  api      curl${curl_tls[*]:+ ${curl_tls[*]}} $url/api/version
  chat     $websocat${websocat_tls[*]:+ ${websocat_tls[*]}} ws${url#http}/chat
             {"action":"login",$login}
             {"action":"message","message":"Hello"}
             {"action":"history","limit":10}
  metrics  curl --unix-socket $dir/broker1-ops.sock http://broker/metrics$accounts
${private_redis:+  redis    $redis_cli -s $dir/redis.sock
             of this run alone: the chat is gone when it ends
}
  Ctrl-C stops it.

BANNER

while :; do
    require_all_alive
    # How a part ended is told above, not by bash. One that ended just now may be no news to `wait`.
    sleep 1 >/dev/null 2>&1 &
    tick=$!
    wait -n "${pids[@]}" "$tick" 2>/dev/null || true
done
