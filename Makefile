VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Half of the time a test waits for a process: two workers keep one core busy.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() * 2)')
# Without bytecode every worker compiles every module and rewrites every assertion again.
unexport PYTHONDONTWRITEBYTECODE
# How many of the slowest tests are listed at the end.
DURATIONS ?= 15
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=$(DURATIONS)
STAMP := $(VENV)/.installed
AUDIT := $(VENV)/audit

.DEFAULT_GOAL := help

.PHONY: help demo test test-all check cover soak chaos bench incidents licenses sbom audit image-test lock bundle install-test boot-test pm2-test clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## the whole job on this machine: database, a local KIE, storage, the daemon
	$(BIN)/kie-reconciler demo $(ARGS)

test: $(STAMP) ## every test but the soaks, against real PostgreSQL; DURATIONS=n lists the n slowest
	@echo "About 10 minutes on two cores. The soaks are left out: make test-all runs them too."
	$(PYTEST) -m "not soak" $(ARGS)

test-all: $(STAMP) ## every test, the soaks too
	@echo "About 18 minutes on two cores."
	$(PYTEST) --hypothesis-profile=thorough --timeout=600 $(ARGS)

soak: $(STAMP) ## 5,000 lives of generations among faults; MODEL_SEED=n chooses others
	MODEL_EXAMPLES=$${MODEL_EXAMPLES:-5000} $(BIN)/python -m pytest -n 2 --dist load tests/model $(ARGS)

chaos: $(STAMP) ## a storm of faults over three replicas, a thousand generations: nothing lost, nothing doubled
	$(BIN)/python -m benchmarks.chaos --seed $(or $(SEED),1) --faults $(or $(FAULTS),500) $(ARGS)

cover: $(STAMP) ## every branch of the pure code: domain, dialects, what doctor judges
	$(BIN)/python -m pytest -q -n $(WORKERS) --hypothesis-profile=thorough tests/domain tests/kie/dialects tests/operations/doctor --cov=reconciler.domain --cov=reconciler.kie.dialects --cov=reconciler.operations.doctor --cov-branch --cov-report=term-missing --cov-fail-under=100

check: $(STAMP) ## style, types, layers, alert rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	monitoring/check.sh

incidents: $(STAMP) ## stage seventeen incidents and write down what an operator sees: docs/INCIDENTS.md (needs prometheus, pgbouncer)
	$(BIN)/python -m benchmarks.incidents $(ARGS)

bench: $(STAMP) ## measure against a bare script in the same run; writes docs/PERFORMANCE.md
	$(BIN)/python -m benchmarks $(ARGS)

$(AUDIT)/.installed: requirements/audit.txt | $(STAMP)
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/audit.txt
	@touch $@

licenses: $(STAMP) ## write docs/LICENSES.md from what is installed
	$(BIN)/python requirements/licenses.py

sbom: $(AUDIT)/.installed ## what runs, as CycloneDX: dist/sbom.cdx.json
	@mkdir -p dist
	$(AUDIT)/bin/cyclonedx-py requirements requirements/run.txt --pyproject pyproject.toml --output-reproducible -o dist/sbom.cdx.json

audit: $(AUDIT)/.installed ## known vulnerabilities in what runs (needs the network)
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/run.txt

image-test: $(STAMP) $(AUDIT)/.installed ## build the image and live with it (needs root, buildah, podman, runc, mmdebstrap)
	HADOLINT=$(AUDIT)/bin/hadolint PYTHON=$(BIN)/python tests/image/run.sh $(ARGS)

bundle: $(STAMP) ## what a host needs: dist/kie-reconciler.tar.gz (docs/INSTALL.md)
	rm -rf dist/bundle
	mkdir -p dist/bundle
	cp -r requirements/run.txt systemd dist/bundle
	$(BIN)/python -m hatchling build -t wheel -d dist/bundle >/dev/null
	tar -czf dist/kie-reconciler.tar.gz -C dist/bundle .

install-test: bundle ## follow docs/INSTALL.md on a clean Debian (needs root, mmdebstrap, systemd-nspawn)
	PYTHON=$(BIN)/python tests/boot/run.sh install

boot-test: bundle ## the same, then a hang, a stop under load, replicas
	PYTHON=$(BIN)/python tests/boot/run.sh boot

pm2-test: $(STAMP) ## the daemon under pm2 (needs npm)
	npm install --silent --no-audit --no-fund --no-update-notifier --prefix $(VENV)/pm2 pm2@7.0.4
	PM2=$(VENV)/pm2/node_modules/.bin/pm2 $(BIN)/python -m pytest -n0 tests/e2e/test_pm2.py $(ARGS)

lock: $(STAMP) ## pin every dependency again, with hashes (needs uv)
	uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url -o requirements/run.txt
	uv pip compile -q pyproject.toml --extra demo --extra otel --extra dev -c requirements/run.txt --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url -o requirements/dev.txt
	sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | uv pip compile -q - -c requirements/dev.txt --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url -o requirements/build.txt
	uv pip compile -q --group audit --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url -o requirements/audit.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) dist .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
