# `make help` lists the targets. The first of them that needs Python creates .venv; later ones find it ready.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: help demo test test-fast check docs bench clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "re-llm needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Setting up $(VENV): a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(READY)  ## Play the shipped recordings through the shipped miniature
	@$(BIN)/re-llm demo

test: $(READY)  ## Run every test, the slow ones too
	$(BIN)/python -m pytest

test-fast: $(READY)  ## Run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

check: $(READY)  ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## Write the generated pages of docs/: commands, corpora
	$(BIN)/python docs/generate_commands.py
	$(BIN)/python docs/generate_corpora.py

bench: $(READY)  ## Run every benchmark; each prints the machine, the date and its medians
	@for script in benchmarks/*.py; do case $$script in */_*) ;; *) echo "== $$script"; $(BIN)/python $$script || exit 1;; esac; done

clean:  ## Remove caches and builds, not .venv and not runs/
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache
