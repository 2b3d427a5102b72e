# `make demo` and `make test` are all a fresh machine with Python 3.11+ needs; each sets up what it uses.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ANOMALIB := var/bench/anomalib
BENCH ?= --write-docs
SEED ?= 0
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup demo test reliability fuzz store-benchmark bench audit lint format clean distclean

help: ## Show what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV): PyTorch and the rest take a few minutes the first time ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[plant,features,demo,dev]'
	@touch $@

setup: $(INSTALLED) ## Create .venv with the exact versions of constraints.txt

demo: $(INSTALLED) ## Run the plant's main job on real images; everything it writes lies under var/demo
	@$(BIN)/inspection demo

test: $(INSTALLED) lint ## Check the code and run all tests, WORKERS=3 at once
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

reliability: $(INSTALLED) ## Run the tests of faults and write docs/reliability.md from what they show
	@$(BIN)/python -m pytest -m fault --write-reliability

fuzz: $(INSTALLED) ## Try 100,000 mutated files and keys, what the tests do with 2,000; SEED=1 makes others
	@$(BIN)/python tests/faults/fuzz.py --files 100000 --seed $(SEED)

store-benchmark: $(INSTALLED) ## Time the two usual queries at 10 million scores in a PostgreSQL of its own (10 minutes, 8 GB)
	@$(BIN)/python tests/benchmarks/ten_million_scores.py

$(ANOMALIB)/.installed: tests/benchmarks/anomalib-requirements.txt
	@echo "Setting up $(ANOMALIB), which is compared with: a few minutes the first time ..."
	@test -x $(ANOMALIB)/bin/python || $(PYTHON) -m venv $(ANOMALIB)
	@$(ANOMALIB)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench: $(INSTALLED) $(ANOMALIB)/.installed ## Measure against anomalib and the authors' step; BENCH="--quick" for other options
	@$(BIN)/python -m tests.benchmarks.bench $(BENCH)

audit: $(INSTALLED) ## Look for known vulnerabilities in the exact versions of constraints.txt (needs PyPI's advisories)
	@$(PYTHON) -m venv var/pip-audit
	@var/pip-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@var/pip-audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

lint: $(INSTALLED) ## Check formatting, lint, types and import direction
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## Remove what the demo and the tests wrote
	rm -rf var .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

distclean: clean ## Remove the environment as well
	rm -rf $(VENV) build dist *.egg-info
