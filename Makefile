# The few commands of the kit; `make` alone lists them. Everything they make stays in this folder.
# Paths are relative on purpose: the name of the folder of the checkout may contain spaces.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help tour test test-quick test-slow test-floor bench lab explorer gallery notebooks student lint clean

# Name an interpreter here if the search below finds the wrong one: make test PYTHON=/path/to/python3
PYTHON ?=
CANDIDATES := python3.13 python3.12 python3.11 python3
# The numbers of the lessons that `make notebooks` runs; none means all.
LESSON ?=
# More options for `pip install`, for instance another index.
PIP_FLAGS ?=

# A test computes with one thread, so there is room for one per core; each process takes about a gigabyte.
SIDE_BY_SIDE := --numprocesses=logical --maxprocesses=4 --dist=worksteal

READY := .venv/ready
FLOOR := .venv-floor/ready

# Tests draw no windows and never ask the network for weights.
test test-quick test-slow test-floor: export MPLBACKEND := Agg
test test-quick test-slow test-floor: export HF_HUB_OFFLINE := 1

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' Makefile

tour: $(READY) ## a first walk through the kit, without the network once installed
	@.venv/bin/refseg tour

test: $(READY) ## ruff, pyright and all tests; those that need a GPU skip where there is none
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m pytest $(SIDE_BY_SIDE) -m "" --timeout=900

test-quick: $(READY) ## all tests but the slow ones, for while you work
	@.venv/bin/python -m pytest $(SIDE_BY_SIDE)

test-slow: $(READY) ## the slow tests: trainings, notebooks, the types
	@.venv/bin/python -m pytest $(SIDE_BY_SIDE) -m "slow and not gpu" --timeout=3600

test-floor: $(FLOOR) ## the quick tests with the oldest versions that pyproject.toml allows
	@.venv-floor/bin/python -m pytest

bench: $(READY) ## speed, memory and error of CMSA and CFSA, into data/results (keep the machine quiet, 20 minutes)
	@.venv/bin/python benchmarks/cmsa.py --sweep
	@.venv/bin/python benchmarks/network.py
	@.venv/bin/python benchmarks/cfsa.py

lab: $(READY) ## open the notebooks in JupyterLab
	@.venv/bin/python -m jupyterlab notebooks

explorer: $(READY) ## open the word-region explorer on its shipped examples, in a browser
	@.venv/bin/refseg explore --open

gallery: $(READY) ## 24 expressions with their explorer in one page, runs/gallery.html (a minute)
	@.venv/bin/python -m refseg_course.gallery

notebooks: $(READY) ## run all lessons again and store their outputs and times (one: make notebooks LESSON=04)
	@.venv/bin/python -m refseg_course.notebooks execute $(LESSON)

student: $(READY) ## the lessons without solutions, to work in: build/student
	@.venv/bin/python -m refseg_course.notebooks student

lint: $(READY) ## ruff, the layout of the code, and pyright
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m basedpyright

clean: ## remove caches and build leftovers; .venv, data, runs and build/student, where you may have worked, stay
	@rm -rf dist refseg.egg-info .pytest_cache .ruff_cache
	@for left in build/*; do [ "$$left" = build/student ] || rm -rf "$$left"; done
	@find refseg refseg_course refshapes tests notebooks benchmarks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(call install,.venv,)

# The oldest versions were published before the newest Python.
$(FLOOR): CANDIDATES := python3.11 python3.12
$(FLOOR): pyproject.toml tests/floor.txt
	@$(call install,.venv-floor,-c tests/floor.txt)

# $(call install,FOLDER,PIP ARGUMENTS): the package, editable, with its tests' tools in a virtual environment.
# The file FOLDER/installing exists while an installation runs. If it is there at the start, one was cut off, and pip
# would take its half-written packages for complete ones: then the environment is made again.
define install
	set -u; \
	if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- $(CANDIDATES); fi; \
	recent=; python=; \
	for name do \
	    "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    recent=$${recent:-$$name}; \
	    if "$$name" -c 'import ensurepip, venv' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$recent" ]; then \
	    echo "No Python 3.11 or newer among: $$*. Install one, or name yours: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if [ -z "$$python" ]; then \
	    echo "$$recent cannot make a virtual environment: on Debian or Ubuntu, apt install $${recent##*/}-venv" >&2; exit 1; \
	fi; \
	if [ -e $(1)/installing ] || ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then \
	    echo "Making $(1) with $$python"; \
	    "$$python" -m venv --clear $(1) || exit 1; \
	    echo '*' > $(1)/.gitignore; \
	fi; \
	echo "Installing refseg into $(1): some gigabytes and some minutes, the first time only"; \
	touch $(1)/installing; \
	if $(1)/bin/python -m pip install --disable-pip-version-check --no-input $(PIP_FLAGS) $(2) -e '.[test]'; then \
	    rm -f $(1)/installing; touch $(1)/ready; \
	else \
	    rm -f $(1)/installing; \
	    echo "Installing refseg failed for the reason pip gives above, usually no network or a full disk: fix it and run the same make again." >&2; exit 1; \
	fi
endef
