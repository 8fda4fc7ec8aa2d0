# Each target sets up .venv by itself the first time, and says nothing where nothing is to do.
# Libraries are compiled once, for a shell may keep Python from doing so: each process would then compile torch again.
# The make of macOS (3.81) looks for a program in its own PATH, not in the one exported here: so $(BIN)/ before each.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUTF8 := 1
# Some shells keep Python from writing what it compiles: each of many processes would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=
# Processes of the tests, at most eight.
# One more than there are processors: a test that waits for a server leaves one idle.
WORKERS := $(shell n=$$(getconf _NPROCESSORS_ONLN); if [ $$n -gt 7 ]; then n=7; fi; echo $$((n + 1)))
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: repro repro-all test test-all audit docs lint experiments plots ui sweep bench clean help
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

repro: $(READY) ## Run the pipeline of params.yaml, stages side by side; a second run does nothing (JOBS=N: so many)
	@$(BIN)/notbugs check
	@test -e .git || $(BIN)/dvc config --local core.no_scm true
	@test -e data/train/manifest.json || { $(BIN)/dvc repro prepare && $(BIN)/notbugs check; } # once more, of D itself
	@$(BIN)/notbugs repro --track $(if $(JOBS),--jobs $(JOBS))

repro-all: export NOTBUGS_ANEW := $(shell date +%s)
repro-all: $(READY) ## Run everything anew, also what is recorded in Git or kept from earlier runs
	@$(BIN)/notbugs check
	@test -e .git || $(BIN)/dvc config --local core.no_scm true
	@test -e data/train/manifest.json || { $(BIN)/dvc repro prepare && $(BIN)/notbugs check; } # once more, of D itself
	@$(BIN)/notbugs repro --track --force $(if $(JOBS),--jobs $(JOBS))

test: $(READY) ## Run the tests
	@$(PYTEST)

test-all: $(READY) ## Run the tests, the slow ones too, and more examples of properties
	@$(PYTEST) -m "" --hypothesis-profile thorough

audit: $(READY) ## Ask PyPI for known advisories of what requirements.lock names
	@$(BIN)/uv tool run pip-audit --strict --no-deps --disable-pip -r requirements.lock

docs: $(READY) ## Write the numbers in README.md and docs/ from the metrics, and build the site into site/
	@$(BIN)/notbugs results --write-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html"

lint: $(READY) ## Check style, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

experiments: $(READY) ## Set DVC's experiments side by side, in at most 120 columns (docs/dvc.md)
	@$(BIN)/dvc exp show --no-pager --only-changed --drop 'Created|.*/|data(?!\.)|metrics|sweeps|stages|D\.|D_NR|.*pgd|.*shifted|D_R\..*clean'

plots: $(READY) ## Draw the plots of dvc.yaml, with `dvc plots show`
	@$(BIN)/notbugs plots

ui: $(READY) ## Serve the MLflow UI on loopback
	@$(BIN)/notbugs ui

sweep: $(READY) ## Run the studies of eps and steps in params.yaml (STUDY=NAME: one of them)
	@$(BIN)/notbugs sweep $(STUDY)

bench: $(READY) ## Measure our PGD beside other libraries' (installs them)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[bench]'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps 'torchattacks>=3.5'
	@$(BIN)/python benchmarks/engine.py

clean: ## Remove .venv and caches; data, models and runs stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("notbugs needs Python 3.11 or later, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	@echo "setting up $(VENV) (once, a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@$(BIN)/notbugs plots --prepare # so that `dvc plots show` needs no network
	@touch $@
