# `make run` and `make test` set everything up from a clean clone; what is set up once is remembered in .venv/.stamp-*.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check
NODE_TOOLS := tests/better_auth tests/clients
EXAMPLE := examples/nextjs
CLIENT := clients/typescript
# Images of Python set it. Every command and server would compile all of Duly again, which takes longer than its start.
unexport PYTHONDONTWRITEBYTECODE
# COVERAGE=1 measures the tests and fails below the share in pyproject.toml.
COVERAGE ?= 0
PYTEST_ARGS ?=

.PHONY: help run example test torture check bench docs dist sbom lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.stamp-run ## Set up, migrate and serve on http://127.0.0.1:8000.
	@exec $(BIN)/duly serve

example: $(VENV)/.stamp-run ## A task app in Next.js with Better Auth, and Duly behind it; APP_PORT, DULY_PORT.
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "The example needs Node 20.19 or newer with npm: https://nodejs.org" >&2; exit 1; }
	@exec node $(EXAMPLE)/start.mjs

test: $(VENV)/.stamp-dev node ## Set up and run every test.
	@$(BIN)/python -m pytest -n auto --dist loadfile $(if $(filter 1,$(COVERAGE)),--cov=duly) $(PYTEST_ARGS)

# The long forms: more kills, rounds and examples, and what takes minutes in any form.
torture: export TORTURE = 1
torture: export KILLS ?= 100
torture: export LIVE_KILLS ?= 20
torture: export LIVE_WRITES ?= 10000
torture: export ROUNDS ?= 100
torture: export POWER_CUTS ?= 1000
torture: export OUTAGES ?= 20
torture: export ROLLING_REQUESTS ?= 15000
torture: export SLOW_READERS ?= 300
torture: export HOSTILE_EVERY ?= 1
torture: export SCHEMATHESIS_EXAMPLES ?= 500
torture: $(VENV)/.stamp-dev node ## Run every test in its long form: hours. PYTEST_ARGS chooses.
	@$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

check: $(VENV)/.stamp-dev ## What CI runs before the tests: format, lint, types, layers, security, generated files.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r src
	$(BIN)/shellcheck -x deploy/scripts/{certificates,configure-nginx,deploy,internal-certificates,make-secrets,roll-back,rolling-restart,upgrade} .ci/run
	$(BIN)/python scripts/check_addresses.py
	$(BIN)/python scripts/settings_table.py --check README.md
	$(BIN)/python scripts/conformance.py --check
	$(BIN)/python scripts/security.py --check
	$(BIN)/python scripts/check_floors.py
	$(BIN)/python scripts/scan_secrets.py

bench: NODE_PEER = $(if $(shell command -v npm),--with-fastify)
bench: $(VENV)/.stamp-run ## Set up the peers (Fastify too, where npm is) and measure.
	$(BIN)/python -m bench setup $(NODE_PEER)
	$(BIN)/python -m bench $(NODE_PEER)

docs: $(VENV)/.stamp-dev ## Write the generated parts of the documents again.
	$(BIN)/python scripts/settings_table.py --write README.md
	$(BIN)/python scripts/conformance.py
	$(BIN)/python scripts/security.py

dist: $(VENV)/.stamp-dev ## Build the wheel and the source archive into dist; the same source gives the same bytes.
	$(BIN)/python -m build --no-isolation --outdir dist

sbom: $(VENV)/.stamp-dev ## Write the bill of materials of what ships, in CycloneDX, into dist.
	$(BIN)/python scripts/sbom.py

# `make lock UPGRADE=1` takes the newest releases; without it every pin stays that still fits pyproject.toml.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	--no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $(if $(UPGRADE),--upgrade)

lock: $(VENV)/.stamp-dev ## Resolve pyproject.toml into the lock files again.
	$(COMPILE) -c requirements-constraints.txt --output-file requirements.lock pyproject.toml
	$(COMPILE) --only-build-deps --build-deps-for editable -c requirements.lock --output-file requirements-build.lock pyproject.toml
	$(COMPILE) --extra otel --extra sentry -c requirements.lock --output-file requirements-extras.lock pyproject.toml
	$(COMPILE) --extra dev --extra otel --extra sentry -c requirements.lock -c requirements-build.lock --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --output-file tests/clients/requirements.lock tests/clients/requirements.in
	$(BIN)/python scripts/check_addresses.py

clean: ## Remove everything that make made, and no data.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage .coverage.* htmlcov .hypothesis
	rm -rf $(NODE_TOOLS:%=%/node_modules) tests/clients/.venv
	rm -rf $(CLIENT)/node_modules $(CLIENT)/dist $(EXAMPLE)/node_modules $(EXAMPLE)/.next
	rm -rf bench/.venv bench/.scratch bench/peers/fastify/node_modules
	find src tests scripts bench -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is looked for, not python: Debian without python3-venv leaves a folder that has the one and lacks the other.
$(VENV)/.stamp-venv:
	@command -v $(PYTHON) >/dev/null || { echo "Duly needs Python 3.11 or newer, and '$(PYTHON)' is not here. Try: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Duly needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "The venv module of $(PYTHON) is not complete. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# hatchling comes from a lock too, not from pip's build isolation, which would fetch whatever is newest, without hashes.
$(VENV)/.stamp-run: requirements.lock requirements-build.lock pyproject.toml | $(VENV)/.stamp-venv
	@echo "Setting up $(VENV): once, under a minute"
	@$(PIP_INSTALL) --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.stamp-dev: requirements-dev.lock $(VENV)/.stamp-run
	@echo "Setting up the tools of development: once, under a minute"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

# What the tests run from npm: a Better Auth server, generators of clients, the client and the example app, which its own
# script installs and builds. Without npm the tests say what is missing.
.PHONY: node
node: $(if $(shell command -v npm),$(NODE_TOOLS:%=%/node_modules/.package-lock.json) built)

$(NODE_TOOLS:%=%/node_modules/.package-lock.json): %/node_modules/.package-lock.json: %/package-lock.json
	@cd $* && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: built
built:
	@node $(EXAMPLE)/start.mjs --build || echo "The example was not built; its tests will say so" >&2
