# make demo: see it work. make test: all tests. Each sets up what it needs.
PYTHON := .venv/bin/python
# what the Kubernetes client's second, asynchronous client needs; srcip imports none of it
UNUSED_CLIENT := aiohappyeyeballs aiohttp aiohttp-retry aiosignal attrs frozenlist multidict propcache yarl

.PHONY: demo test e2e quick quick-webhook quick-others lint bench binaries kernels images rotations figures docs lock clean
demo: setup
	.venv/bin/srcip demo

test: setup-test lint ## rings 1 to 3; those that need root are skipped visibly without it
	SRCIP_FUZZ=10000000 SRCIP_EXAMPLES=60 $(PYTHON) -m pytest -m "not cluster"

e2e: setup-e2e ## ring 4: a real kubelet, the images, the chart and a load balancer in front
	$(PYTHON) -m pytest -m cluster

# what starts real servers, or helm
STARTS := tests/chart $(wildcard tests/*/test_server.py tests/*/test_supervisor.py tests/*/test_flooding.py tests/*/test_size.py)
PURE := $(PYTHON) -m pytest -p no:cacheprovider -m "not dataplane and not images and not controlplane and not cluster" $(addprefix --ignore ,$(STARTS))
quick: setup ## the pure ring, without what starts real servers and helm, in two halves: less than a minute
	@$(MAKE) --no-print-directory -j2 --output-sync quick-webhook quick-others
quick-webhook:
	@$(PURE) tests/webhook
quick-others:
	@$(PURE) --ignore tests/webhook

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: setup ## side by side with HAProxy, nginx and no proxy at all; needs root
	PYTHONPATH=e2e $(PYTHON) -m srcip_e2e.bench $(BENCH)

binaries: setup-test ## Kubernetes and helm for rings 3 and 4; minutes the first time
	PYTHONPATH=e2e $(PYTHON) -m srcip_e2e.cluster.binaries

rotations: binaries ## certificates change under load; needs root, 5 minutes; writes docs/rotations.md
	PYTHONPATH=e2e $(PYTHON) -m srcip_e2e.cluster.rotations docs/rotations.json docs/rotations.md

figures: setup-e2e ## times and memory on a real node; needs root; writes docs/figures.md
	PYTHONPATH=e2e $(PYTHON) -m srcip_e2e.cluster figures

kernels: setup-test ## ring 2 of ebpf mode on the oldest kernel that Debian has, or KERNELS="--kernel 6.12"; needs root
	PYTHONPATH=e2e $(PYTHON) -m srcip_e2e.kernels $(KERNELS)

images: setup-test ## the four images from their Dockerfiles, as archives in dist/
	PYTHONPATH=e2e $(PYTHON) -m srcip_e2e.images --output dist

docs: setup ## write docs/annotations.md and the goldens anew
	$(PYTHON) -m pytest -q --refresh-goldens tests/webhook tests/proxy tests/chart -m "not dataplane and not controlplane"

lock: setup ## choose new versions of all dependencies
	$(PYTHON) -m pip install -q uv
	.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--all-extras --upgrade -q pyproject.toml -o requirements.lock
	rm -f webhook/requirements.lock certs/requirements.lock agent/requirements.lock
	.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate -q pyproject.toml -c requirements.lock --extra webhook -o webhook/requirements.lock
	.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate -q pyproject.toml -c requirements.lock --extra certs -o certs/requirements.lock \
		$(foreach p,$(UNUSED_CLIENT),--no-emit-package $(p))
	.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate -q pyproject.toml -c requirements.lock --extra agent -o agent/requirements.lock \
		$(foreach p,$(UNUSED_CLIENT),--no-emit-package $(p))

.PHONY: setup setup-test setup-e2e
setup:
	@e2e/setup.sh lab
setup-test:
	@e2e/setup.sh test
setup-e2e:
	@e2e/setup.sh e2e

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
