"""The published numbers are what the script makes of the papers' tables."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from MMSA_ext.reporting.tables import MMSA_METRICS

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "configs" / "experiments" / "published"


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location(
        "published_numbers", ROOT / "scripts" / "published_numbers.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.published()


def numbers(name):
    lines = pd.read_csv(PUBLISHED / name, keep_default_na=False, dtype={"value": float})
    return lines.set_index(["row", "dataset", "metric"])


def test_committed_files_are_what_the_script_makes(made):
    assert sorted(made) == sorted(path.name for path in PUBLISHED.glob("*.csv"))
    for name, content in made.items():
        assert (PUBLISHED / name).read_bytes().decode() == content, name


def test_rows_are_unique_and_metrics_are_mmsas(made):
    for name in made:
        index = numbers(name).index
        assert index.is_unique, name
        assert set(index.get_level_values("metric")) <= set(MMSA_METRICS), name


def test_numbers_as_printed():
    table2, table3 = numbers("dashfusion_table2.csv"), numbers("dashfusion_table3.csv")
    assert table2["value"]["Ours", "mosi", "Has0_acc_2"] == 84.26
    assert table2["value"]["Ours", "mosei", "Non0_F1_score"] == 86.24
    assert ("TFN", "mosi", "Has0_acc_2") not in table2.index
    assert table2["value"]["ConFEDE †", "mosi", "MAE"] == 0.742
    assert table2["value"]["ConFEDE", "mosi", "MAE"] == 0.757
    assert "re-run by DashFusion's authors" in table2["source"]["ConFEDE", "mosi", "MAE"]
    assert "aligned data" in table2["source"]["MISA", "mosi", "MAE"]
    assert table3["value"]["self-MM †", "sims", "F1_score"] == 80.44
    assert table3["value"]["Self-MM", "sims", "F1_score"] == 78.60
    assert "unimodal labels" in table3["source"]["ConFEDE", "sims", "MAE"]
    assert "bert-base-chinese" in table3["source"]["Ours", "sims", "MAE"]
    assert numbers("dashfusion_table4.csv")["value"]["w/o SCL", "sims", "Mult_acc_5"] == 41.79
    assert numbers("dashfusion_table5.csv")["value"]["Concat&SA", "sims", "F1_score"] == 79.52
    ablation = numbers("infoenh_table2.csv")
    assert ablation["value"]["ConFEDE + InfoEnh: w/o FIB", "mosei", "MAE"] == 0.528


def test_papers_tables_have_a_source_for_every_line():
    for path in sorted((ROOT / "results" / "paper").glob("*.csv")):
        assert (pd.read_csv(path, keep_default_na=False)["source"] != "").all(), path.name
