# kdcli's chores. `make quickstart` and `make test` need Python 3.11+, git and make, and nothing else: the environment
# in .venv is made on first use and again whenever pyproject.toml changes.

.NOTPARALLEL:
.DEFAULT_GOAL := help

# the first interpreter that is new enough and can make virtual environments; `make test PYTHON=/path/to/python` overrides
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3.14 python3 python; do \
	$$name -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$name && break; done)
VENV := .venv
RUN := $(VENV)/bin/
STAMP := $(VENV)/.installed-$(shell cksum < pyproject.toml | tr ' ' '-')

# one thread a test process: the processes share the cores
WORKERS ?= auto
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN)python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
SOURCES := kdcli tests tools benchmarks

.PHONY: help setup quickstart test test-all unit lint type fmt fuzz docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make the environment in .venv (done by the other targets when needed)

# the stamp's name holds a hash of pyproject.toml, so its absence is the only reason to install; Python compiles what it imports, and pip would
# compile everything, which takes most of a minute
$(STAMP):
	@test -n "$(PYTHON)" || { echo "error: kdcli needs Python 3.11 or newer with its venv module; found none." >&2; \
		echo "  try:  install it (on Debian and Ubuntu: python3 and python3-venv), or make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setup: installing kdcli and its tools into $(VENV) with $(PYTHON); the first time takes minutes, torch is large"
	@test -x $(RUN)python || $(PYTHON) -m venv $(VENV)
	@$(RUN)python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[dev,onnx,timm,hf,data,search,slurm]'
	@rm -f $(VENV)/.installed-*
	@touch $@

quickstart: $(STAMP) ## train a teacher on digits, distil it, measure both and the gap: under a minute
	$(RUN)kd train-teacher quickstart-teacher
	$(RUN)kd distill quickstart
	$(RUN)kd evaluate $$(ls -dt runs/cnn-large-digits-* | head -n 1) $$(ls -dt runs/skd-cnn-small-digits-* | head -n 1)
	$(RUN)kd analyze-gap
	@echo; echo "report: $$(ls -dt runs/skd-cnn-small-digits-* | head -n 1)/report.html"

test: lint type unit ## lint, types, import rules and tests: what CI runs

test-all: export KD_SLOW = 1
test-all: lint type unit ## the same with the slow tests

unit: $(STAMP) ## the tests alone
	$(PYTEST)

lint: $(STAMP) ## style, formatting, and which package may import which
	$(RUN)ruff check $(wildcard $(SOURCES))
	$(RUN)ruff format --check $(wildcard $(SOURCES))
	$(RUN)lint-imports

type: $(STAMP) ## types
	$(RUN)mypy

fmt: $(STAMP) ## format the code, mend what can be mended
	$(RUN)ruff check --fix $(wildcard $(SOURCES))
	$(RUN)ruff format $(wildcard $(SOURCES))

fuzz: $(STAMP) ## feed kd inputs that are nearly right for ten minutes, led by what they reach
	@$(RUN)python -c 'import atheris' 2>/dev/null || $(RUN)python -m pip install --quiet --disable-pip-version-check atheris
	$(RUN)python -m tools.fuzz

docs: $(STAMP) ## write the generated pages of docs/reference again
	$(RUN)python -m tools.docs

bench: $(STAMP) ## measure speed, shortened (benchmarks/README.md): tens of minutes on a machine that does nothing else
	$(RUN)python -m benchmarks.startup
	$(RUN)python -m benchmarks.probe
	$(RUN)python -m benchmarks.distill --batches 8
	$(RUN)python -m benchmarks.table --batches 25
	$(RUN)python -m benchmarks.scaling --rounds 2
	$(RUN)python -m benchmarks.sweep
	$(RUN)python -m benchmarks.plan
	$(RUN)python -m benchmarks.gap

clean: ## remove the environment, caches and built files; runs/ is kept
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
