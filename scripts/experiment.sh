#!/usr/bin/env bash
# Runs what is missing of an experiment and shows its tables: scripts/experiment.sh NAME [OPTIONS]
# Options go to `mmsa-ext experiment run`; paths are relative to the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -eq 0 || " $* " == *" --help "* || " $* " == *" -h "* ]]; then
  echo "usage: scripts/${EXPERIMENT_SCRIPT:-experiment.sh NAME} [OPTIONS]"
  echo "Runs what is missing of an experiment, then writes and shows its tables; it may be stopped and"
  echo "started again. Options are those of \`mmsa-ext experiment run\`, for instance:"
  echo "  --jobs 2                two runs at a time"
  echo "  --dataset mosi          only this data set"
  echo "  --seeds 1111            only this seed; repeatable"
  echo "  --features FILE         feature file, or set MMSA_DATA_ROOT to the folder with MMSA's data"
  echo "  --set pretrained=minilm another text encoder, or any other value"
  echo "  --gpu-ids 0             CUDA device, or cpu"
  echo "docs/experiments.md has all of them."
  exit 0
fi

source scripts/environment.sh
install offline
exec "$VENV_BIN/mmsa-ext" experiment run "$@"
