#!/usr/bin/env bash
# For a machine with an NVIDIA GPU: tests this package there and measures it, in nine minutes at most.
# No figure of a GPU is known yet: please send back the two files that it names at its end.
#
#     bash benchmarks/gpu.sh                          # --minutes 5 stops earlier; --help says more
#     bash benchmarks/gpu.sh --device cpu --quick     # a rehearsal without a GPU
#
# An active environment (venv or conda) that has MMSA_ext's dependencies and a torch that fits the
# driver is used as it is, with pytest and hypothesis added if they are missing; otherwise .venv is
# made, which takes minutes and gigabytes more the first time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

has() { # has PYTHON MODULES: whether an interpreter that fits can import them all
  is_supported "$1" && "$1" -c "import $2" >/dev/null 2>&1
}

python="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}/bin/python"
if has "$python" "MMSA, torch, transformers"; then
  echo "Using the active environment: $python"
else
  install offline
  python="$VENV_BIN/python"
fi
has "$python" "pytest, hypothesis" \
  || "$python" -m pip install --quiet --constraint constraints.txt pytest hypothesis

# This checkout, whatever else is installed.
export PYTHONPATH="$PWD" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$python" benchmarks/gpu.py "$@"
