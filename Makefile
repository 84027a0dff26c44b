# make demo: everything from nothing to a report.   make test: everything from nothing to tested.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= out/demo

.PHONY: demo test check venv results page clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py $(DEMO_OUT)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(VENV)/.installed

# The stamp is written last, so that a broken install is done again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vagitus needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

# README's and RESULTS.md's tables, from the committed results.jsonl lines.
results: $(VENV)/.installed
	$(BIN)/python recipes/tables.py

# onnxruntime-web, as page/package-lock.json pins it, into the package; needs npm.
page:
	cd page && npm ci && npm run build

clean:
	rm -rf $(VENV) out
