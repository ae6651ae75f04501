# Every target sets up what it needs in .venv; Python 3.11+ and a package index are all that must be there.
PYTHON ?= python3
BIN := .venv/bin
IMAGE ?= loader

# tests wait for servers more than they compute: with two workers a core the cores are busy
WORKERS ?= $(shell expr 2 '*' $$(getconf _NPROCESSORS_ONLN))
TESTS ?=

.PHONY: help setup demo test test-off test-long test-slow check format image lock rehearsal fleet bench floor odd segments resume handover workers merging ledger small paper fuzz laws sanitize kernel-arm64 wheel chaos docs clean

help:  ## what there is to make
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready  ## the virtual environment

.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## upload a real file to S3 and watch it arrive in PostgreSQL, once
	@$(BIN)/python -m twin

test: setup  ## the tests, on every core: make test TESTS='tests/test_merge.py --durations=25'
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(TESTS)

# those that the kernel has a part in, of the server that is asked first: the others differ in what comes after it
LANES := $(addprefix tests/,test_lane.py test_corpus.py test_differential.py test_datasets.py test_shards.py)
test-off: setup  ## the tests that the kernel has a part in, once more without it
	LOADER_KERNEL=off $(BIN)/pytest -n $(WORKERS) --dist worksteal -m without_kernel -k 'not (system-15 or embedded-17 or embedded-16 or container-18)' $(LANES)

test-long: setup  ## the tests with many more examples, files, faults and servers (about half an hour)
	LOADER_TESTS=long $(BIN)/pytest -n $(WORKERS) --dist worksteal $(TESTS)
	$(if $(TESTS),,LOADER_TESTS=long LOADER_KERNEL=off $(BIN)/pytest -n $(WORKERS) --dist worksteal $(LANES))

test-slow: setup  ## the tests beside two busy loops, then under half a core: they must not depend on speed (Linux; hours)
	$(BIN)/python tests/slow.py --busy 2 -q $(TESTS)
	$(BIN)/python tests/slow.py --cores 0.5 -q $(TESTS)

check: setup  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## put the code in its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

image:  ## the Lambda image, and its bill of materials in build/; BUILD_OPTIONS go to docker build
	docker build --file container/Dockerfile --tag $(IMAGE) $(BUILD_OPTIONS) .
	@mkdir -p build
	@docker run --rm --network=none --entrypoint cat $(IMAGE) /usr/share/doc/loader/bom.cdx.json > build/image.cdx.json
	@docker image inspect --format 'image $(IMAGE): {{.Size}} bytes unpacked; bill of materials: build/image.cdx.json' $(IMAGE)

# ministack pins another botocore than boto3 wants, so it has an environment of its own
.venv/ministack/.ready: .venv/.ready
	$(PYTHON) -m venv .venv/ministack
	.venv/ministack/bin/pip install --quiet --disable-pip-version-check 'ministack==1.5.33'
	@touch $@

# the wiring is taken from the synthesized template, once there is one
rehearsal: setup .venv/ministack/.ready $(if $(wildcard infra/synth.py),synth)  ## the image under Lambda's limits, and the wiring in an emulator (needs Docker)
	@rm -f build/rehearsal.log
	@if docker info >/dev/null 2>&1; then $(MAKE) --no-print-directory image; else echo "no Docker engine: no image"; fi
	IMAGE=$(IMAGE) $(BIN)/pytest -m rehearsal -s -p no:xdist tests/test_rehearsal.py tests/test_rehearsal_wiring.py tests/test_rehearsal_fleet.py
	@if [ -e build/rehearsal.log ]; then cat build/rehearsal.log; fi

fleet: setup .venv/ministack/.ready  ## 1 GB in 16 shards by the state machine in an emulator, two functions killed (about six minutes)
	@rm -f build/rehearsal.log
	FLEET_MB=$(or $(FLEET_MB),1000) $(BIN)/pytest -m rehearsal -s -p no:xdist tests/test_rehearsal_fleet.py

lock: setup  ## resolve the image's dependencies anew, with hashes
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9'
	container/lock

floor: setup  ## TPC-H lineitem against psql \copy: rows equal, faster, in constant memory (about five minutes)
	$(BIN)/python -m bench.floor

# the peers have an environment of their own, for some pin what the loader wants newer
.venv/peers/.ready: bench/peers.txt
	$(PYTHON) -m venv .venv/peers
	.venv/peers/bin/pip install --quiet --disable-pip-version-check --requirement bench/peers.txt
	@touch $@

bench: setup .venv/peers/.ready  ## everybody beside psql on one server: makes docs/benchmarks.md (about an hour); OPTIONS go to bench, see bench/README.md
	BENCH_PEERS=.venv/peers/bin/python $(BIN)/python -m bench $(OPTIONS)

fuzz: setup  ## the kernel against COPY and Arrow, files cut anywhere, files against COPY, the laws, a quarter of the time each: make fuzz SECONDS=600 FIELDS=50000000 (of the kernel, whatever the time)
	$(BIN)/python tests/fuzz_kernel.py $(shell expr $(or $(SECONDS),600) / 4) $(if $(FIELDS),--fields $(FIELDS))
	$(BIN)/python tests/fuzz_cuts.py $(shell expr $(or $(SECONDS),600) / 4)
	$(BIN)/python tests/fuzz.py $(shell expr $(or $(SECONDS),600) / 4)
	$(BIN)/python tests/fuzz_laws.py $(shell expr $(or $(SECONDS),600) / 4)

sanitize: setup  ## the kernel under AddressSanitizer and UBSan, at random and, where clang is, by coverage: make sanitize SECONDS=600
	$(BIN)/python tests/sanitize.py $(or $(SECONDS),600)

laws: setup  ## the laws until so many values are compared, in two processes: make laws VALUES=20000000
	$(BIN)/python tests/fuzz_laws.py --values $(or $(VALUES),20000000) --jobs 2 $(if $(SEED),--seed $(SEED))

KERNEL := tests/fuzz_kernel.c loader/kernel/express.c loader/kernel/scan.c loader/kernel/text.c
kernel-arm64:  ## the kernel of arm64, run by qemu, makes the same bytes (Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static)
	@mkdir -p build
	gcc -std=c11 -O2 -DSTANDALONE $(KERNEL) -o build/fuzz_kernel
	aarch64-linux-gnu-gcc -std=c11 -O2 -DSTANDALONE -static $(KERNEL) -o build/fuzz_kernel.arm64
	build/fuzz_kernel 1000000 1 | tee build/fuzz_kernel.made
	qemu-aarch64-static build/fuzz_kernel.arm64 1000000 1 | diff build/fuzz_kernel.made -

wheel: setup  ## the wheel and the sdist, in dist/, tried in clean environments, where no compiler works
	$(BIN)/python tests/wheel.py

chaos: setup  ## loads that die in every way, and tables that must be right: make chaos SECONDS=600 SEED=1 WITHOUT=ddl,roles
	$(BIN)/python tests/chaos.py --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) $(if $(WITHOUT),--without $(WITHOUT))

docs: setup  ## the documentation site, in build/site; a broken link or anchor fails the build
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

odd: setup  ## what odd values cost: lineitem with one in each block, and in each hundred records (about two minutes)
	$(BIN)/python -m bench.odd

segments: setup  ## what checkpoints cost: lineitem straight, and in segments of several sizes (about five minutes)
	$(BIN)/python -m bench.segments

resume: setup  ## a load of 1 GB killed at nine tenths: how much is read again (about three minutes)
	$(BIN)/python -m bench.resume

handover: setup  ## a file that takes five minutes under a limit of sixty seconds (about ten minutes)
	$(BIN)/python -m bench.handover

workers: setup  ## one object by several processes against one: the ratio, and where the time goes (about three minutes)
	$(BIN)/python -m bench.workers

merging: setup  ## what a merge takes, apart from the staging, by what the table holds (about five minutes)
	$(BIN)/python -m bench.merging

ledger: setup  ## what each statement reads of a ledger with ten million loads: make ledger LOADS=1000000 (about twenty minutes)
	$(BIN)/python -m bench.ledger $(if $(LOADS),--loads $(LOADS))

small: setup  ## many small files: make small PART=files|invocation|contention|churn OPTIONS='--files 100' (bench/README.md; minutes to an hour)
	$(BIN)/python -m bench.small $(or $(PART),files) $(OPTIONS)

paper: setup  ## a terabyte by many functions, calculated: the tables of docs/fleet.md
	$(BIN)/python -m bench.paper

.PHONY: synth snapshots deploy

synth: setup  ## the CloudFormation templates of both sizes, checked by cdk-nag; needs neither Docker nor an account
	$(BIN)/python -m infra.synth build/cdk

snapshots: setup  ## agree to what has changed in the templates: writes those that the tests compare with
	REFRESH_SNAPSHOTS=1 $(BIN)/pytest -q tests/test_infra_checks.py -k as_it_was

deploy: setup  ## what docs/deploy.md tells of: make deploy SIZE=prod OPTIONS='-c alarm_email=me@example.com'
	cd infra && PATH="$(CURDIR)/$(BIN):$$PATH" npx --yes aws-cdk@2 deploy -c size=$(or $(SIZE),dev) $(OPTIONS)

clean:  ## what make made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
