# Each target is one call of a verb of `python -m dpnet`; `make help` lists them.
BENCHMARK ?= shapes
PRESET    ?= quick
DATA      ?= data
RESULTS   ?= results/local
SEEDS     ?= 1
JOBS      ?=
CLUSTER   ?=
DEVICE    ?= auto
PYTHON    ?= python3
VENV      ?= .venv

PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
DPNET  := $(PY) -m dpnet
WHAT   := --benchmark "$(BENCHMARK)" --preset "$(PRESET)" --data "$(DATA)" --seeds "$(SEEDS)"
WHERE  := $(if $(JOBS),--jobs "$(JOBS)") --cluster "$(CLUSTER)" --device "$(DEVICE)"
OWN    := --results "$(RESULTS)"

# Nothing is written outside results, data and the environment: not even the caches of others.
CONFIG := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(VENV)/.config
export IPYTHONDIR         := $(CONFIG)/ipython
export JUPYTER_DATA_DIR   := $(CONFIG)/jupyter
export JUPYTER_CONFIG_DIR := $(CONFIG)/jupyter
export MPLCONFIGDIR       := $(CONFIG)/matplotlib
export PYTHONPYCACHEPREFIX := $(CONFIG)/bytecode
unexport PYTHONDONTWRITEBYTECODE

TINY    := tests/companion/test_end_to_end.py
BROWSER = $(shell grep -rl --include='test_*.py' 'from chromium import' tests)
TARGETS := table1 table2 table3 table4 table5 table6 fig3 fig4 fig5 diversity all

.DEFAULT_GOAL := help
.PHONY: help setup prepare report speed head head-card explore site test-site test-faults test lint unit tiny nbval clean
.PHONY: $(TARGETS:%=reproduce-%) $(TARGETS:%=plan-%) $(TARGETS:%=publish-%) publish-report publish-speed publish-choose

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2} /^## / {print "  make " substr($$0, 4)}' \
		$(MAKEFILE_LIST)
	@echo
	@echo "  variables: BENCHMARK=shapes|pascal|pascal-part|coco|folder PRESET=tiny|quick|mini|paper DATA=folder"
	@echo "             RESULTS=folder of your own results SEEDS=1 JOBS=cohorts at a time CLUSTER=slurm|address DEVICE=auto|cpu|cuda PYTHON=python3"
	@echo "  example:   make reproduce-table3 BENCHMARK=pascal-part DATA=~/data"

setup: $(READY)  ## make the environment (.venv); every other target does it when needed

# An environment notes where it was made. One that is unfinished, moved or copied, or without its Python, is made anew.
ifneq ($(shell test -x "$(PY)" && cat "$(READY)" 2>/dev/null),$(shell cd "$(VENV)" 2>/dev/null && pwd -P))
.PHONY: $(READY)
endif

$(READY): pyproject.toml requirements.lock requirements-hashed.lock
	@"$(PYTHON)" -B scripts/environment.py "$(VENV)"

prepare: $(READY)  ## render or index BENCHMARK
	@$(DPNET) prepare "$(BENCHMARK)" --preset "$(PRESET)" --root "$(DATA)"

## reproduce-table1   one shot and five, two metrics, among the paper's rows; also -table2 (COCO-20i)
## reproduce-table3   the ablation of the modules; -table4 pseudo-prototypes, -table5 loss weights, -table6 scales
## reproduce-fig3     the cycle comparison; -fig4 predictions, -fig5 thresholds
## reproduce-diversity  the gain of the pseudo-prototype against the diversity of support and query
## reproduce-all      every table and figure, and the report; trains whatever they share once
$(TARGETS:%=reproduce-%): reproduce-%: $(READY)
	@$(DPNET) reproduce $* $(WHAT) $(WHERE) $(OWN)

## plan-table3        (or -table1 … -all) trainings needed, there and shared, and their steps; runs nothing
$(TARGETS:%=plan-%): plan-%: $(READY)
	@$(DPNET) plan $* $(WHAT) $(WHERE) $(OWN)

## publish-table3     (or -table1 … -all) for maintainers: into results/, which git has; -report, -speed, -choose
publish-report publish-speed publish-choose $(TARGETS:%=publish-%): publish-%: $(READY)
	@$(DPNET) publish $* $(WHAT) $(WHERE)

report: $(READY)  ## tables, figures and reports from your own results; trains nothing
	@$(DPNET) report $(OWN)

speed: $(READY)  ## measure this package against usual code on this machine: results/local/speed/ (9 minutes)
	@$(DPNET) speed --preset "$(PRESET)" --data "$(DATA)" $(OWN) --device "$(DEVICE)"

head: $(READY)  ## train the head that comes with the package on all of pascal-part; goes on where it was stopped
	@$(PY) scripts/head.py train --data "$(DATA)" --preset "$(PRESET)" --device "$(DEVICE)"

head-card: $(READY)  ## measure it (COCO=folder), and the heads of the folds in RESULTS: tables of docs/head.md
	@$(PY) scripts/head.py card --coco "$(COCO)" --data "$(DATA)" --preset "$(PRESET)" --device "$(DEVICE)" $(OWN)

explore: $(READY)  ## JupyterLab on stored predictions: move the threshold and see the answer
	@$(DPNET) explore --benchmark "$(BENCHMARK)" --preset "$(PRESET)" --data "$(DATA)" $(OWN)

site: $(READY)  ## static pages of all results, published and yours, to browse offline: results/local/site/index.html
	@$(DPNET) site $(OWN)

test-site: $(READY)  ## the site and the explorer in a headless Chromium (Debian: chromium, chromium-driver)
	@$(PY) -m pytest -q $(BROWSER)

test-faults: $(READY)  ## kill drivers, workers and kernels at random moments, fill disks, tear files (15 minutes)
	@$(PY) -m pytest -q -s tests/companion/test_faults.py

test: lint unit tiny nbval  ## lint, unit and property tests, every target end to end at tiny, committed notebooks

lint: $(READY)  ## format, style and types alone; also unit, tiny, nbval: the other parts of test
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy dpnet scripts

# Two processes of one thread each share two cores better than one process of two threads.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -q -rs -n 2 --dist loadfile

unit: $(READY)
	@$(PYTEST) --durations=10 -m "not long" $(patsubst %,--ignore %,$(BROWSER) $(TINY))

tiny: $(READY)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q --durations=5 $(TINY)

# The guides 01_method and 03_your_data train heads: their numbers are this machine's; tests/notebooks/test_guides.py runs them.
nbval: export MPLBACKEND := module://matplotlib_inline.backend_inline
nbval: export MATPLOTLIBRC := /dev/null
nbval: export PYTHONSTARTUP :=
nbval: $(READY)
	@$(DPNET) prepare shapes --root data
	@DPNET_RESULTS="$$PWD/results" DPNET_PROGRESS=/dev/null $(PYTEST) -p no:cacheprovider --nbval --nbval-current-env \
		$(filter-out %/01_method.ipynb %/03_your_data.ipynb %.failed.ipynb,$(wildcard results/*/*.ipynb))

# Not all of data: it may hold your own VOC, COCO or pictures. Indices stay, and masks made of COCO's polygons.
CACHES := $(foreach cache,features pixels validation,data/pascal*/$(cache) data/coco*/$(cache) data/folder/$(cache))

clean:  ## remove rendered data, caches and results at tiny; your data, your other results and what is published stay
	rm -rf data/shapes data/folder/made data/folder/index.json data/folder/contact_sheet.png $(CACHES)
	rm -rf results/local/*-tiny results/local/site results/*/runs/*/checkpoint.safetensors results/*/runs/*/state-*.pt
