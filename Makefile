# make demo: see it work · make test: prove it · make check: what review would say first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Whatever Python the tests run under: these run as processes.
PEERS ?= .venv-peers
AZURITE ?= .venv-azurite
UV_VERSION := 0.13.9
# Most of a test is waiting: two at a time, whatever the machine.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow crash-matrix soak check bench lock chart docs image-test e2e-kubernetes \
  clean

help: ## This list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.stamp ## .venv with everything, locked by hash.

$(VENV)/.stamp: requirements/dev.txt pyproject.toml scripts/make-venv
	@scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

demo: $(VENV)/.stamp ## A real S3 server, a real model, every step shown; under two minutes.
	@$(BIN)/python scripts/demo

test: $(VENV)/.stamp $(PEERS)/.stamp ## All tests but the slow ones.
	@scripts/install-test-packages --missing
	@scripts/install-azurite $(AZURITE)
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(VENV)/.stamp $(PEERS)/.stamp $(VENV)-api/.stamp ## The tests that take minutes.
	@scripts/install-test-packages --missing
	@scripts/install-azurite $(AZURITE)
	SCHEMATHESIS=$(abspath $(VENV)-api/bin/schemathesis) $(BIN)/python -m pytest -m slow -n $(JOBS) --dist loadfile \
	  $(ARGS)

crash-matrix: $(VENV)/.stamp ## kill -9 at every step, counted; writes docs/crash-matrix.md.
	$(BIN)/python -m tests.crash.matrix --jobs $(JOBS) $(ARGS)

soak: $(VENV)/.stamp ## Ten minutes (SECONDS=60: shorter) of everything at once, every byte checked.
	$(BIN)/python -m bench.soak --seconds $(or $(SECONDS),600) $(ARGS)

check: $(VENV)/.stamp ## Lint, format, types, layers, generated pages, house rules.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy scripts/demo
	$(BIN)/lint-imports
	test ! -e scripts/generate_docs.py || $(BIN)/python scripts/generate_docs.py --check
	$(BIN)/python scripts/generate_chart_schema.py --check
	$(BIN)/python scripts/generate_chart_readme.py --check
	$(BIN)/python -m pytest -q tests/project/test_tree.py

bench: $(VENV)/.stamp $(VENV)-bench/.stamp ## cachd beside its peers against one origin.
	BENCH_PYTHON=$(VENV)-bench/bin/python $(BIN)/python -m bench $(ARGS)

$(VENV)-api/.stamp: requirements/api.txt scripts/make-venv
	@scripts/make-venv $(PYTHON) $(VENV)-api requirements/api.txt
	@touch $@

$(PEERS)/.stamp: requirements/peers.txt scripts/make-venv
	@scripts/make-venv $(PYTHON) $(PEERS) requirements/peers.txt
	@touch $@

$(VENV)-bench/.stamp: requirements/bench.txt scripts/make-venv
	@scripts/make-venv $(PYTHON) $(VENV)-bench requirements/bench.txt
	@touch $@

lock: ## Lock the requirements again (UPGRADE=--upgrade for newer versions).
	@UV_VERSION=$(UV_VERSION) scripts/lock $(PYTHON) $(UPGRADE)

chart: $(VENV)/.stamp ## The chart: helm, Kubernetes schemas, promtool, a live scrape, KServe's pod.
	$(BIN)/helm lint --strict charts/cachd
	$(BIN)/python scripts/generate_chart_readme.py --check
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile tests/chart

docs: $(VENV)/.stamp ## The pages that are generated from the code.
	test ! -e scripts/generate_docs.py || $(BIN)/python scripts/generate_docs.py
	$(BIN)/python scripts/generate_chart_schema.py
	$(BIN)/python scripts/generate_chart_readme.py

image-test: $(VENV)/.stamp ## Lint the Dockerfile, build the image offline, run it (root, Debian).
	$(BIN)/hadolint Dockerfile
	scripts/image-test

e2e-kubernetes: $(VENV)/.stamp ## The chart on a real kubelet (root, Debian 12; builds it once, ten minutes).
	scripts/kubernetes/build
	scripts/image-build localhost/cachd:test
	$(BIN)/python -m pytest tests/kubernetes $(ARGS)

clean: ## Everything that make made.
	rm -rf .venv .venv-* .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
