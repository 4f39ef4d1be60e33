# Everything here works on a fresh clone with python3 (3.11 or later), pip and make.
# `make` alone says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
INSTALLED := $(VENV)/.installed
BENCH := $(VENV)/.installed-bench
FUZZ := $(VENV)/.installed-fuzz
BROWSER := $(VENV)/.browser
DATA ?=

help:  ## say what each word does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(if $(DATA),$(BENCH),$(INSTALLED))  ## take the trojan out of a model, end to end (DATA=folder of SST-2: on real data)
	@$(RUN) benchmarks.demo $(if $(DATA),--data "$(DATA)")

up: $(INSTALLED)  ## start the service on this machine; Ctrl-C stops it
	@$(RUN) app.standalone

test: lint $(BROWSER)  ## every check and every test
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)  ## style, types, and which room may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

check: lint docs  ## the quick part of the tests, the site and its links, what is known against the locked packages
	@$(RUN) pytest -q tests/architecture tests/app/domain tests/client
	@$(BIN)/helm lint --quiet deploy/helm/lethe
	@$(RUN) pytest -q tests/deploy
	@$(BIN)/python requirements/audit.py

docs: $(INSTALLED)  ## the documentation as a site, in var/site; a broken link fails it
	@$(RUN) sphinx -q -W --keep-going -n docs var/site
	@echo "var/site/index.html"

test-hostile: $(INSTALLED)  ## every known attack on the intake, one case each
	@$(RUN) pytest -q tests/hostile

faults: $(INSTALLED)  ## the twelve faults at full count, and broken builds that must be found (FAULTS="1 4")
	@FAULTS="$(FAULTS)" $(RUN) tests.faults

load: $(INSTALLED)  ## 5,000 jobs, 500 pollers, 50 streams, uploads, beside a bare endpoint; report in var/load/
	@$(RUN) benchmarks.load

fuzz: $(FUZZ)  ## mutants of every file format before the readers (FUZZ_SECONDS=120); report in var/fuzz/
	@$(RUN) tests.fuzz

FUZZ_CASES ?= 20000
fuzz-api: $(INSTALLED)  ## send the API cases made from its own description (FUZZ_CASES=20000)
	@FUZZ_CASES="$(FUZZ_CASES)" $(RUN) pytest -q -s tests/fuzz_api

bench: $(BENCH)  ## measure: the demo on SST-2, beside fine-tuning and plain ascent (DATA=folder)
	@test -n "$(DATA)" || { echo "make bench DATA=folder with train.tsv, dev.tsv and test.tsv of SST-2"; exit 2; }
	@$(RUN) benchmarks.demo --data "$(DATA)"

bench-efficacy: $(BENCH)  ## compare the methods against the attacks (DATA=folder of sst2/ and devign/; QUICK=1: half an hour)
	@$(RUN) benchmarks.efficacy $(if $(filter-out 0,$(QUICK)),--quick) $(if $(DATA),--data "$(DATA)") $(if $(BASE),--base "$(BASE)") \
		$(if $(ATTACKS),--attacks "$(ATTACKS)") $(if $(SEEDS),--seeds "$(SEEDS)") \
		$(if $(METHODS),--methods "$(METHODS)") $(if $(DEVICE),--device "$(DEVICE)")

bench-speed: $(BENCH)  ## how fast the engine is, beside what people use today; var/bench/speed.json (PARTS="fisher step" DEVICE=cpu)
	@$(RUN) benchmarks.speed $(if $(PARTS),--parts "$(PARTS)") $(if $(DEVICE),--device "$(DEVICE)")

migrate: $(INSTALLED)  ## bring the database of DATABASE_URL up to date
	@test -n "$${DATABASE_URL:-}" || { echo "set DATABASE_URL=postgresql://user:password@host/name"; exit 2; }
	@$(BIN)/alembic -c migrations/alembic.ini upgrade head

constraints: $(INSTALLED)  ## pin in constraints.txt what is installed now
	@{ sed '/^[^#]/,$$d' constraints.txt; $(RUN) pip freeze --exclude lethe | sed 's/+[a-z0-9.]*$$//' | LC_ALL=C sort -f; } > $(VENV)/pins
	@cp $(VENV)/pins constraints.txt

# uv reads the hashes of every build of a version from the index.
LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-emit-index-url --python-version 3.11 \
	--python-platform linux --custom-compile-command "make lock"

lock: $(INSTALLED)  ## pin by hash, in requirements/, what the images install
	@$(LOCK) -c constraints.txt pyproject.toml -o requirements/api.lock
	@$(LOCK) -c constraints.txt --extra worker pyproject.toml -o requirements/worker.lock
	@$(LOCK) requirements/build.in -o requirements/build.lock

clean:  ## remove what was built; data in var/ stays
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: installed anew when the list of packages changes.
$(INSTALLED): pyproject.toml constraints.txt
	$(call install,dev)

# Chromium for the dashboard's tests: the machine's own, Playwright's, or the distribution's package.
$(BROWSER): $(INSTALLED)
	@$(RUN) tests.browser.chromium > $@ || { rm -f $@; exit 1; }

$(BENCH): $(INSTALLED)
	$(call install,dev$(,)bench)

$(FUZZ): $(INSTALLED)
	$(call install,dev$(,)fuzz)

, := ,
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lethe needs Python 3.11 or later: make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (the first time about 1 GB, most of it torch)"
	@$(RUN) pip install --progress-bar off -c constraints.txt -e '.[$(1)]' 2> $(VENV)/install.log \
		| { grep --line-buffered -E '^ +Downloading .*MB|^(Processing|Installing)' || true; } | cut -c -100 \
		|| { cat $(VENV)/install.log; exit 1; }
	@touch $@
endef

.PHONY: help demo up docs test test-hostile faults load fuzz fuzz-api check lint bench bench-efficacy bench-speed migrate constraints lock clean
