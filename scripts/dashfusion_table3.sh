#!/usr/bin/env bash
# Table III of DashFusion: other systems on CH-SIMS.
EXPERIMENT_SCRIPT=dashfusion_table3.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" dashfusion_table3 "$@"
