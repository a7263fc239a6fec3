# Each target sets up .venv by itself when it is missing or pyproject.toml has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LIGHT := $(VENV)/.light
STAMP := $(VENV)/.ready

.PHONY: setup demo test lint bench docs clean help

help:  ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## Create .venv with vecpipe and everything its tests need

$(LIGHT): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("vecpipe needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) -e .
	touch $(LIGHT)

# vecpipe is there already: this adds what its tests need, and builds nothing.
$(STAMP): $(LIGHT)
	$(PIP) 'vecpipe[dev]'
	touch $(STAMP)

demo: $(LIGHT)  ## Embed, compress and search the docstrings installed here, in SQL
	$(BIN)/vecpipe demo

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## Measure speed against the peers, ratios in one run
	$(BIN)/vecpipe bench apply
	$(BIN)/vecpipe bench aggregate
	$(BIN)/vecpipe bench polars
	$(BIN)/vecpipe bench search

docs: $(STAMP)  ## Write the reference pages and the results shown in README and docs
	$(BIN)/python -m vecpipe.reference
	$(BIN)/python tests/docs_blocks.py README.md docs/*.md

clean:  ## Remove what the targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo.duckdb*
