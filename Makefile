# Everything one does with this repository. `make help` lists it.
#
# Cold, on two cores: `make demo` and `make test` build the dependencies once (debug, optimised lightly); only
# `release`, `bench` and `nexmark` make a release build.

CARGO ?= cargo
# Debug builds of the demo and the tests share one target directory and one set of features.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help demo test fast oracle check bench nexmark chaos kafka kafka-stop release setup setup-build setup-java setup-duckdb

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup-build ## Build, and show a cluster at work on generated card payments (^C ends it)
	$(CARGO) build --locked --bin highwater
	"$${CARGO_TARGET_DIR:-target}"/debug/highwater demo $(DEMO_ARGS)

test: setup ## Every test, those on a real Kafka included
	$(CARGO) test --locked --workspace

fast: setup-build ## What to run while editing: unit tests, simulation, some of the oracle; no Kafka
	PROPTEST_CASES=32 HIGHWATER_SEED=1 BOLERO_RANDOM_TEST_TIME_MS=200 \
	$(CARGO) test --locked --workspace --lib --bins --test sim --test oracle

oracle: setup-build ## Tests of SQL against the batch answer: make oracle T=grammar CASES=1000 (new random cases each time)
	$(if $(CASES),PROPTEST_CASES=$(CASES) )$(CARGO) test --locked --workspace --test oracle -- --nocapture $(T)

check: setup-build ## Format, lints, links in docs, tidiness; licences, unused crates and typos where their tools are installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --locked --workspace --no-deps --document-private-items
	scripts/tidy.sh
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo "cargo-deny is not installed: licences and advisories were not checked"; fi
	@if $(CARGO) machete --version >/dev/null 2>&1; then $(CARGO) machete; \
	else echo "cargo-machete is not installed: unused crates were not looked for"; fi
	@if typos --version >/dev/null 2>&1; then typos; \
	else echo "typos-cli is not installed: spelling was not checked"; fi

bench: setup ## Throughput, latency and Nexmark on a real Kafka (release build)
	scripts/bench.sh

nexmark: setup-build ## Nexmark on the Kafka of `make kafka` (release build): make nexmark NEXMARK_ARGS='--query q5'
	$(CARGO) build --locked --release --bin highwater
	"$${CARGO_TARGET_DIR:-target}"/release/highwater bench nexmark $(NEXMARK_ARGS)

chaos: setup ## Random kills and restarts against a real Kafka, until stopped
	scripts/chaos.sh

kafka: setup-java ## A real Kafka on localhost:9092, in the foreground
	scripts/kafka.sh run

release: setup-build ## The binary, optimised: target/release/highwater, its symbols beside it in highwater.debug
	scripts/release.sh

setup: setup-build setup-java setup-duckdb ## Install what is missing for the tests

setup-build: ## Install what is missing to build: a C and C++ compiler, make and Perl, for librdkafka, OpenSSL and zstd
	scripts/setup.sh build

setup-java: ## Install what is missing to run Kafka: Java, Maven and Kafka's jars
	scripts/setup.sh java
	scripts/kafka.sh jars >/dev/null

setup-duckdb: ## Install what is missing to check Nexmark's answers: DuckDB, in a Python environment of its own
	scripts/setup.sh duckdb
	scripts/duckdb.sh >/dev/null
