#!/usr/bin/env bash
# Builds the programs of the client libraries into build/clients, those whose toolchain is here.
# What is missing is said, and its tests are skipped; what does not build is an error.
set -euo pipefail
cd "$(dirname "$0")"
into=$(cd ../.. && pwd)/build/clients
mkdir -p "$into/node" "$into/go" "$into/rust"

has() { # what command...
    local what=$1 command
    shift
    for command in "$@"; do
        command -v "$command" >/dev/null || {
            echo "skipped: $what, for $command is not installed (shared/scripts/deps.sh clients)"
            return 1
        }
    done
}

has_package() { # what pkg-config's name
    pkg-config --exists "$2" || {
        echo "skipped: $1, for $2 is not installed (shared/scripts/deps.sh clients)"
        return 1
    }
}

if [[ ! python/requirements.txt -ot $into/venv/stamp ]]; then
    rm -rf "$into/venv"
    python3 -m venv "$into/venv"
    "$into/venv/bin/pip" install -q --disable-pip-version-check -r python/requirements.txt
    touch "$into/venv/stamp"
fi

if has "ws, undici" node npm; then
    cp node/*.js node/*.json "$into/node"
    [[ node/package-lock.json -ot $into/node/node_modules/.package-lock.json ]] ||
        (cd "$into/node" && npm ci --no-audit --no-fund --loglevel=error >/dev/null)
fi

if has "gorilla/websocket, coder/websocket" go; then
    (cd go && go build -o "$into/go/" ./gorilla ./coder)
fi

if has "tungstenite" cargo; then
    cargo build -q --release --locked --manifest-path rust/Cargo.toml --target-dir "$into/rust"
fi

if has "Java-WebSocket, java.net.http, OkHttp" javac mvn; then
    mvn -q -B -f java/pom.xml compile
fi

if has_package libwebsockets libwebsockets; then
    # shellcheck disable=SC2046 # words
    cc -std=c17 -D_GNU_SOURCE -O1 -o "$into/libwebsockets" c/libwebsockets.c \
        $(pkg-config --cflags --libs libwebsockets)
fi
if [[ ! -e /usr/include/wslay/wslay.h ]]; then
    echo "skipped: wslay, for libwslay-dev is not installed (shared/scripts/deps.sh clients)"
else
    cc -std=c17 -D_GNU_SOURCE -O1 -o "$into/wslay" c/wslay.c -lwslay
fi
if has "Qt 5" c++ && has_package "Qt 5" Qt5WebSockets; then
    # shellcheck disable=SC2046
    c++ -std=c++17 -O1 -fPIC -o "$into/qt" cpp/qt.cpp $(pkg-config --cflags --libs Qt5WebSockets)
fi
for file in ruby:/usr/lib/ruby/vendor_ruby/faye/websocket.rb lua5.1:/usr/share/lua/5.1/http/websocket.lua; do
    if has "${file#*:}" "${file%%:*}" && [[ ! -e ${file#*:} ]]; then
        echo "skipped: ${file#*:} is not here (shared/scripts/deps.sh clients)"
    fi
done
