# List of tasks. A fresh Linux machine needs only Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
# One more than the 2 cores, because tests of servers and transfers wait (162 s instead of 186 s).
WORKERS ?= 3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo/$(shell date +%Y-%m-%d_%H-%M-%S)

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## Make .venv with the locked versions and the package

demo: install ## Run ingest, pretrain, finetune, evaluate and predict on phantoms of radiology, pathology and the eye (about 5 minutes on 2 cores); results in demo/
	@$(BIN)/medvit demo output=$(DEMO)

test: lint ## Check style, types and layers, then run the tests in WORKERS processes (3)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: install ## Check style (ruff), types (mypy) and import rules (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## Compare medvit with other tools on the same files, and pretraining (about 12 minutes on 2 cores)
	@$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

clean: ## Remove .venv and the caches, never results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'medvit needs Python 3.11 or newer, and $(PYTHON) is not: give another one, as in make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo 'the virtual environment could not be made; on Debian and Ubuntu install the package python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
