#!/usr/bin/env bash
# Table 3 of InfoEnh: ConFEDE without audio, vision or text.
# Options go to `mmsa-ext experiment run`; paths are relative to the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
install offline
exec "$VENV/bin/mmsa-ext" experiment run infoenh_table3 "$@"
