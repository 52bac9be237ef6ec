PYTHON ?= python3
BIN = .venv/bin
DEMO ?= data/demo

.PHONY: help install demo test test-browser lint smoke ablation bench torture mutation train-all clean

help:
	@echo "make demo   install, draw people, train three models on them, combine, score (4 min)"
	@echo "make test   install what is missing and run the tests"
	@echo "make test-browser  the page of combine.py --serve in a real Chromium: CHROMIUM=command"
	@echo "make lint   ruff"
	@echo "make smoke  a short training on real photos: FACES=folder in the competition's layout"
	@echo "make ablation  what each choice is worth, hours: FACES=folder, OUT=where it goes on"
	@echo "make train-all  the three tasks side by side: DATA=folder, JOBS=2, FOLDS=0, FLAGS=…"
	@echo "make bench  speed and memory beside what one does without this: FACES=folder"
	@echo "make torture  kills, signals, flipped bits, payloads at full count, an hour: TORTURE=names"
	@echo "make mutation  whether the tests notice changes of the code, 20 minutes"
	@echo "make clean  remove what the others made, except data/ and runs/"

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# Small settings that learn drawn people from scratch on two cores; real photos want more.
DEMO_FLAGS = --data $(DEMO) --model test_resnet --size 96 --no-pretrained --opt adamw --lr 3e-3 \
	--weight-decay 0.02 --sched cosine --warmup-epochs 1 --batch-size 32 --epochs 7 \
	--log-dir $(DEMO)/runs --cache-dir $(DEMO)/cache
DEMO_MODELS = --mask $(DEMO)/m.pt --gender $(DEMO)/g.pt --age $(DEMO)/a.pt

demo: install
	$(BIN)/python -m common.tools.demo $(DEMO) --people 330 --eval-people 60 --overwrite
	$(BIN)/python -m mask.train $(DEMO_FLAGS) --out $(DEMO)/m.pt
	$(BIN)/python -m gender.train $(DEMO_FLAGS) --out $(DEMO)/g.pt
	$(BIN)/python -m age.train --loss focal --drop-ages 57-59 $(DEMO_FLAGS) --out $(DEMO)/a.pt
	$(BIN)/python combine.py $(DEMO_MODELS) --data $(DEMO) --cache-dir $(DEMO)/cache \
		--output $(DEMO)/submission.csv --labels $(DEMO)/eval_answers.csv

# Real photos, a few steps: what must hold is that every step works on them, not the score.
FACES ?= ../shared/data/faces
SMOKE_FLAGS = --data $(FACES) --model mobilenetv3_small_100 --size 96 --no-pretrained --lr 2e-3 \
	--limit 120 --epochs 1 --log-dir .smoke/runs --cache-dir .smoke/cache
SMOKE_MODELS = --mask .smoke/m.pt --gender .smoke/g.pt --age .smoke/a.pt --cache-dir .smoke/cache

smoke: install
	@if [ ! -d $(FACES) ]; then echo "smoke: no photos in $(FACES), nothing done"; exit 0; fi; \
	set -ex; rm -rf .smoke; mkdir .smoke; \
	$(BIN)/python -m mask.train $(SMOKE_FLAGS) --out .smoke/m.pt; \
	$(BIN)/python -m gender.train $(SMOKE_FLAGS) --out .smoke/g.pt; \
	$(BIN)/python -m age.train --loss focal --drop-ages 57-59 $(SMOKE_FLAGS) --out .smoke/a.pt; \
	$(BIN)/python combine.py $(SMOKE_MODELS) --held-out --data $(FACES)

# Six hours on two cores; what is trained already is not trained again.
OUT ?= ablation

ablation: install
	$(BIN)/python -m tests.benchmarks.ablation --data $(FACES) --out $(OUT) --jobs 2

# Of drawn people; TORTURE="kills flips" takes some of them.
TORTURE ?=

torture: install
	$(BIN)/python -m tests.benchmarks.torture $(if $(TORTURE),--only $(TORTURE))

mutation: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutation]'
	$(BIN)/python -m tests.benchmarks.torture --only mutants

# Speed and memory, beside what one does without this project; idle cores, half an hour.
BENCH ?= .bench

bench: install
	$(BIN)/python -m tests.benchmarks.crop --data $(FACES)
	$(BIN)/python -m tests.benchmarks.predict --data $(FACES) --out $(BENCH)
	$(BIN)/python -m tests.benchmarks.train --data $(FACES) --cache-dir $(BENCH)/cache
	$(BIN)/python -m tests.benchmarks.memory --data $(FACES)/eval --out $(BENCH)

# The three tasks, and FOLDS of each, JOBS at a time with an equal share of the cores.
DATA ?= data
JOBS ?= 2
FOLDS ?= 0
FLAGS ?=
THREADS = $$(( $$(nproc) / $(JOBS) > 1 ? $$(nproc) / $(JOBS) : 1 ))

train-all: install
	$(MAKE) -j $(JOBS) $(foreach fold,$(FOLDS),train-mask-$(fold) train-gender-$(fold) train-age-$(fold))

train-%:
	task=$(word 1,$(subst -, ,$*)); fold=$(word 2,$(subst -, ,$*)); first=$$(echo $$task | cut -c1); \
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m $$task.train --data $(DATA) --fold $$fold \
		--out $$first.fold$$fold.pt --workers $$(( $(THREADS) - 1 )) $(FLAGS)

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

# A browser isn't ours to install: without one there is nothing to do.
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))

test-browser: install
	@if [ -z "$(CHROMIUM)" ]; then echo "test-browser: no Chromium found, nothing done"; exit 0; fi; \
	set -x; CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest tests/browser

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv .smoke mutants build *.egg-info
