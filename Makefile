# `make setup` and whatever needs it. What setup does is in requirements/setup.py.

VERSION ?= 0.32.0
VENV := $(if $(filter 0.32.0,$(VERSION)),.venv,.venv-$(VERSION))
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# By the environment, not by the command line: TORCH_INDEX may hold a password.
export PYTHON TORCH_INDEX

.DEFAULT_GOAL := help
.PHONY: help setup lint lock clean demo docs docs-site dashboards bench-overhead
.PHONY: test test-unit test-full test-vllm test-gpu test-backends test-deploy test-otel

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## build the environment (VERSION=0.19.0: vLLM 0.19.0; TORCH_INDEX=URL; PYTHON=...)
	@requirements/setup.sh $(VERSION)

test: setup ## unit tests and the tests on one real server (20 min at most)
	$(BIN)/python -m pytest -m "not full and not gpu and not backends" $(PYTEST_ARGS)

test-unit: setup ## the fast tests only
	$(BIN)/python -m pytest -m "not vllm and not full and not gpu and not backends" $(PYTEST_ARGS)

test-full: setup ## topologies, faults and mixes, each on its own server (hours)
	$(BIN)/python -m pytest -m "full and not backends" $(PYTEST_ARGS)

test-vllm: setup ## the tests on a real server of another version: VERSION=0.19.0
	$(BIN)/python -m pytest -m "vllm and not full and not gpu and not backends" $(PYTEST_ARGS)

test-gpu: setup ## device time on a real GPU (CUDA or ROCm build of torch; no vLLM needed)
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

test-backends: setup ## a real run through Jaeger, deploy's Collector files on a Collector (Go; 20 min the first time)
	@tests/backends/build.sh .cache/backends
	$(BIN)/python -m pytest -m backends $(PYTEST_ARGS)

test-deploy: setup ## deploy/: compose, kustomize and schemas (Go; 5 min at most)
	@PYTHON=$(abspath $(BIN)/python) tests/deploy/build.sh .cache/deploy
	$(BIN)/python -m pytest tests/deploy $(PYTEST_ARGS)

test-otel: ## unit tests with OpenTelemetry 1.40 and without vLLM
	@requirements/setup.sh --otel-1.40
	.venv-otel-1.40/bin/python -m pytest -m "not vllm and not full and not gpu and not backends" $(PYTEST_ARGS)

lint: setup ## ruff, import-linter, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

demo: setup ## serve the tiny model, load it, print where the time went (6 min at most)
	$(BIN)/codesign demo --model .cache/models/tiny

docs: setup ## write the generated pages and the pictures of the dashboards again
	$(BIN)/python -m docs.generate

docs-site: ## build the documentation's site, strictly, into out/site
	@requirements/setup.sh --docs
	@# Not --quiet: that hides warnings from `strict`, too.
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

dashboards: setup ## regenerate the Grafana dashboards, and check them
	$(BIN)/python dashboards/generate.py
	$(BIN)/python dashboards/generate.py --check

lock: ## pin what requirements/*.in ask for
	@requirements/setup.sh --lock

bench-overhead: setup ## what recording costs
	$(BIN)/python benchmarks/overhead.py

clean: ## remove environments, caches and output
	rm -rf .venv .venv-0.19.0 .venv-otel-1.40 .venv-docs .cache out dist build
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
