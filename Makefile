# `make run` and `make test` set everything up from a clean clone; what is set up once is remembered in .venv/.stamp-*.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check
ISSUER := tests/better_auth
# COVERAGE=1 measures the tests and fails below the share in pyproject.toml.
COVERAGE ?= 0
PYTEST_ARGS ?=

.PHONY: help run test check bench docs lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.stamp-run ## Set up, migrate and serve on http://127.0.0.1:8000.
	@exec $(BIN)/duly serve

test: $(VENV)/.stamp-dev node ## Set up and run every test.
	@$(BIN)/python -m pytest -n auto --dist loadfile $(if $(filter 1,$(COVERAGE)),--cov=duly) $(PYTEST_ARGS)

check: $(VENV)/.stamp-dev ## What CI runs before the tests: format, lint, types, layers, security, generated files.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r src
	$(BIN)/python scripts/check_addresses.py
	$(BIN)/python scripts/settings_table.py --check README.md
	$(BIN)/python scripts/conformance.py --check

bench: $(VENV)/.stamp-run ## Set up the peers and measure.
	$(BIN)/python -m bench setup
	$(BIN)/python -m bench

docs: $(VENV)/.stamp-dev ## Write the generated parts of the documents again.
	$(BIN)/python scripts/settings_table.py --write README.md
	$(BIN)/python scripts/conformance.py

# `make lock UPGRADE=1` takes the newest releases; without it every pin stays that still fits pyproject.toml.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	--no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $(if $(UPGRADE),--upgrade)

lock: $(VENV)/.stamp-dev ## Resolve pyproject.toml into the lock files again.
	$(COMPILE) --output-file requirements.lock pyproject.toml
	$(COMPILE) --only-build-deps --build-deps-for editable -c requirements.lock --output-file requirements-build.lock pyproject.toml
	$(COMPILE) --extra dev -c requirements.lock -c requirements-build.lock --output-file requirements-dev.lock pyproject.toml
	$(BIN)/python scripts/check_addresses.py

clean: ## Remove everything that make made, and no data.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage .coverage.* htmlcov .hypothesis
	rm -rf $(ISSUER)/node_modules bench/.venv bench/.scratch bench/peers/fastify/node_modules
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

# The Better Auth server that the tests take tokens from. Without npm its tests say what is missing.
.PHONY: node
node: $(if $(shell command -v npm),$(ISSUER)/node_modules/.package-lock.json)

$(ISSUER)/node_modules/.package-lock.json: $(ISSUER)/package-lock.json
	@cd $(ISSUER) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
