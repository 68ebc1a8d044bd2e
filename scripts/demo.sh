#!/usr/bin/env bash
# Sets everything up, then trains the text-only control and DashFusion on the embedded data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
install offline

# Where something else runs too, threads that wait by spinning make a step ten times slower.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
exec "$VENV_BIN/python" scripts/demo.py "$PWD/.demo"
