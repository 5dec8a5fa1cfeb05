# Every target prepares what it needs in .venv and nowhere else; a second call finds the stamps and installs nothing.
#
#   make demo ARGS="--terminals 50 --seed 7"     arguments go to the program behind the target
#   make test PYTHON=python3.13                  another interpreter, when .venv is made

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test check bench kills simulate images fuzz fuzz-atheris lock clean bench-hostile storm sabotage

ARGS ?=
SEEDS ?= 100
FIRST_SEED ?= 0
FRAMES ?= 10000000
TARGET ?= message up
SECONDS ?= 60
PYTHON ?=
UV_VERSION := 0.13.9

VENV := .venv
PY := $(VENV)/bin/python
# A person's pip settings may choose the index; they may not redirect the installation out of .venv.
PIP_INSTALL := PIP_USER=0 PIP_TARGET= PIP_PREFIX= $(PY) -m pip install -qq --disable-pip-version-check --no-input
LOCKED := --require-hashes --no-deps

# An environment whose interpreter is gone (system upgrade, moved home) is worth nothing: forget its stamps.
DROP_STALE := $(shell $(PY) -c pass 2>/dev/null || rm -f $(VENV)/.created $(VENV)/.runtime $(VENV)/.dev)

help:
	@echo 'make demo    a canteen sells through an outage; three totals are compared'
	@echo 'make test    all tests                      ARGS="-k name -x"'
	@echo 'make check   linter, formatter, types       ARGS="paths" to narrow it'
	@echo 'make bench   the goals beside their anchors, some minutes   ARGS="--help"'
	@echo 'make bench-hostile  attacks on the real server, a minute each             ARGS="--seconds 5"'
	@echo 'make storm   ten thousand terminals come back at one moment, real sockets'
	@echo 'make kills   processes are killed at drawn moments, totals are compared     KILLS=200 SEED=7'
	@echo 'make simulate  whole sites under virtual time, with faults   SEEDS=1000 FIRST_SEED=0'
	@echo 'make images  power cuts at every write of spool and ledger, reopened   IMAGES=100000 SEED=7'
	@echo 'make sabotage  search the seeds for every planted bug, and write the table of docs/reliability.md'
	@echo 'make fuzz    bent bytes and hostile sequences on every decoder and state machine    FRAMES=100000000 SEED=1'
	@echo 'make fuzz-atheris  one decoder, guided by coverage     TARGET="packed row" SECONDS=60'
	@echo 'make lock    resolve pyproject.toml again into the two lock files'
	@echo 'make clean   remove .venv, caches and builds'
	@echo
	@echo 'Needs Python 3.11 or newer with venv, make and git. Nothing is installed outside .venv.'

demo: $(VENV)/.runtime
	@$(PY) -m onecard demo $(ARGS)

test: $(VENV)/.dev
	@$(PY) -m pytest -n auto --dist loadfile $(ARGS)

check: $(VENV)/.dev
	@$(PY) -m ruff check $(or $(ARGS),.)
	@$(PY) -m ruff format --check $(or $(ARGS),.)
	@$(PY) -m mypy --strict $(ARGS)

bench: $(VENV)/.runtime
	@$(PY) -m bench $(ARGS)

bench-hostile: $(VENV)/.runtime
	@$(PY) -m bench.hostile $(ARGS)

storm: $(VENV)/.runtime
	@$(PY) -m bench.storm $(ARGS)

kills: $(VENV)/.dev
	@$(PY) -m tests.kills $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulate: $(VENV)/.dev
	@$(PY) -m tests.simulation --seeds $(SEEDS) --first $(FIRST_SEED) $(ARGS)

images: $(VENV)/.dev
	@$(PY) -m tests.crash_images $(if $(IMAGES),--images $(IMAGES)) $(if $(SEED),--seed $(SEED)) $(ARGS)
sabotage: $(VENV)/.dev
	@$(PY) -m tests.simulation.sabotage --write $(ARGS)

fuzz: $(VENV)/.dev
	@$(PY) -m tests.fuzz --frames $(FRAMES) $(if $(SEED),--seed $(SEED)) $(ARGS)

# atheris brings libFuzzer as a wheel for Linux and some Pythons alone: it is installed for this target and no other.
fuzz-atheris: $(VENV)/.fuzz
	@$(PY) -m tests.fuzz.coverage_guided "$(TARGET)" $(SECONDS)

$(VENV)/.created:
	@set -e; python=; \
	for candidate in $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'No Python 3.11 or newer was found$(if $(PYTHON), as $(PYTHON)). Install it, or name it: make PYTHON=/path/to/python3.11' >&2; \
	  echo '  Debian, Ubuntu: apt-get install python3 python3-venv     Fedora: dnf install python3.11' >&2; \
	  exit 1; \
	fi; \
	echo "setting up $(VENV) with $$("$$python" --version 2>&1) (once) ..."; \
	rm -rf $(VENV); \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null || ! "$$python" -m venv $(VENV); then \
	  rm -rf $(VENV); \
	  echo "$$python cannot make a virtual environment: its venv or ensurepip module is missing. Install it:" >&2; \
	  echo '  Debian, Ubuntu: apt-get install python3-venv     (python3.X-venv for another than the default Python)' >&2; \
	  echo '  Fedora: dnf install python3     Alpine: apk add python3 py3-pip     openSUSE: zypper install python311' >&2; \
	  exit 1; \
	fi
	@touch $@

# The project is run from the checkout. A path file (relative, so that a moved checkout still works) makes its modules
# importable from any directory, and a launcher stands in for the console script: no build backend is needed for that.
$(VENV)/.runtime: requirements.lock | $(VENV)/.created
	@echo 'installing what the server needs into $(VENV) (once) ...'
	@$(PIP_INSTALL) $(LOCKED) -r requirements.lock
	@$(PY) -c 'import os, pathlib, sysconfig; site = sysconfig.get_path("purelib"); \
	  pathlib.Path(site, "onecard-frontend.pth").write_text(os.path.relpath(os.getcwd(), site) + "\n")'
	@printf '#!/bin/sh\nexec "$$(dirname "$$(readlink -f "$$0")")/python" -m onecard "$$@"\n' > $(VENV)/bin/onecard
	@chmod +x $(VENV)/bin/onecard
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo 'installing what the tests need into $(VENV) (once) ...'
	@$(PIP_INSTALL) $(LOCKED) -r requirements-dev.lock
	@touch $@

$(VENV)/.fuzz: requirements-fuzz.lock $(VENV)/.dev
	@$(PIP_INSTALL) $(LOCKED) -r requirements-fuzz.lock
	@touch $@

# The newest versions that pyproject.toml allows, with the hashes of every file of each, for all platforms and Pythons.
# The second resolution is bound by the first, so that one environment can hold both.
lock: $(VENV)/.created
	@set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	echo 'resolving (needs the network) ...'; \
	$(PY) -m venv "$$scratch"; \
	PIP_USER=0 "$$scratch/bin/python" -m pip install -qq --disable-pip-version-check --no-input uv==$(UV_VERSION); \
	compile="$$scratch/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade"; \
	compile="$$compile --no-header --no-annotate --no-emit-index-url"; \
	$$compile pyproject.toml --extra fast -o "$$scratch/requirements.lock"; \
	$$compile pyproject.toml --all-extras --group dev -c "$$scratch/requirements.lock" \
	  -o "$$scratch/requirements-dev.lock"; \
	$$compile pyproject.toml --only-group fuzz -o "$$scratch/requirements-fuzz.lock"; \
	echo libosdp==3.2.9 | $$compile - -o "$$scratch/requirements-peer-libosdp.lock"; \
	echo osdp==1.6 | $$compile - -o "$$scratch/requirements-peer-osdp.lock"; \
	cp "$$scratch"/requirements*.lock .
	@grep -c '==' requirements*.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
