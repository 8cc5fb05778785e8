# Needs Python 3.11+ and make, nothing else: every target installs what it uses into .venv first.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
DEPLOY := .venv/deploy
# Some of the commands run from dbt_project/, so the absolute path.
DBT := $(CURDIR)/$(BIN)/dbt

# SQL and FILE reach the commands as environment variables, taken literally: neither make nor the shell reads what is inside them.
override export SQL := $(value SQL)
override export FILE := $(value FILE)

.DEFAULT_GOAL := help
.PHONY: help demo up down clean seed load rejudge query test test-faults snapshot lint lint-deploy bench install lock

help: ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r name does; do printf '  make %-12s %s\n' "$$name" "$$does"; done

demo: $(STAMP) ## from nothing to what an analyst sees; FILE=events.jsonl: your events instead of the sample
	@$(BIN)/python -m sandbox up
	@$(BIN)/python -m sandbox seed -- $${FILE:+"$$FILE"}
	@$(BIN)/python -m loader drain
	@cd dbt_project && $(DBT) run
	@cd dbt_project && { $(DBT) test || [ $$? -eq 1 ]; } # 1: a test failed, and `show` says so below the tables
	@$(BIN)/python -m sandbox show

up: $(STAMP) ## start PostgreSQL and the queue on this machine, apply database/
	@$(BIN)/python -m sandbox up

# Nothing was ever started without .sandbox/, so there is nothing to install for.
down: $(if $(wildcard .sandbox),$(STAMP)) ## stop what `up` started; the data stays
	@[ ! -d .sandbox ] || $(BIN)/python -m sandbox down

clean: $(if $(wildcard .sandbox),$(STAMP)) ## stop, and forget all data
	@[ ! -d .sandbox ] || $(BIN)/python -m sandbox clean

seed: $(STAMP) ## send the sample events; FILE=events.jsonl: each line of FILE, verbatim, as one message
	@$(BIN)/python -m sandbox seed -- $${FILE:+"$$FILE"}

load: $(STAMP) ## drain the queue into staging
	@$(BIN)/python -m loader drain

rejudge: $(STAMP) ## after a rule was corrected: judge again what was rejected, move what passes now
	@cd dbt_project && $(DBT) run-operation judge_again && $(DBT) run

query: $(STAMP) ## SQL="select …": run it as the analyst, print a table
	@[ -n "$$SQL" ] || { echo 'SQL is not set; say make query SQL="select …"' >&2; exit 64; }
	@$(BIN)/python -m sandbox query -- "$$SQL"

# A worker that has nothing left to do takes tests from the other's end.
test: $(STAMP) ## all tests, those of faults in short, on servers of their own
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-faults: $(STAMP) ## kill, cut and starve what it runs on, at length, and count that nothing is lost
	@FAULTS=full $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --timeout 1200 --junit-xml .pytest_cache/faults.xml \
		tests/faults tests/judging

snapshot: $(STAMP) ## write anew what each role may, from the catalog, for review
	@SNAPSHOT=write $(BIN)/python -m pytest --quiet tests/access/test_privileges.py -k reviewed

# sqlfluff's dbt templater compiles the models, and incremental ones ask the database whether their table exists.
lint: $(STAMP) ## ruff, mypy, sqlfluff
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/sqlfluff lint database tests/access
	@$(BIN)/python -m sandbox run -- $(BIN)/sqlfluff lint --templater dbt dbt_project

# compose's own check needs docker; where there is none, its schema still is checked.
lint-deploy: $(DEPLOY)/installed ## hadolint, cfn-lint, kustomize, kubernetes-validate, KEDA's schema, promtool, zizmor, checkov
	@PATH="$(CURDIR)/$(DEPLOY)/bin:$$PATH" deploy/lint/run

bench: $(STAMP) ## measure the loader and the masking
	@$(BIN)/python -m benchmarks

install: $(STAMP) ## make .venv with everything, from requirements-dev.lock

lock: ## pin anew all that pyproject.toml names
	@$(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install -qq --disable-pip-version-check uv
	@$(LOCK) requirements-dev.lock --group dev
	@awk '/^[a-z]/ {skip = /^(boto3|botocore|s3transfer)==/} !skip' requirements-dev.lock > .venv/lock/constraints # the emulator pins these
	@$(LOCK) requirements.lock --constraint .venv/lock/constraints
	@$(subst pyproject.toml,--group deploy,$(LOCK)) requirements-deploy.lock

LOCK = .venv/lock/bin/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-strip-extras --no-annotate --custom-compile-command 'make lock' --output-file

# The stamp is written last, so an installation that broke off is taken up again.
$(STAMP): requirements-dev.lock
	@command -v $(PYTHON) >/dev/null || { echo 'there is no $(PYTHON) on this machine; install Python 3.11 or newer, or say which: make PYTHON=/path/to/python3' >&2; exit 69; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is Python %d.%d and 3.11 or newer is needed; say which: make PYTHON=/path/to/python3" % sys.version_info[:2])'
	@echo 'Installing into .venv (about a minute, once) …'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	@touch $@

$(DEPLOY)/installed: $(STAMP) requirements-deploy.lock deploy/lint/package-lock.json
	@command -v npm >/dev/null || { echo 'there is no npm on this machine, and lint-deploy takes kustomize and the schemas of KEDA from it; install Node.js 20 or newer' >&2; exit 69; }
	@echo 'Installing what lint-deploy uses into $(DEPLOY) and deploy/lint/node_modules …'
	@$(PYTHON) -m venv $(DEPLOY)
	@$(DEPLOY)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement requirements-deploy.lock
	@npm --prefix deploy/lint ci --no-audit --no-fund --loglevel=error
	@touch $@
