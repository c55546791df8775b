# Steno. `make run` and `make test` need Rust (rustup), gcc, g++, make and perl; nothing else.
CARGO ?= cargo
ARGS ?=
# Tests and the quick start share one profile, so that OpenSSL and librdkafka are built once.
BIN = $(or $(CARGO_TARGET_DIR),target)

.PHONY: release fuzz soak run test e2e e2e-formats e2e-cluster bench lint fmt rules generate deny nightly help

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-10s %s\n", $$1, $$2}'

run: ## build, then the whole way on this machine: sample events, embedded Kafka, consumer. ARGS="--once" ends by itself
	$(CARGO) build --quiet -p steno-app
	$(BIN)/debug/steno-sidecar dev examples/quickstart/auditpolicy.yaml $(ARGS)

test: ## all tests that need no root, no cluster, no Java
	$(CARGO) test --workspace --exclude steno-e2e
	@$(CARGO) test --quiet -p steno-redact --test corpus -- --nocapture 2>&1 | grep "redaction corpus"

e2e: ## against a real Apache Kafka (Java 17, Maven), smoke-sized
	$(CARGO) build -p steno-app
	$(CARGO) build -p steno-client --example payments
	e2e/kafka/fetch
	STENO_E2E_SCALE=$(or $(STENO_E2E_SCALE),smoke) $(CARGO) test -p steno-e2e -- --test-threads=1

e2e-formats: ## events by SDKs of others into the sidecar and a real Kafka (Python, Node.js)
	$(CARGO) build -p steno-app
	e2e/kafka/fetch
	e2e/formats/fetch
	$(CARGO) test -p steno-e2e --features formats --test formats -- --test-threads=1

e2e-cluster: ## against a real Kubernetes cluster and Kafka (root, Go, containerd, buildah; see e2e/cluster/README.md)
	$(CARGO) build -p steno-app -p steno-operator
	e2e/kafka/fetch
	e2e/cluster/run $(BIN)/debug

nightly: ## everything, in full size
	$(MAKE) lint test release
	PROPTEST_CASES=60000 $(CARGO) test -p steno-journal -p steno-commit
	STENO_SIDECAR=$(abspath $(BIN))/tuned/steno-sidecar $(MAKE) e2e STENO_E2E_SCALE=full
	STENO_SIDECAR=$(abspath $(BIN))/tuned/steno-sidecar $(CARGO) test -p steno-e2e --test exactly -- --ignored

release: ## the sidecar as it is released, in target/tuned (20 minutes; rustup component add llvm-tools, valgrind)
	CARGO="$(CARGO)" release/build

bench: release ## ratios against this machine's own baselines; writes bench/results.md
	$(BIN)/release/steno-bench --sidecar $(BIN)/tuned/steno-sidecar --out bench/results.md $(ARGS)

fuzz: ## each fuzz target for SECONDS (15) over its committed corpus (fuzz/run)
	fuzz/run $(or $(SECONDS),15)

soak: release ## mixed load for SECONDS (7200): memory and descriptors stay flat
	$(BIN)/release/steno-bench soak $(BIN)/tuned/steno-sidecar $(or $(SECONDS),7200)

lint: ## formatting, clippy, generated files
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

rules: ## alerts of the chart against their cases (needs promtool)
	promtool test rules charts/steno/monitoring/rules.test.yaml

deny: ## licences, sources and advisories (needs cargo-deny)
	$(CARGO) deny check

fmt: ## format
	$(CARGO) fmt

generate: ## write the files that are made from the code
	UPDATE=1 $(CARGO) test -p steno-crds --features steno-crds/kube -p steno-app -p steno-chart -p steno-operator -- is_what are_what what_the_types_say
