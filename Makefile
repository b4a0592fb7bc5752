# make demo | test | test-slow | mutants | mutants-sample | fuzz | bench | lint | docs. Each makes .venv and installs once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_OUT ?= demo
FUZZ ?= archives configurations folders images names packs requests responses secrets weights
INPUTS ?= 1000

# Another commit samples other errors; the seed is printed.
MUTANTS_SEED ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || date -u +%Y%m%d)

.PHONY: demo test test-slow mutants mutants-sample fuzz bench lint docs install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --editable '.[test]' --constraint constraints.txt
	touch $@

demo: $(INSTALLED)
	$(BIN)/vl2v-orchestrate sweep --config demo.yaml --out $(DEMO_OUT) -y

test: lint
	$(BIN)/python -m pytest --numprocesses 2 -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 -m slow

mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutants --processes 2

mutants-sample: $(INSTALLED)
	$(BIN)/python -m tests.mutants --processes 2 --sample 10 --seed "$(MUTANTS_SEED)"

fuzz: $(INSTALLED)
	for kind in $(FUZZ); do $(BIN)/python -m tests.fuzz.$$kind --inputs $(INPUTS) || exit 1; done

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

# Pages that follow from the code first, then the site; a dead link, image or anchor ends it.
docs: $(VENV)/.docs
	$(BIN)/python -m tests.docs.generate
	$(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --quiet --editable '.[docs]' --constraint constraints.txt
	touch $@

bench: $(INSTALLED)
	$(BIN)/python -m tests.bench.steps
	$(BIN)/python -m tests.bench.stored_align
	$(BIN)/python -m tests.bench.distill
	$(BIN)/python -m tests.bench.swad
	$(BIN)/python -m tests.bench.data
	$(BIN)/python -m tests.bench.orchestration
	$(BIN)/python -m tests.bench.pruning
