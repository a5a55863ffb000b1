# The README's commands. .venv is made once, with python3, and brought up to date when pyproject.toml or constraints.txt changes.
# Each goal installs only what it needs: `make demo` the core, the others the development tools as well.

PYTHON   ?= python3
EXAMPLE  ?= examples/square_with_hum.mp4
QUESTION ?= Describe what you see and hear.
# More options for pytest: make test PYTEST_ARGS="tests/test_config.py -k override"
PYTEST_ARGS ?=

VENV := .venv
BIN  := $(VENV)/bin
CORE := $(VENV)/.core-installed
DEV  := $(VENV)/.dev-installed
DECLARED := pyproject.toml constraints.txt
# The pinned versions need Python 3.11 or newer; on 3.10 pip chooses older ones within pyproject.toml's bounds.
PINS = $(shell $(BIN)/python -c 'import sys; print("" if sys.version_info < (3, 11) else "-c constraints.txt")')

# On two busy cores two threads are slower than one; tests and the demo are small.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: demo test check lint fast-test bench format help clean

demo: $(CORE)  ## Set up the core and answer a question about a shipped example video
	$(BIN)/video-llama ask "$(EXAMPLE)" "$(QUESTION)"

test: $(DEV)  ## Set up the development tools and run every test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint fast-test  ## Format, lint, types, layers and the fast tests: under a minute

lint: $(DEV)  ## Format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast-test: $(DEV)
	@$(BIN)/python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

bench: $(DEV)  ## Run every benchmark
	@set -e; for script in benchmarks/bench_*.py benchmarks/train_step.py; do \
	  [ -e "$$script" ] || { echo "benchmarks/ holds no bench_*.py" >&2; exit 1; }; \
	  echo "== $$script"; $(BIN)/python "$$script"; \
	done

format: $(DEV)  ## Rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove .venv and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist

help:  ## Say what each goal does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Python 3.10 to 3.13 is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian: apt-get install python3-venv" >&2; exit 1; }

$(CORE): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINS) -e .
	@touch $@

$(DEV): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINS) -e ".[dev,train,demo,serve]"
	@touch $(CORE) $@
