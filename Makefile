VENV ?= .venv
PYTHON ?= python3
PIP_ARGS ?=
KDCACHE = $(VENV)/bin/kdcache
READY = $(VENV)/.ready

.PHONY: demo test test-all bench lint pseudo-teacher

# a teacher, its cache, a plain and a distilled student with five seeds, a table and a contact sheet; about a minute
demo: $(READY)
	$(KDCACHE) run pipelines/demo.toml

# the tests that take seconds
test: $(READY)
	$(VENV)/bin/python -m pytest -n auto --dist loadfile

# all tests, the slow ones too
test-all: $(READY)
	$(VENV)/bin/python -m pytest -n auto --dist loadfile -m ""

# the speed of this machine
bench: $(READY)
	$(KDCACHE) bench

# style of the code
lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# soft labels without a teacher: student accuracy over the accuracy of a teacher that never existed
pseudo-teacher: $(READY)
	$(KDCACHE) run pipelines/pseudo_teacher.toml $(if $(DATA),--data $(DATA))

# the virtual environment, when it is missing or what it needs has changed
$(READY): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@
