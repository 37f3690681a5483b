#!/usr/bin/env bash
# redis-server or valkey-server: what STORE_PROGRAM names, else the first that is installed. Also where that is only Debian's
# redis-tools or valkey-tools: these packages have the program, as redis-check-rdb or valkey-check-rdb, and it goes by
# the name it is called. The packages redis-server and valkey-server would add a service that starts at once, on port
# 6379, which nobody asked for.
set -euo pipefail
case ${STORE_PROGRAM-} in
'') names=(redis-server valkey-server) ;;
redis-server | valkey-server) names=("$STORE_PROGRAM") ;;
*)
    echo "STORE_PROGRAM is '$STORE_PROGRAM': must be redis-server or valkey-server" >&2
    exit 1
    ;;
esac
program=
for name in "${names[@]}"; do
    program=$(command -v "$name" || command -v "${name%server}check-rdb") && break
done
[[ $program ]] || {
    echo "${names[0]} is not installed: make deps" >&2
    exit 1
}
exec -a "$name" "$program" "$@"
