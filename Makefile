# Every target does all the set-up that it needs: `make quickstart` and `make test` are enough on a fresh machine.

SEED ?= 0
TESTS ?= tests
# The lock that is installed: cuda where an NVIDIA GPU answers, else cpu. `make test FLAVOUR=cpu` overrules it.
ifndef FLAVOUR
FLAVOUR := $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo cuda || echo cpu)
endif
INSTALLED := .venv/installed-$(FLAVOUR)
BIN := .venv/bin

.PHONY: help install quickstart test chaos bench lint format lock clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(INSTALLED) ## .venv with the locked packages and raylign in place

$(INSTALLED): requirements/$(FLAVOUR).txt requirements/install.sh requirements/environment.py setup.py
	@requirements/install.sh $(FLAVOUR)
	@touch $@

quickstart: install ## a tiny model learns by GRPO, with a report at the end (SEED=0)
	$(BIN)/raylign quickstart --seed $(SEED)

test: install ## all tests but the slow and gpu ones, two files at a time (TESTS=tests/rollout for a part)
	$(BIN)/python -m pytest $(TESTS) -m "not slow and not gpu" -n 2 --dist loadfile --durations 15

chaos: install ## kills and stops processes of runs, nodes of runs, and while weights travel (two hours)
	$(BIN)/python -m pytest tests/actors/weights/test_courier_chaos.py tests/end_to_end/test_two_nodes.py tests/end_to_end/test_lost_node.py -m slow -s
	$(BIN)/python -m benchmarks.chaos_scripted $(SCRIPTED)
	$(BIN)/python -m benchmarks.chaos $(CHAOS)

bench: install ## all benchmarks; benchmarks/README.md is the table (BENCH="--only NAME" for a part)
	$(BIN)/python -m benchmarks.run $(BENCH)

lint: install ## formatting, rules and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: install ## puts right what lint finds where it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: install ## remakes requirements/*.txt (UPGRADE=1 takes the newest versions)
	$(BIN)/python requirements/environment.py lock $(if $(UPGRADE),--upgrade)

clean: ## removes .venv and everything built; runs/ stays
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
