# make reproduce   every table and figure            (PROFILE=smoke|demo|full, else RAVL_PROFILE, else demo)
# make test        the tests, then the notebooks
# make lint        style
# make site        notebooks and docstrings as pages, in site/
# make setup       the environment alone; the others call it

PYTHON ?= python3
PROFILE ?= $(or $(RAVL_PROFILE),demo)
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: setup reproduce test lint site

setup: $(INSTALLED)

# Re-done only when what is to be installed has changed.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -c constraints.txt -e '.[dev]'
	touch $@

reproduce: setup
	$(PY) -m ravl_core.reproduce --profile $(PROFILE)

# Both parts run at once and whatever the other one says; either one can fail the target.
test: setup
	@log=$$(mktemp); \
	HF_HUB_OFFLINE=1 RAVL_PROFILE=smoke RAVL_PROGRESS=off $(PY) -m pytest --nbval-lax --nbval-current-env notebooks >$$log 2>&1 & \
	notebooks=$$!; trap 'kill $$notebooks' INT TERM; status=0; \
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest || status=1; \
	wait $$notebooks || status=1; cat $$log; rm $$log; \
	exit $$status

lint: setup
	$(PY) -m ruff check .

# From scratch, so that no page of something that is gone stays behind.
site: setup
	rm -rf site
	$(PY) -m ravl_core.site --out site
	@echo "see site/index.html"
