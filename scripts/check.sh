#!/usr/bin/env bash
# Style and types: one list for continuous integration and for pre-commit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
set -x
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
