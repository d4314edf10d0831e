PROFILE ?= classroom
PYTHON ?= $(shell command -v python3.11 || command -v python3)
WHEELS := $(if $(wildcard wheelhouse),--no-index --find-links wheelhouse)
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check $(WHEELS) $(PIP_ARGS)
LOCKED := $(shell $(PYTHON) -c 'import sys; print(int(sys.version_info[:2] == (3, 11)))')

.PHONY: book plan test test-all lab data bench wheelhouse

book: .venv/ready
	@.venv/bin/python -m uqlib.pipeline book $(PROFILE)

plan: .venv/ready
	@.venv/bin/python -m uqlib.pipeline plan $(PROFILE)

test: .venv/ready
	.venv/bin/python -m pytest

test-all: .venv/ready
	.venv/bin/python -m pytest -m "slow or not slow"

lab: .venv/ready
	.venv/bin/jupyter lab --notebook-dir=notebooks

data: .venv/ready
	.venv/bin/python -m uqlib.pipeline data

bench: .venv/ready .venv-peers/ready
	.venv/bin/python benchmarks/alignment.py
	.venv/bin/python benchmarks/measures.py
	.venv/bin/python benchmarks/permutations.py
	.venv/bin/python benchmarks/counterfactual.py
	.venv/bin/python benchmarks/speed.py
	.venv/bin/python benchmarks/collect.py

wheelhouse:
	$(PYTHON) -m pip download --dest wheelhouse --requirement requirements.lock $(PIP_ARGS)

.venv/ready: requirements.lock pyproject.toml
	@echo "Installing the environment into .venv (minutes, once) ..."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@$(if $(filter 1,$(LOCKED)),$(PIP) --requirement requirements.lock,$(PIP) "setuptools>=77" --editable ".[book,test]")
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv-peers/ready: benchmarks/requirements.txt
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --requirement $<
	@touch $@
