# Everything happens in a virtual environment of the project's own; each target does its own set-up.

# The newest Python that works here; PYTHON= overrides. Newer ones get the newest jax, which is faster on CPUs.
PYTHONS = python3.13 python3.12 python3.11
PYTHON ?= $(shell for name in $(PYTHONS); do $$name -c 'import ensurepip, venv' 2> /dev/null && echo $$name && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart demo test test-slow test-browser chromium docs pictures photographs bench faults fuzz lint format clean

$(VENV)/.runtime: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.test: setup.py $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

# Huge pages: the CPU backend takes and returns a step's memory every time, and page faults cost it time.
quickstart: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1
quickstart: $(VENV)/.runtime
	$(BIN)/python -m data_pipelines.prepare shapes --data_dir=data
	$(BIN)/python -m experiments.pretrain --config=experiments/configs/pretrain_quickstart.py --workdir=runs/quickstart

# The page of a trained model, by default the quickstart's, at http://127.0.0.1:7860.
demo: WORKDIR ?= runs/quickstart
demo: ARGUMENTS ?=
demo: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	$(BIN)/python -m experiments.demo --workdir=$(WORKDIR) $(ARGUMENTS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The CPU build of PyTorch that the tests compare with is for Python 3.11.
test lint format test-slow test-browser faults fuzz bench: PYTHONS = python3.11 python3.13 python3.12

# Two at a time: a test seldom keeps more than one core busy. Files stay whole, for what their tests share.
test: lint
	$(BIN)/python -m pytest -m 'not slow and not browser' --numprocesses=2 --dist=loadfile

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# Debian's; it is installed where it is missing and that is allowed.
chromium:
	command -v chromium > /dev/null || apt-get install --yes --quiet chromium > /dev/null

# Clicks through the page.
test-browser: $(VENV)/.test chromium
	$(BIN)/python -m pip install --quiet -e '.[browser]'
	$(BIN)/python -m pytest -m browser

# The documentation as a site, in site/index.html; a broken link, anchor or reference is an error.
docs: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict

# Every picture of README.md and docs/ but that of `make photographs`; the tabs of the runs that are there.
pictures: WORKDIRS ?= runs/quickstart
pictures: $(VENV)/.runtime chromium
	test -f runs/quickstart/report.png || $(MAKE) quickstart
	$(BIN)/python -m pip install --quiet -e '.[browser]'
	$(BIN)/python -m benchmarks.pictures.diagram --output=docs/images/diagram.png
	$(BIN)/python -m benchmarks.pictures.attention --workdir=runs/quickstart --output=docs/images/attention.png
	$(BIN)/python -m benchmarks.pictures.page --workdirs=$(WORKDIRS) --folder=docs/images

# Hours on two cores, in parts (PARTS=list names them); stop it and start it again at any time.
photographs: FLICKR8K ?=
photographs: DAQUAR ?=
photographs: COCO ?=
photographs: BERT ?= sentence-transformers/all-MiniLM-L6-v2
photographs: RESNET ?= timm/resnet18.tv_in1k
photographs: FOLDER ?= runs/photographs_experiment
photographs: SETTING ?= cpu
photographs: PARTS ?=
photographs: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1
photographs: $(VENV)/.runtime
	$(BIN)/python -m benchmarks.learning.photographs --flickr8k=$(FLICKR8K) --daquar=$(DAQUAR) --coco=$(COCO) \
		--bert=$(BERT) --resnet=$(RESNET) --folder=$(FOLDER) --setting=$(SETTING) --only=$(PARTS)

# Under 30 minutes on two cores; coco_captions in DATA_DIR and BERT's vocab.txt add the input pipeline.
bench: DATA_DIR ?= data
bench: VOCABULARY ?=
bench: $(VENV)/.test
	$(BIN)/python -m data_pipelines.prepare shapes --data_dir=$(DATA_DIR)
	$(BIN)/python -m benchmarks.all --data_dir=$(DATA_DIR) --vocabulary=$(VOCABULARY)

# Runs that are killed, frozen, starved, spoiled; the table in docs/reliability.md says what became of them.
faults: export FAULTS_TABLE = docs/reliability.md
faults: $(VENV)/.test
	$(BIN)/python -m pytest tests/faults

# Coverage-guided damage to what the readers read; atheris lies beside the environment, not in it.
fuzz: READER ?=
fuzz: SECONDS ?= 60
fuzz: $(VENV)/.test
	test -d $(VENV)/fuzz/atheris || $(BIN)/python -m pip install --quiet --target $(VENV)/fuzz atheris
	PYTHONPATH=$(VENV)/fuzz $(BIN)/python -m tests.hostile.fuzz --reader=$(READER) --seconds=$(SECONDS)

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache
