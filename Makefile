# Needs Python 3.11 or newer and make. Every target first installs what it uses into .venv.

export PYTHON ?= python3
BIN := .venv/bin
# what the sandbox runs on; with it, what the linters and tests need
SANDBOX := .venv/sandbox
STAMP := .venv/installed
DEPLOY := .venv/deploy
REPORT := .venv/report
BROWSER := tests/report/node_modules/installed
# absolute, because some commands run from dbt_project/
DBT := $(CURDIR)/$(BIN)/dbt

# SQL and FILE reach the commands as environment variables, so neither make nor the shell interprets them.
override export SQL := $(value SQL)
override export FILE := $(value FILE)

.DEFAULT_GOAL := help
.PHONY: help demo up down clean seed ranges load follow rejudge backfill query report board docs test test-all test-managed coverage test-faults test-whole mutants snapshot lint lint-deploy dashboard bench install lock

help: ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r name does; do printf '  make %-12s %s\n' "$$name" "$$does"; done

demo: $(SANDBOX) ## do everything once and print what an analyst sees; FILE=events.jsonl: your events instead of the sample
	@$(BIN)/python -m sandbox up
	@$(BIN)/python -m sandbox seed -- $${FILE:+"$$FILE"}
	@[ -n "$$FILE" ] || $(BIN)/python -m loader ranges sandbox/sample_ranges.csv
	@$(BIN)/python -m loader drain
	@echo 'dbt run: judge and mask, build the views; all that dbt says is in dbt_project/logs/dbt.log'
	@cd dbt_project && $(DBT) --quiet run
	@echo 'dbt test: is every message masked or rejected, and nothing shown unmasked?'
	@code=0; (cd dbt_project && $(DBT) --quiet test) || code=$$?; $(BIN)/python -m sandbox show && \
		{ [ $$code -eq 0 ] || echo "dbt test failed, as dbt says above the tables" >&2; exit $$code; }

up: $(SANDBOX) ## start PostgreSQL and an SQS emulator on this machine, apply database/
	@$(BIN)/python -m sandbox up

# Without .sandbox/ nothing was started, so do not install anything.
down: $(if $(wildcard .sandbox),$(SANDBOX)) ## stop what `up` started and keep the data
	@[ ! -d .sandbox ] || $(BIN)/python -m sandbox down

clean: $(if $(wildcard .sandbox),$(SANDBOX)) ## stop and delete all data
	@[ ! -d .sandbox ] || $(BIN)/python -m sandbox clean

seed: $(SANDBOX) ## send 1,000 sample events; FILE=events.jsonl: each line of FILE, verbatim, as one message
	@$(BIN)/python -m sandbox seed -- $${FILE:+"$$FILE"}

ranges: $(SANDBOX) ## FILE=ranges.csv.gz: by which masking knows an address's country and operator
	@[ -n "$$FILE" ] || { echo 'FILE is not set; say make ranges FILE=ranges.csv.gz' >&2; exit 64; }
	@$(BIN)/python -m loader ranges -- "$$FILE"

load: $(SANDBOX) ## drain the queue into staging
	@$(BIN)/python -m loader drain

follow: up ## the loader and dbt as services, until Ctrl-C: what is sent is visible to analysts seconds later
	@echo 'dbt run: build the views'
	@cd dbt_project && $(DBT) --quiet run
	@$(BIN)/python -m sandbox follow

rejudge: $(SANDBOX) ## after a rule was corrected: judge the rejected messages again
	@cd dbt_project && $(DBT) run-operation judge_again && $(DBT) run

backfill: $(SANDBOX) ## after a field was added or its rule changed: judge and mask the earlier logins again
	@cd dbt_project && $(DBT) run --select marts --vars 'backfill: true'

query: $(SANDBOX) ## SQL="select …": run it as the analyst and print a table
	@[ -n "$$SQL" ] || { echo 'SQL is not set; say make query SQL="select …"' >&2; exit 64; }
	@$(BIN)/python -m sandbox query -- "$$SQL"

report: $(SANDBOX) $(REPORT)/installed ## draw what an analyst sees into report.html and report.png
	@$(BIN)/python -m sandbox report

board: $(SANDBOX) $(REPORT)/installed ## serve the same page on this machine until Ctrl-C, drawn anew whenever it is opened
	@$(BIN)/python -m sandbox board

docs: up ## write dbt's documentation and lineage to one page and print its path
	@cd dbt_project && $(DBT) --quiet docs generate --static
	@echo dbt_project/target/static_index.html

# worksteal: an idle worker takes tests from the other one.
test: $(STAMP) ## run the tests that are quick, on servers that the tests start
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'not slow'

test-all: $(STAMP) $(REPORT)/installed $(BROWSER) ## run all tests, fault tests in short
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-managed: $(STAMP) ## run the tests of rights and recovery as a managed server has it: no superuser migrates, TLS alone if PostgreSQL has it
	@SERVER=managed $(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/access tests/recovery tests/integration/test_migrate.py

coverage: $(STAMP) ## print which lines of loader/, recovery/ and sandbox/ no test of `test-all` runs
	@mkdir -p .coverage && $(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest --numprocesses 2 --dist worksteal
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report

test-faults: $(STAMP) ## kill and cut everything the pipeline runs on, at length, and count that nothing is lost
	@FAULTS=full $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --timeout 1200 --junit-xml .pytest_cache/faults.xml \
		tests/faults tests/judging

test-whole: $(STAMP) ## play the whole pipeline against its model in whatever order comes, for WHOLE_MINUTES (30)
	@WHOLE_MINUTES=$${WHOLE_MINUTES:-30} $(BIN)/python -m pytest -s tests/whole

mutants: $(STAMP) ## break the SQL and the loader in some 140 places and print what no test notices (an hour); FILE=rotate: only those whose name has that
	@$(BIN)/python -m tests.mutants

snapshot: $(STAMP) ## rewrite what is generated for review: tests/access/privileges.txt, the masking policy in docs/masking.md, README's lineage
	@SNAPSHOT=write $(BIN)/python -m pytest --quiet tests/access/test_privileges.py tests/judging/test_docs.py -k reviewed

# sqlfluff compiles the models with dbt, and compiling an incremental model needs a database: the sandbox's.
lint: $(STAMP) up ## check the code: ruff, mypy, sqlfluff
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/sqlfluff lint database loader tests/access
	@$(BIN)/sqlfluff lint --templater dbt dbt_project

# Without docker, the compose file is only checked against its schema.
lint-deploy: $(DEPLOY)/installed ## check deploy/: hadolint, cfn-lint, kustomize, kubernetes-validate, KEDA's schema, promtool, zizmor, checkov
	@PATH="$(CURDIR)/$(DEPLOY)/bin:$$PATH" deploy/lint/run

dashboard: $(DEPLOY)/installed ## write Grafana's dashboard anew, deploy/kubernetes/components/alerts/dashboard.json
	@cd deploy/kubernetes/components/alerts && $(CURDIR)/$(DEPLOY)/bin/python dashboard.py > dashboard.json.new && mv dashboard.json.new dashboard.json

bench: $(STAMP) ## measure loading, freshness, masking, rotation, disk
	@$(BIN)/python -m benchmarks

install: $(STAMP) ## create .venv with what the sandbox, the linters and the tests need

lock: ## pin the packages of pyproject.toml again
	@sandbox/install .venv/lock requirements-installer.lock uv
	@$(LOCK) requirements.lock pyproject.toml
	@$(LOCK) requirements-sandbox.lock pyproject.toml --group sandbox --constraint requirements.lock
	@$(LOCK) requirements-dev.lock pyproject.toml --group sandbox --group dev --constraint requirements-sandbox.lock
	@$(LOCK) requirements-deploy.lock --group deploy
	@$(LOCK) requirements-report.lock --group report
	@$(LOCK) requirements-installer.lock --group installer

LOCK = .venv/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-strip-extras --no-annotate --custom-compile-command 'make lock' --output-file

# A stamp is written last, so an interrupted installation starts again.
$(SANDBOX): requirements-sandbox.lock requirements-installer.lock
	@sandbox/install .venv $< 'dbt, PostgreSQL and what the loader needs'
	@[ -e dbt_project/profiles.yml ] || cp sandbox/profiles.yml dbt_project/
	@touch $@

$(STAMP): requirements-dev.lock $(SANDBOX)
	@sandbox/install .venv $< 'the linters and the tests too'
	@touch $@

$(REPORT)/installed: requirements-report.lock requirements-installer.lock
	@sandbox/install $(REPORT) $< 'dbt-charts'
	@touch $@

# Without npm, the tests that need a browser are skipped.
$(BROWSER): tests/report/package-lock.json
	@! command -v npm >/dev/null || { npm --prefix tests/report ci --no-audit --no-fund --loglevel=error && touch $@; }

$(DEPLOY)/installed: requirements-deploy.lock deploy/lint/package-lock.json
	@command -v npm >/dev/null || { echo 'there is no npm on this machine, and lint-deploy takes kustomize and the schemas of KEDA from it; install Node.js 20 or newer' >&2; exit 69; }
	@sandbox/install $(DEPLOY) $< 'the linters of deploy/'
	@npm --prefix deploy/lint ci --no-audit --no-fund --loglevel=error
	@touch $@
