# Needs make and either uv or Python 3.11+. Everything else is put into .venv and the user's cache.

UV  := devtools/uv
RUN := $(UV) run --frozen --all-extras

# The tools in devtools/ are imported by tests and demo; they are no part of the distribution.
export PYTHONPATH := $(CURDIR)/devtools
# Tests and demo start hundreds of interpreters: without bytecode each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs docs-serve proof picture bench bench-cluster bench-scale audit dist reproducible cluster cluster-down plugin

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## a real database converted, a sidecar killed meanwhile (API=real: on a real API server)
	$(RUN) --group demo $(if $(filter real,$(API)),--group controlplane) \
		python examples/demo/run.py $(if $(API),--api $(API))

test: ## all tests; ARGS="-k words" for some of them
	$(RUN) --group test pytest $(ARGS)

lint: ## style, types, import contracts, generated manifests and dashboard
	$(RUN) --group dev ruff check
	$(RUN) --group dev ruff format --check
	$(RUN) --group dev mypy
	$(RUN) --group dev lint-imports --no-logo
	$(RUN) --group dev python -m format_operator.manifests --check deploy
	$(RUN) --group dev python -m chartdocs --check charts/storageformat-operator
	$(RUN) --group dev python -m dashboard --check charts/storageformat-operator/files/dashboard.json
	$(RUN) --group dev zizmor --offline --quiet .github

docs: ## the documentation's site, in build/docs/site; a warning or a link that leads nowhere is an error
	$(RUN) --group docs python -m docsite build

docs-serve: ## the same at http://127.0.0.1:8000, following what you write; ARGS="--address 0.0.0.0:8080"
	$(RUN) --group docs python -m docsite serve $(ARGS)

proof: ## every proof that nothing is lost, in its long form; ARGS="--only histories" for some
	$(RUN) --group test python -m tests.proof $(ARGS)

picture: ## the picture in docs/monitoring.md, of a real rollout on a real cluster; as root
	@mkdir -p build docs/images
	STORAGEFORMAT_REQUIRE_ALL=1 STORAGEFORMAT_DASHBOARD_ANSWERS=$(CURDIR)/build/dashboard-answers.json \
		$(RUN) --group test --group bench pytest -q tests/cluster/test_prometheus.py
	$(RUN) --group bench python -m dashboard_picture build/dashboard-answers.json docs/images/dashboard.png

bench: ## measures speed and memory, prints a table
	$(RUN) --group bench --group demo python bench/run.py $(ARGS)

bench-cluster: ## a rollout of three pods with 100 MB each on a real cluster; as root
	$(RUN) --group test python bench/rollout.py $(ARGS)

bench-scale: ## a rollout over 1,000, 2,500 and 5,000 pods on a real API server; takes half an hour
	$(RUN) --group test --group bench python bench/scale.py $(ARGS)

audit: ## known vulnerabilities of what the image contains; needs PyPI itself
	$(RUN) --group audit python -m audit $(ARGS)

dist: ## what a release consists of besides the image: wheel, source, manifests, bill of materials
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(UV) build --quiet --no-create-gitignore
	$(UV) export --quiet --frozen --preview-features sbom-export --format cyclonedx1.5 \
		--extra operator --extra otel --no-dev --output-file dist/sbom.cdx.json
	for one in deploy/crds/*.yaml; do echo ---; cat $$one; done > dist/crds.yaml

reproducible: ## the image built twice from nothing, and compared; as root
	$(RUN) --group controlplane python -m cluster reproducible

# Where the release's archive will be fetched from; {file} is its name. `krew install --archive` fetches nothing.
URI ?= https://localhost/{file}
PLUGIN ?= dist/krew

plugin: ## the kubectl plugin as one archive with krew's manifest, in dist/krew
	$(RUN) python -m pluginarchive $(PLUGIN) --uri '$(URI)'

cluster: ## a real one-node Kubernetes on this machine, with the image of this checkout; as root
	$(RUN) --group controlplane python -m cluster up

cluster-down: ## ends it and removes its traces
	$(RUN) --group controlplane python -m cluster down
