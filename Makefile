# Everything a newcomer needs: `make demo` and `make test`. Each sets up .venv by itself; a second call costs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VOC ?= ../shared/data/voc

# One torch for everybody: an open pin would bring gigabytes of CUDA packages.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := constraints.txt densecrf/pyproject.toml densecrf/CMakeLists.txt deeplab/pyproject.toml $(wildcard densecrf/native/*)

.PHONY: demo test check bench evaluate clean
.DELETE_ON_ERROR:

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python $(SOURCES)
	$(BIN)/python -m pip install -q -e ./densecrf -e ./deeplab
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e './densecrf[test]' -e './deeplab[test]'
	@touch $@

$(VENV)/.checked: $(VENV)/.tested
	$(BIN)/python -m pip install -q ruff mypy
	@touch $@

demo: $(VENV)/.installed ## segment the photos in examples/photos, with pictures in demo/
	$(BIN)/deeplab segment examples/photos --out demo --compare

test: $(VENV)/.tested
	$(BIN)/python -m pytest

check: $(VENV)/.checked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.tested ## times of both packages, in results/
	$(BIN)/python densecrf/benchmarks/refine.py --out results/bench-densecrf.json
	$(BIN)/python deeplab/benchmarks/cascade.py --out results/bench-deeplab.json

evaluate: $(VENV)/.installed ## the table in results/, from VOC photos in $(VOC)
	$(BIN)/deeplab evaluate --data $(VOC) --split val --out results/voc-val80.json

clean:
	rm -rf $(VENV) densecrf/build demo
