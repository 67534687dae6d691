# Two commands for a fresh machine: `make run` and `make test`. Both set up .venv first, from the lock.
# `make test` takes minutes and covers everything once; `make test-all` adds all kills, SLURM if it is installed, and many
# examples. `make unit` runs no workflow.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test unit test-rest test-all check report bench bench-curves bench-speed setup lock schema clean

# Snakemake's SLURM plugin asks the controller at each start. If SLURM is installed but its controller does not answer,
# that takes nine seconds; these two targets do not need SLURM.
run report: export SLURM_CONF := /dev/null

run: $(VENV)/ready
	@snakemake --cores $(CORES) --workflow-profile workflow/profiles/default
	@echo "Look at results/cifar10-sample/resnet20/scan/figures/strip_success.png; tables are in results/tables."

report: run
	@snakemake --cores 1 --report report.html
	@echo "Open report.html in a browser."

# Each worker needs about 1.5 GB of memory; more than four would wait for the small study, which runs once.
PYTEST = pytest --numprocesses $(CORES) --maxprocesses 4

test: check
	$(PYTEST) -m "not slow"

unit: $(VENV)/ready
	$(PYTEST) -m "not slow and not workflow"

# The tests that `make test` leaves out. Properties are in both; here they run on many examples, new ones each time.
test-rest: $(VENV)/ready
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile thorough

test-all: test
	@$(MAKE) --no-print-directory test-rest

check: $(VENV)/ready
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	lint-imports
	snakemake --lint

# Compares onepix with attack libraries on this machine; see benchmarks/README.md. The curves take about 25 minutes on two
# cores, the speed about a quarter of an hour.
bench: bench-curves bench-speed

bench-curves: $(VENV)/ready $(VENV)/bench/ready
	@$(BIN)/python benchmarks/curves.py $(BENCH)

bench-speed: $(VENV)/ready $(VENV)/bench/ready
	@$(BIN)/python benchmarks/attacks.py $(BENCH)

$(VENV)/bench/ready: benchmarks/requirements.txt $(VENV)/ready
	@rm -rf $(@D)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes --target $(@D) -r $<
	@touch $@

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onepix needs Python 3.11 or newer")'
	@echo "Setting up $(VENV): PyTorch and its libraries are about 6 GB, a few minutes …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Needs the network; the result is committed.
lock: $(VENV)/ready
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --upgrade --quiet --output-file requirements.lock

schema: $(VENV)/ready
	onepix schema > workflow/schemas/config.schema.json

clean:
	rm -rf $(VENV) .snakemake logs results
