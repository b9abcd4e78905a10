# vaelite: `make help` lists the commands. Needed: python3 (3.11 to 3.13), git and make.

PROFILE ?= laptop
PHANTOM := data/phantom-$(PROFILE)
GENERATOR = $(shell sed -n 's/^GENERATOR_VERSION = "\(.*\)"/\1/p' data_scripts/phantom/__init__.py)
DATA ?= $(PHANTOM)
override DATA := $(patsubst %/,%,$(DATA))
RUN ?= runs/$(patsubst %-$(PROFILE),%,$(notdir $(DATA)))-$(PROFILE)
CASES ?=
SIZE ?=
SEED ?= 0
SETTINGS ?=
JOBS ?=
LAB ?=
EXTRAS := notebooks,dose,phantom,scale,dev
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
            "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
            && echo "$$name" && break; done)

VENV := .venv
READY := $(VENV)/ready
PY := $(VENV)/bin/python
VAELITE := $(PY) -m vaelite

ifneq ($(words $(DATA)) $(words $(RUN)) $(words $(PROFILE)),1 1 1)
$(error PROFILE, DATA and RUN are one word each: no spaces in the names of folders, please)
endif

# To make, profile= is another name than PROFILE=: the run would silently take the default.
SMALL := $(strip $(foreach name,profile data run cases size seed settings jobs, \
           $(if $(filter command,$(origin $(name))),$(name)=)))
ifneq ($(SMALL),)
$(error $(SMALL) has no effect. Write it in capitals: $(shell echo "$(SMALL)" | tr a-z A-Z))
endif

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1
# Jupyter and IPython keep to this folder: our settings, this Python's kernel, no telemetry, no news.
export JUPYTER_CONFIG_DIR := $(CURDIR)/.jupyter
export JUPYTER_PATH := $(CURDIR)/$(VENV)/share/jupyter
export JUPYTER_DATA_DIR := $(CURDIR)/$(VENV)/share/jupyter-data
export JUPYTER_PLATFORM_DIRS := 1
export IPYTHONDIR := $(CURDIR)/$(VENV)/share/ipython

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run-all data notebooks report test lab explore student solutions clean

help:
	@echo "vaelite: medical image translation, from a phantom to the dose on a synthetic CT"
	@echo
	@echo "  make run-all     everything: data if there are none, four notebooks, the report"
	@echo "  make test        the test suite"
	@echo "  make lab         JupyterLab on this computer; a double click opens a lesson"
	@echo "  make explore     JupyterLab on the newest run: its pictures, ready to be explored"
	@echo "  make data        only the built-in phantom patients, in $(PHANTOM)"
	@echo "  make notebooks   only the notebooks, on the data that are there"
	@echo "  make report      print the results of a run"
	@echo "  make student     copies of the lessons without solutions, in build/student; notebooks/README.md is for lecturers"
	@echo "  make solutions   the same with solutions, in build/solutions"
	@echo "  make clean       remove .venv and caches; data and runs stay"
	@echo
	@echo "  PROFILE=$(PROFILE)    smoke (minutes), laptop or paper (needs a GPU)"
	@echo "  DATA=$(DATA)    folder of case folders"
	@echo "  RUN=$(RUN)    folder of the results"
	@echo "  CASES= SIZE= SEED=$(SEED) JOBS= SETTINGS=    phantom: patients, pixels, random seed, processes, a copy of phantom.toml"

run-all: data notebooks

# Made once; again only when pyproject.toml or constraints.txt changes.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "vaelite needs Python 3.11, 3.12 or 3.13; python3 here is" \
	  "$$(python3 --version 2>/dev/null || echo missing). Install one, or name it: make run-all PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "vaelite needs Python 3.11, 3.12" \
	  "or 3.13; PYTHON=$(PYTHON) is $$("$(PYTHON)" --version 2>&1)."; exit 1; }
	@echo "Setting up $(VENV) with $$("$(PYTHON)" --version): once, some minutes, about 3 GB on disk ..."
	@"$(PYTHON)" -m venv $(VENV) || { echo "Could not make $(VENV) (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@$(PY) -m pip install --progress-bar off -c constraints.txt -e ".[$(EXTRAS)]" >$(VENV)/install.log 2>&1 \
	  || { tail -n 15 $(VENV)/install.log; echo "The set-up failed; $(VENV)/install.log has it all. Mend it and try again."; exit 1; }
	@touch $@
	@echo "Set-up done."

.venv: $(READY)

# The phantom is made only where the default folder is empty; other folders are the user's, and are checked, not filled.
data: $(READY)
ifeq ($(DATA),$(PHANTOM))
	@test -z "$(filter command environment,$(foreach name,CASES SIZE SEED SETTINGS,$(origin $(name))))" || test ! -f $(DATA)/dataset.json || { \
	  echo "$(DATA) is there already, and CASES, SIZE, SEED or SETTINGS would change it. Remove that folder first."; exit 1; }
	@test ! -f $(DATA)/dataset.json || grep -q '"generator_version": "$(GENERATOR)"' $(DATA)/dataset.json || { \
	  echo "$(DATA) was made by another version of the phantom. Remove that folder: it is then made again."; exit 1; }
	@test -f $(DATA)/dataset.json || { \
	  cases=$(or $(CASES),$$($(VAELITE) config $(PROFILE) data.cases)) && \
	  size=$(or $(SIZE),$$($(VAELITE) config $(PROFILE) data.size)) && \
	  echo "Making $$cases phantom patients, $$size x $$size pixels, in $(DATA) ..." && \
	  $(PY) data_scripts/make_phantom.py --cases "$$cases" --size "$$size" --seed $(SEED) --out $(DATA) $(if $(JOBS),--jobs $(JOBS)) \
	    $(if $(SETTINGS),--settings $(SETTINGS)); }
else
	@echo "$(DATA) is taken as yours: it is checked, not filled. CASES, SIZE, SEED, SETTINGS and JOBS go to $(PHANTOM) alone."
	@$(VAELITE) check $(DATA)
endif

notebooks: $(READY)
	@$(VAELITE) run-all --profile $(PROFILE) --data $(DATA) --run $(RUN)
	@$(VAELITE) report $(RUN)

report: $(READY)
	@$(VAELITE) report $(RUN)

# Finds the browser that drives the lessons, or tries to install one; without one the summary says what was not tested.
test: $(READY)
	@$(PY) tests/browser/chromium.py
	@$(PY) -m pytest -q

lab: $(READY)
	@echo "JupyterLab opens in the browser; Ctrl-C here stops it."
	@$(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/01_vae.py \
	  $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

# The newest run's executed copies carry its parameters: the explorers there look at that run.
explore: $(READY)
	@newest=$$(ls -td runs/*/notebooks/04_*.ipynb runs/*/notebooks/*.ipynb 2>/dev/null | head -n 1); \
	test -n "$$newest" || { echo "There is no finished run yet. Make one: make run-all PROFILE=smoke"; exit 1; }; \
	folder=$$(dirname "$$newest"); \
	echo "Exploring $$(dirname "$$folder"): Run > Run All Cells lets you move the sliders;" \
	  "with unchanged code, what is trained stays."; \
	$(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url="/lab/tree/$$folder/01_vae.ipynb" \
	  $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

student: $(READY)
	@$(VAELITE) copies build/student

solutions: $(READY)
	@$(VAELITE) copies build/solutions --solutions

clean:
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache
	@find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +
	@echo "Removed .venv and caches. Your data/ and runs/ are still here."
