# The commands of GRPO Lab. `make lab` takes a fresh machine to the open lab.
# STACK=cpu|gpu overrides the choice of packages; ARGS="--port 8000" reaches the command that is started.
.PHONY: lab setup test bench check python
PYTHON ?= python3
JOBS ?= 2
ifeq ($(OS),Windows_NT)
VENV_PYTHON := .venv/Scripts/python.exe
else
VENV_PYTHON := .venv/bin/python
endif
export STACK

lab: setup
	@exec $(VENV_PYTHON) app.py $(ARGS)

setup: python
	@$(PYTHON) lab/bootstrap.py

test: python
	@$(PYTHON) lab/bootstrap.py --tests
	@$(VENV_PYTHON) tests/chromium.py
	@$(VENV_PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

bench: python
	@$(PYTHON) lab/bootstrap.py --tests
	@$(VENV_PYTHON) tests/chromium.py
	@$(VENV_PYTHON) -m tests.bench $(ARGS)

check: python
	@$(PYTHON) lab/bootstrap.py --tests
	@$(VENV_PYTHON) -m ruff check .

python:
	@command -v $(PYTHON) >/dev/null || { echo "Nothing was set up, because there is no $(PYTHON) on PATH;" \
		"install Python 3.11, 3.12 or 3.13 or name one with make PYTHON=..." >&2; exit 2; }
