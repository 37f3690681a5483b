#!/usr/bin/env bash
# redis-server, also where only Debian's redis-tools is installed: that package has the program, as
# redis-check-rdb, and it goes by the name it is called. The package redis-server would add a service
# that starts at once, on port 6379, which nobody asked for.
set -euo pipefail
program=$(command -v redis-server || command -v redis-check-rdb) || {
    echo "redis-server is not installed: make deps" >&2
    exit 1
}
exec -a redis-server "$program" "$@"
