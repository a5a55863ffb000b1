# The commands of the README. .venv is created once with $(PYTHON) and updated when pyproject.toml or constraints.txt changes.
# Each target installs only what it needs: `make demo` the core, the others the development tools as well.

PYTHON   ?= python3
EXAMPLE  ?= examples/square_with_hum.mp4
QUESTION ?= Describe what you see and hear.
# Additional pytest options: make test PYTEST_ARGS="tests/test_config.py -k override"
PYTEST_ARGS ?=

VENV := .venv
BIN  := $(VENV)/bin
SITE := build/site
CORE := $(VENV)/.core-installed
DEV  := $(VENV)/.dev-installed
DECLARED := pyproject.toml constraints.txt
# The pinned versions need Python 3.11 or newer. On 3.10 pip chooses older versions within the bounds of pyproject.toml.
PINS = $(shell $(BIN)/python -c 'import sys; print("" if sys.version_info < (3, 11) else "-c constraints.txt")')

# The models of the tests and the demo are small: a second thread makes them slower on two busy cores.
export OMP_NUM_THREADS ?= 1
# Silence a notice of mkdocs-material about MkDocs 2.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: demo test check lint compat fast-test bench gpu format docs wheel-test help clean

demo: $(CORE)  ## Install the core and answer a question about an example video
	$(BIN)/video-llama ask "$(EXAMPLE)" "$(QUESTION)"

test: $(DEV)  ## Install the development tools and run every test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint fast-test  ## Run lint and the fast tests (under a minute)

lint: $(DEV)  ## Check format, lint, types, layer contract and documentation links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --quiet --strict --site-dir $(SITE)

# The lowest and the newest version of transformers that pyproject.toml allows, each with its own huggingface_hub.
COMPAT_TESTS := tests/models tests/chat $(wildcard tests/processors/test_processing*.py) tests/processors/test_collator.py \
  tests/test_auto.py tests/checkpoints/test_tokenizer_files.py

compat: $(DEV)  ## Run fast tests of model, processor and chat with the lowest and newest allowed transformers
	@set -e; for pair in "transformers==5.16.0 huggingface-hub<2" "transformers>=5.16,<5.25 huggingface-hub<3"; do \
	  rm -rf build/transformers; \
	  $(BIN)/python -m pip install --quiet --no-deps --target build/transformers $$pair; \
	  PYTHONPATH="$(CURDIR)/build/transformers" $(BIN)/python -c 'import transformers; print("transformers", transformers.__version__)'; \
	  PYTHONPATH="$(CURDIR)/build/transformers" $(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu" $(COMPAT_TESTS); \
	done

fast-test: $(DEV)
	@$(BIN)/python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

# bench_load and bench_convert are not part of it: they need a folder with much free space.
bench: $(DEV)  ## Run the benchmarks and write docs/benchmarks.md (ten minutes)
	$(BIN)/python benchmarks/bench.py

gpu: $(DEV)  ## Check and measure the model on a GPU (docs/gpu.md)
	$(BIN)/python benchmarks/gpu.py

format: $(DEV)  ## Reformat the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEV)  ## Regenerate the generated pages and build the documentation site
	$(BIN)/python -m video_llama.cli.document > docs/commands.md
	$(BIN)/python docs/diagrams/architecture.py
	$(BIN)/mkdocs build --strict --site-dir $(SITE)
	@echo "Open $(SITE)/index.html"

wheel-test: $(DEV)  ## Build the wheel, install it in a fresh environment and run it
	@$(BIN)/python -m pytest tests/test_wheel.py

clean:  ## Remove .venv, build results and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 15))' \
	  || { echo "Python 3.10 to 3.14 is required: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian: apt-get install python3-venv" >&2; exit 1; }

$(CORE): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINS) -e .
	@touch $@

$(DEV): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINS) -e ".[dev,train,demo,serve]"
	@touch $(CORE) $@
