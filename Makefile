# Every target sets itself up from nothing: a virtual environment with pinned packages, then the compiled modules.
# The second time, only what changed is done again.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
REQUIREMENTS := requirements/torch.txt requirements/dev.txt
PACKAGES_STAMP := $(VENV)/.packages-$(shell cat $(REQUIREMENTS) | cksum | cut -d' ' -f1)
BUILD_STAMP := $(VENV)/.built
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml

.PHONY: build
build: $(BUILD_STAMP)

$(PACKAGES_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Python 3.10 or newer is needed; '$(PYTHON)' is not. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PIP) install -r requirements/torch.txt
	$(PIP) install -q -r requirements/torch.txt -r requirements/dev.txt
	@rm -f $(VENV)/.packages-* && touch $@

$(BUILD_STAMP): $(PACKAGES_STAMP) $(SOURCES)
	$(PIP) install -q --no-build-isolation --no-deps -e .
	@ls dvae_kernels/_C.*.so >/dev/null 2>&1 || \
	  echo "No C++ compiler was found, so the compiled kernels are missing: everything runs, slowly, on the plain-torch" \
	       "reference. To get them (Debian, Ubuntu): apt install g++; then: make clean build"
	@touch $@

.PHONY: demo
demo: $(BUILD_STAMP)
	$(VENV)/bin/python examples/train.py

# For daily work: lint, types and the core of the tests. make check OP=nearest_code: all tests of one op in its place.
.PHONY: check
check: $(BUILD_STAMP)
	$(VENV)/bin/python tools/check.py $(if $(OP),--op $(OP),--quick)

.PHONY: test
test: $(BUILD_STAMP)
	$(VENV)/bin/python tools/check.py

# One wheel under every torch and triton of docs/support.md, in environments of its own: many GB, and not part of CI.
.PHONY: matrix
matrix: $(PACKAGES_STAMP)
	$(VENV)/bin/python tools/matrix.py

.PHONY: bench
bench: $(BUILD_STAMP)
	$(VENV)/bin/python -m pytest bench

.PHONY: lint
lint: $(PACKAGES_STAMP)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

# On a GPU machine: its own python3, torch and nvcc, no network. GPU_DRY=1: the same steps on the CPU.
GPU_OUT ?= out/gpu
COMMIT ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
.PHONY: gpu
ifeq ($(GPU_DRY),1)
gpu: $(BUILD_STAMP)
	$(VENV)/bin/python tools/gpu.py --dry --out $(GPU_OUT) --commit $(COMMIT)
else
gpu:
	$(PYTHON) tools/gpu.py --out $(GPU_OUT) --commit $(COMMIT)
endif

.PHONY: clean
clean:
	rm -rf build dist out *.egg-info dvae_kernels/*.so dvae_kernels/_build_info.json $(BUILD_STAMP)
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
	find dvae_kernels tests bench examples tools -name __pycache__ -type d -prune -exec rm -rf {} +
