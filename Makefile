VENV ?= .venv
PYTHON ?= python3
PIP_ARGS ?=
KDCACHE = $(VENV)/bin/kdcache
READY = $(VENV)/.ready

# kernels that other processors would take, for the tests of equality
PROCESSORS = ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 \
	MKL_CBWR=COMPATIBLE
EQUALITY ?= tests/test_equal.py tests/test_joined.py tests/test_golden.py tests/test_prune.py tests/test_arithmetic.py

# tests start processes by the hundred: Python keeps what it compiles for the next one, whatever the environment says
test test-all test-arithmetic: export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-all test-arithmetic bench gpu lint docs pseudo-teacher

# a teacher, its cache, a plain and a distilled student with five seeds, a table and a contact sheet; about a minute
demo: $(READY)
	$(KDCACHE) run demo

# the tests that take seconds; a process that has done its part takes half of another's
test: $(READY)
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

# all tests, the slow ones too
test-all: $(READY)
	$(VENV)/bin/python -m pytest -n auto --dist worksteal -m ""

# cached equals live, and files read as before, in the arithmetic of other processors; EQUALITY=tests for all tests
test-arithmetic: $(READY)
	for one in $(PROCESSORS); do \
		echo "$$one" && env $$one $(VENV)/bin/python -m pytest -n auto --dist loadfile $(EQUALITY) || exit 1; \
	done

# the speed of this machine; `kdcache bench -o docs/results/speed.md` makes that page anew
bench: $(READY)
	$(KDCACHE) bench

# on a machine with a CUDA device: the tests that need one, and its speed, in $(OUT).json and $(OUT).md
OUT ?= docs/results/gpu
gpu: $(READY)
	$(VENV)/bin/python tests/gpu_results.py $(OUT)

# style of the code, and its types
lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m mypy

# README and docs/ as a site, in site/; a link that leads nowhere is an error
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --site-dir site

# soft labels without a teacher: student accuracy over the accuracy of a teacher that never existed
pseudo-teacher: $(READY)
	$(KDCACHE) run pseudo_teacher $(if $(DATA),--data $(DATA))

# the virtual environment, when it is missing or what it needs has changed
$(READY): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@
