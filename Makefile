# `make demo` and `make test` each work alone, from a fresh clone. The same in plain commands: CONTRIBUTING.md.
PYTHON ?= python3
BIN := .venv/bin
SUITE := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup -rs

.PHONY: demo test test-all fuzz lint format docs bench clean

demo: .venv/base.done
	$(BIN)/sgm train configs/digits.yaml

# everything essential, for each change
test: lint
	$(SUITE) -m "not slow and not process"

# everything, for each submission
test-all: lint
	$(SUITE) --durations=25

# the tests that draw examples, with fresh seeds; what they find becomes an @example
fuzz: .venv/dev.done
	HYPOTHESIS_PROFILE=fuzz SGM_SWEEP=1 $(SUITE) -m hypothesis

lint: .venv/dev.done
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: .venv/dev.done
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# without --quiet, with which mkdocs counts no warnings
docs: .venv/docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/docs/index.html

bench: .venv/bench.done
	$(BIN)/python benchmarks/speed.py --out runs/speed
	$(BIN)/python benchmarks/registry.py
	$(BIN)/python benchmarks/sampler_order.py
	$(BIN)/python benchmarks/sampler_order.py --few
	$(BIN)/python benchmarks/equal_to.py --out docs/equal.md
	$(BIN)/python benchmarks/digits_quality.py
	$(BIN)/python benchmarks/cache.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/faults.py

clean:
	rm -rf .venv

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sgm needs Python >= 3.11; say which: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/base.done: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev.done: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,tensorboard,text,data,lora]"
	touch $@ .venv/base.done

.venv/bench.done: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	touch $@ .venv/base.done

.venv/docs.done: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@ .venv/base.done
