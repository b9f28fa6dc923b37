# make demo   the main job: data, training, certified deployment, report (about six minutes on two cores)
# make test   the fast tests
# make check  tests and every static check, as in CI
# make coverage, slow   coverage of what the promise rests on; slow evidence
# make bullet, navigation, driving   the optional suites: Bullet-Safety-Gym; Safety-Gymnasium; MetaDrive, in an environment of its own
# Options: PYTHON=/path/to/python3.11  TORCH=auto|cpu|as-resolved  VENV=.venv
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt tools/install.sh

# Safety-Gymnasium pins an old gymnasium and mujoco; beside them it needs these two.
NAVIGATION = $(BIN)/pip install --quiet --constraint constraints.txt xmltodict pyyaml && \
  $(BIN)/pip install --quiet --no-deps 'safety-gymnasium==1.0.0'

.DEFAULT_GOAL := help
.PHONY: help demo test check lint coverage bullet navigation driving slow clean

help:
	@sed -n '/^VENV/q; s/^# //p' Makefile

$(VENV)/.ready-run: $(SOURCES)
	tools/install.sh $(VENV) mujoco
	@touch $@

$(VENV)/.ready-dev: $(SOURCES)
	tools/install.sh $(VENV) mujoco,dev
	@# the fixtures of the navigation tasks, are held against the suite itself (35 MB)
	$(NAVIGATION)
	@# of ICU-Sepsis only the tables are read (2 MB); its own requirements are 150 MB, one of them no longer maintained
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt icu-sepsis
	@touch $@ $(VENV)/.ready-run

demo: $(VENV)/.ready-run
	$(BIN)/safehold demo

test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

lint: $(VENV)/.ready-dev
	$(BIN)/ruff format --check src tests benchmarks reproductions zoo
	$(BIN)/ruff check src tests benchmarks reproductions zoo
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# The promise rests on these four packages: more than 95 % of their lines and branches.
coverage: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --cov-branch --cov-report=term --cov-fail-under=95 \
	  --cov-config=/dev/null --cov=safehold.core --cov=safehold.gp --cov=safehold.ledger --cov=safehold.deploy

# Bullet-Safety-Gym pins an old gymnasium, so it is installed without its pins; pybullet has wheels up to Python 3.11.
bullet: $(VENV)/.ready-run
	$(BIN)/pip install --quiet 'pybullet>=3.2.7'
	$(BIN)/pip install --quiet --no-deps 'bullet-safety-gym==1.4.0'

navigation: $(VENV)/.ready-run
	$(NAVIGATION)

# MetaDrive 0.2.6.0 needs gym 0.19, whose build needs old tools, and a numpy below 1.24; wheels up to Python 3.11.
DRIVING ?= .venv-metadrive
DRIVING_PYTHON ?= python3.11
driving: $(DRIVING)/.ready
	@echo 'export SAFEHOLD_METADRIVE_PYTHON=$(abspath $(DRIVING))/bin/python'

$(DRIVING)/.ready: tools/metadrive.txt
	$(DRIVING_PYTHON) -m venv $(DRIVING)
	$(DRIVING)/bin/pip install --quiet --disable-pip-version-check 'setuptools==65.5.0' 'wheel==0.37.1'
	$(DRIVING)/bin/pip install --quiet --disable-pip-version-check --requirement tools/metadrive.txt
	$(DRIVING)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation 'gym==0.19.0'
	$(DRIVING)/bin/pip install --quiet --disable-pip-version-check --no-deps 'metadrive-simulator==0.2.6.0'
	$(DRIVING)/bin/python -c 'import metadrive.envs' >/dev/null
	@touch $@

slow: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m slow --timeout 3600

clean:
	rm -rf $(VENV) $(DRIVING) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
