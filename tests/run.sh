#!/usr/bin/env bash
# Runs parts of the tests, one after the other, and closes with one total:
#
#     tests/run.sh [lint] [config] [unit] [e2e] [chaos] [smoke] [images] [deb] [ansible] [clients]
#                  (lint, config, unit, e2e and smoke when none is named)
#
# `make test` and its relatives build first and then call this. A failing part does not keep the
# next one from running. Exit 1 when a test failed or a part found nothing to run.
#
#   HLCHAT_BUILD   the build under test: build (default) or build/sanitize
#   PYTEST         more arguments for pytest: PYTEST="-k history" (quotes work as in a shell)
#   PYTEST_WORKERS how many end-to-end tests run at once (default: four for each core, as most of
#                  them wait most of the time)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

export HLCHAT_BUILD="${HLCHAT_BUILD:-build}"
# The Python tools serve every build, so they are not below build/sanitize.
PATH="$PWD/build/venv/bin:$PATH"
# A sanitizer's finding ends the program; without these UBSan would only mention it.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1:quarantine_size_mb=16}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"

cores=$(nproc)
workers=${PYTEST_WORKERS:-$((4 * cores))}
passed=0 failed=0 skipped=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

count() { # passed failed skipped
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# One command is one test: quiet when it passes, its name and output when it does not.
one_test() { # name command...
    local name=$1
    shift
    if "$@" >"$scratch/output" 2>&1; then
        echo "ok $name"
        count 1 0 0
    else
        echo "not ok $name"
        sed 's/^/    /' "$scratch/output"
        count 0 1 0
    fi
}

# lint ---------------------------------------------------------------------------------------------

# Files git knows (or would, once they are added) that match the patterns.
sources() {
    git ls-files --cached --others --exclude-standard -- "$@" | sort -u | while read -r file; do
        [[ -f $file ]] && echo "$file"
    done
}

c_format() {
    sources '*.c' '*.h' | xargs -d '\n' -n 20 -P "$cores" clang-format --dry-run -Werror
}

# Scripts are found by their first line, whatever they are called.
shell_check() {
    sources . | xargs -d '\n' awk 'FNR == 1 && /^#!.*sh( |$)/ { print FILENAME } { nextfile }' |
        xargs -d '\n' -n 2 -P "$cores" shellcheck
}

# Each of these has a form that knows how large its buffer is, or reports what it could not read.
banned_calls() {
    ! sources '*.c' '*.h' | xargs -d '\n' grep -nHE \
        '\<(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|strtok)[[:space:]]*\('
}

# Our header takes away what cmocka 2 has otherwise than cmocka 1.
own_cmocka() {
    ! sources 'tests/unit/test_*.c' | xargs -d '\n' grep -nH '<cmocka.h>'
}

run_lint() {
    one_test "lint: C is formatted (make format)" c_format
    one_test "lint: no banned C calls" banned_calls
    one_test "lint: unit tests include tests/unit/cmocka.h" own_cmocka
    one_test "lint: shellcheck" shell_check
    one_test "lint: ruff check" ruff check --quiet tests
    one_test "lint: Python is formatted (make format)" ruff format --quiet --check tests
}

# config: configurations, as the programs that read them see them ----------------------------------

# In Ansible's folder, which has its settings; what it leaves at home stays below build.
with_ansible() { # command...
    local home=$PWD/build/ansible
    env -C ansible HOME="$home" PATH="$home/venv/bin:$PATH" LC_ALL=C.UTF-8 NO_COLOR=1 "$@"
}

run_config() {
    local inventory
    one_test "config: ansible-lint" with_ansible ansible-lint --offline --profile production -q
    for inventory in ansible/inventories/*; do
        one_test "config: ansible-playbook --syntax-check with ${inventory#ansible/}" with_ansible \
            ansible-playbook --syntax-check -i "${inventory#ansible/}" site.yml
    done
    run_pytest config tests/config -n "$workers" --dist loadscope
}

# unit ---------------------------------------------------------------------------------------------

# cmocka tells what passed on stdout and the rest on stderr; together they would tear lines.
unit_program() { # name
    CMOCKA_MESSAGE_OUTPUT=stdout "$HLCHAT_BUILD/unit/$1" >"$scratch/$1.stdout" 2>"$scratch/$1.stderr"
    echo $? >"$scratch/$1.status"
}

# The numbers cmocka's summary gives for FAILED or SKIPPED, one line for each group of tests.
cmocka_sum() { # word file
    sed -nE "s/^ *([0-9]+) $1 TEST\(S\).*/\1/p" "$2" | awk '{ n += $1 } END { print n + 0 }'
}

unit_result() { # name
    local name=$1 stdout=$scratch/$1.stdout stderr=$scratch/$1.stderr status ok bad skip
    status=$(<"$scratch/$name.status")
    ok=$(grep -c '^\[ *OK \]' "$stdout")
    bad=$(cmocka_sum FAILED "$stderr")
    skip=$(cmocka_sum SKIPPED "$stderr")
    # Crashed, found by a sanitizer, not built, or without a single test.
    if ((bad == 0 && (status != 0 || ok + skip == 0))); then
        echo "exit status $status, $ok tests passed" >>"$stderr"
        bad=1
    fi
    if ((bad > 0)); then
        echo "not ok unit: $name"
        sed 's/^/    /' "$stdout" "$stderr"
    else
        echo "ok unit: $name ($ok tests)"
        grep '^\[ *SKIPPED *\]' "$stdout" | sed 's/^/    /'
    fi
    count "$ok" "$bad" "$skip"
}

run_unit() {
    local source name names=() running=0
    # By source, so that what an older build left behind is not run.
    for source in tests/unit/test_*.c; do
        [[ -f $source ]] && names+=("$(basename "$source" .c)")
    done
    # As many at once as there are cores; told in their order.
    for name in "${names[@]}"; do
        ((running++ < cores)) || wait -n
        unit_program "$name" &
    done
    wait
    for name in "${names[@]}"; do
        unit_result "$name"
    done
    for source in tests/fuzz/fuzz_*.c; do
        name=$(basename "$source" .c)
        one_test "unit: seeds of $name" "$HLCHAT_BUILD/fuzz/$name" tests/fuzz/seeds/"$name"/*
    done
}

# e2e ----------------------------------------------------------------------------------------------

# The quick ones of the chaos tests and of the client libraries are among them, and those of `make bench`.
run_e2e() {
    run_pytest e2e tests/e2e tests/chaos tests/bench tests/clients -n "$workers" --dist loadgroup --no-loadscope-reorder \
        -m "not long"
}

# chaos: one at a time, because it measures how long things take.
run_chaos() {
    run_pytest chaos tests/chaos
}

# images: with the engine of tests/images/engine.sh (make test-images).
run_images() {
    run_pytest images tests/images -s
}

# deb: the packages, on machines that it boots.
run_deb() {
    run_pytest deb tests/deb
}

# ansible: the playbook, on such machines.
run_ansible() {
    run_pytest ansible tests/ansible -s
}

# clients: all client libraries whose programs tests/clients/build.sh could build.
run_clients() {
    run_pytest clients tests/clients
}

run_pytest() { # name arguments...
    local report=$HLCHAT_BUILD/$1.xml args=() counts
    shift
    [[ -n ${PYTEST:-} ]] && mapfile -t args < <(xargs -n 1 printf '%s\n' <<<"$PYTEST")
    rm -f "$report"
    pytest --junit-xml "$report" "$@" "${args[@]}"
    counts=$(python3 - "$report" <<'PYTHON'
import sys
import xml.etree.ElementTree as xml

try:
    suites = list(xml.parse(sys.argv[1]).getroot().iter("testsuite"))
except (OSError, xml.ParseError):
    suites = None
if suites is None:
    print("0 1 0")
else:
    total = {k: sum(int(s.get(k)) for s in suites) for k in ("tests", "failures", "errors", "skipped")}
    failed = total["failures"] + total["errors"]
    print(total["tests"] - failed - total["skipped"], failed, total["skipped"])
PYTHON
    )
    # shellcheck disable=SC2086 # three numbers
    count $counts
}

# smoke --------------------------------------------------------------------------------------------

run_smoke() {
    local output=$scratch/smoke status ok bad skip
    tests/smoke/smoke.sh 2>&1 | tee "$output"
    status=$?
    skip=$(grep -ciE '^ok .*# skip' "$output")
    ok=$(($(grep -cE '^ok( |$)' "$output") - skip))
    bad=$(grep -cE '^not ok( |$)' "$output")
    if ((status != 0 && bad == 0)); then
        echo "not ok smoke: exit status $status"
        bad=1
    fi
    count "$ok" "$bad" "$skip"
}

# --------------------------------------------------------------------------------------------------

(($# > 0)) || set -- lint config unit e2e smoke
for part in "$@"; do
    case $part in
    lint | config | unit | e2e | chaos | smoke | images | deb | ansible | clients) ;;
    *)
        echo "usage: tests/run.sh [lint] [config] [unit] [e2e] [chaos] [smoke] [images] [deb] [ansible] [clients]" >&2
        exit 2
        ;;
    esac
done
for part in "$@"; do
    echo "== $part"
    before=$((passed + failed + skipped))
    "run_$part"
    if ((passed + failed + skipped == before)); then
        echo "not ok $part: no test ran"
        count 0 1 0
    fi
done
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
