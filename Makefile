# The two commands of a newcomer are `make demo` and `make test`. Both build with one profile, so the second rebuilds nothing.

CARGO ?= cargo

.PHONY: demo test simulate chaos fuzz lint bench

demo: ## an attack being found, on an embedded broker
	$(CARGO) run --quiet --locked -- demo

test: ## everything, against a real Apache Kafka and an independent KQL engine (both are fetched into target/)
	$(CARGO) test --locked

simulate: ## N seeds of the simulation from FROM on: make simulate N=100000
	SEEDS=$(or $(N),10000) FROM=$(or $(FROM),0) $(CARGO) test --locked --test simulation what_is_published -- --nocapture

lint: ## formatting, clippy and documentation, warnings refused
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --locked --no-deps --document-private-items

bench: ## the figures of docs/benchmarks.md
	$(CARGO) bench --locked --bench decode --bench state --bench backtest --bench kafka --bench recovery

MINUTES ?= 1

fuzz: ## everything that takes bytes from outside, coverage-guided: MINUTES for each of four targets
	scripts/fuzz $(MINUTES)

KILLS ?= 200

chaos: ## SIGKILLs and other faults at random moments, on a real Kafka; `make test` does a few
	CHAOS_KILLS=$(KILLS) $(CARGO) test --locked --test chaos -- --nocapture
