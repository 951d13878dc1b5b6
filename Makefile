# make demo: see it work. make test: all tests. Each sets up what it needs.
PYTHON := .venv/bin/python

.PHONY: demo test quick lint bench docs lock clean
demo: setup
	.venv/bin/srcip demo

test: lint ## everything; the rings that need root are skipped visibly without it
	$(PYTHON) -m pytest

quick: setup ## the pure ring, in seconds
	$(PYTHON) -m pytest -m "not dataplane"

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: setup ## side by side with HAProxy, nginx and no proxy at all; needs root
	PYTHONPATH=e2e $(PYTHON) -m bench $(BENCH)

docs: setup ## write docs/annotations.md and the goldens anew
	$(PYTHON) -m pytest -q --refresh-goldens tests/webhook tests/proxy

lock: setup ## choose new versions of all dependencies
	$(PYTHON) -m pip install -q uv
	.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--all-extras --upgrade -q pyproject.toml -o requirements.lock

.PHONY: setup
setup:
	@e2e/setup.sh

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
