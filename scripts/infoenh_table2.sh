#!/usr/bin/env bash
# Table 2 of InfoEnh: its parts left out, and controls of its structure.
# Options go to `mmsa-ext experiment run`; paths are relative to the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
install offline
exec "$VENV/bin/mmsa-ext" experiment run infoenh_table2 "$@"
