VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SERVE ?=
BENCH ?=
PEERS ?=
TESTS ?= -n 2 --dist loadfile --no-loadscope-reorder
CHECK ?=
SEED ?= 1
SECONDS ?= 300

help:       ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

serve: $(VENV)/installed  ## set all up, then run two DP groups and a front door (SERVE='--port 9000 ...')
	$(BIN)/levelhead serve $(SERVE)

install: $(VENV)/installed  ## make .venv with everything a developer needs

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

fix: $(VENV)/installed  ## format, and repair what the linter can
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

check: $(VENV)/installed  ## format, lint, types, rooms: what CI refuses
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

test: $(VENV)/installed  ## set all up, then every test that needs no accelerator, two files at a time (TESTS= for one)
	$(BIN)/python -m pytest -m 'not gpu and not peer and not browser' $(TESTS)

test-views: $(VENV)/installed  ## the page in headless Chromium, and levelhead top in a terminal of 80x24
	$(BIN)/python -m pytest -m browser tests/browser

peers: $(VENV)/installed  ## install real engines for test-peers: vLLM, SGLang, llama.cpp, on the CPU (.peers, 8 GB)
	$(BIN)/python -m tests.peers.install

test-peers: $(VENV)/installed  ## real engines behind the front door; skips, with the reason, what is not installed
	$(BIN)/python -m pytest -m peer --durations=5 $(PEERS) tests/peers

bench-peers: $(VENV)/installed  ## vLLM's own balancer and ours, side by side (BENCH='--requests 100 --rate 2 --seeds 1,2,3,4,5')
	$(BIN)/python -m tests.peers.bench --engine vllm $(BENCH)

generated: $(VENV)/installed  ## make what is made of code: docs/metrics.md, the Grafana dashboard
	$(BIN)/python -m deploy.metrics_page
	$(BIN)/python -m deploy.grafana.dashboard

check-dashboard: $(VENV)/installed  ## ask a real Prometheus for every expression of the dashboard and the rules
	$(BIN)/python -m tests.deploy.live $(CHECK)

bench: $(VENV)/installed  ## every benchmark, quick settings
	$(BIN)/python -m benchmarks --quick

chaos: $(VENV)/installed  ## kill and stop an instance's processes under load, and audit it (SEED=1 SECONDS=300)
	@$(BIN)/python -m tests.faults.chaos --seed $(SEED) --seconds $(SECONDS)

.PHONY: help serve install fix check test test-views peers test-peers bench-peers generated check-dashboard bench chaos
