# make demo: from a bare machine to a report. make test: the whole suite. Both set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint install install-dev bare-venv clean

demo: install
	$(BIN)/bareformers run recipes/quickstart.yaml
	@echo
	@echo "Open runs/quickstart/report.html in a browser."

test: install-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# torch goes first and by its pin: on a machine without a GPU anything else may pull in several GB of CUDA packages.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV) 2>/dev/null || $(MAKE) --no-print-directory bare-venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

# Debian's Python comes without ensurepip unless python3-venv is installed; its pip can still fill an environment.
bare-venv:
	$(PYTHON) -m venv --clear --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check pip

clean:
	rm -rf $(VENV) build
