# Everything a developer runs. `make demo` and `make test` need Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test check format lint types bench matrix observer zoo clean

help:
	@echo "make demo    set up, then find a live bug of megatron-core"
	@echo "make test    set up, then run the whole test suite"
	@echo "make check   format, lint, types and tests, as CI does"
	@echo "make bench   comparison and capture speed beside this machine's limits"
	@echo "make matrix  every correct layout of the example must pass (minutes)"
	@echo "make observer tracing must not change a bit of any layout (minutes)"
	@echo "make zoo     every bug of the zoo must be found; rewrites its table (minutes)"
	@echo "make setup   only the virtual environment in $(VENV)"
	@echo "make clean   remove what the above made, but for the traces in out/"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ttrace needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[megatron,dev]'
	@touch $(READY)

demo: setup
	$(BIN)/ttrace demo

test: setup
	$(BIN)/python -m pytest

check: format lint types test

format: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/pyright

bench: setup
	$(BIN)/python tests/benchmarks/bench_compare.py
	$(BIN)/python tests/benchmarks/bench_capture.py

matrix: setup
	$(BIN)/python -m ttrace.examples.layout_matrix

observer: setup
	$(BIN)/python -m ttrace.examples.layout_matrix --observer

zoo: setup
	@mkdir -p out
	$(BIN)/ttrace zoo run --json out/zoo.json; status=$$?; \
	  $(BIN)/python tests/zoo_table.py out/zoo.json README.md && exit $$status

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
