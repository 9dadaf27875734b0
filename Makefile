# `make run` needs Python 3.11 or later with its venv module, and nothing else: the rest goes into .venv.

PYTHON ?=
VENV ?= .venv
ARGS ?=
KILLS ?= 200
SECONDS ?= 60
SIZE ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The pins hold for the packages that build ours, too.
INSTALL := $(PIP) install -c constraints.txt --build-constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test bench soak fuzz check format constraints

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'ARGS="..." adds flags to run, test and bench, PYTHON=... chooses the interpreter.'

# The shell stays, so that Ctrl-C ends in success. It passes on what `make` alone receives (a supervisor's TERM)
# and what a command in the background of a shell ignores (the terminal's INT).
run: $(VENV)/.runtime ## start the registry, with your login as its first account; Ctrl-C stops it
	@stopped=; server=; trap 'stopped=1; kill -TERM $$server 2>/dev/null' INT TERM HUP; \
	$(BIN)/cargo-registry serve --bootstrap "$$(id -un)" $(ARGS) & server=$$!; \
	wait $$server; status=$$?; \
	while kill -0 $$server 2>/dev/null; do wait $$server; done; \
	[ -n "$$stopped" ] || exit $$status

test: $(VENV)/.dev ## run the tests
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

soak: $(VENV)/.dev ## kill a loaded server KILLS times (200) and import 10,000 crates; takes many minutes
	@KILLS=$(KILLS) $(BIN)/python -m pytest tests/soak $(ARGS)

fuzz: $(VENV)/.fuzz ## fuzz each target for SECONDS (60); TARGETS="tarball api" for some of them
	@$(BIN)/python -m fuzz --seconds $(SECONDS) $(TARGETS)

check: $(VENV)/.dev ## check format, lint, types and layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev ## measure against nginx with the same files, under 20 minutes; SIZE=L: the largest; ARGS=--help
	@$(BIN)/python -m benchmarks $(if $(SIZE),--sizes $(SIZE)) $(ARGS)

format: $(VENV)/.dev ## format the code and repair what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

constraints: $(BIN)/python ## renew constraints.txt with the newest versions
	@echo "Resolving the newest versions into constraints.txt"
	@set -e; temporary=$$(mktemp -d); trap 'rm -rf "$$temporary"' EXIT; \
	$(BIN)/python -m venv "$$temporary"; \
	pip="$$temporary/bin/python -m pip --disable-pip-version-check"; \
	$$pip install --quiet --upgrade pip; \
	$$pip install --quiet -e . --group dev uvloop hatchling editables; \
	sed '/^[^#]/,$$d' constraints.txt > "$$temporary/constraints.txt"; \
	$$pip freeze --all --exclude-editable --exclude setuptools >> "$$temporary/constraints.txt"; \
	cat "$$temporary/constraints.txt" > constraints.txt

# --- What the targets above need -----------------------------------------------------------------------

$(BIN)/python:
	@set -e; \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		command -v "$$python" >/dev/null || continue; \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
			version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
			echo "$$python has no venv module. Install it, then run make again:" >&2; \
			echo "    sudo apt install python3-venv      (or python$$version-venv, if $$python is not the system's own)" >&2; \
			exit 1; \
		fi; \
		"$$python" -m venv --clear $(VENV); \
		exit 0; \
	done; \
	echo "No Python 3.11 or later found (looked for: $(or $(PYTHON),python3 python3.13 python3.12 python3.11))." >&2; \
	echo "Install one, then run make again:" >&2; \
	echo "    sudo apt install python3 python3-venv      (Debian 12, Ubuntu 24.04 or later)" >&2; \
	echo "or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	exit 1

$(VENV)/.runtime: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing cargo-registry into $(VENV)"
	@$(PIP) install -c constraints.txt --upgrade pip
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Installing the tools for tests and checks into $(VENV)"
	@$(INSTALL) --group dev
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	@echo "Installing the fuzzer into $(VENV)"
	@$(INSTALL) --group fuzz
	@touch $@
