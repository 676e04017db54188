# Every target sets itself up: .venv is made once, and again only when pyproject.toml or constraints.txt change.
RECIPE  ?= digits
WORKDIR ?= runs
SEEDS   ?= 1
DATA_DIR ?=
ARGS    ?=
# The accelerator of this machine decides the extra; set EXTRAS (comma separated: gpu, tpu, gcs, tensorboard) to overrule.
EXTRAS  ?= $(shell if ls /dev/accel0 /dev/vfio/0 >/dev/null 2>&1; then echo tpu; \
             elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then echo gpu; fi)
PYTHON  ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
             $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

comma := ,
BIN   := .venv/bin
STAMP := .venv/.installed$(subst $(comma),-,$(addprefix -,$(EXTRAS)))
DEV   := .venv/.installed-dev
BENCH := .venv/.installed-bench
OPTIONS = --workdir $(WORKDIR) --seeds $(SEEDS) $(if $(DATA_DIR),--data.dir $(DATA_DIR)) $(ARGS)

.PHONY: help setup setup-dev train-balanced train-imbalanced reproduce theory benchmark test lint clean
help:
	@echo "make train-balanced | train-imbalanced   both arms on RECIPE=$(RECIPE), then a page that compares them"
	@echo "make reproduce                           every arm and imbalance of the paper (SEEDS=5), tables and figures"
	@echo "make theory                              figures and tables of the layer-peeled models"
	@echo "make benchmark                           the equilibrium layer beside its peers"
	@echo "make test | lint                         tests; ruff"
	@echo "variables: RECIPE WORKDIR DATA_DIR SEEDS ARGS EXTRAS PYTHON"

setup: $(STAMP)
setup-dev: $(DEV)

.venv/bin/python:
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --seed --python "$(or $(PYTHON),3.12)" .venv; \
	elif [ -n "$(PYTHON)" ]; then $(PYTHON) -m venv .venv; \
	else echo "error: Python 3.11 to 3.13 is needed and none was found; install one, or install uv." >&2; exit 2; fi

define install
	@echo "installing $(1) into .venv ..."
	@if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python .venv/bin/python -c constraints.txt -e "$(1)"; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e "$(1)"; fi
	@touch $@
endef

$(STAMP): pyproject.toml constraints.txt | .venv/bin/python
	$(call install,.$(if $(EXTRAS),[$(EXTRAS)]))

$(DEV): pyproject.toml constraints.txt | .venv/bin/python
	$(call install,.[dev])

$(BENCH): pyproject.toml constraints.txt | .venv/bin/python
	$(call install,.[bench])

train-balanced: $(STAMP)
	@$(BIN)/deq-nc sweep $(RECIPE) $(OPTIONS)

train-imbalanced: $(STAMP)
	@$(BIN)/deq-nc sweep $(RECIPE) --data.imbalance step $(OPTIONS)

reproduce: $(STAMP)
	@$(BIN)/deq-nc sweep $(RECIPE) --grid $(OPTIONS)

theory: $(STAMP)
	@$(BIN)/python -m experiments.theory

benchmark: $(BENCH)
	@$(BIN)/python -m experiments.benchmarks.equilibrium $(ARGS)

test: $(DEV)
	@$(BIN)/python -m pytest -q -n 2 $(ARGS)

lint: $(DEV)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf .venv runs
