# Every target sets up what it needs in .venv; Python 3.11+ and a package index are all that must be there.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test check format floor odd segments resume handover fuzz chaos clean

help:  ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/.ready  ## the virtual environment

.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## upload a real file to S3 and watch it arrive in PostgreSQL, once
	@$(BIN)/python -m loader.twin

test: setup  ## the tests, on every core
	$(BIN)/pytest -n auto

check: setup  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## put the code in its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

floor: setup  ## TPC-H lineitem against psql \copy: rows equal, faster, in constant memory (about five minutes)
	$(BIN)/python -m bench.floor

fuzz: setup  ## the loader against COPY on files made up at random: make fuzz SECONDS=600
	$(BIN)/python tests/fuzz.py $(or $(SECONDS),600)

chaos: setup  ## loads that die in every way, and tables that must be right: make chaos SECONDS=600 SEED=1
	$(BIN)/python tests/chaos.py --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

odd: setup  ## what odd values cost: lineitem with one in each block, and in each hundred records (about two minutes)
	$(BIN)/python -m bench.odd

segments: setup  ## what checkpoints cost: lineitem straight, and in segments of several sizes (about five minutes)
	$(BIN)/python -m bench.segments

resume: setup  ## a load of 1 GB killed at nine tenths: how much is read again (about three minutes)
	$(BIN)/python -m bench.resume

handover: setup  ## a file that takes five minutes under a limit of sixty seconds (about ten minutes)
	$(BIN)/python -m bench.handover

.PHONY: synth snapshots deploy

synth: setup  ## the CloudFormation templates of both sizes, checked by cdk-nag; needs neither Docker nor an account
	$(BIN)/python -m infra.synth build/cdk

snapshots: setup  ## agree to what has changed in the templates: writes those that the tests compare with
	REFRESH_SNAPSHOTS=1 $(BIN)/pytest -q tests/test_infra_checks.py -k as_it_was

deploy: setup  ## what docs/deploy.md tells of: make deploy SIZE=prod OPTIONS='-c alarm_email=me@example.com'
	cd infra && PATH="$(CURDIR)/$(BIN):$$PATH" npx --yes aws-cdk@2 deploy -c size=$(or $(SIZE),dev) $(OPTIONS)

clean:  ## what make made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
