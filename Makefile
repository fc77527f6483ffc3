# Two commands, each alone from a fresh clone with Python 3.11 and make: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint docs clean

demo: .venv/.installed
	$(BIN)/cli demo

test: .venv/.installed            ## each file in one process of one thread, as many as there are cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

slow: .venv/.installed            ## the tests that take longer than 2 s each, most of them much longer
	$(BIN)/python -m pytest -q -m slow -n auto --maxprocesses 8 --dist loadfile

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.installed            ## docs/commands, of what --help says
	$(BIN)/python docs/commands/make.py

clean:
	rm -rf .venv demo build *.egg-info

# A torch that the machine already has (GPU images ship one) is used as it is: then the environment
# sees the machine's packages and the pinned torch is left out of the constraints.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"eddy needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@if $(PYTHON) -c 'import torch' 2>/dev/null; then \
	  echo "Using the torch that is installed."; \
	  $(PYTHON) -m venv --system-site-packages .venv && \
	  grep -v '^torch==' constraints.txt > .venv/constraints.txt; \
	else \
	  $(PYTHON) -m venv .venv && cp constraints.txt .venv/constraints.txt; \
	fi
	$(BIN)/python -m pip install -q --disable-pip-version-check -c .venv/constraints.txt -e '.[dev]'
	@touch $@
