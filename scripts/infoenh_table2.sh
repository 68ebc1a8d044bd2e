#!/usr/bin/env bash
# Table 2 of InfoEnh: its parts left out, and controls of its structure.
EXPERIMENT_SCRIPT=infoenh_table2.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" infoenh_table2 "$@"
