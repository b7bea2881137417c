#!/usr/bin/env bash
# Lint and tests in a virtual environment of their own.
# Usage: bash launch/test.sh          every property and golden, one smoke run per method
#        bash launch/test.sh full     also every config, long learning runs, all notebooks
source "$(dirname "$0")/env.sh" test
ruff check .
ruff format --check .
full=()
# Long learning runs want optimised programs; the quick tier wants to compile fast (tests/conftest.py).
if [ "${1:-}" = full ]; then full=(--full); export XLA_FLAGS="${XLA_FLAGS-}"; shift; fi
# A crashed worker ends the run: with groups its replacement would wait for ever.
# Compiling is most of the work and uses one core; tests that share what they compile are a group.
python -m pytest -n "${JAXVID_TEST_PROCESSES:-2}" --dist loadgroup --max-worker-restart 0 "${full[@]}" --durations=15 "$@"
