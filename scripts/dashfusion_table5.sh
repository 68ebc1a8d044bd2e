#!/usr/bin/env bash
# Table V of DashFusion: fusion mechanisms, on CH-SIMS.
EXPERIMENT_SCRIPT=dashfusion_table5.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" dashfusion_table5 "$@"
