# Everything a person or CI does with a checkout. Each target creates what it needs and is quick the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STORES := .venv-stores
export KAPPAMASK_SERVER_ENV := $(CURDIR)/.venv-server
export KAPPAMASK_STORES_ENV := $(CURDIR)/$(STORES)
PIP_FLAGS := --quiet --disable-pip-version-check
# onnxruntime reports usage home unless told not to.
export ORT_DISABLE_TELEMETRY := 1

SEED ?= 7
SIZE ?= 2304
PRODUCT ?=
WEIGHTS ?=
KAPPAMASK := $(if $(WEIGHTS),--weights $(WEIGHTS))

.PHONY: help demo test lint bench full server-env stores-env clean
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

demo: server-env  ## a generated product through a local Triton with csmask's real weights
	$(BIN)/kappamask-stream demo demo-output --size $(SIZE) --seed $(SEED)

test: server-env stores-env  ## all tests, with a real Triton; real data is used where ../shared is there
	$(BIN)/python -m pytest

lint: $(BIN)/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: server-env  ## our wall time against the floors, in one run (PRODUCT=SAFE directory, WEIGHTS=KappaMask's HDF5)
	$(BIN)/python benchmarks/end_to_end.py $(PRODUCT) $(if $(WEIGHTS),--model kappamask --radiometry km_predict) $(KAPPAMASK)

full: server-env  ## a full-size product against its labels, or with WEIGHTS against km_predict's golden tiles
	$(BIN)/python benchmarks/full_product.py $(PRODUCT) $(KAPPAMASK)

clean:  ## remove the environments and what the targets made
	rm -rf $(VENV) .venv-server $(STORES) demo-output bench-output
