#!/usr/bin/env bash
# Table 3 of InfoEnh: ConFEDE without audio, vision or text.
EXPERIMENT_SCRIPT=infoenh_table3.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" infoenh_table3 "$@"
