# Every target builds the environment it needs, and refreshes it when pyproject.toml or constraints.txt
# change. Python 3.11 or newer, pip and make are all that must be there.
#
#   make demo   text -> tokenizer -> shards -> training -> evaluation -> samples
#   make test   the tests, with branch coverage      make check   format, lint, types, layers, documents
#   make docs   write the generated pages           make bench   the demo against nanoGPT (NANOGPT=its folder)
#   make core   the tests, then docs/core.md        make fuzz    100,000 random configurations (COUNT=, SEED=)
#   make faults     every campaign of tests/faults: downloads, hostile files, calls that fail, kills, races (COUNT=, SEED=)
#   make mutants   break 60 lines, one at a time, and list the changes that no test notices (COUNT=, SEED=)
#   make stories   100,000 stories of our grammar have one derivation each (COUNT=)
#   make interpreters   the unit tests on Python 3.11 and 3.13, where they are found
#   make records     losses and weights of 40 runs, bit by bit, of BASE= (feef26f) and of the working tree
#   make readers     transformers, vLLM, mlx-lm, lm-eval and TRL read our checkpoints (READERS=their environments, LOG=)
#   make gpu       with a CUDA device: its tests, training speed factor by factor, attention (SECONDS=300)
#   make attention   how exact, fast and large attention is, beside the full matrix of scores
#
# TORCH_INDEX_URL chooses where torch comes from, for instance a build without CUDA.

PYTHON ?= python3
COUNT ?= 100000
SEED ?= 0
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --no-compile
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

.PHONY: demo test core fuzz faults mutants stories interpreters quick records readers check format bench attention gpu docs

demo: $(VENV)/.demo
	@$(BIN)/candlewick demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered -o faulthandler_timeout=180 --core-rows .core.jsonl
	$(BIN)/python docs/core_table.py .core.jsonl --check

core: $(VENV)/.dev
	$(BIN)/python -m pytest -q --core-rows .core.jsonl --deselect tests/test_core_table.py
	$(BIN)/python docs/core_table.py .core.jsonl

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz.configs --count $(COUNT) --seed $(SEED) --processes 2

faults: COUNT =
faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults.sharder $(if $(COUNT),--count $(COUNT)) --seed $(SEED)
	$(BIN)/python -m tests.faults.preparation $(if $(COUNT),--count $(COUNT)) --seed $(SEED)
	$(BIN)/python -m tests.faults.texts $(if $(COUNT),--count $(COUNT)) --seed $(SEED)
	$(BIN)/python -m tests.faults.write_errors $(if $(COUNT),--count $(COUNT)) --seed $(SEED)
	$(BIN)/python -m tests.faults.kills $(if $(COUNT),--count $(COUNT)) --seed $(SEED)
	$(BIN)/python -m tests.faults.races $(if $(COUNT),--count $(COUNT))
	$(BIN)/python -m tests.faults.tokenizers $(if $(COUNT),--count $(COUNT)) --seed $(SEED)

mutants: COUNT = 60
mutants: SEED =
mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants.campaign --count $(COUNT) $(if $(SEED),--seed $(SEED))

stories: $(VENV)/.dev
	$(BIN)/python -m tests.stories --count $(COUNT)

interpreters: $(VENV)/.dev
	.ci/interpreters 3.11 3.13

quick: $(VENV)/.dev
	$(BIN)/python -W error::SyntaxWarning -m compileall -q -f src tests benchmarks
	$(BIN)/python -m pytest -q -m "not gpu" tests/unit

records: BASE ?= feef26f
records: $(VENV)/.dev
	$(BIN)/python tests/records/runs.py against $(BASE)

readers: READERS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/candlewick-readers
readers: $(VENV)/.dev
	$(BIN)/python -m tests.readers.run --environments "$(READERS)" $(if $(LOG),--log "$(LOG)")

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python -p tests
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/nanogpt.py --nanogpt "$(NANOGPT)"

gpu: SECONDS = 300
gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu.py --seconds $(SECONDS)

attention: $(VENV)/.dev
	$(BIN)/python benchmarks/attention.py --plots benchmarks/results

# torch first and alone: whichever build of the pinned version was asked for, the rest accepts it. Modules are
# compiled when they are first imported (most never are), which saves a third of the installation.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11 (fix: make PYTHON=python3.11 ...)"; exit 1; }
	@echo "environment: $(VENV) with $(TORCH)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --no-deps $(if $(TORCH_INDEX_URL),--index-url "$(TORCH_INDEX_URL)") "$(TORCH)"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@echo "environment: candlewick and what it needs"
	@$(INSTALL) --quiet -c constraints.txt -e ".[fast,tensorboard]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "environment: candlewick and its development tools"
	@$(INSTALL) --quiet -c constraints.txt -e ".[dev]"
	@# all at once here, or a package's syntax warning would meet tests that take warnings for errors
	@$(BIN)/python -m compileall -q $(VENV)/lib > /dev/null || true
	@touch $@ $(VENV)/.demo
