#!/usr/bin/env bash
# Sets everything up, then checks style, types, layers and behaviour. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
install offline,dev

# Two processes share two cores: more threads each only slow each other down. Each begins with its own half of the
# tests, so that what the tests of a file share is mostly made once.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
bash scripts/check.sh
set -x
"$VENV_BIN/python" -m pytest --numprocesses "${PYTEST_WORKERS:-2}" --dist worksteal -m "not slow" "$@"
