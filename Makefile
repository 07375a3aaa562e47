.PHONY: setup quick check nightly fix demo bench lock audit

setup:  ## an environment in .venv with all that tests and checks need, and the commit hooks
	python3 -m venv .venv
	.venv/bin/pip install -e '.[dev]'
	.venv/bin/pre-commit install

quick:  ## the tests of some minutes; `make check` runs all of them
	pytest

check:  ## what CI runs
	.ci/run

nightly:  ## the tests that CI leaves out, in about an hour; before a release, and after changes to what they look at
	pytest -m nightly

fix:  ## tidy the code
	ruff check --fix .
	ruff format .

demo:  ## cluster a generated sample on this machine
	covey sample --texts 3000 --output runs/sample.csv
	covey run --config cluster_configs/laptop.yaml

bench:  ## a table of a run's stages and of the clusterer, in about a minute
	python -m benchmarks.quick

LOCK = echo 'setuptools>=77' | uv pip compile pyproject.toml - --universal --generate-hashes --upgrade \
	--python-version 3.11 --no-emit-index-url --quiet

lock:  ## pin what the images install (needs uv); setuptools builds covey itself there
	$(LOCK) --output-file docker/requirements-cpu.lock
	$(LOCK) --extra bge --output-file docker/requirements-gpu.lock

audit:  ## known vulnerabilities of what the images install: status 1 for any, 3 when nobody could be asked
	python docker/audit.py docker/requirements-cpu.lock docker/requirements-gpu.lock
