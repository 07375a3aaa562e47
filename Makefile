.PHONY: check fix demo test

check:  ## what CI runs
	.ci/run

test:
	pytest -q

fix:  ## tidy the code
	ruff check --fix .
	ruff format .

demo:  ## cluster a generated sample on this machine
	covey sample --texts 3000 --output runs/sample.csv
	covey run --config cluster_configs/laptop.yaml
