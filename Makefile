# The graph of the report. Its targets are executed notebooks: each is stamp, log and record of its stage in one.

# What to run. Each is also a parameter of the notebooks.
PROFILE    ?= demo
RUN        ?= $(PROFILE)
CORPUS     ?=
BASE_MODEL ?=
ITERATIONS ?= 5
SEEDS      ?= 0

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
# Two samplings would write one corpus, and two trainings would share one device.
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

# As in lib.config: an empty RUN is the profile's.
override RUN := $(or $(strip $(RUN)),$(PROFILE))
ARTIFACTS := artifacts/$(RUN)
REPORTS   := reports/$(RUN)
SETTINGS  := $(ARTIFACTS)/settings

ifeq ($(ITERATIONS),all)
override ITERATIONS := $(sort $(patsubst notebooks/parameters/iterations/%.toml,%,$(wildcard notebooks/parameters/iterations/*.toml)))
endif

# --- The environment -------------------------------------------------------------------------------------------------
# Made on first use in .venv, and again only when the lock changes. `make report PY=python` uses the active environment.
PYTHON ?= python3
ifdef PY
ENVIRONMENT :=
else
PY := .venv/bin/python
ENVIRONMENT := .venv/installed
endif

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"error: Python 3.11 or newer is needed, and $(PYTHON) is {sys.version.split()[0]}; name another with PYTHON=...")'
	@echo "Installing the environment into .venv (once; a few minutes)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# --- The modules that each notebook reaches (tests/test_makefile.py keeps these lists true) --------------------------
# What only shows (look, plots) counts for the report alone: a nicer table is no reason to train again.
lib = $(addprefix lib/,$(addsuffix .py,$(1)))
EVERYWHERE    := $(call lib,__init__ config paths storage)
CORPUS_CODE   := $(call lib,corpus corpus_files corpus_rows) $(filter-out lib/demo/base_model.py,$(wildcard lib/demo/*.py)) $(wildcard lib/demo/tables/*)
MODEL_CODE    := $(call lib,model prompts)
SAMPLING      := $(EVERYWHERE) $(CORPUS_CODE) $(call lib,splits sampling embedding projection)
PREPROCESSING := $(EVERYWHERE) $(CORPUS_CODE) $(MODEL_CODE) $(call lib,audit examples)
TRAINING      := $(EVERYWHERE) $(MODEL_CODE) $(call lib,training)
EVALUATION    := $(EVERYWHERE) $(CORPUS_CODE) $(MODEL_CODE) $(call lib,splits sampling embedding evaluation generation metrics statistics)
REPORT        := $(EVALUATION) $(call lib,look plots examples report provenance) $(wildcard lib/templates/*)

# --- The stages ------------------------------------------------------------------------------------------------------
run_notebook = $(PY) -m lib.notebooks $(1) $@ run=$(RUN) profile=$(PROFILE) corpus='$(CORPUS)' base_model='$(BASE_MODEL)'
CORPUS_FILES     := $(if $(CORPUS),$(wildcard $(CORPUS) $(CORPUS)/*))
BASE_MODEL_FILES := $(wildcard $(or $(BASE_MODEL),lib/demo/base_model)/*)

# What each stage can see of the settings. A file is rewritten only when that has changed. The plus sign keeps `make -n`
# from taking every file for a new one: it plans by the settings of the last run.
.PHONY: settings
settings: | $(ENVIRONMENT)
	@$(PY) -m lib.config --run '$(RUN)' --profile '$(PROFILE)' --corpus '$(CORPUS)' --base-model '$(BASE_MODEL)' \
	    --iterations '$(ITERATIONS)' --seeds '$(SEEDS)'
.PRECIOUS: $(SETTINGS)/%.json
$(SETTINGS)/%.json: settings ; +@:

$(REPORTS)/1_sampling_%.ipynb: notebooks/1_sampling.ipynb $(SETTINGS)/sampling_%.json $(SAMPLING) $(CORPUS_FILES)
	@$(call run_notebook,$<) iteration=$*

# Written by whichever sampling comes first, and only when it changes.
$(ARTIFACTS)/corpus/split.parquet: $(REPORTS)/1_sampling_$(firstword $(ITERATIONS)).ipynb ; +@:

$(REPORTS)/2_preprocessing_%.ipynb: notebooks/2_preprocessing.ipynb $(SETTINGS)/preprocessing_%.json \
    $(REPORTS)/1_sampling_%.ipynb $(PREPROCESSING) $(BASE_MODEL_FILES)
	@$(call run_notebook,$<) iteration=$*

$(REPORTS)/4_evaluation_base.ipynb: notebooks/4_evaluation.ipynb $(SETTINGS)/evaluation_base.json \
    $(ARTIFACTS)/corpus/split.parquet $(EVALUATION) $(BASE_MODEL_FILES)
	@$(call run_notebook,$<) iteration=base

define with_seed
$(REPORTS)/3_training_%_seed$(1).ipynb: notebooks/3_training.ipynb $(SETTINGS)/training_%_seed$(1).json \
    $(REPORTS)/2_preprocessing_%.ipynb $(TRAINING) $(BASE_MODEL_FILES)
	@$$(call run_notebook,$$<) iteration=$$* seed=$(1)

$(REPORTS)/4_evaluation_%_seed$(1).ipynb: notebooks/4_evaluation.ipynb $(SETTINGS)/evaluation_%_seed$(1).json \
    $(REPORTS)/3_training_%_seed$(1).ipynb $(ARTIFACTS)/corpus/split.parquet $(EVALUATION)
	@$$(call run_notebook,$$<) iteration=$$* seed=$(1)
endef
$(foreach seed,$(SEEDS),$(eval $(call with_seed,$(seed))))

# Named one by one, since Make does not miss a file that only a pattern knows.
PREPARED  := $(foreach iteration,$(ITERATIONS),$(REPORTS)/1_sampling_$(iteration).ipynb $(REPORTS)/2_preprocessing_$(iteration).ipynb)
TRAINED   := $(foreach seed,$(SEEDS),$(ITERATIONS:%=$(REPORTS)/3_training_%_seed$(seed).ipynb))
EVALUATED := $(REPORTS)/4_evaluation_base.ipynb \
    $(foreach seed,$(SEEDS),$(foreach iteration,$(ITERATIONS),$(REPORTS)/4_evaluation_$(iteration)_seed$(seed).ipynb))

$(REPORTS)/5_report.ipynb: notebooks/5_report.ipynb $(SETTINGS)/report.json $(PREPARED) $(TRAINED) $(EVALUATED) $(REPORT)
	@$(call run_notebook,$<) iterations='$(ITERATIONS)' seeds='$(SEEDS)'
	@echo "The report: $(REPORTS)/report.html"

# --- Commands --------------------------------------------------------------------------------------------------------
.PHONY: help report test quick-test lab bench lint clean base-model example
help: ## what these commands do
	@echo "Klepon: a report that can be run again. Commands:"
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14 | sed 's/^/  make /'
	@echo "Variables: PROFILE=$(PROFILE) RUN=$(RUN) CORPUS=$(CORPUS) BASE_MODEL=$(BASE_MODEL) ITERATIONS=\"$(ITERATIONS)\" SEEDS=\"$(SEEDS)\""

report: $(REPORTS)/5_report.ipynb ## from a fresh clone to reports/<run>/report.html; runs what is stale, and only that

test: $(ENVIRONMENT) ## the whole suite, offline
	@$(PY) -m pytest

quick-test: $(ENVIRONMENT) ## the suite without the tests that run whole stages
	@$(PY) -m pytest -m "not slow"

lab: $(ENVIRONMENT) ## JupyterLab on the notebooks
	@$(PY) -m jupyterlab notebooks

bench: $(ENVIRONMENT) ## the benchmarks, each a ratio against a named peer; writes reports/bench/results.csv
	@for script in tests/benchmarks/bench_*.py; do $(PY) "$$script" $(if $(CORPUS),--corpus '$(CORPUS)'); done

lint: $(ENVIRONMENT) ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

clean: ## remove what RUN computed and shows
	@$(if $(findstring /,$(RUN))$(filter . .. example published bench,$(RUN)),$(error RUN=$(RUN) is no run: nothing is removed))
	rm -rf '$(ARTIFACTS)' '$(REPORTS)'

base-model: $(ENVIRONMENT) ## pretrain the demo's base model again (about half an hour)
	@$(PY) -m lib.demo.base_model

example: report ## copy this run's report into reports/example, which is committed
	@mkdir -p reports/example
	@cp $(REPORTS)/report.html $(REPORTS)/results.csv $(REPORTS)/manifest.json reports/example/
	@cp $(REPORTS)/figures/bleu.png reports/example/bleu.png
