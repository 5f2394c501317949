# Everything is installed into $(VENV), with the versions of $(CONSTRAINTS). `make help` lists the verbs.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
# further arguments: of pip install, of the quickstart, of pytest; and the number of test processes
PIP_FLAGS ?=
ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install $(PIP_FLAGS) -c $(CONSTRAINTS)
QUICKSTART = $(VENV)/.installed-quickstart
ALL = $(VENV)/.installed-all

# MuJoCo draws without a display.
ifeq ($(shell uname -s),Linux)
export MUJOCO_GL ?= egl
endif

.PHONY: help quickstart test pytest coverage lint format check-codestyle type spelling commit-checks doc release \
	robomimic libero kitchen adroit doctor clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+( [a-z-]+)*:.*## / {printf "%-16s %s\n", $$1, $$2}' Makefile

quickstart: $(QUICKSTART)  ## train and watch a first policy; ARGS="..." is handed on
	$(BIN)/python -m ogpo_sb3.quickstart $(ARGS)

test pytest: $(ALL)  ## run the tests; PYTEST_ARGS="-m expensive" chooses the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

coverage: $(ALL)  ## run the tests and list the lines that no test reaches
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term $(PYTEST_ARGS)

lint: $(ALL)  ## check code and format, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-codestyle: lint

format: $(ALL)  ## repair what can be repaired, then format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(ALL)  ## check types
	$(BIN)/mypy

spelling: $(ALL)  ## look for misspelt words
	$(BIN)/codespell

commit-checks: format type lint  ## what to run before a commit

doc: $(ALL)  ## build the documentation into docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

release: $(ALL)  ## build source distribution and wheel into dist/
	$(BIN)/python -m build

robomimic: | $(VENV)/.created  ## install the core with robosuite and robomimic
	$(INSTALL) -e ".[robomimic,data,video]"
	$(INSTALL) --no-deps robosuite robomimic

libero: | $(VENV)/.created  ## install the core with LIBERO, robosuite and robomimic
	$(INSTALL) -e ".[libero,data,video]"
	$(INSTALL) --no-deps robosuite robomimic hf-libero bddl

kitchen adroit: | $(VENV)/.created  ## install the core with Kitchen or Adroit (one engine)
	$(INSTALL) -e ".[$@,data,video]"

doctor:  ## say which benchmarks run here, and what is missing for the others
	$(BIN)/python -m ogpo_sb3.doctor

clean:  ## remove built files, keep $(VENV)
	rm -rf build dist *.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "ogpo_sb3 needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c $(CONSTRAINTS)
	@touch $@

$(QUICKSTART): setup.py $(CONSTRAINTS) | $(VENV)/.created
	$(INSTALL) -e ".[adroit,video]"
	@touch $@

# robosuite, robomimic and LIBERO declare requirements that conflict or compile C; the extras bring those that they use.
$(ALL): setup.py $(CONSTRAINTS) | $(VENV)/.created
	$(INSTALL) -e ".[all]"
	$(INSTALL) --no-deps robosuite robomimic hf-libero bddl
	@touch $@
