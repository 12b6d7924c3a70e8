# `make help` lists the targets. The first of them that needs Python creates .venv; later ones find it ready.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
AUDIT = .venv-audit
VLLM = .venv-vllm
AUDIT_TOOLS = pip-audit==2.10.1 cyclonedx-bom==7.5.0

.PHONY: help demo test test-fast test-ray test-vllm campaign check audit sbom docs bench clean
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

demo: $(READY)  ## Real people answered by the small model (fetches its parts, 226 MB, once), and the miniature
	@$(BIN)/re-llm parts get small --yes || echo "Without the parts of the small model: the miniature alone" >&2
	@$(BIN)/re-llm demo

# A process for each core, a file of tests in one of them.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test: $(READY)  ## Run every test, the slow ones too
	$(PYTEST)

test-fast: $(READY)  ## Run the tests that take seconds
	$(PYTEST) -m "not slow"

test-ray: $(READY)  ## Install Ray Serve and run the tests of `serve --engine ray`: replicas, one of them killed under load
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[serve-ray]"
	$(BIN)/python -m pytest tests/apps/test_front.py tests/apps/test_ray_serve.py

$(VLLM)/.ready: tools/vllm_environment.py
	@echo "Setting up $(VLLM): a few minutes and 3 GB the first time"
	@$(PYTHON) tools/vllm_environment.py $(VLLM)
	@touch $@

test-vllm: $(VLLM)/.ready  ## Install vLLM in an environment of its own and run the tests of the plugin in it
	$(VLLM)/bin/python -m pytest tests/apps/test_vllm.py tests/apps/test_vllm_lora.py

campaign: $(READY)  ## Read thousands of damaged files of each kind (RE_LLM_SEED=N: other ones, RE_LLM_COUNT=N: so many)
	$(BIN)/python -m pytest tests/campaign

check: $(READY)  ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory audit

# Tools with many dependencies of their own: they get an environment of their own.
$(AUDIT)/bin/pip-audit:
	@$(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet $(AUDIT_TOOLS)

audit:  ## Look up known vulnerabilities of the pinned packages, where an index answers
	@$(PYTHON) tools/audit_packages.py --environment $(AUDIT) --tools "$(AUDIT_TOOLS)"

sbom: $(READY) $(AUDIT)/bin/pip-audit  ## Write build/sbom.json: what the environment holds (CycloneDX)
	@mkdir -p build
	@$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --of JSON -o build/sbom.json $(BIN)/python
	@$(PYTHON) -c 'import json; print(len(json.load(open("build/sbom.json"))["components"]), "packages in build/sbom.json")'

docs: $(READY)  ## Write the generated pages of docs/: commands, corpora
	$(BIN)/python docs/generate_commands.py
	$(BIN)/python docs/generate_corpora.py

bench: $(READY)  ## Run every benchmark; each prints the machine, the date and its medians
	@for script in benchmarks/*.py; do case $$script in */_*) ;; *) echo "== $$script"; $(BIN)/python $$script || exit 1;; esac; done

clean:  ## Remove caches and builds, not .venv and not runs/
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache
