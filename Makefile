# `make demo` trains, `make test` checks; both build .venv when it is missing.

# The first Python that is new enough.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  2>/dev/null && echo $$python && break; done)
WORKDIR ?= runs/demo
# A process per core; the tests of a file share what they set up.
PYTEST_FLAGS ?= -n 2 --dist loadfile
BIN := .venv/bin

.PHONY: demo test lint notebooks clean

demo: .venv/installed
	$(BIN)/python experiments/train.py --config=configs/demo.py \
	  --workdir=$(WORKDIR)

# Tests and the examples in the docstrings. What took long to compile is kept
# for the next run.
test: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache
test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.1
test: lint
	$(BIN)/python -m pytest -m 'not slow' $(PYTEST_FLAGS)

lint: .venv/installed
	$(BIN)/ruff check .

# Installs again only when setup.py is newer than the last installation.
.venv/installed: setup.py
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[train,test]'
	@touch $@

# Runs every notebook with a fast measurement.
notebooks: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[notebooks]'
	$(BIN)/python -m pytest --nbmake $(PYTEST_FLAGS) notebooks/

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis \
	  .jax_cache
