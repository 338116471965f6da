# Two commands for a newcomer: `make repro` and `make test`. `make help` lists the rest.
# Where PyTorch's default build is the large CUDA one and there is no GPU, name an index of CPU
# wheels (see pytorch.org, "Get started"): make repro TORCH_INDEX=URL
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
ENV := DVC_NO_ANALYTICS=1 PATH="$(abspath $(BIN)):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help repro test lint format zoo bench

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

repro: $(VENV)/.pipeline ## set up, run the whole pipeline, show the result
	@$(ENV) dvc repro
	@$(ENV) python -m stages.summary

test: $(VENV)/.dev ## set up and run all tests
	@$(ENV) python -m pytest

lint: $(VENV)/.dev ## check format, style and types
	@$(ENV) ruff format --check .
	@$(ENV) ruff check .
	@$(ENV) mypy

format: $(VENV)/.dev ## format and mend what can be mended
	@$(ENV) ruff format .
	@$(ENV) ruff check --fix .

zoo: $(VENV)/.pipeline ## retrain the embedded default models (about two hours on two cores)
	@$(ENV) python -m zoo.fashion_mnist
	@$(ENV) python -m zoo.train
	@$(ENV) python -m zoo.captions
	@$(ENV) python -m zoo.evaluate

bench: $(VENV)/.pipeline ## measure speed against the authors' loop and diffusers (minutes)
	@$(ENV) python -m benchmarks.speed

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch>=2.6,<2.14"
	@touch $@

$(VENV)/.pipeline: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/.pipeline
