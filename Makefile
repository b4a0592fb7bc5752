# make demo | test | test-slow | bench | lint. Each makes .venv and installs once; a second run reuses it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_OUT ?= demo

.PHONY: demo test test-slow bench lint install

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

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: $(INSTALLED)
	$(BIN)/python -m tests.bench.steps
	$(BIN)/python -m tests.bench.stored_align
	$(BIN)/python -m tests.bench.distill
	$(BIN)/python -m tests.bench.swad
	$(BIN)/python -m tests.bench.data
	$(BIN)/python -m tests.bench.orchestration
	$(BIN)/python -m tests.bench.pruning
