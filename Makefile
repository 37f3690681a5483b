# hlchat. `make help` lists the targets; README.md tells the rest.

# What a person may set, on the make line or in the environment ------------------------------------------------------
CC        ?= cc
CFLAGS    ?= -O2 -g
# make SANITIZE=address,undefined builds beside the plain build, under build/sanitize
SANITIZE  ?=
# make WERROR=1 turns warnings into errors, as the gate does
WERROR    ?=

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
# Objects of tests are intermediate to make, which would delete them and build them anew each time.
.SECONDARY:
.DEFAULT_GOAL := all

BUILD   := build$(if $(SANITIZE),/sanitize)
VERSION := $(shell cat VERSION)

PACKAGES := libwebsockets libuv json-c libcurl libcrypto hiredis

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wundef -Wstrict-prototypes -Wmissing-prototypes \
            -Wwrite-strings -Wformat=2 $(if $(WERROR),-Werror)
HARDEN   := -fstack-protector-strong -fPIE $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer,-D_FORTIFY_SOURCE=2)
# Library headers are -isystem: their warnings are not ours to mend.
PKG_CFLAGS := $(patsubst -I%,-isystem %,$(shell pkg-config --cflags $(PACKAGES) 2>/dev/null))
PKG_LIBS   := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)
# Undo what FORTIFY needs (-O) when CFLAGS turns it off: the user's CFLAGS come last and win.
COMPILE   = $(CC) -std=c17 -D_GNU_SOURCE -I. $(PKG_CFLAGS) $(WARNINGS) $(HARDEN) -MMD -MP $(CFLAGS) $(CPPFLAGS)
LINK      = $(CC) -pie -Wl,-z,relro,-z,now -Wl,--as-needed $(if $(SANITIZE),-fsanitize=$(SANITIZE)) $(CFLAGS) $(LDFLAGS)

# What is built ------------------------------------------------------------------------------------------------------
sources = $(filter-out %/main.c,$(wildcard $(1)/*.c))
objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

SHARED_LIB := $(BUILD)/libshared.a
API_LIB    := $(BUILD)/libapi.a
BROKER_LIB := $(BUILD)/libbroker.a
LOAD_LIB   := $(BUILD)/libload.a
PROGRAMS   := $(BUILD)/ws-broker $(BUILD)/api-fcgi
UNIT_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))
FUZZERS    := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
BENCHES    := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(wildcard tests/bench/bench_*.c))
CHATLOAD   := $(BUILD)/bench/chatload
BENCH_PROGRAMS := $(CHATLOAD) $(BUILD)/bench/sendloop

# A target that a person asks for installs first what it needs of Debian, and then makes the rest in a make of its own:
# this one has asked pkg-config already. It uses all cores unless a -j says otherwise.
JOBS = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
define with
@shared/scripts/deps.sh $(1)
@+$(MAKE) --no-print-directory --silent $(JOBS) $(2)
endef

.PHONY: all programs
all: ## install what is missing, build both programs into build/
	@shared/scripts/deps.sh build
	@+$(MAKE) --no-print-directory $(JOBS) programs
programs: $(PROGRAMS)

$(SHARED_LIB): $(call objects,$(call sources,shared))
$(API_LIB): $(call objects,$(call sources,api-fcgi))
$(BROKER_LIB): $(call objects,$(call sources,ws-broker)) $(BUILD)/obj/ws-broker/games.lua.o
$(LOAD_LIB): $(call objects,$(call sources,tests/bench/load))
$(SHARED_LIB) $(API_LIB) $(BROKER_LIB) $(LOAD_LIB):
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/ws-broker: $(call objects,ws-broker/main.c) $(BROKER_LIB) $(SHARED_LIB)
	$(LINK) -o $@ $^ $(PKG_LIBS)
$(BUILD)/api-fcgi: $(call objects,api-fcgi/main.c) $(API_LIB) $(SHARED_LIB)
	$(LINK) -o $@ $^ -lfcgi -pthread

$(BUILD)/unit/%: $(BUILD)/obj/tests/unit/%.o $(BROKER_LIB) $(API_LIB) $(LOAD_LIB) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ -lcmocka $(PKG_LIBS) -lfcgi -lm -pthread
$(CHATLOAD): $(call objects,tests/bench/load/main.c) $(LOAD_LIB) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ -lm
$(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(BROKER_LIB) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ $(PKG_LIBS)

# A fuzz target with a main that replays files: any compiler, any SANITIZE.
$(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(BUILD)/obj/tests/fuzz/replay.o $(BROKER_LIB) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ $(PKG_LIBS)
# The same with libFuzzer's main; only `make fuzz` builds these, with clang.
$(BUILD)/libfuzzer/%: $(BUILD)/obj/tests/fuzz/%.o $(BROKER_LIB) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(LINK) -fsanitize=fuzzer -o $@ $^ $(PKG_LIBS)

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(COMPILE) -c -o $@ $<
# A script as bytes of the program: _binary_ws_broker_games_lua_start and _end.
$(BUILD)/obj/%.lua.o: %.lua Makefile
	@mkdir -p $(@D)
	$(CC) -r -nostdlib -Wl,-b,binary,-z,noexecstack -o $@ $<
$(BUILD)/obj/shared/version.o: VERSION
$(BUILD)/obj/shared/version.o: CPPFLAGS += -DHLCHAT_VERSION='"$(VERSION)"'
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

# Running it ---------------------------------------------------------------------------------------------------------
.PHONY: run
run: ## install what is missing, build, start the whole chat on 127.0.0.1:8080 (HTTP_PORT=, TLS=1, BROKERS=, STORE=, IDENTITY=)
	$(call with,run,programs)
	@exec shared/scripts/run.sh

.PHONY: token
token: export TOKEN_USER = $(if $(filter command,$(origin USER)),$(USER),HL1)
token: ## an access token for the account stub of `make run IDENTITY=heavenland` (USER=HL1 NICK=Hero)
	@python3 tests/stub/account_api.py --token "$$TOKEN_USER" "$$NICK"

# Testing it ---------------------------------------------------------------------------------------------------------
VENV := build/venv
ANSIBLE := build/ansible/venv
# HAProxy of Debian 12, of 13 and of what comes after, whichever this machine is.
HAPROXYS := $(patsubst %,build/haproxy/%/haproxy,2.6 3.0 3.2 3.4)
export HLCHAT_BUILD := $(BUILD)

.PHONY: test
test: ## install what is missing, build, run all tests (lint, configurations, unit, end-to-end, smoke)
	$(call with,test,programs unit-programs $(BENCH_PROGRAMS) $(VENV)/stamp $(ANSIBLE)/stamp $(HAPROXYS))
	@tests/run.sh lint config unit e2e smoke

.PHONY: check
check: ## the quick part of the tests: unit and lint
	$(call with,check,programs unit-programs $(VENV)/stamp)
	@tests/run.sh lint unit

.PHONY: unit unit-programs test-config e2e chaos smoke test-images test-clients lint format
unit: ## only the unit tests
	$(call with,check,unit-programs)
	@tests/run.sh unit
unit-programs: $(UNIT_TESTS) $(addprefix $(BUILD)/fuzz/,$(FUZZERS))
test-config: ## what HAProxy 2.6 to 3.4, Ansible and Redis say of our configurations
	$(call with,test,programs $(VENV)/stamp $(ANSIBLE)/stamp $(HAPROXYS))
	@tests/run.sh config
e2e: ## only the end-to-end tests (PYTEST="-k history" for some)
	$(call with,test,programs $(BENCH_PROGRAMS) $(VENV)/stamp)
	@tests/run.sh e2e
chaos: ## break one thing after the other under load, about 5 minutes
	$(call with,test,programs $(VENV)/stamp)
	@tests/run.sh chaos
smoke: ## only the smoke tests
	$(call with,run check,programs $(VENV)/stamp)
	@tests/run.sh smoke
test-images: ## build the container images and try compose.yaml, about 5 minutes
	$(call with,check images,$(VENV)/stamp)
	@tests/images/engine.sh tests/run.sh images
test-clients: ## client libraries of nine languages, into docs/clients.md, about 5 minutes
	$(call with,test clients,programs $(VENV)/stamp)
	@tests/clients/build.sh
	@tests/run.sh clients
lint: ## formatting, shell, Python and banned calls
	$(call with,check,$(VENV)/stamp)
	@tests/run.sh lint
format: ## format the C and Python sources
	$(call with,check,$(VENV)/stamp)
	$(VENV)/bin/clang-format -i $$(git ls-files '*.c' '*.h')
	$(VENV)/bin/ruff format -q tests

.PHONY: test-fresh test-tomorrow
test-fresh: ## make run and make test in a new root that has nothing (DEBIAN=12, 13 or sid), about 10 minutes: needs root
	@tests/fresh.sh $(or $(DEBIAN),13)
test-tomorrow: ## the same in Debian sid: its HAProxy, libraries and compiler, its Redis and then its Valkey: needs root
	@WERROR=1 FRESH_TEST='make unit test-config e2e && make e2e STORE_PROGRAM=valkey-server PYTEST="-k redis"' tests/fresh.sh sid

$(VENV)/stamp: tests/requirements.txt
	@echo "installing the Python test tools into $(VENV)"
	@rm -rf $(VENV) && python3 -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-virtualenv -r $<
	@touch $@
$(ANSIBLE)/stamp: tests/ansible/requirements.txt
	@echo "installing Ansible into $(ANSIBLE)"
	@rm -rf $(ANSIBLE) && python3 -m venv $(ANSIBLE)
	@$(ANSIBLE)/bin/pip install --quiet --disable-pip-version-check --require-virtualenv -r $<
	@touch $@
build/haproxy/%/haproxy: tests/config/haproxy.sh
	@$< $* $(@D)

# Measuring it -------------------------------------------------------------------------------------------------------
BENCH_SECONDS ?= 2
BENCH         ?= full
.PHONY: bench
bench: ## measure all, against the limit and against others, into docs/benchmarks: 17 minutes (BENCH=quick: 4)
	$(call with,bench,programs $(BENCHES) $(BENCH_PROGRAMS) $(VENV)/stamp)
	@$(VENV)/bin/python tests/bench/compare.py --seconds $(BENCH_SECONDS) $(if $(filter quick,$(BENCH)),--quick)
	@for bench in $(BENCHES); do "$$bench" || exit 1; done
	@for round in 1 2 3; do \
	    out=$$($(VENV)/bin/pytest -q -s -c tests/pyproject.toml tests/e2e/test_login_heavenland.py \
	        -k test_a_thousand_users_at_once 2>&1) || { echo "$$out"; exit 1; }; \
	    echo "$$out" | grep '^1000 logins'; \
	done

# What the fuzzers add to the corpus stays in build/fuzz, and so does what they find (crash-*), ready to become a seed.
FUZZ_SECONDS ?= 30
.PHONY: fuzz fuzz-programs
fuzz-programs: $(addprefix $(BUILD)/libfuzzer/,$(FUZZERS))
fuzz: ## fuzz the parsers with clang, FUZZ_SECONDS=30 each
	@shared/scripts/deps.sh fuzz
	@+$(MAKE) --no-print-directory --silent BUILD=build/fuzz CC=clang CFLAGS="-O1 -g" \
	    SANITIZE=fuzzer-no-link,address,undefined fuzz-programs
	@set -e; for fuzzer in $(FUZZERS); do \
	    mkdir -p build/fuzz/corpus/$$fuzzer; \
	    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 build/fuzz/libfuzzer/$$fuzzer \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -dict=tests/fuzz/$$fuzzer.dict \
	        -artifact_prefix=build/fuzz/$$fuzzer- -print_final_stats=1 -verbosity=0 \
	        build/fuzz/corpus/$$fuzzer tests/fuzz/seeds/$$fuzzer; \
	done

# Packaging it -------------------------------------------------------------------------------------------------------
.PHONY: deb test-deb
deb: ## Debian packages of the last commit, into build/deb (DEBIAN=12 or 13: for another one than this machine's)
	@shared/scripts/deps.sh deb
	@shared/scripts/deb.sh $(DEBIAN)
test-deb: ## install, upgrade, remove the packages on fresh Debian 12 and 13 machines, which it boots: needs root
	@[ "$$(id -u)" = 0 ] || { echo "make test-deb boots machines in roots of Debian: run it as root" >&2; exit 1; }
	$(call with,check deb root,$(VENV)/stamp)
	@tests/run.sh deb

.PHONY: test-ansible
test-ansible: ## run the playbook of ansible/ on machines that it boots (DEBIAN=12 or 13), about 20 minutes: needs root
	@[ "$$(id -u)" = 0 ] || { echo "make test-ansible boots machines in roots of Debian: run it as root" >&2; exit 1; }
	$(call with,check deb root ansible,$(VENV)/stamp $(ANSIBLE)/stamp)
	@DEBIAN=$(DEBIAN) tests/ansible/debs.sh
	@DEBIAN=$(DEBIAN) tests/run.sh ansible

# Helpers ------------------------------------------------------------------------------------------------------------
.PHONY: deps clean help
deps: ## install all Debian packages that building, running and testing need
	@shared/scripts/deps.sh run test
clean: ## remove all that was made (build/)
	rm -rf build
help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
