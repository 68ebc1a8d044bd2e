#!/usr/bin/env bash
# ConFEDE and Self-MM, without and with InfoEnh, as frames and tokens are lost at test time.
# Options go to `mmsa-ext experiment run`; paths are relative to the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
install offline
exec "$VENV/bin/mmsa-ext" experiment run robustness "$@"
