# Every target works in a fresh clone; Python 3.11 or newer and make are all it needs.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# For the lowest Python that we promise, so that what only older ones need is in the lists, with its marker.
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11.0 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements"
# make test ARGS="-k reconnect -x" passes options to pytest; WORKERS=4 spreads the tests over processes.
ARGS ?=
WORKERS ?= 3

# Where this is set, each process of the tests would compile all of its modules anew.
test test-long: export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help run test test-long bench bench-dashboard bench-refresh bench-scale bench-token screenshots lighthouse lint types proofs requirements clean

help: ## Show what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp ## Start the app and, without Keap settings, the sandbox (PORT=5000, HTTPS=1)
	@exec $(PY) -m keap_connect.launch

test: $(VENV)/test.stamp lint types ## Check format, lint and types, then run every test
	@$(PY) -m tests.support.browser
	@$(PY) -m tests.support.faketime
	@$(PY) -m tests.support.redis
	@$(PY) -m tests.support.proxies
	@$(PY) -m tests.support.pgbouncer
	@$(PY) -m tests.support.tools
	@$(PY) -m tests.support.php
	@$(PY) -m tests.support.oidc_provider
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not long" $(ARGS)

test-long: $(VENV)/test.stamp ## Run what takes minutes, and the faults where Keap takes a used refresh token again
	@$(PY) -m pytest -m long $(ARGS)
	@for cure in "until the new one is used" "for 300 seconds"; do echo "A used refresh token works $$cure:"; \
		$(PY) -m pytest tests/faults -n $(WORKERS) --dist loadfile -m "not long" --old-refresh-token-works "$$cure" $(ARGS) || exit; done

bench: bench-refresh bench-token bench-dashboard ## Measure all that has a figure to keep

bench-dashboard: $(VENV)/test.stamp ## Measure pages and lists of 1,000,000 accounts beside 1,000 (MANY=1000000 ROUNDS=15)
	@$(PY) -m bench.dashboard

bench-refresh: $(VENV)/test.stamp ## Measure refreshing beside a bare loop, 5 minutes a round (N=10000 ROUNDS=1)
	@$(PY) -m bench.refresh

bench-scale: $(VENV)/test.stamp ## Measure disk, memory, and more processes, for docs/sizing.md (PROCESSES=1,2,4)
	@$(PY) -m bench.scale

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
	@$(COMPILE) --output-file requirements-uv.txt requirements-uv.in
	@$(COMPILE) --output-file requirements-image.txt requirements-image.in
	@$(COMPILE) --output-file requirements.txt requirements.in
	@$(COMPILE) --output-file requirements-dev.txt requirements-dev.in
	@$(COMPILE) --output-file requirements-bench.txt --constraint requirements-dev.txt requirements-bench.in

clean: ## Remove what the targets above installed; instance/ and its stored accounts stay
	rm -rf $(VENV) .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis test-output
	rm -rf tests/support/oidc_provider/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call new_environment,FOLDER)
define new_environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Keap Connect needs Python 3.11 or newer, and $(PYTHON) is not; name one that is: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv." >&2; exit 1; }
	@echo "Making the virtual environment $(1) …"
	@rm -rf $(1)
	@$(PYTHON) -m venv $(1)
endef

# $(call install,FOLDER,LISTS): uv takes a second where pip takes ten. Where uv has no wheel, or cannot reach the package
# index that only pip knows of, pip installs the same lists.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes
define install
	@if $(1)/bin/python $(PIP_INSTALL) --only-binary :all: -r requirements-uv.txt 2>/dev/null \
		&& $(1)/bin/uv pip install --quiet --compile-bytecode --python $(1)/bin/python --require-hashes $(2); then :; else \
		echo "uv cannot install here. Installing with pip, which takes longer …"; \
		$(1)/bin/python $(PIP_INSTALL) $(2); fi
endef

# The stamps are younger than the requirements they were installed from, so a second start installs nothing.
$(VENV)/venv.stamp:
	$(call new_environment,$(VENV))
	@touch $@

$(VENV)/run.stamp: $(VENV)/venv.stamp requirements.txt requirements-uv.txt
	@echo "Installing what the app needs …"
	$(call install,$(VENV),-r requirements.txt)
	@touch $@

$(VENV)/test.stamp: $(VENV)/venv.stamp requirements.txt requirements-dev.txt requirements-uv.txt
	@echo "Installing what the tests need …"
	$(call install,$(VENV),-r requirements-dev.txt)
	@touch $@ $(VENV)/run.stamp

# What we are measured beside stays out of our own environment.
.venv-bench/bench.stamp: requirements-dev.txt requirements-bench.txt requirements-uv.txt
	$(call new_environment,.venv-bench)
	@echo "Installing what the measurement needs …"
	$(call install,.venv-bench,-r requirements-dev.txt -r requirements-bench.txt)
	@touch $@
