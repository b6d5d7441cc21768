# `make demo` and `make test` are all that a newcomer needs. Each installs into .venv first, if it is not there yet.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VOC ?= ../shared/data/voc

# One version of torch: an open pin would download gigabytes of CUDA packages.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := constraints.txt densecrf/pyproject.toml densecrf/CMakeLists.txt deeplab/pyproject.toml $(wildcard densecrf/native/*)

.PHONY: demo pictures docs test check bench gpu train-gpu evaluate test-pythons test-gradio sanitize clean
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

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e ./densecrf -e './deeplab[docs]'
	@touch $@

demo: $(VENV)/.installed ## segment the photos in examples/photos, with pictures in demo/
	$(BIN)/deeplab segment examples/photos --out demo --compare

pictures: demo ## pictures in README and docs that are made with the included weights
	$(BIN)/python -c "from PIL import Image; [Image.open(f'demo/{n}_compare.png').convert('RGB').save(f'docs/images/{n}.jpg', quality=88) for n in ('cameraman', 'astronaut')]"
	$(BIN)/python -m pip install -q matplotlib
	$(BIN)/python deeplab/experiments/figures.py --out docs/images

# Tests run in one process per core, each with one thread for torch.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 8 ] && echo 8 || echo $$n)
test: $(VENV)/.tested ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

check: $(VENV)/.checked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.documented ## the pages in docs/_build/html, with pictures from the examples; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.tested ## times of both packages, in results/
	$(BIN)/python -m pip install -q matplotlib
	$(BIN)/python densecrf/benchmarks/refine.py --out results/bench-densecrf.json --chart docs/images/crf-error-time.png
	$(BIN)/python densecrf/benchmarks/torch_crf.py --out results/bench-torch.json
	$(BIN)/python deeplab/benchmarks/cascade.py --out results/bench-deeplab.json $(if $(wildcard $(VOC)/JPEGImages),--agreement $(VOC))
	$(BIN)/python deeplab/benchmarks/training_step.py --out results/bench-training.json
	[ ! -d $(VOC)/scores ] || $(BIN)/python densecrf/benchmarks/score_maps.py --data $(VOC)/.. --out results/score-maps.json
	[ ! -d $(VOC)/scores ] || $(BIN)/python densecrf/benchmarks/pydensecrf_agreement.py --data $(VOC)/.. --photos 8 --out results/pydensecrf-agreement.md

# On a machine with a GPU, by a Python that has torch for CUDA; nothing is installed: make gpu GPU_PYTHON=python3
GPU_PYTHON ?= python3
gpu: ## set-up check, the tests that need a GPU, and all times, in results/gpu.json and results/gpu.md
	PYTHONPATH=densecrf/src:deeplab/src $(GPU_PYTHON) deeplab/benchmarks/gpu.py --out results/gpu

# The whole training on a GPU, from a folder that deeplab/experiments/training_pack.py made.
PACK ?= pack
TEACHER ?= teacher.npz
IMAGENET ?= vgg16_imagenet_conv_fp16.npz
train-gpu: $(VENV)/.installed ## LargeFOV and MSc-LargeFOV in about six minutes, in runs/gpu
	$(BIN)/python -m pip install -q -e './deeplab[train]'
	$(BIN)/python deeplab/experiments/gpu_training.py --recipes deeplab/recipes --data $(PACK) --teacher $(TEACHER) \
	  --imagenet $(IMAGENET) --out runs/gpu

evaluate: $(VENV)/.installed ## the table in results/, from VOC photos in $(VOC)
	$(BIN)/deeplab evaluate --data $(VOC) --split val --out results/voc-val80.json

# Tests densecrf on every installed Python version: make test-pythons PYTHONS="python3.10 python3.13"
PYTHONS ?= python3.10 python3.11 python3.12 python3.13
test-pythons:
	@for python in $(PYTHONS); do \
	  command -v $$python >/dev/null || { echo "$$python: not installed, skipped"; continue; }; \
	  venv=.venv-test/$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  $$python -m venv $$venv && $$venv/bin/python -m pip install -q './densecrf[test]' && \
	  $$venv/bin/python -m pytest -q densecrf || exit 1; \
	done

# Tests the web page with each minor version of Gradio that deeplab/pyproject.toml allows; change both together.
GRADIOS ?= 6.31
test-gradio: $(VENV)/.tested
	@for version in $(GRADIOS); do \
	  place=.venv-test/gradio-$$version; \
	  $(BIN)/python -m pip install -q --upgrade --target $$place "gradio==$$version.*" && \
	  PYTHONPATH=$$place $(BIN)/python -c 'import gradio; print("Gradio", gradio.__version__)' && \
	  PYTHONPATH=$$place $(BIN)/python -m pytest -q deeplab/tests/serving/test_route_filter.py deeplab/tests/serving/test_page.py || exit 1; \
	done

# The kernels under AddressSanitizer with UBSan, then under ThreadSanitizer.
NATIVE := $(filter-out %/bindings.cpp,$(wildcard densecrf/native/*.cpp)) densecrf/tests/native/exercise.cpp
SANITIZE := $(CXX) -std=c++17 -O1 -g -fno-omit-frame-pointer -Wno-psabi -DDENSECRF_PLAIN -Idensecrf/native $(NATIVE) -pthread
sanitize:
	@mkdir -p densecrf/build
	$(SANITIZE) -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -o densecrf/build/exercise-asan
	densecrf/build/exercise-asan
	$(SANITIZE) -fsanitize=thread -o densecrf/build/exercise-tsan
	densecrf/build/exercise-tsan

clean:
	rm -rf $(VENV) .venv-test densecrf/build demo docs/_build docs/gallery docs/made
