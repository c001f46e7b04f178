PYTHON ?=
VENV ?= .venv
ARGS ?=
PYTEST_ARGS ?= -n 2 --dist worksteal
BIN := $(VENV)/bin
PROTOS := .venv-protos
SDKS := .venv-openai2 .venv-openai3 .venv-node .venv-schemathesis .venv-deploy
PINS := .ci/constraints.txt
PIP := .venv-pip
TOOLS := $(PROTOS) $(SDKS) .venv-litellm
# Of the Python that PYTHON names, else of one that fits; what is half made, moved or broken is made again.
ENVIRONMENT = MAKE_GOALS="$(MAKECMDGOALS)" sh .ci/environment $(@D)
# One new pip fills every environment: several times faster than each Python's own, and than copying that into each.
INSTALL = $(PIP)/bin/python -m pip --python $(@D)/bin/python install --quiet --disable-pip-version-check --no-compile
NPM_INSTALL = PATH="$(CURDIR)/.venv-node/bin:$$PATH" npm install --no-package-lock --no-audit --no-fund \
	--ignore-scripts --prefer-offline --loglevel error --prefix

# Installed packages are compiled when they are first imported; where that isn't kept, each process takes seconds to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test check setup protos contract lint types bad-inputs bench bench-peers torture image release-check clean
.DEFAULT_GOAL := help

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-13s %s\n", $$1, $$2}'

run: $(VENV)/.ready ## Serve REST on 4000, gRPC on 50051 (ARGS="..." go to `serve`)
	@$(BIN)/batchyard serve --config service/batchyard/cli/development.yaml $(ARGS)

test: setup ## Run the tests (PYTEST_ARGS="..." goes to pytest)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: ## Everything that CI checks
	@bash .ci/run

setup: $(VENV)/.ready $(PROTOS)/.ready $(SDKS:%=%/.ready) ## Set up the environments that the tests need

lint: $(VENV)/.ready ## Lint and check the formatting of the Python code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.ready ## Check the types
	@$(BIN)/mypy

protos: $(PROTOS)/.ready ## Generate the Python stubs and openapi.json from the protos
	@$(PROTOS)/bin/python .ci/protos.py generate

contract: $(PROTOS)/.ready ## Check the contract: current, linted, formatted, compatible
	@$(PROTOS)/bin/python .ci/protos.py check

image: $(PROTOS)/.ready ## Accept today's contract as what later changes may not break
	@$(PROTOS)/bin/python .ci/protos.py image

bad-inputs: $(VENV)/.ready ## Write docs/bad-inputs.md from the cases that the tests prove
	@$(BIN)/python -m tests.bad_input > docs/bad-inputs.md.new && mv docs/bad-inputs.md.new docs/bad-inputs.md

bench: $(VENV)/.ready ## Measure, as ratios against a control (ARGS=--help says more)
	@$(BIN)/python -m tests.bench $(ARGS)

bench-peers: $(VENV)/.ready .venv-litellm/.ready .venv-portkey/.ready ## Measure against LiteLLM and Portkey, which are installed for it
	@$(BIN)/python -m tests.bench --peers $(ARGS)

torture: $(VENV)/.ready .venv-schemathesis/.ready ## The long runs: kills, soak, chaos, fuzz (ARGS=--help says more)
	@$(BIN)/python -m tests.torture $(ARGS)

release-check: $(VENV)/.ready ## Build sdist and wheel; each must import and serve alone
	@$(BIN)/python .ci/release.py $(PIP)/bin/python

clean: ## Remove the environments and caches; batchyard-data stays
	@rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: FORCE
$(VENV)/pyvenv.cfg: FORCE
	@$(ENVIRONMENT) own $(PYTHON)

$(PIP)/pyvenv.cfg: FORCE
	@$(ENVIRONMENT) pip $(PYTHON)

$(TOOLS:%=%/pyvenv.cfg): %/pyvenv.cfg: FORCE
	@$(ENVIRONMENT) tool $(PYTHON)

$(PIP)/.ready: $(PINS) $(PIP)/pyvenv.cfg
	@rm -f $@
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(PINS) pip
	@touch $@

# With a pip of its own, for those who work in it.
$(VENV)/.ready: pyproject.toml $(PINS) $(VENV)/pyvenv.cfg | $(PIP)/.ready
	@rm -f $@
	@$(INSTALL) -c $(PINS) --build-constraint $(PINS) pip -e '.[all,dev]'
	@touch $@

.venv-%/.ready: .ci/%.txt .venv-%/pyvenv.cfg | $(PIP)/.ready
	@rm -f $@
	@$(INSTALL) -r $<
	@touch $@

# Of npm's packages alone; the Node.js is the other environment's.
.venv-portkey/.ready: .ci/portkey.json .venv-node/.ready
	@echo "setting up $(@D)"
	@mkdir -p $(@D)
	@cp $< $(@D)/package.json
	@$(NPM_INSTALL) $(@D) >/dev/null
	@touch $@

# Node.js from a wheel, and beside it the packages that the tests need.
.venv-node/.ready: .ci/node.txt .ci/package.json .venv-node/pyvenv.cfg | $(PIP)/.ready
	@rm -f $@
	@$(INSTALL) -r $<
	@cp .ci/package.json $(@D)
	@$(NPM_INSTALL) $(@D) >/dev/null
	@touch $@
