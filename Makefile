# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what is imported, not all that is installed, which would take a minute.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Tests go to processes by groups, in the order that tests/conftest.py gives them. A process that dies ends the run, which
# would try its test in nine more, or wait for ever.
PYTEST := $(BIN)/python -m pytest --dist loadgroup --no-loadscope-reorder --max-worker-restart 0

.PHONY: demo test all-tests check check-fast fast-tests format docs install azurite clean

# Without what Python has compiled, each process of the tests compiles and rewrites all test modules: 7 s of CPU more.
unexport PYTHONDONTWRITEBYTECODE

demo: install  ## score a small photo library with the embedded demo checkpoint
	$(BIN)/artimuse demo --out artimuse-demo

test: install  ## lint, types, the order of imports, and meanwhile all tests in three processes: ten minutes on two cores
	$(MAKE) --no-print-directory -j 2 check all-tests

# What starts no Ray, no server, no browser and no process, and is not slow: a minute on two cores.
check-fast: install
	$(MAKE) --no-print-directory -j 2 check fast-tests

all-tests: install $(VENV)/triton
	$(PYTEST) -n 3

fast-tests: install
	$(PYTEST) -n 2 -m 'not (ray or server or browser or process or slow)'

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## the reference of the command line, from --help; the table of folders, from the tree
	$(BIN)/python docs/cli.py > docs/cli.md
	$(BIN)/python docs/layout.py

install: $(VENV)/installed

azurite: install  ## Azure on loopback, for the tests of az://, which are skipped without it; needs Node.js and npm
	npm install --silent --no-audit --no-fund --prefix $(VENV)/azurite azurite@3.37.0

# Triton, whose interpreter runs kernels without a GPU, for one test; beside the environment, where every process that
# looks for it would pay for its size. It has no build for other machines.
$(VENV)/triton: $(VENV)/installed
	[ "$$(uname -s) $$(uname -m)" != "Linux x86_64" ] || $(PIP) --no-deps --upgrade --target $@ triton==3.9.0

# torch first, by its exact version: any other request for it may fetch gigabytes of CUDA libraries.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --upgrade-deps $(VENV)  # an old pip takes half a minute more to choose among builds
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -c constraints.txt -e '.[dev]'
	# What Ray's exporter needs, for one test; in the environment itself it would make all of Ray's starts dearer.
	$(PIP) -c constraints.txt --upgrade --target $(VENV)/exporter \
		aiohttp_cors grpcio opencensus opentelemetry-exporter-prometheus opentelemetry-proto
	# Compiled once, and not by all processes of the tests at the same time; nor, where PYTHONDONTWRITEBYTECODE is set, as
	# in many containers, by every process of every run.
	$(BIN)/python -c 'import duckdb, hypothesis, lance, matplotlib.pyplot, polars, ray.data, s3fs, scipy.stats, \
		artimuse_actor.actor, artimuse_actor.verify.reference, jobs.evaluate.evaluate, jobs.report.report, jobs.score.run'
	touch $@

clean:
	rm -rf $(VENV) artimuse-demo build *.egg-info
