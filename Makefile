# Everything here works on a machine with Python 3.11 or 3.12 and pip; uv is used when it is present.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c '' 2>/dev/null && echo python3.12 || (command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11) || echo python3)
WORKDIR ?= runs/demo
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: help install demo test slow lint docs bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

install: $(STAMP)  ## create .venv with everything the demo and the tests need

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else "Equipoise needs Python 3.11 or 3.12, found %d.%d; set PYTHON=/path/to/python3.11" % v)'
	@echo "== installing into $(VENV) (about a minute and a half, 1.7 GB of disk)"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv -q --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[brain,dev]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[brain,dev]'; \
	fi
	@touch $@

demo: install  ## prepare, train, evaluate and report on real input (about 5 minutes on 2 cores)
	@$(BIN)/python -m equipoise.launch.demo --workdir=$(WORKDIR)

test: install  ## the default test suite, in two processes
	@$(BIN)/python -m pytest -n 2

slow: install  ## the long tests
	@$(BIN)/python -m pytest -m slow

lint: install  ## ruff: lint and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: install  ## write docs/cli.md from the code
	@$(BIN)/python -m equipoise.launch.reference > docs/cli.md

bench: install  ## every program in benchmarks/ (peers from the extra [bench] where present)
	@for f in $(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py)); do echo "== $$f"; $(BIN)/python $$f || exit 1; done

clean:  ## remove build products, keep runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
