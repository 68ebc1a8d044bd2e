#!/usr/bin/env bash
# Table 1 of InfoEnh: other systems, and four hosts, each without and with it.
EXPERIMENT_SCRIPT=infoenh_table1.sh exec bash "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" infoenh_table1 "$@"
