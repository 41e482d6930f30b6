# Everything here works from a fresh clone with git, make and Python 3.11+: the first target that needs it makes the
# virtual environment, and makes it again only where pyproject.toml has changed.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
SECONDS ?= 60

BIN := $(VENV)/bin
USER_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
# nbmake takes seconds to import, in each worker: not where no notebook is run
FAST = $(PYTEST) -p no:nbmake
# pip shows its progress to a person, and to a log only errors
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $$(test -t 2 || echo -qq)

.DEFAULT_GOAL := help
.PHONY: help demo quick test lint format typecheck runtime fuzz wheel results docs screenshots lab hooks clean

help: ## Show this list
	@echo "vidmarl: make TARGET [PYTHON=python3] [VENV=.venv]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(USER_STAMP) ## Train two agents on a small victim, attack unseen clips, write a report (minutes, no network)
	@$(BIN)/vidmarl demo

quick: $(DEV_STAMP) lint ## Style, and the fast tests: a minute
	@echo "== fast tests"
	@$(FAST) --hypothesis-profile quick -m "not slow and not thorough and not browser" tests

test: $(DEV_STAMP) lint typecheck ## Style, types, every test (slow ones too) with its coverage, and every notebook
	@echo "== tests and notebooks"
	@$(PYTEST) --cov --cov-report=term:skip-covered --nbmake --nbmake-timeout=900 tests notebooks

lint: $(DEV_STAMP) ## Check style and formatting
	@echo "== style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(DEV_STAMP) ## Format the code, and repair what ruff can repair
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(DEV_STAMP) ## Check the types of the package and of the documentation's examples
	@echo "== types"
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -k "types or type_checks" tests/test_documentation.py tests/test_extending.py

runtime: $(DEV_STAMP) ## The fast tests, with the shapes and types of all arguments checked while they run
	@echo "== fast tests, with types checked at run time"
	@VIDMARL_TYPECHECK=1 $(FAST) -m "not slow and not browser" tests

fuzz: $(DEV_STAMP) ## A minute of damaged videos and files and of odd arguments: SECONDS=600 for ten, SEED=1 ROUNDS=400 for the same again
	@echo "== fuzz"
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS))

wheel: $(DEV_STAMP) ## Build the wheel into dist/, and try it outside of the checkout
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@$(BIN)/python -m pytest -k wheel tests/test_package.py

results: $(DEV_STAMP) ## Make the tables and figures of the documentation from docs/results/
	@$(BIN)/python docs/make_results.py

docs: $(DEV_STAMP) ## Build the site of the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html; with its search: $(BIN)/python -m http.server --directory site"

screenshots: $(DEV_STAMP) ## Make docs/screenshots/ with headless Chromium (minutes; NAMES="attack site" for some)
	@$(BIN)/python docs/make_screenshots.py $(NAMES)

lab: $(DEV_STAMP) ## Open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

hooks: $(DEV_STAMP) ## Let git check style and strip notebook outputs at every commit
	@$(BIN)/pre-commit install

clean: ## Remove caches and built files; keep the virtual environment and outputs/
	@rm -rf build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "vidmarl needs Python 3.11 or newer, which $(PYTHON) is not. Give another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "== making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

$(USER_STAMP): pyproject.toml | $(BIN)/python
	@echo "== installing vidmarl and what it needs into $(VENV) (the first time: minutes, several GB)"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(DEV_STAMP): pyproject.toml | $(BIN)/python
	@echo "== installing vidmarl, what it needs and the tools of its developers into $(VENV) (the first time: minutes, several GB)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(USER_STAMP)
