#!/usr/bin/env bash
# Table IV of DashFusion: its parts left out, on CH-SIMS.
EXPERIMENT_SCRIPT=dashfusion_table4.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" dashfusion_table4 "$@"
