VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help demo test check cover bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## the whole job on this machine: database, a local KIE, storage, the daemon
	$(BIN)/kie-reconciler demo $(ARGS)

test: $(STAMP) ## every test, against real PostgreSQL
	$(BIN)/python -m pytest -n auto --dist loadgroup $(ARGS)

cover: $(STAMP) ## the core and the dialects, every branch
	$(BIN)/python -m pytest -q -n auto tests/core tests/providers --cov=reconciler.core --cov=reconciler.providers --cov-branch --cov-report=term-missing --cov-fail-under=100

check: $(STAMP) ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## measure against a bare script in the same run; writes docs/PERFORMANCE.md
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(STAMP) ## pin every dependency again, with hashes (needs uv)
	uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/run.txt
	uv pip compile -q pyproject.toml --extra demo --extra dev -c requirements/run.txt --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/dev.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
