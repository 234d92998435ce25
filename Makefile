# Two commands do everything, set-up included: `make repro` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RECIPE ?=
SECONDS ?= 60
TRIALS ?= 400
TARGETS ?=
ONLY ?=
BENCH_OPTIONS ?=
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help repro test soak check bench fuzz format clean

help:
	@echo "make repro                 run the main job as params.yaml says (the embedded scenes)"
	@echo "make repro RECIPE=NAME     the same with recipes/NAME.yaml: $(notdir $(basename $(wildcard recipes/*.yaml)))"
	@echo "make test                  linters, type checks and the whole test suite"
	@echo "make soak TRIALS=400       the tests of crashes and damage, with this many runs killed"
	@echo "make bench ONLY='extract step'   measure speed and memory, all or just these; see benchmarks/"
	@echo "make fuzz SECONDS=60       fuzz every reader of foreign files; see fuzz/README.md"
	@echo "make format                let ruff put the code in order"
	@echo "make clean                 remove the environment and caches of tools"

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# A recipe is a whole params file: it takes the place of params.yaml, where git shows the change.
repro: $(STAMP)
	$(if $(RECIPE),cp recipes/$(RECIPE).yaml params.yaml)
	@# DVC puts names from params.yaml into a shell: they are checked before it sees them.
	$(BIN)/python -c 'from pathlib import Path; from pipeline.params import load_params; load_params(Path("params.yaml"))'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc metrics show

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes share the tests: torch takes one thread in each of them.
test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

soak: $(STAMP)
	$(BIN)/python -m pytest tests/faults --soak $(TRIALS)

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ONLY) $(BENCH_OPTIONS)

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(BIN)/python -m fuzz --seconds $(SECONDS) $(TARGETS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis fuzz/work
