# Everything a developer or CI runs, by name. `make help` says what each is for.
# Needs Python 3.11+ and make. Tools run as modules (`python -m ruff`), never by their scripts, so that
# the project's folder can be moved with its virtual environment.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --quiet
CODE   := $(wildcard api bench contract shared stack tests worker)

# Some hundred processes start in a run of the tests: none shall compile again what another one has.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run import verify rebuild test faults fuzz har contract contract-static check format format-check lint types imports docs lock clean

help:  ## what each target is for
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-13s %s\n", $$1, $$2}'

# --- run it ------------------------------------------------------------------------------------------

run: $(VENV)/run.stamp  ## the whole system on this machine [PORT=8000] [STATE_DIR=.local] [SAMPLE_DATA=no]
	@exec $(PY) -m stack.run --stop-with-parent

import: $(VENV)/run.stamp  ## load orders into the running system: FILE=orders.json [SERVICES=services.json]
	@test -n "$(FILE)" || { echo "make import: which file? make import FILE=orders.json [SERVICES=services.json]"; exit 2; }
	@$(PY) -m stack.attach $(PY) -m api.order_import "$(FILE)" $(if $(SERVICES),--services "$(SERVICES)")

verify: $(VENV)/run.stamp  ## prove that every fee summary is what the orders say; names those that are not
	@$(PY) -m stack.attach $(PY) -m worker.fee_summary_proof

rebuild: $(VENV)/run.stamp  ## make the fee summaries anew while they are in use [OMS_TIME_ZONE=Europe/Rome]
	@$(PY) -m stack.attach $(PY) -m worker.fee_summary_rebuild

# --- check it ----------------------------------------------------------------------------------------

check: format-check lint types imports contract-static test  ## yes or no: format, lint, types, import rules, contract, tests

test: $(VENV)/dev.stamp  ## the tests, on servers of their own [ARGS="-k spacing"] [ROUNDS=3 draws more at random]
	$(PY) -m pytest -n auto --no-loadscope-reorder $(ARGS)

# The linters need node and say so where there is none; the rest needs only Python.
contract: contract-static  ## the contract: linted, equal to the code, no promise broken [BASE=main]
	$(PY) -m pytest -q tests/test_contract_examples.py tests/test_contract_parity.py tests/test_schema_parity.py

# What of it is no test, and so not in `test` already.
contract-static: $(VENV)/dev.stamp
	$(PY) -m contract.lint
	$(PY) -m contract.breaking_changes $(if $(BASE),--base $(BASE))

fuzz: $(VENV)/dev.stamp  ## fuzz a system of its own against the contract [MINUTES=3] [SEED=7]
	$(PY) -m tests.fuzz $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

# The checker needs what the service itself does not: jsonschema, of the development lock.
har: $(VENV)/dev.stamp  ## check recorded traffic (HAR) against the contract: FILE=traffic.har [SERVER=http://host/prefix]
	@test -n "$(FILE)" || { echo "make har: which file? make har FILE=traffic.har [SERVER=http://host/prefix]"; exit 2; }
	@$(PY) -m contract.har "$(FILE)" $(if $(SERVER),--server "$(SERVER)")

faults: $(VENV)/dev.stamp  ## kill, hang and wipe parts of a system of its own under load [MINUTES=2] [SEED=7]
	$(PY) -m tests.faults $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

docs: $(VENV)/dev.stamp  ## write the table of docs/configuration.md from the settings' docstrings
	$(PY) -m shared.settings_reference docs/configuration.md

format: $(VENV)/dev.stamp  ## lay the code out, mend what the linter can mend
	$(PY) -m ruff format $(CODE)
	$(PY) -m ruff check --fix --quiet $(CODE)

format-check: $(VENV)/dev.stamp
	$(PY) -m ruff format --check $(CODE)

lint: $(VENV)/dev.stamp  ## the linter
	$(PY) -m ruff check $(CODE)

types: $(VENV)/dev.stamp  ## strict types
	$(PY) -m mypy $(CODE)

imports: $(VENV)/dev.stamp  ## who may import whom
	$(PY) -c 'from importlinter.cli import lint_imports_command as main; main()' --no-cache --no-logo

# --- what it stands on -------------------------------------------------------------------------------

# The three locks agree: the widest is solved first and holds the others.
LOCK = $(PY) -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
       --no-emit-index-url --custom-compile-command 'make lock'

lock: $(VENV)/bin/python  ## write requirements*.lock from pyproject.toml [UPGRADE=--upgrade]
	$(PIP) install uv
	$(LOCK) $(UPGRADE) --extra local --extra dev --output-file requirements-dev.lock
	$(LOCK) $(UPGRADE) --extra local --constraint requirements-dev.lock --output-file requirements-local.lock
	$(LOCK) $(UPGRADE) --constraint requirements-dev.lock --output-file requirements.lock

clean:  ## remove the virtual environment and the tools' caches; the data under .local stays
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .schemathesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# An interpreter that went away (an upgrade of the system) takes the stamps along, so that the next
# two rules start afresh.
$(shell test -x $(PY) || rm -f $(VENV)/*.stamp)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "make: $(PYTHON) makes no virtual environment, which needs Python's venv and ensurepip; Debian, Ubuntu: apt install python3-venv" >&2; exit 1; }

# The locks are complete. Left to resolve, the pip of Python 3.11 (23.2) takes the newest `pydantic[email]` that
# Piccolo allows and misses its hash, from the day on which pydantic releases one.
$(VENV)/run.stamp: requirements-local.lock | $(PY)
	$(PIP) install --no-deps --require-hashes -r $<
	@touch $@

# The development lock holds everything that `run` needs, at the same versions: it serves both.
$(VENV)/dev.stamp: requirements-dev.lock | $(PY)
	$(PIP) install --no-deps --require-hashes -r $<
	@touch $@ $(VENV)/run.stamp
