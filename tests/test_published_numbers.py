"""Published numbers have the form that experiments read, and are those that the papers print."""

from pathlib import Path

import pandas as pd
import pytest

from MMSA_ext.reporting.metric_names import MMSA_METRICS

PUBLISHED = Path(__file__).parents[1] / "configs" / "experiments" / "published"
FILES = sorted(path.stem for path in PUBLISHED.glob("*.csv"))


def numbers(name):
    lines = pd.read_csv(PUBLISHED / f"{name}.csv", keep_default_na=False, dtype={"value": float})
    return lines.set_index(["row", "dataset", "metric"])


@pytest.mark.parametrize("name", FILES)
def test_rows_are_unique_metrics_are_mmsas_and_sources_are_named(name):
    lines = numbers(name)
    assert lines.index.is_unique
    assert set(lines.index.get_level_values("metric")) <= set(MMSA_METRICS)
    assert (lines["source"] != "").all()


@pytest.mark.parametrize(
    ("name", "row", "dataset", "metric", "value", "source"),
    [
        ("dashfusion_table2", "Ours", "mosi", "Has0_acc_2", 84.26, "its own model"),
        ("dashfusion_table2", "Ours", "mosei", "Non0_F1_score", 86.24, "bert-base-uncased"),
        ("dashfusion_table2", "ConFEDE †", "mosi", "MAE", 0.742, "from ConFEDE paper"),
        ("dashfusion_table2", "ConFEDE", "mosi", "MAE", 0.757, "re-run by DashFusion's authors"),
        ("dashfusion_table2", "MISA", "mosi", "MAE", 0.783, "aligned data"),
        ("dashfusion_table3", "self-MM †", "sims", "F1_score", 80.44, "†"),
        ("dashfusion_table3", "Self-MM", "sims", "F1_score", 78.60, "re-run by"),
        ("dashfusion_table3", "ConFEDE", "sims", "MAE", 0.387, "unimodal labels"),
        ("dashfusion_table3", "Ours", "sims", "MAE", 0.416, "bert-base-chinese"),
        ("dashfusion_table4", "w/o SCL", "sims", "Mult_acc_5", 41.79, "Table IV"),
        ("dashfusion_table5", "Concat&SA", "sims", "F1_score", 79.52, "Table V"),
        ("infoenh_table2", "ConFEDE + InfoEnh: w/o FIB", "mosei", "MAE", 0.528, "Table 2"),
    ],
)
def test_numbers_as_printed(name, row, dataset, metric, value, source):
    line = numbers(name).loc[row, dataset, metric]
    assert line["value"] == value
    assert source in line["source"] or source == line["mark"]


def test_cells_without_a_number_are_left_out():
    assert ("TFN", "mosi", "Has0_acc_2") not in numbers("dashfusion_table2").index


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_baselines_are_mmsas_own_table(dataset):
    table = Path(__file__).parents[1] / "results" / "paper" / "mmsa_result_stat.csv"
    printed = pd.read_csv(table).query("task == 'Regression' and dataset.str.lower() == @dataset")
    printed = printed.set_index(["model", "metric"])["value_x100"]
    for (model, _, metric), value in numbers(f"baselines_{dataset}")["value"].items():
        times = 100 if metric in ("MAE", "Corr") else 1
        assert value * times == pytest.approx(printed[model, metric])
