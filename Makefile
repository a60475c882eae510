# make quickstart   install, train a small CartesianMoE on real text, show the result
# make test         install what the tests need, and run them
# make test-long    the tests that take minutes too
# make targets      the TPU compiler, for compare_layouts on targets tpu:...
# make targets-gpu  the GPU compiler (4 GB), in an environment of its own
# make lint         formatting and lints
# make bench        all benchmarks: tables, JSON and pictures in BENCH (about 20 minutes on 2 cores)
# make bench-layer  experts and whole layer against their dense twins
# make bench-data   preparing text and loading tokens

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
BENCH ?= runs/bench
TARGETS = .targets
RUN = $(VENV)/bin/python
# The version of libtpu that goes with the installed jax.
LIBTPU = from importlib.metadata import requires; print(next(r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")))
# A file of tests is run by one process; up to four share them.
PYTEST = $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test test-long targets targets-gpu lint format bench bench-layer bench-data clean

quickstart: $(VENV)/.installed
	$(RUN) train.py --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/.installed-dev
	$(PYTEST)

test-long: $(VENV)/.installed-long
	$(PYTEST) -m "long or not long"

targets: $(TARGETS)/.libtpu

targets-gpu: $(TARGETS)/.gpu

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

format: $(VENV)/.installed-dev
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

# With PyTorch in an environment of its own: make bench BENCH_PYTHON=.venv-bench/bin/python
bench: $(VENV)/.installed
	$(RUN) -m benchmarks suite --to=$(BENCH) $(addprefix --python=,$(BENCH_PYTHON))

bench-layer: $(VENV)/.installed
	$(RUN) -m benchmarks layer

bench-data: $(VENV)/.installed
	$(RUN) -m benchmarks data

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# With requirements.txt, so that nothing it pins is changed.
$(VENV)/.installed-long: $(VENV)/.installed-dev requirements-long.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-long.txt
	@touch $@

# Beside the environment, not in it: where jax finds libtpu it looks for TPUs at every start.
$(TARGETS)/.libtpu: $(VENV)/.installed
	rm -rf $(TARGETS)/libtpu*
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --target $(TARGETS) "$$($(RUN) -c '$(LIBTPU)')"
	@touch $@

$(TARGETS)/.gpu: requirements.txt
	$(PYTHON) -m venv $(TARGETS)/gpu
	$(TARGETS)/gpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(TARGETS)/gpu/bin/python -m pip install --quiet --disable-pip-version-check "jax[cuda13]==$$($(TARGETS)/gpu/bin/python -c 'import jax; print(jax.__version__)')"
	@touch $@

clean:
	rm -rf $(VENV) $(TARGETS) runs .pytest_cache .ruff_cache
