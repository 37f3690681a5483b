#!/usr/bin/env bash
# A short conversation with the whole chat, started as users start it, by curl and websocat alone.
# One line `ok` or `not ok` for each check, exit 1 when one failed. Takes less than a second.
#
#     tests/smoke/smoke.sh [URL]
#
# URL: of one that runs already, with HISTORY_LIMIT=5 and RATE_MESSAGES=0 and nothing said yet.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
PATH="$PWD/build/venv/bin:$PATH"

count=0 failures=0
scratch=$(mktemp -d) || exit 1
run_pid=
declare -A say=() hear=() websocats=()

finish() {
    local pid
    [[ -z $run_pid ]] || kill "$run_pid" 2>/dev/null
    for pid in "${websocats[@]}"; do
        kill "$pid" 2>/dev/null
    done
    wait 2>/dev/null
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

# ---- checks --------------------------------------------------------------------------------------

check() { # what command...: passes when the command succeeds; what it prints explains a failure
    local what=$1
    shift
    count=$((count + 1))
    if "$@" >"$scratch/said" 2>&1; then
        echo "ok $count - $what"
    else
        echo "not ok $count - $what"
        sed 's/^/#   /' "$scratch/said"
        failures=$((failures + 1))
        return 1
    fi
}

matches() { # text regex
    [[ $1 =~ ^$2$ ]] || {
        echo "got:      $1"
        echo "expected: $2"
        return 1
    }
}

within() { # seconds command...: polls until the command succeeds
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# ---- clients -------------------------------------------------------------------------------------

# Status, type and body in one line.
ask() { # path curl-option...
    local path=$1
    shift
    curl --silent --noproxy '*' --max-time 30 "$@" --output "$scratch/body" \
        --write-out '%{http_code} %{content_type} ' "$url$path"
    tr '\n' ' ' <"$scratch/body"
}

answers() { # path regex curl-option...
    local path=$1 regex=$2
    shift 2
    matches "$(ask "$path" "$@")" "$regex"
}

join() { # name path websocat-option...: a client that says what is written to ${say[name]}
    local name=$1 path=$2 fd
    shift 2
    mkfifo "$scratch/$name.say" "$scratch/$name.hear"
    websocat --text "$@" - "ws://${url#http://}$path" \
        <"$scratch/$name.say" >"$scratch/$name.hear" 2>"$scratch/$name.err" &
    websocats[$name]=$!
    # Both ends at once: opening does not wait, and no end of file before ours.
    exec {fd}<>"$scratch/$name.say" && say[$name]=$fd
    exec {fd}<>"$scratch/$name.hear" && hear[$name]=$fd
}

says() { # name text
    echo "$2" >&"${say[$1]}"
}

hears() { # name regex: the next frame
    local frame
    read -r -t 30 -u "${hear[$1]}" frame || {
        echo "nothing heard for 30 s"
        cat "$scratch/$1.err"
        return 1
    }
    matches "$frame" "$2"
}

converses() { # name text regex: the answer to a text
    says "$1" "$2"
    hears "$1" "$3"
}

# ---- the stack -----------------------------------------------------------------------------------

is_free() { # port
    ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

start() {
    # Below the ports that outgoing connections take.
    until port=$((RANDOM % 20000 + 10000)) && is_free "$port"; do :; done
    url=http://127.0.0.1:$port
    # As `make run HTTP_PORT=... HISTORY_LIMIT=5 RATE_MESSAGES=0` does.
    mkdir "$scratch/tmp"
    env -u PORT -u MAKELEVEL TMPDIR="$scratch/tmp" HTTP_PORT="$port" HISTORY_LIMIT=5 \
        RATE_MESSAGES=0 shared/scripts/run.sh >"$scratch/run.out" 2>"$scratch/run.err" &
    run_pid=$!
}

is_up() {
    grep -q "$url/" "$scratch/run.out" || ! kill -0 "$run_pid" 2>/dev/null
}
starts() {
    if ! within 30 is_up || ! kill -0 "$run_pid"; then
        tail -n 20 "$scratch/run.err"
        return 1
    fi
}
url=${1-}
if [[ -z $url ]]; then
    start
    check "the chat starts and tells the page's URL" starts || exit 1
fi

error='\{"error":"[^"]+"\}'
version='\{"api":"v'$(<VERSION)'","env":"LOCAL DEV","desc":"Websocket Server C"\}'
check "GET /api" answers /api '200  '
check "GET /api/version" answers /api/version "200 application/json $version"
check "GET / is the page" answers / '200 text/html; charset=utf-8 <!doctype html>.*</html> ?'
check "GET /nothing is 404" answers /nothing "404 application/json $error"
check "POST /api is 405" answers /api "405 application/json $error" --request POST
check "GET /chat without an upgrade is 426" answers /chat "426 application/json $error"

connected='\{"info":"connected"\}'
join anna /chat
join bob '/chat/?from=smoke' --protocol a.habit
check "a message before the login is refused" \
    converses anna '{"action":"message","message":"early"}' "$error"
check "a login" converses anna '{"action":"login","token":"Anna"}' "$connected"
check "a login with a query string and an unknown subprotocol" \
    converses bob '{"action":"login","token":"Bob"}' "$connected"

message() { # token text
    echo '\{"user_id":"dev-'"$1"'","timestamp":[0-9]{10},"message":"'"$2"'","channel":"General","nickname":"'"$1"'"\}'
}
talk() { # name token text
    says "$1" '{"action":"message","message":"'"$3"'","channel":"General"}'
    hears anna "$(message "$2" "$3")" && hears bob "$(message "$2" "$3")"
}
check "both hear Anna" talk anna Anna 'Hello Bob!'
check "both hear Bob" talk bob Bob 'Hi Anna, grüß dich'
check "history, newest first" converses anna '{"action":"history","limit":2}' \
    '\{"history":\['"$(message Bob 'Hi Anna, grüß dich'),$(message Anna 'Hello Bob!')"'\]\}'
check "what is not JSON is an error" converses bob 'hello?' "$error"
check "and the connection stays" talk bob Bob 'still here'

more() {
    local i
    for i in 1 2 3 4 5; do
        talk anna Anna "more $i" || return 1
    done
}
check "five more messages" more
newest=$(for i in 5 4 3 2 1; do printf ',%s' "$(message Anna "more $i")"; done)
check "a setting of the environment reaches the broker: HISTORY_LIMIT=5" \
    converses bob '{"action":"history","limit":100}' '\{"history":\['"${newest#,}"'\]\}'

stops() {
    local status=0
    kill -TERM "$run_pid"
    wait "$run_pid" || status=$?
    run_pid=
    ((status == 0)) || {
        echo "exit status $status"
        tail -n 20 "$scratch/run.err"
        return 1
    }
}
leaves_nothing() {
    local left
    # Every part has our TMPDIR in its environment, or a folder in there in its arguments; [t]: but not
    # this very grep.
    left=$(
        ls -A "$scratch/tmp"
        grep -ls -e "$scratch/[t]mp" /proc/[0-9]*/{environ,cmdline}
    )
    [[ -z $left ]] || {
        echo "left: $left"
        return 1
    }
}
if [[ $run_pid ]]; then
    check "SIGTERM ends it with exit status 0" stops
    check "no process and no file is left" leaves_nothing
    check "the port is free again" is_free "$port"
fi

echo "1..$count"
((failures == 0))
