#!/usr/bin/env bash
# ConFEDE and Self-MM, without and with InfoEnh, as frames and tokens are lost at test time.
EXPERIMENT_SCRIPT=robustness.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" robustness --figure "$@"
