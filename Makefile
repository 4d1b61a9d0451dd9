# make run | serve | test | coverage | lint | setup. A second call installs nothing: each stamp remembers its requirements file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file of your own: make run DATA=my_tweets.csv
DATA_FLAG := $(if $(DATA),--data.path '$(DATA)')

.PHONY: run serve test coverage lint setup clean
run: $(VENV)/core
	$(BIN)/python main.py run $(DATA_FLAG)

serve: $(VENV)/full
	$(BIN)/python main.py serve

test: $(VENV)/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Half again as slow as `make test`, so the gate does without.
coverage: $(VENV)/dev
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

setup: $(VENV)/dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core: requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/full: requirements-full.txt $(VENV)/core
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-full.txt
	@touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/full
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
