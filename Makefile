# Every target sets up what it needs and does nothing where that is done.
PYTHON ?= python3.11
TORCH ?= torch==2.13.0
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1
# a process that dies ends the run: pytest-xdist, which would replace it, waits for its share of a group for ever then
TWO := -n 2 --dist loadgroup --no-loadscope-reorder --max-worker-restart 0

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# a line before a step of set-up and one after it, with its seconds; pip itself says only what is wrong
step = @echo "set-up $(1)"; begin=$$(date +%s); $(2) || exit; echo "  $$(( $$(date +%s) - begin )) s"

# what torch's CUDA build alone asks for: it comes with torch, which the images install by themselves
OF_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile \
	curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)

.PHONY: help clip sdxl stylegan serve test test-all check chaos bench lock
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

clip: $(READY)  ## train CLIP on icons through Ray, a few minutes; result in runs/clip (ARGS="--train.steps 100" for options)
	GENLIB_RUNS=$(CURDIR)/runs $(BIN)/python -m cluster.submit -- python jobs/clip_pretrain.py --run clip $(ARGS)

sdxl: $(READY)  ## train SDXL-style latent diffusion on icons through Ray, a quarter of an hour; result in runs/sdxl
	GENLIB_RUNS=$(CURDIR)/runs $(BIN)/python -m cluster.submit -- python jobs/sdxl_pretrain.py --run sdxl $(ARGS)

stylegan: $(READY)  ## train StyleGAN2 on icons through Ray, a quarter of an hour; result in runs/stylegan
	GENLIB_RUNS=$(CURDIR)/runs $(BIN)/python -m cluster.submit -- python jobs/stylegan_train.py --run stylegan $(ARGS)

serve: $(READY)  ## serve what was trained under runs/ at http://127.0.0.1:8000, with a page (ARGS="--port 9000" for options)
	GENLIB_RUNS=$(CURDIR)/runs $(BIN)/python -m serve $(ARGS)

test: $(READY)  ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" $(TWO) $(ARGS)

test-all: $(READY)  ## all tests
	$(BIN)/python -m pytest $(TWO) $(ARGS)

check: $(READY)  ## format, lint, types, import contract, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow and not ray" $(TWO) $(ARGS)

chaos: $(READY)  ## does every fault to a run of two workers: what happened, seconds to go on, steps done again, weights (ARGS="node_lost" for one)
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(READY)  ## every benchmark, then a table of ratios to the peers
	$(BIN)/python -m tests.benchmarks $(ARGS)

lock: $(READY)  ## infra/requirements.lock, the packages of the images, from what pyproject.toml names now
	$(PIP) uv==0.13.9
	$(BIN)/uv pip compile pyproject.toml --quiet --extra clouds --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate \
		--custom-compile-command 'make lock' $(addprefix --no-emit-package ,$(OF_TORCH)) --output-file infra/requirements.lock

# torch comes first and pinned, so that no other package's range replaces it; open_clip, lightly and pythae come without what they ask for, as that is torchvision.
$(READY): pyproject.toml
	$(call step,1 of 4: a virtual environment in $(VENV),test -x $(BIN)/python || $(PYTHON) -m venv $(VENV))
	$(call step,2 of 4: $(TORCH),$(PIP) '$(TORCH)')
	$(call step,3 of 4: what pyproject.toml names (a few minutes),$(PIP) --editable '.[dev]')
	$(call step,4 of 4: libraries to compare with,$(PIP) --no-deps open_clip_torch==3.3.0 lightly==1.6.0 pythae==0.1.2)
	@touch $@
