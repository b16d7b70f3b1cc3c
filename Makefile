# Everything a developer runs. `make demo` and `make test` need Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Another tested release of megatron-core, for `make matrix-other`.
MEGATRON ?= 0.15.3
OTHER := .venv-megatron-$(MEGATRON)

.PHONY: help setup demo test test-core check format lint types bench bench-gpu \
  bench-real-size \
  matrix matrix-other \
  observer planted zoo map-grades site clean

help:
	@echo "make demo    set up, then find a live bug of megatron-core"
	@echo "make test    set up, then run the whole test suite"
	@echo "make test-core  what needs neither Megatron nor a compilation by jax, nor many"
	@echo "             processes (3 minutes)"
	@echo "make check   format, lint, types and tests: what CI runs"
	@echo "make bench   comparison and capture speed beside this machine's limits"
	@echo "make bench-gpu  comparison on the device that jax finds"
	@echo "make bench-real-size  the main job on GPT-2 124M (many minutes, 12 GiB, 20 GB"
	@echo "             of disk)"
	@echo "make matrix  every correct layout of the examples must pass (minutes)"
	@echo "make matrix-other  the same with another release of megatron-core,"
	@echo "             MEGATRON=$(MEGATRON), in an environment of its own (minutes)"
	@echo "make observer tracing must not change a bit of any layout (minutes)"
	@echo "make planted mistakes in random small models of torch and JAX (minutes)"
	@echo "make zoo     every bug of the zoo must be found; rewrites docs/zoo.md (minutes)"
	@echo "make map-grades  maps proposed from buggy ports of libraries (an hour);"
	@echo "             penzai's pair needs: pip install penzai ordered-set"
	@echo "make site    the documentation as a site, in site/ (20 s); open site/index.html"
	@echo "make setup   only the virtual environment in $(VENV)"
	@echo "make clean   remove what the above made, but for the traces in out/"

setup: $(READY)

CHECK_PYTHON = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "ttrace needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 2; }

$(READY): pyproject.toml constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[megatron,flax,dev]'
	@touch $(READY)

demo: setup
	$(BIN)/ttrace demo

# Tests start hundreds of processes, each of which would compile all modules otherwise.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest \
  --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST)

test-core: setup
	$(PYTEST) -m 'not slow and not megatron and not jax'

check: format lint types test

format: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/pyright

map-grades: setup
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.map_grading

bench: setup
	$(BIN)/python -m tests.benchmarks.bench_scaling --json docs/performance.json \
	  --figures docs/figures
	$(BIN)/python -m tests.benchmarks.bench_compare --json docs/performance.json
	$(BIN)/python -m tests.benchmarks.bench_capture --json docs/performance.json
	$(BIN)/python -m tests.benchmarks.bench_jax_capture

bench-gpu: setup
	$(BIN)/python -m tests.benchmarks.bench_gpu

bench-real-size: setup
	$(BIN)/python -m tests.benchmarks.bench_real_size

matrix: setup
	$(BIN)/python -m ttrace.examples.layout_matrix

observer: setup
	$(BIN)/python -m ttrace.examples.layout_matrix --observer

# An older release may ask for an older numpy, and with it for an older jax. Megatron's
# groups of several optimizer instances take einops.
$(OTHER)/.ready: pyproject.toml constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(OTHER)
	grep -vE '^(megatron-core|numpy|ml_dtypes|jax|jaxlib|scipy)==' constraints.txt \
	  > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet --constraint $(OTHER)/constraints.txt \
	  megatron-core==$(MEGATRON) einops --editable '.[megatron]'
	@touch $(OTHER)/.ready

matrix-other: $(OTHER)/.ready
	$(OTHER)/bin/python -m ttrace.examples.layout_matrix

planted: setup
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.planted 20
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.planted 5 --framework jax

zoo: setup
	@mkdir -p out
	$(BIN)/ttrace zoo run --json out/zoo.json; status=$$?; \
	  $(BIN)/python -m tests.examples.zoo_table out/zoo.json docs/zoo.md && \
	  $(BIN)/python -m tests.examples.code_table out/zoo.json docs/diagnosis.md && \
	  exit $$status

# The theme warns at length of a later mkdocs than ours.
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) .venv-megatron-* demo build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
