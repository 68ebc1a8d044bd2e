#!/usr/bin/env bash
# Table II of DashFusion: other systems on CMU-MOSI and CMU-MOSEI.
EXPERIMENT_SCRIPT=dashfusion_table2.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" dashfusion_table2 "$@"
