# Every target sets itself up: .venv is made once, and again only when pyproject.toml or constraints.txt change.
RECIPE  ?= digits
WORKDIR ?= runs
SEEDS   ?= 1
DATA_DIR ?=
ARGS    ?=
OUT     ?= runs/theory
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

.PHONY: help setup setup-dev python train-balanced train-imbalanced reproduce theory benchmark test lint clean clean-runs
help:
	@echo "make train-balanced | train-imbalanced   both arms on RECIPE=$(RECIPE), then a page that compares them"
	@echo "make reproduce                           every arm and imbalance of the paper (SEEDS=5), tables and figures"
	@echo "make theory                              figures and tables of the layer-peeled models, in OUT=$(OUT)"
	@echo "make benchmark                           the equilibrium layer beside its peers"
	@echo "make test | lint                         tests; ruff and mypy"
	@echo "make clean                               removes .venv and caches"
	@echo "make clean-runs                          lists the runs in WORKDIR=$(WORKDIR), asks, then removes them"
	@echo "variables: RECIPE WORKDIR DATA_DIR SEEDS ARGS EXTRAS PYTHON OUT"

setup: $(STAMP)
setup-dev: $(DEV)

# A PYTHON that somebody named must exist, be supported, and be that of a .venv that is already there.
python:
ifneq ($(filter command environment,$(firstword $(origin PYTHON))),)
	@found=$$(command -v "$(PYTHON)" || uv python find "$(PYTHON)" 2>/dev/null || true); \
	version() { "$$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }; \
	refuse() { echo "error: PYTHON=$(PYTHON): $$1" >&2; exit 2; }; \
	if ! asked=$$(version "$$found"); then \
	  command -v uv >/dev/null 2>&1 || refuse "cannot be run. Install it, or name another Python, or leave PYTHON out."; \
	  asked=$$(echo "$(PYTHON)" | sed 's/^python//'); fi; \
	case $$asked in 3.11|3.12|3.13) ;; \
	  *) refuse "expected Python 3.11 to 3.13, got $$asked. Name one of these, or leave PYTHON out.";; esac; \
	if there=$$(version .venv/bin/python) && [ "$$there" != "$$asked" ]; then \
	  refuse "it is $$asked, and .venv is of Python $$there. Remove that by 'make clean' (runs stay), or leave PYTHON out."; fi
endif

.venv/bin/python: | python
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
	@$(BIN)/python -m experiments.theory --out "$(OUT)"

benchmark: $(BENCH)
	@$(BIN)/python -m experiments.benchmarks.equilibrium $(ARGS)

test: $(DEV)
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

lint: $(DEV)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf .venv build dist deq_nc.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find deq_nc experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-runs: $(STAMP)
	@$(BIN)/python -m experiments.clean_runs $(WORKDIR)
