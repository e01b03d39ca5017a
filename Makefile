# make run    build and start the server with a configuration that scrapes itself
# make dist   the server for production: takes some minutes more to build, and queries less CPU time
# make test   all tests
# make check  what every change has to pass
# make fmt    format the code
# make bench  compare with the servers that are installed, into docs/benchmarks.md
# make criterion  benches of parts
# make fuzz   every fuzz target for ten minutes; make fuzz-short: for some seconds

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build dist run test test-oracle check fmt lint deny docs bench criterion fuzz fuzz-short

# ccache keeps what RocksDB's C++ compiles to, across fresh clones and cleaned target folders.
ifneq ($(wildcard /usr/lib/ccache),)
export PATH := /usr/lib/ccache:$(PATH)
endif

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
DATA ?= data
LISTEN ?= 0.0.0.0:9090

# Debug assertions for our own crates only: RocksDB and the libraries keep their one release build.
CRATES := chronolith-model chronolith-wire chronolith-storage chronolith-query chronolith chronolith-benches
ASSERTIONS := $(foreach crate,$(CRATES),--config 'profile.release.package.$(crate).debug-assertions=true')

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST)) | head -8

# Building RocksDB needs a C++ compiler and libclang; both come from apt where they are missing.
setup:
	@missing=(); \
	command -v $(CARGO) >/dev/null || { echo "Rust is missing: see https://rustup.rs"; exit 1; }; \
	command -v c++ >/dev/null || command -v g++ >/dev/null || missing+=(g++); \
	ldconfig -p 2>/dev/null | grep -q 'libclang[-.]' || ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1 || missing+=(libclang-dev); \
	if [ $${#missing[@]} -gt 0 ]; then \
	  if ! command -v apt-get >/dev/null; then echo "please install: $${missing[*]}"; exit 1; fi; \
	  if [ "$$(id -u)" = 0 ]; then sudo=; \
	  elif command -v sudo >/dev/null; then sudo=sudo; \
	  else echo "please install as root: apt-get install $${missing[*]}"; exit 1; fi; \
	  echo "installing $${missing[*]} with apt-get"; \
	  $$sudo apt-get update -q && $$sudo apt-get install -y -q --no-install-recommends $${missing[@]}; \
	fi

build: setup
	$(CARGO) build --release --workspace

# Cargo says where RocksDB of the release build is. Where it was not built but found elsewhere, it is found there again.
dist: build
	@rocksdb=$$($(CARGO) build --release --workspace --message-format=json 2>/dev/null | \
	  sed -n '/"build-script-executed"/s/.*librocksdb-sys.*"out_dir":"\([^"]*\)".*/\1/p'); \
	if [ -e "$$rocksdb/librocksdb.a" ]; then export ROCKSDB_LIB_DIR="$$rocksdb" ROCKSDB_STATIC=1; fi; \
	$(CARGO) build --profile dist --workspace --bin chronolith
	@echo "built $(TARGET_DIR)/dist/chronolith"

# The configuration is written once, with a node_exporter if one listens on its usual port, and is
# yours to edit from then on.
run: build
	@mkdir -p $(DATA)
	@if [ ! -e $(DATA)/prometheus.yml ]; then \
	  sed "s/localhost:9090/localhost:$(lastword $(subst :, ,$(LISTEN)))/" server/default.yml > $(DATA)/prometheus.yml; \
	  if (exec 3<>/dev/tcp/127.0.0.1/9100) 2>/dev/null; then \
	    printf '  - job_name: node\n    static_configs:\n      - targets: ["localhost:9100"]\n' >> $(DATA)/prometheus.yml; \
	    echo "found something at localhost:9100: it is scraped as job \"node\""; \
	  fi; \
	  echo "wrote $(DATA)/prometheus.yml"; \
	fi
	@port=$(lastword $(subst :, ,$(LISTEN))); \
	echo; \
	echo "  Start page       http://localhost:$$port/"; \
	echo "  Query            http://localhost:$$port/api/v1/query?query=up"; \
	echo "  Remote write     http://localhost:$$port/api/v1/write"; \
	echo "  Grafana          data source \"Prometheus\" with http://localhost:$$port"; \
	echo "  Configuration    $(DATA)/prometheus.yml (POST /-/reload or SIGHUP after changes)"; \
	echo "  Samples          $(DATA)/store"; \
	echo
	exec $(TARGET_DIR)/release/chronolith --config.file=$(DATA)/prometheus.yml \
	  --storage.tsdb.path=$(DATA)/store --web.listen-address=$(LISTEN) --web.enable-lifecycle

test: setup
	$(CARGO) test --release --workspace $(ASSERTIONS)

# Engine and oracle over random queries; see CONTRIBUTING.md for the variables.
test-oracle: setup
	$(CARGO) test --release --workspace $(ASSERTIONS) --test oracle -- --nocapture

check: lint test deny docs

fmt:
	$(CARGO) fmt --all

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

# Licences and advisories; skipped where cargo-deny is not installed.
deny:
	@if command -v cargo-deny >/dev/null; then cargo-deny check; else echo "cargo-deny is not installed: skipped"; fi

docs: setup
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps

# Some minutes on two cores, most of them for Prometheus. BENCH adds options: see loadgen compare --help.
bench: build
	$(TARGET_DIR)/release/loadgen compare --hosts 40 --series 500 --scrapes 480 --jitter-ms 20 \
	  --json $(TARGET_DIR)/bench.json --update docs/benchmarks.md --section small $(BENCH)

criterion: setup
	$(CARGO) bench --workspace

# Fuzzing needs a nightly compiler; cargo-fuzz is installed where it is missing. What is found stays in
# fuzz/artifacts, what was learnt in fuzz/corpus.
FUZZ_TARGETS := remote_write exposition promql evaluate chunk keys log
FUZZ_LIMITS := -rss_limit_mb=2048 -timeout=10 -max_len=65536

# The short run guards what is known: in a fresh clone it tries the same inputs each time, some twenty seconds of
# them for a target. The long one looks for what is not known.
FUZZ_RUNS_remote_write := 3000000
FUZZ_RUNS_exposition := 2000000
FUZZ_RUNS_promql := 200000
FUZZ_RUNS_evaluate := 20000
FUZZ_RUNS_chunk := 300000
FUZZ_RUNS_keys := 500000
FUZZ_RUNS_log := 400000
fuzz-short: FUZZ_END = -seed=1 -runs=$(FUZZ_RUNS_$(1)) -max_total_time=120
fuzz: FUZZ_END = -max_total_time=600
define FUZZ
echo "=== fuzzing $(1): $(FUZZ_END)"; \
mkdir -p fuzz/corpus/$(1); \
$(CARGO) +nightly fuzz run -s none $(1) fuzz/corpus/$(1) fuzz/seeds/$(1) -- \
  $(FUZZ_END) $(FUZZ_LIMITS) -verbosity=0 -print_final_stats=1 || exit 1;
endef
fuzz fuzz-short:
	@if ! $(CARGO) +nightly --version >/dev/null 2>&1; then \
	  echo "FUZZING IS SKIPPED: there is no nightly compiler (rustup toolchain install nightly)"; exit 0; \
	fi; \
	$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz || exit 1; \
	export CARGO_TARGET_DIR="$(abspath $(TARGET_DIR))/fuzz"; \
	$(foreach target,$(FUZZ_TARGETS),$(call FUZZ,$(target)))
