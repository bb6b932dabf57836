# `make demo` is the place to start. Everything else installs what it needs first, once.

VENV := .venv/bin

.PHONY: demo test test-containers lint docs bench bench-vs-metaschedule setup clean

demo: setup            ## tune two small models at once and check the results
	examples/demo.sh

# First what computes, on all cores; then what waits for brokers, several at once; then the others one by one: see
# tests/conftest.py.
test: setup            ## every test, in three runs; skipped ones are listed with the reason
	@status=0; \
	$(VENV)/python -m pytest -m parallel -n logical --maxprocesses 8 --dist worksteal --durations=15 || status=1; \
	$(VENV)/python -m pytest -m waiting tests/integration tests/acceptance/test_bad_usage.py -n 2 --dist worksteal --durations=10 || status=1; \
	$(VENV)/python -m pytest -m alone --durations=20 || status=1; \
	exit $$status

test-containers: setup ## image, compose file and RabbitMQ 4 in a Docker engine of its own; needs root
	scripts/test_containers.sh

lint: setup            ## format, lint, types, import rules; all of them, also after a failure
	@status=0; \
	for check in "ruff format --check ." "ruff check ." mypy lint-imports; do \
	    echo "$$check"; $(VENV)/$$check || status=1; \
	done; \
	exit $$status

docs: setup            ## the site of the documentation, in build/docs; a warning is an error
	$(VENV)/python scripts/docs_site.py

bench: setup           ## what the mesh itself costs, measured on this machine
	$(VENV)/python -m benchmarks

bench-vs-metaschedule: setup  ## the short comparison with MetaSchedule, 15 min
	$(VENV)/tunemesh bench benchmarks/experiments/vs_metaschedule_short.yaml --out build/bench/vs_metaschedule_short
	@sed -n '/^## Against/,/^## All/p' build/bench/vs_metaschedule_short/report.md

setup:                 ## Debian packages and .venv, where missing
	@scripts/setup.sh

clean:                 ## what was built, and the environment
	rm -rf build .venv *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
