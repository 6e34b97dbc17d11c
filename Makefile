# make demo    phantom cases, a volume for each of several reports, one page with pictures
# make test    lint and every test
# make study   what synthetic volumes are worth: generators and classifier arms on the phantom
# make bench   the authors' recipe against ours at fewer steps, and the nine variants, on the phantom
# make gpu     on a CUDA card: is everything right, and how fast is it
# make help    every target

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   ?= out/demo
STUDY  ?= out/study
BENCH  ?= out/bench
OUT    ?= out/gpu

export HF_HUB_OFFLINE     ?= 1
export MPLBACKEND         := Agg
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test lint study bench gpu clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

# The stamp is written last, so an interrupted installation is done again.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,readers,tracking]'
	@touch $@

demo: $(READY)  ## reports -> volumes -> one HTML page, in under two minutes
	$(BIN)/python -m scripts.showcase.demo --output_dir $(DEMO)

# On one thread each: their networks are too small to share out.
test: $(READY) lint  ## lint and every test, under 15 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

study: $(READY)  ## generators -> volumes -> classifier arms on the phantom; SIZE=long overnight, SIZE=gpu on a CUDA card
	$(BIN)/python -m scripts.showcase.study --output_dir $(STUDY) --size $(or $(SIZE),short) $(ARGS)

bench: $(READY)  ## the authors' recipe against ours, and the nine variants; SIZE=long for a long run
	$(BIN)/python -m scripts.showcase.bench --output_dir $(BENCH) --size $(or $(SIZE),short) $(ARGS)

# Where PyTorch for CUDA and the packages are there already, they are used: with the one of .venv, else with PYTHON's.
gpu:  ## on a CUDA card: tests, then speed at the reference size, in under nine minutes; ARGS=--train for short trainings
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m scripts.showcase.gpu --output_dir $(OUT) $(ARGS)

clean:  ## remove what the targets above made, but not .venv
	rm -rf "$(DEMO)" "$(STUDY)" "$(BENCH)" out/gpu
