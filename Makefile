# Needs Python 3.11 or newer and make. Every target first installs what it uses into .venv.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
DEPLOY := .venv/deploy
# absolute, because some commands run from dbt_project/
DBT := $(CURDIR)/$(BIN)/dbt

# SQL and FILE reach the commands as environment variables, so neither make nor the shell interprets them.
override export SQL := $(value SQL)
override export FILE := $(value FILE)

.DEFAULT_GOAL := help
.PHONY: help demo up down clean seed load rejudge query test test-all test-faults snapshot lint lint-deploy bench install lock

help: ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r name does; do printf '  make %-12s %s\n' "$$name" "$$does"; done

demo: $(STAMP) ## do everything once and print what an analyst sees; FILE=events.jsonl: your events instead of the sample
	@$(BIN)/python -m sandbox up
	@$(BIN)/python -m sandbox seed -- $${FILE:+"$$FILE"}
	@$(BIN)/python -m loader drain
	@cd dbt_project && $(DBT) run
	@cd dbt_project && { $(DBT) test || [ $$? -eq 1 ]; } # 1: a test failed; `show` names it below the tables
	@$(BIN)/python -m sandbox show

up: $(STAMP) ## start PostgreSQL and an SQS emulator on this machine, apply database/
	@$(BIN)/python -m sandbox up

# Without .sandbox/ nothing was started, so do not install anything.
down: $(if $(wildcard .sandbox),$(STAMP)) ## stop what `up` started and keep the data
	@[ ! -d .sandbox ] || $(BIN)/python -m sandbox down

clean: $(if $(wildcard .sandbox),$(STAMP)) ## stop and delete all data
	@[ ! -d .sandbox ] || $(BIN)/python -m sandbox clean

seed: $(STAMP) ## send 1,000 sample events; FILE=events.jsonl: each line of FILE, verbatim, as one message
	@$(BIN)/python -m sandbox seed -- $${FILE:+"$$FILE"}

load: $(STAMP) ## drain the queue into staging
	@$(BIN)/python -m loader drain

rejudge: $(STAMP) ## after a rule was corrected: judge the rejected messages again
	@cd dbt_project && $(DBT) run-operation judge_again && $(DBT) run

query: $(STAMP) ## SQL="select …": run it as the analyst and print a table
	@[ -n "$$SQL" ] || { echo 'SQL is not set; say make query SQL="select …"' >&2; exit 64; }
	@$(BIN)/python -m sandbox query -- "$$SQL"

# worksteal: an idle worker takes tests from the other one.
test: $(STAMP) ## run the tests, without the slow ones, on servers that the tests start
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'not slow'

test-all: $(STAMP) ## run all tests, fault tests in short
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-faults: $(STAMP) ## kill and cut everything the pipeline runs on, at length, and count that nothing is lost
	@FAULTS=full $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --timeout 1200 --junit-xml .pytest_cache/faults.xml \
		tests/faults tests/judging

snapshot: $(STAMP) ## rewrite what is generated for review: tests/access/privileges.txt, and the masking policy in docs/masking.md
	@SNAPSHOT=write $(BIN)/python -m pytest --quiet tests/access/test_privileges.py tests/judging/test_docs.py -k reviewed

# sqlfluff compiles the models with dbt, and compiling an incremental model needs a database.
lint: $(STAMP) ## check the code: ruff, mypy, sqlfluff
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/sqlfluff lint database tests/access
	@$(BIN)/python -m sandbox run -- $(BIN)/sqlfluff lint --templater dbt dbt_project

# Without docker, the compose file is only checked against its schema.
lint-deploy: $(DEPLOY)/installed ## check deploy/: hadolint, cfn-lint, kustomize, kubernetes-validate, KEDA's schema, promtool, zizmor, checkov
	@PATH="$(CURDIR)/$(DEPLOY)/bin:$$PATH" deploy/lint/run

bench: $(STAMP) ## measure loading, masking, rotation, disk
	@$(BIN)/python -m benchmarks

install: $(STAMP) ## create .venv from requirements-dev.lock

lock: ## pin the packages of pyproject.toml again
	@$(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install -qq --disable-pip-version-check uv
	@$(LOCK) requirements-dev.lock --group dev
	@awk '/^[a-z]/ {skip = /^(boto3|botocore|s3transfer)==/} !skip' requirements-dev.lock > .venv/lock/constraints # the emulator pins these
	@$(LOCK) requirements.lock --constraint .venv/lock/constraints
	@$(subst pyproject.toml,--group deploy,$(LOCK)) requirements-deploy.lock

LOCK = .venv/lock/bin/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-strip-extras --no-annotate --custom-compile-command 'make lock' --output-file

# The stamp is written last, so an interrupted installation starts again.
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
