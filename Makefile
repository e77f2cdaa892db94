# Every target first installs what it needs into .venv; nothing outside this folder changes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= demo-out
# Test workers, one per core. Tests also wait, for ranks and for emulated networks; mypy runs beside them and uses that time.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)
# The folder for JUnit files of `make test`, if any.
JUNIT  ?=
# Minutes for each format of `make fuzz`, and faults of `make chaos`.
MINUTES ?= 10
KILLS  ?= 100
# 1: `make docs` also checks links to other sites, which needs a network.
LINKS  ?=
# Demo and tests start many Python processes; without bytecode each would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=
# A stamp file, so that a second `make` does not install again.
READY  := $(VENV)/.ready
# Another one: the assertions of all tests were rewritten once.
WARM   := $(VENV)/.warm

.DEFAULT_GOAL := help
.PHONY: help demo test test-quiet test-others lint lint-style lint-types docs bench gpu studies mutants fuzz chaos

help:     ## list the targets
	@sed -n 's/^\([a-z]*\): *\(.*\)## \(.*\)/  make \1\t\3/p' $(MAKEFILE_LIST) | expand -t 18

# pip compiles bytecode on one core; compileall, below, uses all.
INSTALL = $(BIN)/python -m pip install --quiet --no-compile

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "dessim needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (a few minutes the first time)" >&2
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(INSTALL) --editable '.[train]' --group test --group lint --group docs
# --no-deps: TorchRec depends on fbgemm-gpu, the CUDA build, which would overwrite fbgemm-gpu-cpu. Neither package exists
# for every machine.
	@$(INSTALL) --group torchrec && $(INSTALL) --no-deps torchrec==1.8.0 \
		|| echo "TorchRec could not be installed; comparisons with it will be skipped" >&2
# Otherwise all processes that start first would compile the same modules at the same time.
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|_internal)/' $(VENV)/lib || true
	@$(BIN)/python -m compileall -q -x 'tests/.*(test_|conftest)' dessim des_ref tests
	@touch $@

$(WARM): $(READY)
	@$(BIN)/python -m tests.rewrite && touch $@

demo: $(READY)     ## train, certify, capture, replay, project, report (under 3 minutes)
	@$(BIN)/dessim demo --out $(OUT)

test: $(READY)     ## run every check: lint, types, import contracts, tests
# In a new clone each test worker would rewrite the assertions of all tests; so one process does it.
	@$(MAKE) --no-print-directory -j2 --output-sync lint-style $(WARM)
# The other tests run even if one of the quiet tests has failed.
	@$(MAKE) --no-print-directory test-quiet; quiet=$$?; \
	$(MAKE) --no-print-directory -j2 test-others lint-types && exit $$quiet

# Tests that measure wall-clock time run one by one, before the others load the machine. Only their files are imported.
test-quiet:
	@$(BIN)/python -m pytest -q -n 0 -m quiet $(if $(JUNIT),--junitxml=$(JUNIT)/quiet.xml) \
		$$(grep -rl --include='test_*.py' mark.quiet tests)

test-others:
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m 'not quiet' $(if $(JUNIT),--junitxml=$(JUNIT)/others.xml)

lint: $(READY)     ## ruff, spelling, import contracts, mypy --strict on dessim
	@$(MAKE) --no-print-directory -j2 --output-sync lint-style lint-types

# The two parts of lint, side by side.
lint-style:
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/codespell README.md CHANGELOG.md Makefile pyproject.toml dessim des_ref docs studies tests topologies
	@said=$$($(BIN)/lint-imports --no-cache) && echo "$$said" | tail -4 || { echo "$$said"; exit 1; }

lint-types:
	@$(BIN)/mypy

SPHINX  = $(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going -c docs/website -d build/doctrees
docs: $(READY)     ## build the documentation site in build/site; LINKS=1: check links to other sites too
	@rm -rf build/site && $(SPHINX) . build/site && echo build/site/index.html
	@test -z "$(LINKS)" || $(SPHINX) -b linkcheck . build/links

bench: $(READY)    ## compare run times with SimGrid (Debian: libsimgrid-dev g++), and time dessim from 8 to 65,536 GPUs
	@$(BIN)/python tests/bench/run.py

gpu: $(READY)      ## check the trainer on this machine's GPUs, one or several, in under ten minutes (docs/gpu.md)
	@$(BIN)/python -m des_ref.gpu $(GPU)

studies: $(READY)  ## redraw every study from its recordings: figures and expected results
	@for s in studies/*/plot.py; do $(BIN)/python $$s || exit 1; done

mutants: $(READY)  ## apply every deliberate fault to a copy of the trainer; the certificate or a test must notice each
	@$(BIN)/python -m tests.mutants.run

fuzz: $(READY)     ## mutate files of every format that users hand in, 10 minutes each: MINUTES=1, FORMATS="topology plan"
	@$(INSTALL) --group fuzz || echo "atheris could not be installed" >&2
	@$(BIN)/python -m tests.fuzz.run --minutes $(MINUTES) $(FORMATS)

chaos: $(READY)    ## strike trainings of every strategy 100 times at random moments, and resume them; more as root
	@$(BIN)/python -m tests.chaos.run --kills $(KILLS)
