# `make setup` makes .venv and installs everything; the other targets call it. Any of these can be given, e.g.
# `make test FUSED_OPS_BUILD=none PYTHON=python3.12 PYTEST_ARGS="-k packaging"`.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
# A torch for CUDA brings the Triton that it was built with, which may be no other.
CPU_PINS := from importlib.metadata import requires; \
  print('' if 'triton' in str(requires('torch')) else '-c constraints-cpu.txt')
# auto | none | cpu | cuda: which native libraries are built
FUSED_OPS_BUILD ?= auto
export FUSED_OPS_BUILD
WORKERS ?= $(shell nproc 2>/dev/null || echo 1)
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Where `make gpu` leaves its results, and the Python that has torch: the environment's where there is one.
GPU_OUT ?= build/gpu
GPU_PYTHON ?= $(if $(wildcard $(PY)),$(PY),$(PYTHON))
GPU_ARGS ?=

comma := ,
# What was installed last: a changed source, build script or pin, or another FUSED_OPS_BUILD, installs again.
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(FUSED_OPS_BUILD))
SOURCES := pyproject.toml setup.py $(wildcard constraints*.txt build_support/*.py csrc/*/*)

.PHONY: setup test lint format bench bench-full gpu demo check-cuda-load clean

setup: $(INSTALLED)

# torch and the build tools come first: the native libraries are compiled against the torch they will run with.
$(INSTALLED): $(PY) $(SOURCES)
	$(PIP) torch setuptools ninja
	$(PIP) --no-build-isolation -e '.[dev]' $$($(PY) -c "$(CPU_PINS)")
	@rm -f $(VENV)/.installed-* && touch $@
	-@$(PY) -m fused_ops doctor

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make setup PYTHON=python3.12, or the like" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make environments; on Debian: apt install python3-venv" >&2; exit 1; }

test: setup
	$(PY) -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# One process on an idle machine; BENCH_ARGS="--op adain --dtypes float32" for some of it. bench-full goes on
# where it was stopped.
bench: setup
	$(PY) -m pytest benchmarks --quick --benchmark-columns=median,iqr,rounds $(BENCH_ARGS)
	$(PY) -m benchmarks.report

bench-full: setup
	$(PY) -m pytest benchmarks --full --resume --benchmark-columns=median,iqr,rounds $(BENCH_ARGS)
	$(PY) -m benchmarks.report

# All that needs a card, in under ten minutes: build in place, checks, tuning, benchmarks, training steps. It installs
# nothing and needs no network, only a Python with torch; GPU_ARGS="--only ops" for some of it.
gpu:
	$(GPU_PYTHON) -m benchmarks.gpu --out $(GPU_OUT) $(GPU_ARGS)

demo: setup
	$(VENV)/bin/fer-mtl demo --out runs/demo

# Do both libraries build for a torch with CUDA, load into it and register their ops? No card is needed, but nvcc, and a
# download of several GB into an environment apart. CUDA_TORCH is what pip installs there: torch==2.10.0 is the oldest.
CUDA_TORCH ?= torch
check-cuda-load:
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet $(CUDA_TORCH) "setuptools>=77" ninja
	FUSED_OPS_BUILD=cpu,cuda .venv-cuda/bin/python -m pip install --quiet --no-build-isolation --force-reinstall --no-deps .
	.venv-cuda/bin/python tests/packaging/cuda_load.py

# The environment stays; the next target installs the libraries into it again.
clean:
	rm -rf $(VENV)/.installed-* build dist *.egg-info fused_ops/lib .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
