# Every command of this project. The README, CONTRIBUTING, pre-commit and .ci/run call these; `make` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
# The environment everything runs in, made on first use; it holds an editable install of this checkout.
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := torch,demo,bench,dev
export VIRTUAL_ENV := $(abspath $(VENV))
# Under `make -j`, cargo would look there for a share of its jobs that only other makes are given.
unexport MAKEFLAGS MFLAGS

.PHONY: help build demo test test-rust test-python tiny format-check lint fmt docs check arm x86 bench accuracy fuzz wheel clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/maturin:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'maturin>=1.9,<2'

$(BIN)/ruff: $(BIN)/maturin
	$(BIN)/pip install --quiet ruff

build: $(BIN)/maturin ## Build the extension and install gossamer, editable, with every extra into .venv
	$(BIN)/maturin develop --release --quiet --extras $(EXTRAS)

demo: build ## Convert a trained EfficientNet-Lite0 and classify photographs with it: float32, pruned, int8
	$(BIN)/python docs/examples/efficientnet_lite0.py

test: test-rust test-python ## Run every test

# The bench of kernels runs each of its cases once, so that it is known to work before somebody measures with it.
test-rust:
	cargo test --workspace --quiet
	cargo test --workspace --bench kernels --quiet >/dev/null

test-python: build
	$(BIN)/python -m pytest

tiny: build ## The ten seconds of tests that pre-commit runs
	$(BIN)/python -m pytest --quiet tests/test_tiny.py

define check-format
cargo fmt --all --check
$(BIN)/ruff format --check .
$(BIN)/ruff check .
endef

format-check: $(BIN)/ruff
	$(check-format)

# Not by way of the goal above: under `make -j`, two pips would install at a time.
lint: build ## Formatting, clippy, ruff, mypy, and the stubs against the built module
	$(check-format)
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/mypy
	cd python && ../$(BIN)/python -m mypy.stubtest gossamer._core --mypy-config-file ../pyproject.toml

fmt: $(BIN)/ruff ## Format Rust and Python
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: ## Build the Rust documentation, warnings denied
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --quiet

check: lint docs test ## What a change must pass, short of `make arm`

arm: build ## Cross-build for aarch64 and test under emulation: Rust and Python on three cores (Debian, root)
	tests/board/arm/run.sh target/arm $(BIN)/python

X86 ?=
x86: ## Run the Rust tests on emulated x86 processors: AVX-512, VNNI, AVX-VNNI (Debian 12, root; over an hour; X86=FILTER for some)
	tests/board/x86/run.sh target/x86 $(X86)

BENCH ?=
bench: build ## Compare with torch and record it in benches/results (BENCH='CASE --threads 1,2' for options), then pytest-benchmark, then kernels with their roofs
	$(BIN)/python benches/compare.py $(BENCH)
	$(BIN)/pytest benches/bench_models.py --benchmark-enable --benchmark-max-time 0.5
	cargo bench -p gossamer-core --bench kernels -- --quiet

ACCURACY ?=
accuracy: build ## Train on Fashion-MNIST, prune to 90 %, train on, judge by gossamer (ACCURACY='--seeds 0 --bfloat16')
	$(BIN)/python benches/accuracy/run.py $(ACCURACY)

FUZZ_SECONDS ?= 60
# The corpus begins with files of every op and form of weight, and with those that broke a promise once. cargo-fuzz wants
# the sanitizers and coverage of a nightly compiler; RUSTC_BOOTSTRAP has the stable one give them.
fuzz: build ## Fuzz loading and running for FUZZ_SECONDS, guided by coverage (needs `cargo install cargo-fuzz`)
	$(BIN)/python tests/attacks/mutate.py --write rust/fuzz/corpus/load
	cp tests/attacks/*.goss rust/fuzz/corpus/load/
	cd rust/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run load --fuzz-dir . --codegen-units 16 -- \
		-max_total_time=$(FUZZ_SECONDS) -max_len=65536 -rss_limit_mb=2048 -timeout=20

wheel: build ## Make the sdist and the wheel, install that alone in a fresh environment and use it there
	rm -rf dist
	$(BIN)/maturin sdist --out dist
	$(BIN)/maturin build --release --quiet --out dist
	tests/board/sdist.sh dist
	tests/board/wheel.sh dist $(BIN)/python

clean: ## Remove everything that was built
	cargo clean
	rm -rf $(VENV) dist python/gossamer/*.so
