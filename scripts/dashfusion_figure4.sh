#!/usr/bin/env bash
# Fig. 4 of DashFusion: the number of bottleneck tokens, on CH-SIMS.
EXPERIMENT_SCRIPT=dashfusion_figure4.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" dashfusion_figure4 --figure "$@"
