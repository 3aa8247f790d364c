# Each target is one visible command line; .venv is made once and again whenever pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --config-settings editable_mode=compat --editable

.PHONY: demo test lowest lint figures bench mutants gpu

demo: .venv/demo
	$(BIN)/python -m reference verify && $(BIN)/python -m reference fit reference/data/citations.csv --weight weight && $(BIN)/python -m figures targets

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Every dependency at its lower bound; warnings that newer packages give of older ones are no errors here.
lowest: .venv-lowest/test
	.venv-lowest/bin/python -m pytest -W default --numprocesses auto --dist loadfile

lint: .venv/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

figures: .venv/demo
	$(BIN)/python -m figures all

bench: .venv/test
	$(BIN)/python -m bench kernels && $(BIN)/python -m bench mlp && $(BIN)/python -m bench lm

mutants: .venv/test
	$(BIN)/python -m tests.mutants && $(BIN)/python -m tests.shim.mutants && $(BIN)/python -m tests.shim.mutants sanitize

# With the interpreter given, as it is: nothing is installed.
gpu:
	PYTHON=$(PYTHON) bench/gpu.sh

.venv/demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) . && touch $@

.venv/test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[test]' && touch $@ .venv/demo

.venv-lowest/test: pyproject.toml tests/lowest.py
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) -m tests.lowest > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --config-settings editable_mode=compat --editable '.[test]' && touch $@
