# `make demo` and `make test` do all the set-up on a machine with Python 3.11 or newer.

ifndef PYTHON
PYTHON := $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
endif
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo test bench docs clean

help:
	@echo "make demo   install into $(VENV), then train, attack, repair and report on embedded data"
	@echo "make test   install the test tools as well, then lint, types, docs and tests"
	@echo "make bench  install the tools that the benchmarks compare with"
	@echo "make docs   build the documentation into docs/_build/html"
	@echo "make clean  remove what was built and cached; $(VENV) and runs/ stay"

demo: $(VENV)/.installed
	$(BIN)/bezoar demo

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --dist loadscope

# The peers that the benchmarks compare with. Without what they ask for: that would bring another
# torch, or torchvision, which none of their attacks needs.
bench: $(VENV)/.installed
	$(PIP) gitpython multiprocess numba six
	$(PIP) --no-deps adversarial-robustness-toolbox adv-lib eagerpy foolbox torchattacks

docs: $(VENV)/.installed-test
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "PYTHON=$(PYTHON) found: expected Python 3.11 or newer;" \
	    "install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "PYTHON=$(PYTHON) found without venv and ensurepip: expected both;" \
	    "install them (on Debian and Ubuntu the package python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The backend is installed first and used from here: pip's own build environment is not pinned.
$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable '.[test]'
	@touch $(VENV)/.installed $@
