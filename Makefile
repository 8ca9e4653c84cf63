# Everything a person or CI runs. The first use makes a virtual environment in .venv and installs into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo check test bench clean

demo: $(STAMP)  ## Make a video: 20 s, two prompt switches
	mkdir -p out
	$(BIN)/cascade-engine generate --model demo --blocks 28 \
	  --prompt "a red circle moves left on a white background" \
	  --switch 10:"a blue square moves up on a white background" \
	  --switch 19:"a green triangle bounces on a black background" \
	  -o out/demo.mp4 --json out/demo.json

check: $(STAMP)  ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP)  ## Everything that runs on a CPU machine
	$(BIN)/python -m pytest

bench: $(STAMP)  ## Measure this machine; tables under benchmarks/results
	$(BIN)/cascade-engine bench --out benchmarks/results

clean:
	rm -rf $(VENV) out build dist *.egg-info

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[client,stage,decoder,gateway,test]'
	touch $@
