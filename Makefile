# Everything that a developer or CI runs. `make help` lists the targets.
# Needs Python 3.11+ and make. Tools run as modules (`python -m ruff`), not as scripts: a script contains the path of
# its virtual environment, and would break when the project's folder is moved.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --quiet
CODE   := $(wildcard api bench console contract oms shared stack tests worker)

# Test runs start many Python processes. They share compiled bytecode, even if the environment disables it.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run import key verify rebuild test matrix faults failover fuzz bench bench-check bench-scale bench-capacity bench-console har contract contract-static check format format-check lint types imports audit docs lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-13s %s\n", $$1, $$2}'

# --- run it ------------------------------------------------------------------------------------------

run: $(VENV)/run.stamp  ## run the whole system on this machine [PORT=8000] [API=4] [WORKERS=2] [STATE_DIR=.local] [SAMPLE_DATA=no]
	@exec $(PY) -m oms run --stop-with-parent

import: $(VENV)/run.stamp  ## import orders into the running system: FILE=orders.json [SERVICES=services.json] [REPORT=faults.json] [REASON="why"]
	@test -n "$(FILE)" || { echo "make import: which file? make import FILE=orders.json [SERVICES=services.json]"; exit 2; }
	@$(PY) -m oms import "$(FILE)" $(if $(SERVICES),--services "$(SERVICES)") $(if $(REPORT),--report "$(REPORT)") $(if $(REASON),--reason "$(REASON)")

verify: $(VENV)/run.stamp  ## prove that fee summaries equal the orders, their texts their rows, and places their spacing; list what does not
	@$(PY) -m oms verify

key: $(VENV)/run.stamp  ## make an API key, and print it: NAME=shop SCOPES=orders:read,orders:write [EXPIRES=2027-01-31T00:00:00Z]
	@test -n "$(NAME)" && test -n "$(SCOPES)" || { echo "make key: whose, and for what? make key NAME=shop SCOPES=orders:read,orders:write"; exit 2; }
	@$(PY) -m oms key make "$(NAME)" --scopes "$(SCOPES)" $(if $(EXPIRES),--expires "$(EXPIRES)")

rebuild: $(VENV)/run.stamp  ## rebuild the fee summaries while they are in use [OMS_TIME_ZONE=Europe/Rome]
	@$(PY) -m oms rebuild

# --- check it ----------------------------------------------------------------------------------------

check: format-check lint types imports contract-static test  ## run every check: format, lint, types, import rules, contract, tests

test: $(VENV)/dev.stamp  ## run the tests; they start their own servers [ARGS="-k spacing"] [ROUNDS=3 for more random cases]
	$(PY) -m pytest -n auto --no-loadscope-reorder $(ARGS)

# Each Python gets a separate virtual environment (.venv-3.12), from the same lock. One that is not on this machine
# is listed and does not fail the run; one for which the lock cannot be installed counts as failed.
PYTHONS ?= python3.11 python3.12 python3.13 python3.14

matrix:  ## run the tests with each Python on this machine [PYTHONS="python3.12 python3.13"] [ARGS="-k spacing"]
	@passed=; failed=; missing=; \
	for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
	    || { missing="$$missing $$python"; continue; }; \
	  if $(MAKE) --no-print-directory PYTHON=$$python VENV=.venv-$$version test; \
	  then passed="$$passed $$version"; else failed="$$failed $$version"; fi; \
	done; \
	echo "make matrix: passed:$${passed:- none}; failed:$${failed:- none}; not on this machine:$${missing:- none}"; \
	test -n "$$passed" && test -z "$$failed"

# The linters need Node and say so if it is missing; the rest needs only Python, and skips what needs Node or Java.
# The clients take a minute or more, so they are not part of `check`.
contract: contract-static  ## check the contract: lint, parity with the code, breaking changes, generated clients [BASE=main]
	$(PY) -m pytest -q tests/test_contract_examples.py tests/test_contract_parity.py tests/test_schema_parity.py
	$(PY) -m tests.clients

# The part of `contract` that is not in `test`.
contract-static: $(VENV)/dev.stamp
	$(PY) -m contract.checks.lint
	$(PY) -m contract.checks.breaking_changes $(if $(BASE),--base $(BASE))

fuzz: $(VENV)/dev.stamp  ## fuzz a separate system against the contract [MINUTES=3] [SEED=7]
	$(PY) -m tests.fuzz $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

# Needs jsonschema, which is in the development lock only.
har: $(VENV)/dev.stamp  ## check recorded traffic (HAR) against the contract: FILE=traffic.har [SERVER=http://host/prefix]
	@test -n "$(FILE)" || { echo "make har: which file? make har FILE=traffic.har [SERVER=http://host/prefix]"; exit 2; }
	@$(PY) -m contract.checks.har "$(FILE)" $(if $(SERVER),--server "$(SERVER)")

# First with parts that the test starts again, which can also hang them; then in a running `make run`, which must do
# that by itself, with a table of how soon orders are stored and summed.
faults: $(VENV)/dev.stamp  ## kill, hang and wipe parts of separate systems under load [MINUTES=2] [OPERATIONS=5000] [SEED=7]
	$(PY) -m tests.faults $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))
	$(PY) -m tests.stack_faults $(if $(OPERATIONS),--operations $(OPERATIONS)) $(if $(SEED),--seed $(SEED))

# Patroni is in a virtual environment and a lock of its own, not in the product's.
FAILOVER = .venv-failover

failover: $(VENV)/dev.stamp $(FAILOVER)/patroni.stamp  ## kill, pause, cut off and switch over nodes of PostgreSQL under load [MINUTES=60] [SEED=7]
	$(PY) -m tests.failover $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

$(FAILOVER)/patroni.stamp: tests/failover/patroni/requirements.lock | $(PY)
	@$(PY) -m venv --clear $(FAILOVER)
	$(FAILOVER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

# What the peers are written with is in a virtual environment and a lock of their own, not in the product's.
BENCH = .venv-bench

bench: $(VENV)/dev.stamp $(BENCH)/peers.stamp  ## measure this service beside the usual stacks [BENCH_SECONDS=360]
	@$(PY) -m bench.main

bench-check: $(VENV)/dev.stamp $(BENCH)/peers.stamp  ## fail if a ratio is 20% under that in bench/results (90 s)
	@$(PY) -m bench.main --check

# The peers have no part in it.
bench-scale: $(VENV)/dev.stamp  ## what stays the same with many orders and over time [ORDERS=1000000] [OPERATIONS=200000]
	@$(PY) -m bench.at_scale $(if $(ORDERS),--orders $(ORDERS)) $(if $(OPERATIONS),--operations $(OPERATIONS))

bench-capacity: $(VENV)/dev.stamp  ## what one primary takes: CPU, WAL and disk of an order [ORDERS=1000000] [OPERATIONS=5000]
	@$(PY) -m bench.capacity $(if $(ORDERS),--orders $(ORDERS)) $(if $(OPERATIONS),--operations $(OPERATIONS))

bench-console: $(VENV)/dev.stamp  ## how soon a change is on 200 open pages of the console, and their memory [BENCH_SECONDS=60] [CHANGES=20000]
	@$(PY) -m bench.console_live $(if $(STREAMS),--streams $(STREAMS)) $(if $(PAGES),--pages $(PAGES)) $(if $(CHANGES),--changes $(CHANGES))

$(BENCH)/peers.stamp: bench/peers/requirements.lock | $(PY)
	@$(PY) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

docs: $(VENV)/dev.stamp  ## write the table of docs/configuration.md from the settings' docstrings
	$(PY) -m shared.settings_reference docs/configuration.md

format: $(VENV)/dev.stamp  ## format the code, fix what the linter can fix
	$(PY) -m ruff format $(CODE)
	$(PY) -m ruff check --fix --quiet $(CODE)

format-check: $(VENV)/dev.stamp
	$(PY) -m ruff format --check $(CODE)

lint: $(VENV)/dev.stamp  ## run the linter
	$(PY) -m ruff check $(CODE)

types: $(VENV)/dev.stamp  ## check types
	$(PY) -m mypy $(CODE)

imports: $(VENV)/dev.stamp  ## check the import rules
	$(PY) -c 'from importlinter.cli import lint_imports_command as main; main()' --no-cache --no-logo

# Not part of `check`: what is known of the packages changes without a change here, and has to be asked for.
audit: $(VENV)/dev.stamp  ## look for known vulnerabilities of the locks, insecure code and secrets [ADVISORIES=all.zip of OSV]
	@$(PY) -m tests.audit $(if $(ADVISORIES),--advisories "$(ADVISORIES)")

# --- dependencies ------------------------------------------------------------------------------------

# The widest lock is resolved first and constrains the other two, so all three agree.
LOCK = $(PY) -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
       --no-emit-index-url --custom-compile-command 'make lock'

lock: $(VENV)/bin/python  ## write requirements*.lock from pyproject.toml [UPGRADE=--upgrade]
	$(PIP) install uv
	$(LOCK) $(UPGRADE) --extra local --extra dev --output-file requirements-dev.lock
	$(LOCK) $(UPGRADE) --extra local --constraint requirements-dev.lock --output-file requirements-local.lock
	$(LOCK) $(UPGRADE) --constraint requirements-dev.lock --output-file requirements.lock
	$(subst pyproject.toml,contract/clients/requirements.in,$(LOCK)) $(UPGRADE) --output-file contract/clients/requirements.lock
	$(subst pyproject.toml,bench/peers/requirements.in,$(LOCK)) $(UPGRADE) --output-file bench/peers/requirements.lock
	$(subst pyproject.toml,tests/failover/patroni/requirements.in,$(LOCK)) $(UPGRADE) --output-file tests/failover/patroni/requirements.lock

clean:  ## remove virtual environments and caches; the data under .local stays
	rm -rf $(VENV) .venv-* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .schemathesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# If the interpreter is gone (after a system upgrade), remove the stamps, so that the next two rules run again.
$(shell test -x $(PY) || rm -f $(VENV)/*.stamp)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; choose one: make PYTHON=python3.12")'
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "make: $(PYTHON) cannot create a virtual environment, which needs Python's venv and ensurepip; Debian, Ubuntu: apt install python3-venv" >&2; exit 1; }

# The locks are complete, so pip resolves nothing (--no-deps). The pip of Python 3.11 (23.2) would take the newest
# `pydantic[email]` that Piccolo allows, and fail on its missing hash once pydantic releases a version.
$(VENV)/run.stamp: requirements-local.lock | $(PY)
	$(PIP) install --no-deps --require-hashes -r $<
	@touch $@

# The development lock includes everything that `run` needs, at the same versions.
$(VENV)/dev.stamp: requirements-dev.lock | $(PY)
	$(PIP) install --no-deps --require-hashes -r $<
	@touch $@ $(VENV)/run.stamp
