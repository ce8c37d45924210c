# Everything runs in a virtual environment of its own; `make` targets make it when it is not there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
DATA ?= data/demo
SEEDS ?= 1
# A file of versions to keep to, such as constraints.txt, which CI passed with; empty: the newest that fit.
CONSTRAINTS ?=

.PHONY: demo test test-fast test-gpu mutants constraints lint docs format bench compare clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable ".[dev]"
	touch $@

# Synthetic dataset, training, evaluation and report; what is there already is kept.
demo: $(VENV)/.installed
	$(BIN)/person-search synth --identities 300 --scenes 1000 --cameras 4 --out $(DATA)
	$(BIN)/person-search train --config recipes/demo.yaml --data-root $(DATA) --run-dir $(RUN) $(if $(wildcard $(RUN)),--resume)
	$(BIN)/person-search evaluate --checkpoint $(RUN) --references
	$(BIN)/person-search report --run-dir $(RUN) --out report/demo

# Two processes with one thread each: torch's own threads gain little on pictures as small as the tests'. Files come in
# the order of tests/conftest.py, and not those with the most tests first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed
	$(PYTEST)

test-fast: $(VENV)/.installed
	$(PYTEST) -m "not slow"

# What only a GPU shows; skipped, visibly, where there is none.
test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest -m gpu -rs

# Breaks the program on purpose, line by line, and reports what no test notices; ONLY="NAME ..." picks some.
mutants: $(VENV)/.installed
	$(BIN)/python tests/mutation/run_mutants.py $(ONLY)

# The versions in the environment, as constraints.txt records them.
constraints: $(VENV)/.installed
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site in build/site; a warning, such as of a broken link, is an error. No network is used.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/annotations.py

# Methods and their parts on one synthetic set: about 20 minutes on two CPU cores for each of SEEDS; what is finished is
# kept.
compare: $(VENV)/.installed
	$(BIN)/python benchmarks/compare.py --seeds $(SEEDS)

clean:
	rm -rf $(VENV) build dist report
