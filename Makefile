# Everything a person or CI does with a checkout. Each target creates what it needs and is quick the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STORES := .venv-stores
SCHEMAS := .venv-stac-schemas
AUDIT := .venv-audit
export KAPPAMASK_SERVER_ENV := $(CURDIR)/.venv-server
export KAPPAMASK_STORES_ENV := $(CURDIR)/$(STORES)
export KAPPAMASK_AUDIT_ENV := $(CURDIR)/$(AUDIT)
PIP_FLAGS := --quiet --disable-pip-version-check
# onnxruntime reports usage home unless told not to.
export ORT_DISABLE_TELEMETRY := 1

SEED ?= 7
SIZE ?= 2304
PRODUCT ?=
WEIGHTS ?=
PARTS ?=
PRODUCTS ?= 300
WORKERS ?= 3
RUNS ?= 1000000
SECONDS ?= 3600
MINUTES ?= 30
TARGETS ?=
# Tests run side by side, each file in one process; every process has servers of its own.
JOBS ?= 2
KAPPAMASK := $(if $(WEIGHTS),--weights $(WEIGHTS))

.PHONY: help demo test lint bench bench-sources bench-decode bench-transport bench-scaling full soak faults thorough fuzz load sbom audit server-env stores-env stac-schemas clean
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/.installed: pyproject.toml constraints/client.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints/client.txt -e '.[dev]'
	touch $@

server-env: $(BIN)/.installed
	$(BIN)/kappamask-stream server install

# S3 stores for the tests; the mark lies beside what it marks.
$(STORES)/.installed: constraints/stores.txt
	$(PYTHON) -m venv $(STORES)
	$(STORES)/bin/python -m pip install $(PIP_FLAGS) --no-deps -r constraints/stores.txt
	touch $@

stores-env: $(STORES)/.installed

# JSON schemas of STAC extensions, as their authors' source packages carry them: the tests validate without a network.
$(SCHEMAS)/.fetched: constraints/stac-schemas.txt $(BIN)/.installed
	$(BIN)/python -m pip download $(PIP_FLAGS) --no-deps --no-binary :all: --require-hashes -r $< -d $(SCHEMAS)
	touch $@

stac-schemas: $(SCHEMAS)/.fetched

demo: server-env  ## a generated product through a local Triton with csmask's real weights
	$(BIN)/kappamask-stream demo demo-output --size $(SIZE) --seed $(SEED)

test: server-env stores-env stac-schemas  ## all tests, with a real Triton; real data is used where ../shared is there
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(BIN)/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: server-env  ## our wall time against the floors, in one run (PRODUCT=SAFE directory, WEIGHTS=KappaMask's HDF5)
	$(BIN)/python benchmarks/end_to_end.py $(PRODUCT) $(if $(WEIGHTS),--model kappamask --radiometry km_predict) $(KAPPAMASK)

bench-sources: server-env stores-env  ## a product from a zip and from S3 against its directory, and an area of interest on S3
	$(BIN)/python benchmarks/sources.py $(PRODUCT)

bench-decode: server-env  ## what decoding costs: by resolution, by decoder, for areas of interest
	$(BIN)/python benchmarks/decode.py $(PRODUCT) --whole

bench-transport: server-env  ## client's CPU per tile over gRPC and over shared memory, to a real Triton
	$(BIN)/python benchmarks/transport.py

bench-scaling: server-env  ## how memory and cost grow with products and processes (PARTS="memory growth processes")
	$(BIN)/python benchmarks/scaling.py $(PARTS)

full: server-env  ## a full-size product against its labels, or with WEIGHTS against km_predict's golden tiles
	$(BIN)/python benchmarks/full_product.py $(PRODUCT) $(KAPPAMASK)

soak: server-env stores-env  ## the worker under fire: PRODUCTS=300 small products, WORKERS=3, random kills
	$(BIN)/python benchmarks/soak/run.py --products $(PRODUCTS) --workers $(WORKERS)

faults: server-env stores-env  ## inject every fault as often as docs/reliability.md says, and print what came of it
	FAULTS=full FAULT_TABLE=bench-output/faults.json $(BIN)/python -m pytest -o faulthandler_timeout=3600 -m fault -n $(JOBS) --dist loadfile

thorough: server-env  ## properties, state machines and damaged files in their full amounts (1,000s of examples), counted
	FAULTS=full THOROUGH_TABLE=bench-output/thorough.json $(BIN)/python -m pytest -o faulthandler_timeout=3600 -m thorough -n $(JOBS) --dist loadfile

# Coverage-guided: a parser is done after RUNS inputs, or SECONDS.
fuzz: $(BIN)/.installed  ## fuzz what parses outside bytes (RUNS=1000000 inputs each, at most SECONDS=3600; TARGETS="jp2_index zip")
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints/client.txt -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run --runs $(RUNS) --seconds $(SECONDS) --jobs $(JOBS) $(TARGETS)

load: server-env  ## 8 clients on one server whose queue stays full (MINUTES=30): failures, growth, fairness, priority
	$(BIN)/python benchmarks/load/run.py --minutes $(MINUTES)

# Tools that look at what the other environments hold.
$(AUDIT)/.installed: constraints/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install $(PIP_FLAGS) --no-deps -r constraints/audit.txt
	touch $@

sbom: $(BIN)/.installed $(AUDIT)/.installed  ## bill of materials (CycloneDX) of what the client needs when it runs
	$(AUDIT)/bin/python deploy/supply-chain/sbom.py $(VENV) pyproject.toml sbom/kappamask-stream.cdx.json

audit: $(BIN)/.installed $(AUDIT)/.installed  ## licences of that, and known vulnerabilities of all pinned packages
	$(AUDIT)/bin/python deploy/supply-chain/licences.py $(VENV)
	$(AUDIT)/bin/python deploy/supply-chain/audit.py constraints/client.txt constraints/server.txt constraints/stores.txt constraints/audit.txt

clean:  ## remove the environments and what the targets made
	rm -rf $(VENV) .venv-server $(STORES) $(SCHEMAS) $(AUDIT) demo-output bench-output sbom
