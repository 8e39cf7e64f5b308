# Each target is one call of a verb of `python -m dpnet`; `make help` lists them.
BENCHMARK ?= shapes
PRESET    ?= quick
DATA      ?= data
RESULTS   ?= results
SEEDS     ?= 1
JOBS      ?= 1
DEVICE    ?= auto
PYTHON    ?= python3
VENV      ?= .venv

PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
DPNET  := $(PY) -m dpnet
WHAT   := --benchmark "$(BENCHMARK)" --preset "$(PRESET)" --data "$(DATA)" --results "$(RESULTS)"
WHERE  := --jobs "$(JOBS)" --seeds "$(SEEDS)" --device "$(DEVICE)"

# Nothing is written outside results, data and the environment: not even the caches of others.
export IPYTHONDIR       := $(abspath $(VENV))/.config/ipython
export JUPYTER_DATA_DIR := $(abspath $(VENV))/.config/jupyter
export MPLCONFIGDIR     := $(abspath $(VENV))/.config/matplotlib
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup prepare reproduce-table3 plan-table3 report test lint unit tiny nbval clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  variables: BENCHMARK=shapes|pascal|pascal-mini|folder PRESET=tiny|quick|mini|paper DATA=folder"
	@echo "             RESULTS=folder SEEDS=1 JOBS=1 DEVICE=auto|cpu|cuda PYTHON=python3"
	@echo "  example:   make reproduce-table3 BENCHMARK=pascal-mini DATA=~/data"

setup: $(READY)  ## make the environment (.venv); every other target does it when needed

$(READY): pyproject.toml requirements.lock
	@echo "setting up $(VENV): torch and the notebook packages, a few minutes and 6 GB"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[notebooks,dev]'
	@mkdir -p $(IPYTHONDIR) $(JUPYTER_DATA_DIR) $(MPLCONFIGDIR)
	@touch $@

prepare: $(READY)  ## render or index BENCHMARK
	@$(DPNET) prepare "$(BENCHMARK)" --preset "$(PRESET)" --root "$(DATA)"

reproduce-table3: $(READY)  ## Table 3: train the ablation on every fold, execute the notebooks, print the table
	@$(DPNET) reproduce table3 $(WHAT) $(WHERE)

plan-table3: $(READY)  ## how many trainings Table 3 needs, and how many are there; runs nothing
	@$(DPNET) plan table3 $(WHAT) $(WHERE)

report: $(READY)  ## write the numbers and the picture of README from results
	@$(DPNET) report

test: lint unit tiny nbval  ## lint, unit and property tests, the tiny Table 3 end to end, committed notebooks

lint: $(READY)
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy dpnet

unit: $(READY)
	@$(PY) -m pytest -q --ignore tests/test_end_to_end.py

tiny: $(READY)
	@$(PY) -m pytest -q tests/test_end_to_end.py

nbval: $(READY)
	@$(PY) -m pytest -q -p no:cacheprovider --nbval --nbval-current-env $(shell git ls-files ':(glob)results/*/table*.ipynb')

clean:  ## remove rendered data, checkpoints and tiny results; what is committed stays
	rm -rf data results/*-tiny results/*/runs/*/checkpoint.safetensors results/*/runs/*/state.pt
