PYTHON ?= python3
BIN = .venv/bin
DEMO ?= data/demo

.PHONY: help install demo test lint smoke clean

help:
	@echo "make demo   install, draw people, train three models on them, combine, score (8 min)"
	@echo "make test   install what is missing and run the tests"
	@echo "make lint   ruff"
	@echo "make smoke  a short training on real photos: FACES=folder in the competition's layout"
	@echo "make clean  remove what the others made, except data/ and runs/"

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv build *.egg-info
