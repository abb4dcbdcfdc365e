# SPDX-License-Identifier: Apache-2.0
# `make` or `make help` lists the targets. Every target makes the environment first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one environment per state of the requirements: a change of these files installs again
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
DEMO_CLIP := examples/friday.mp4
DEMO_OUTPUT := demo_output

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow bench card quality style wheel clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

install: $(STAMP) ## make the environment in .venv

demo: $(STAMP) ## predict the example clip with the embedded model: overlay video, contact sheet, CSV
	$(BIN)/video-saliency predict $(DEMO_CLIP) --output $(DEMO_OUTPUT) --save overlay,sheet,csv

test: $(STAMP) ## the whole default test run
	$(BIN)/python -m pytest -q

test-slow: $(STAMP) ## the tests marked slow
	$(BIN)/python -m pytest -q -m slow

bench: $(STAMP) ## measure import, speed by stage and memory; prints ratios from one run
	$(BIN)/python -m pytest -q -s -m benchmark tests/benchmarks

card: $(STAMP) ## measure the speed of the embedded model and write its card again
	SPEED_JSON=src/video_saliency/default_model/speed.json $(BIN)/python -m pytest -q -s -m benchmark tests/benchmarks/test_speed.py
	$(BIN)/python examples/train_default_model.py --card-only --output src/video_saliency/default_model

quality: $(STAMP) ## lint, format check, type check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(STAMP) ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP) ## build the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build -q --wheel

clean: ## remove the environment, builds and caches
	rm -rf $(VENV) build dist $(DEMO_OUTPUT) .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
