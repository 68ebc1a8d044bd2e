"""Experiment files: the runs that make one table or figure, as JSON, and what they gave.

An experiment is a list of rows; a row is a model with a configuration, run on every data set and
seed. Each run is one record of the store, so an experiment that is interrupted goes on where it
was, and its tables are read from the records alone. The format of the files is `Experiment`.
"""

from pathlib import Path

from MMSA_ext.experiments.execution import Progress, run
from MMSA_ext.experiments.figures import draw
from MMSA_ext.experiments.files import (
    Experiment,
    Figure,
    Row,
    Source,
    experiments_folder,
    list_experiments,
    load,
    published_numbers,
    settings,
)
from MMSA_ext.experiments.plan import Plan, Unit, render_status, status
from MMSA_ext.experiments.tables import table, write_tables
from MMSA_ext.experiments.workers import Outcome
from MMSA_ext.paths import Places

__all__ = [
    "Experiment",
    "Figure",
    "Outcome",
    "Plan",
    "Progress",
    "Row",
    "Source",
    "Unit",
    "draw",
    "experiments_folder",
    "list_experiments",
    "load",
    "published_numbers",
    "render_status",
    "results_folder",
    "run",
    "settings",
    "status",
    "table",
    "write_tables",
]


def results_folder(res_save_dir: str | Path | None = None) -> Path:
    """Folder of records and tables, as `MMSA_run` takes it; it is not made."""
    return Places.resolved(results=res_save_dir).results
