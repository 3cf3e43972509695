# Two commands do everything on a machine with Python 3.11+ and make:
#   make demo   a live trading data layer on this machine
#   make test   the tests, against real servers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "RTX needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

.PHONY: install
install: $(STAMP) ## create .venv and install everything

.PHONY: demo
demo: $(STAMP) ## run everything here and print the live page's address (ARGS="--port 9000 …")
	@$(BIN)/rtx demo $(ARGS)

.PHONY: test
test: $(STAMP) ## run the tests against real servers (ARGS="tests/wire -k name …")
	@$(BIN)/python -m pytest -n auto -m "not soak" $(ARGS)

.PHONY: soak
soak: $(STAMP) ## run the long tests
	@$(BIN)/python -m pytest -n 2 -m soak --timeout 3600 $(ARGS)

.PHONY: check
check: $(STAMP) ## lint, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

.PHONY: format
format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

.PHONY: bench
bench: $(STAMP) ## measure against the peers, in one run (ARGS="--quick …")
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: docs
docs: $(STAMP) ## build the documentation as a site into build/site
	@$(BIN)/python -c 'import mkdocs' 2>/dev/null || $(BIN)/python -m pip install --quiet \
	  --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@$(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

.PHONY: build
build: $(STAMP) ## build the wheel into dist/
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

.PHONY: clean
clean: ## remove what was built here
	@rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
