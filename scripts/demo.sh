#!/usr/bin/env bash
# Sets everything up, then trains the text-only control and DashFusion on the embedded data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
install offline

# Where something else runs too, threads that wait by spinning make a step ten times slower.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
output="$PWD/.demo"
# Short on purpose: a first impression in minutes, not a result to report.
settings=(pretrained=minilm num_epochs=6 learning_rate=2e-4)

for model in text_only dashfusion; do
  echo
  echo "=== $model on generated data in MOSI's layout ==="
  "$VENV/bin/mmsa-ext" run --model "$model" --dataset mosi --synthetic --seeds 1111 --gpu-ids cpu \
    "${settings[@]/#/--set=}" \
    --model-save-dir "$output/models" --res-save-dir "$output/results" --log-dir "$output/logs"
done

echo
"$VENV/bin/mmsa-ext" table -d mosi -m text_only -m dashfusion --style paper --res-save-dir "$output/results"
echo
echo "Everything that was written: $output"
