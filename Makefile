# Every target works in a fresh clone; Python 3.11 or newer and make are all it needs.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes
COMPILE := $(PY) -m piptools compile --quiet --allow-unsafe --generate-hashes --strip-extras \
	--no-emit-index-url --no-emit-find-links
# make test ARGS="-k reconnect -x" passes options to pytest; WORKERS=4 spreads the tests over processes.
ARGS ?=
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help run test test-long bench bench-refresh bench-token screenshots lighthouse lint types proofs requirements clean

help: ## Show what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp ## Start the app and, without Keap settings, the sandbox (PORT=5000, HTTPS=1)
	@exec $(PY) -m keap_connect.launch

test: $(VENV)/test.stamp lint types ## Check format, lint and types, then run every test
	@$(PY) -m tests.support.browser
	@$(PY) -m tests.support.faketime
	@$(PY) -m tests.support.redis
	@$(PY) -m tests.support.proxies
	@$(PY) -m tests.support.oidc_provider
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not long" $(ARGS)

test-long: $(VENV)/test.stamp ## Run the loops and the load that take minutes
	@$(PY) -m pytest -m long $(ARGS)

bench: bench-refresh bench-token ## Measure all that has a figure to keep

bench-refresh: $(VENV)/test.stamp ## Measure the sweep beside a bare loop, 5 minutes a round (N=10000 ROUNDS=1)
	@$(PY) -m bench.refresh

bench-token: .venv-bench/bench.stamp ## Measure the token endpoint beside a bare route and two libraries (ROUNDS=5)
	@.venv-bench/bin/python -m bench.token

screenshots: $(VENV)/test.stamp ## Take pictures of the main pages into test-output/, and docs/accounts.png
	@$(PY) -m tests.browser.take_screenshots test-output --readme

lighthouse: $(VENV)/test.stamp ## Let Lighthouse judge the pages that people see first; installs it into test-output/
	@$(PY) -m tests.support.browser
	@$(PY) -m tests.browser.lighthouse test-output/lighthouse

lint: $(VENV)/test.stamp ## Check format and lint
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

types: $(VENV)/test.stamp ## Check types
	@$(PY) -m mypy

proofs: $(VENV)/test.stamp ## Print which requirements and faults have a test
	@$(PY) -m tests.proofs

requirements: $(VENV)/test.stamp ## Compile requirements*.in into requirements*.txt, with hashes
	@CUSTOM_COMPILE_COMMAND="make requirements" $(COMPILE) --output-file=requirements.txt requirements.in
	@CUSTOM_COMPILE_COMMAND="make requirements" $(COMPILE) --output-file=requirements-dev.txt requirements-dev.in

clean: ## Remove what the targets above installed; instance/ and its stored accounts stay
	rm -rf $(VENV) .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis test-output
	rm -rf tests/support/oidc_provider/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are younger than the requirements they were installed from, so a second start skips pip.
$(VENV)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Keap Connect needs Python 3.11 or newer, and $(PYTHON) is not; name one that is: make PYTHON=python3.12 …" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/venv.stamp requirements.txt
	@echo "Installing what the app needs …"
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/test.stamp: $(VENV)/venv.stamp requirements.txt requirements-dev.txt
	@echo "Installing what the tests need …"
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@ $(VENV)/run.stamp

# What we are measured beside stays out of our own environment.
.venv-bench/bench.stamp: requirements-dev.txt requirements-bench.in
	@$(PYTHON) -m venv .venv-bench
	@echo "Installing what the measurement needs …"
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.in
	@touch $@
