# Everything runs in .venv, which `make venv` fills with what requirements.lock pins.
PYTHON ?= python3
BENCH = .venv/bin/python -m collapse_bench

.PHONY: venv run test faults verify bench growth gpu lint

venv: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --no-deps --requirement requirements.lock
	.venv/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The leaderboard is written even where cells have failed, since it shows them.
run: venv
	$(BENCH) run suites/quick.yaml; status=$$?; \
	if [ $$status -le 1 ]; then $(BENCH) leaderboard suites/quick.yaml || exit; \
	echo; echo 'Next, the published setting: python -m collapse_bench run suites/ptb.yaml'; \
	$(BENCH) plan suites/ptb.yaml; fi; exit $$status

# One process a core, each of one thread (tests/conftest.py).
test: venv
	.venv/bin/python -m pytest --numprocesses auto --dist worksteal

# All of what `make test` tries a part of: hostile input, kills, full disks; writes
# tests/faults/faults.md.
faults: venv
	rows=$$(mktemp); COLLAPSE_BENCH_FAULTS=full COLLAPSE_BENCH_FAULTS_ROWS=$$rows \
		.venv/bin/python -m pytest tests/faults --numprocesses auto --dist worksteal; status=$$?; \
	.venv/bin/python tests/faults/table.py $$rows > tests/faults/faults.md; rm $$rows; exit $$status

# The measurements against models whose answers are known; fails where one is off.
verify: venv
	$(BENCH) verify

# The plain way against the bench's own, in one process with a cell's environment and threads;
# tests/conftest.py is left out. COLLAPSE_BENCH_DATA names the folder of PTB, as for `make run`.
bench: venv
	env $$(.venv/bin/python -c 'from collapse_bench.runner import ENVIRONMENT as e; \
		print(*map("=".join, e.items()))') \
		.venv/bin/python -m pytest tests/benchmarks --confcutdir=tests/benchmarks \
		-o python_files='bench_*.py' --benchmark-json=bench.json \
		--benchmark-columns=min,median,max,rounds; status=$$?; \
	.venv/bin/python tests/benchmarks/ratios.py bench.json; exit $$status

# Time and memory against every size, growth.md and growth.png, and tokens a second by precision,
# precision.md; in a few minutes.
growth: venv
	.venv/bin/python tests/benchmarks/growth.py --out tests/benchmarks
	.venv/bin/python tests/benchmarks/precision.py --out tests/benchmarks

# Everything that only a GPU can tell, in eight minutes: gpu/gpu.md. Any Python that has torch and this
# project's other packages will do: `make gpu PYTHON_GPU=python3`.
ifdef PYTHON_GPU
gpu:
else
PYTHON_GPU = .venv/bin/python
gpu: venv
endif
	PYTHONPATH=. $(PYTHON_GPU) tests/gpu/measure.py --out gpu

lint: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
