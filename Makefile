PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PYTEST_ARGS ?= -n 2 --dist worksteal
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
PROTOS := .venv-protos
SDKS := .venv-openai2 .venv-openai3
PINS := .ci/constraints.txt

.PHONY: help run test check protos contract lint types bench torture image clean
.DEFAULT_GOAL := help

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-9s %s\n", $$1, $$2}'

run: $(VENV)/.ready ## Start Batchyard on its embedded default: REST on 4000, gRPC on 50051 (ARGS="..." goes to `batchyard serve`)
	@$(BIN)/batchyard serve --config service/batchyard/cli/development.yaml $(ARGS)

test: $(VENV)/.ready $(PROTOS)/.ready $(SDKS:%=%/.ready) ## Run the tests (PYTEST_ARGS="..." goes to pytest)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: ## Everything that CI checks
	@bash .ci/run

lint: $(VENV)/.ready ## Lint and check the formatting of the Python code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.ready ## Check the types
	@$(BIN)/mypy

protos: $(PROTOS)/.ready ## Generate the Python stubs from the protos
	@$(PROTOS)/bin/python .ci/protos.py generate

contract: $(PROTOS)/.ready ## Check the contract: stubs current, linted, formatted, compatible
	@$(PROTOS)/bin/python .ci/protos.py check

image: $(PROTOS)/.ready ## Accept today's contract as the one that later changes may not break
	@$(PROTOS)/bin/python .ci/protos.py image

bench: $(VENV)/.ready ## Measure, as ratios against a control in the same run
	@$(BIN)/python -m tests.bench $(ARGS)

torture: $(VENV)/.ready ## The long runs: 50 kills at seeded random points (ARGS="--seed N --kills N")
	@$(BIN)/python -m tests.torture $(ARGS)

clean: ## Remove the environments and caches; batchyard-data stays
	@rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.ready: pyproject.toml $(PINS)
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) -c $(PINS) -e '.[all,dev]'
	@touch $@

$(PROTOS)/.ready: .ci/protos.txt
	@echo "setting up $(PROTOS)"
	@$(PYTHON) -m venv $(PROTOS)
	@$(PROTOS)/bin/python $(PIP) -r $<
	@touch $@

.venv-openai%/.ready: .ci/openai%.txt
	@echo "setting up $(@D)"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP) -r $<
	@touch $@
