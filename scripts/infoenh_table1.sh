#!/usr/bin/env bash
# Table 1 of InfoEnh: MISA, Self-MM, MMIM and ConFEDE, each without and with it.
# Options go to `mmsa-ext experiment run`; paths are relative to the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
install offline
exec "$VENV/bin/mmsa-ext" experiment run infoenh_table1 "$@"
