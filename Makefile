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
.PHONY: help install demo picture test test-slow test-dis test-browser bench card cards quality style wheel wheel-check release clean

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

picture: demo ## renew the picture in the README from the demo's contact sheet
	$(BIN)/python examples/make_picture.py $(DEMO_OUTPUT)/friday/sheet.png examples/friday_sheet.jpg

test: $(STAMP) ## the whole default test run
	$(BIN)/python -m pytest -q

test-slow: $(STAMP) ## the tests marked slow: full-size parity, memory of large files; minutes, 4 GB of memory, 6 GB of disk
	$(BIN)/python -m pytest -q -m slow

test-dis: $(STAMP) ## the flow backend of OpenCV, which is installed for it; all other tests do without
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dis]"
	$(BIN)/python -m pytest -q tests/backbones/test_dis_flow.py tests/models/test_modeling_gfsalnet.py -k dis

test-browser: $(STAMP) ## drive the Space in Chromium; fails where none is installed
	REQUIRE_CHROMIUM=1 $(BIN)/python -m pytest -q tests/browser

bench: $(STAMP) ## measure import, speed by stage and memory; prints ratios from one run
	$(BIN)/python -m pytest -q -s -m benchmark tests/benchmarks

card: $(STAMP) ## measure the speed of the embedded model and write its card again
	SPEED_JSON=src/video_saliency/default_model/speed.json $(BIN)/python -m pytest -q -s -m benchmark tests/benchmarks/test_speed.py
	$(BIN)/python examples/train_default_model.py --card-only --output src/video_saliency/default_model

cards: $(STAMP) ## write the model cards and the README's tables from configurations and score files
	$(BIN)/python hub_scripts/make_cards.py

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

wheel-check: wheel ## build the wheel and predict with it in a clean environment outside the checkout
	PYTHON=$(PYTHON) .ci/check_wheel

release: test quality cards wheel-check ## check everything that a release sends; sends nothing itself
	git diff --exit-code model_cards README.md # cards must be those of this state
	mkdir -p build/release
	$(BIN)/python hub_scripts/export_model.py --output build/release/model --self-contained
	$(BIN)/python hub_scripts/push_model.py build/release/model --repo ORG/video-saliency-default
	$(BIN)/python hub_scripts/push_space.py --repo ORG/video-saliency
	$(BIN)/python hub_scripts/push_metric.py --repo ORG/video_saliency_metrics
	@echo "ready: see Releasing in CONTRIBUTING.md for what to send, and in which order"

clean: ## remove the environment, builds and caches
	rm -rf $(VENV) build dist $(DEMO_OUTPUT) .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
