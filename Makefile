# Start with `make repro` and `make test`. `make help` lists all commands.
# On a machine without a GPU, an index of CPU wheels avoids the large CUDA build of PyTorch (see
# pytorch.org, "Get started"): make repro TORCH_INDEX=URL
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
CONSTRAIN ?= --constraint constraints.txt
FRESH := .genie/fresh-venv
BIN := $(VENV)/bin
ENV := DVC_NO_ANALYTICS=1 PATH="$(abspath $(BIN)):$$PATH"
EXCEPTIONS := CVE-2025-69872 # docs/reference/reliability.md explains each
ONE_THREAD := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup repro test acceptance lint audit format zoo zoo-photographs evidence bench constraints

help: ## list all commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 13

setup: $(VENV)/.pipeline ## install the tested versions of the packages into .venv, and nothing else

repro: $(VENV)/.pipeline ## set up, run the whole pipeline and print the result
	@$(ENV) dvc repro
	@$(ENV) genie summary

test: $(VENV)/.dev ## set up and run all tests
	@$(ENV) $(ONE_THREAD) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

acceptance: $(VENV)/.dev ## run the long tests, which write docs/reference/invalidation.md
	@$(ENV) $(ONE_THREAD) python -m pytest tests/acceptance

lint: $(VENV)/.dev ## check formatting, style, types and import directions
	@$(ENV) ruff format --check .
	@$(ENV) ruff check .
	@$(ENV) mypy
	@$(ENV) lint-imports

audit: $(VENV)/.audit ## look for known vulnerabilities of the installed packages
	@mkdir -p .genie
	@$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[^ ]*//' > .genie/installed.txt
	@$(ENV) pip-audit --strict --disable-pip --no-deps --requirement .genie/installed.txt \
	  $(addprefix --ignore-vuln ,$(EXCEPTIONS))

format: $(VENV)/.dev ## format the code and fix style errors where possible
	@$(ENV) ruff format .
	@$(ENV) ruff check --fix .

zoo: $(VENV)/.pipeline ## retrain the embedded default models (about two hours on two cores)
	@$(ENV) python -m zoo.fashion_mnist
	@$(ENV) python -m zoo.train
	@$(ENV) python -m zoo.captions
	@$(ENV) python -m zoo.sizes
	@$(ENV) python -m zoo.evaluate

RECIPE ?= photographs
zoo-photographs: $(VENV)/.pipeline ## retrain the models of photographs (hours on two cores; RECIPE=photographs-gpu: minutes on a GPU)
	@$(ENV) python -m zoo.cifar10
	@$(ENV) python -m zoo.train --recipe $(RECIPE)
	@$(ENV) python -m zoo.captions --recipe $(RECIPE)
	@$(ENV) python -m zoo.sizes --recipe $(RECIPE)
	@$(ENV) python -m zoo.evaluate --recipe $(RECIPE) --texts 1000 --edits 300 --inception
	@$(ENV) python -m zoo.curve --recipe $(RECIPE)

# Recorded rows of tables and benchmarks run again only where parameters, data or models changed. A finished row
# is kept, so a stopped run goes on with the same command.
evidence: $(VENV)/.dev data/cifar10 data/cifar10-biased ## recompute tables and benchmarks whose inputs changed (hours for all)
	@$(ENV) python -m protocols.run
	@$(ENV) dvc repro benchmarks/dvc.yaml

data/cifar10: | $(VENV)/.pipeline
	@$(ENV) python -m zoo.cifar10

data/cifar10-biased: | data/cifar10
	@$(ENV) python -m zoo.biased

bench: $(VENV)/.pipeline ## compare speed with the authors' loop and diffusers (takes minutes)
	@$(ENV) python -m benchmarks.speed

constraints: ## update constraints.txt to the newest versions that pyproject.toml allows
	@rm -rf $(FRESH)
	@$(MAKE) --no-print-directory VENV=$(FRESH) CONSTRAIN= $(FRESH)/.audit
	@{ sed '/^#/!d' constraints.txt; \
	  $(FRESH)/bin/python -m pip freeze --exclude-editable --exclude setuptools \
	  | grep -viE '^(torch|triton|nvidia-|cuda-)' | LC_ALL=C sort -f; } > $(FRESH)/constraints.txt
	@mv $(FRESH)/constraints.txt constraints.txt
	@rm -rf $(FRESH)

# PyTorch is installed first and without constraints, because an index of PyTorch wheels has few
# versions of other packages. The next step moves its dependencies to the tested versions.
$(VENV)/.torch:
	@echo "Setting up $(VENV): PyTorch first, then the other packages. This takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch>=2.6,<2.14"
	@touch $@

$(VENV)/.pipeline: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install $(CONSTRAIN) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install $(CONSTRAIN) --editable ".[dev]"
	@touch $@ $(VENV)/.pipeline

$(VENV)/.audit: $(VENV)/.dev
	$(BIN)/python -m pip install $(CONSTRAIN) --editable ".[audit]"
	@touch $@
