#!/usr/bin/env bash
# All models that MMSA configures for a data set, and ours: scripts/sweep_baselines.sh DATASET [OPTIONS]
# Options go to `mmsa-ext experiment run`; paths are relative to the repository.
set -euo pipefail
folder="$(dirname "${BASH_SOURCE[0]}")"
case "${1:-}" in
  mosi | mosei | sims) ;;
  -h | --help) set -- DATASET --help ;;
  *)
    echo "error: '${1:-}' is no data set; usage: scripts/sweep_baselines.sh mosi|mosei|sims [OPTIONS]" >&2
    exit 2
    ;;
esac
dataset="$1"
shift
EXPERIMENT_SCRIPT="sweep_baselines.sh $dataset" exec bash "$folder/experiment.sh" "baselines_$dataset" "$@"
