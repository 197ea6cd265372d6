# make compare   sets up everything and runs the main job on the embedded demo model
# make test      sets up everything, checks style, types and layers, and runs the tests
# make test-all  also runs the slow comparisons with lm-eval's own backend
# make coverage  runs the tests under coverage, child processes included, and prints the total
# make test-browser  opens the report and JupyterLab in a headless chromium
# make fuzz      100,000 hostile inputs for every reader, then a minute each guided by coverage
# make zoo       a small model of every architecture of transformers, held against plain transformers
# make docs      builds the documentation, notebooks rendered, into site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Without bytecode every process would compile anew what it imports.
export PYTHONDONTWRITEBYTECODE :=
# Two workers of two threads each would wait for one another on two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

DEV := [dev,torchao,ray]
# Python compiles a file when it is first imported: of the libraries' 26,000 files under 6,000 are.
define install
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '$(1)'
endef

.PHONY: compare test test-all coverage test-browser fuzz zoo docs lint benchmarks clean

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("evalkit needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,.)
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(call install,.$(DEV))
	touch $@

$(VENV)/.browser: $(VENV)/.dev
	$(call install,.[browser])
	command -v chromium chromium-browser >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(call install,.[fuzz])
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(call install,.[docs])
	touch $@

compare: $(VENV)/.core
	$(BIN)/evalkit compare fp16 int8 int4 --model demo $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(PYTEST) -m "not slow and not browser" $(ARGS)

test-all: lint
	$(PYTEST) -m "not browser" $(ARGS)

coverage: $(VENV)/.dev
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m "not slow and not browser" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-browser: $(VENV)/.browser
	$(BIN)/pytest tests/browser $(ARGS)

fuzz: $(VENV)/.fuzz
	$(BIN)/python tests/fuzz/run.py --atheris 60 $(ARGS)

zoo: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/zoo/run.py $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --quiet

benchmarks: $(VENV)/.dev
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache .pytest_cache
