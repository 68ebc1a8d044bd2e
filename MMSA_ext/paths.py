"""Paths that users write: `~` and environment variables, which MMSA leaves as they are."""

import os
from pathlib import Path

# Folder of MMSA's data (it holds MOSI/, MOSEI/, SIMS/), in place of the one in MMSA's files.
DATA_ROOT_VARIABLE = "MMSA_DATA_ROOT"


def expand(path: str | Path) -> str:
    """Expand environment variables and `~`."""
    return str(Path(os.path.expandvars(str(path))).expanduser())
