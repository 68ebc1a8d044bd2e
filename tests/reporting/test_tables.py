import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MMSA_ext.errors import ConfigError
from MMSA_ext.records.store import RunStore, StoreWarning
from MMSA_ext.reporting.metric_names import ordered_metrics
from MMSA_ext.reporting.tables import (
    append_mmsa_csv,
    mmsa_row,
    render_table,
    runs_frame,
    seed_table,
    write_seed_csv,
)

SEEDS = [
    {"Has0_acc_2": 0.875, "MAE": 0.71234, "Loss": 0.7},
    {"Has0_acc_2": 0.875, "MAE": 0.69876, "Loss": 0.8},
]


class TestMmsaCsv:
    def test_cells_are_plain_numbers(self, tmp_path):
        path = tmp_path / "normal" / "mosi.csv"
        append_mmsa_csv(path, "dashfusion", SEEDS)
        assert path.read_text(encoding="utf-8") == (
            'Model,Has0_acc_2,MAE,Loss\ndashfusion,"(87.5, 0.0)","(70.56, 0.68)","(75.0, 5.0)"\n'
        )

    @given(st.lists(st.floats(-5, 5).map(lambda v: round(v, 4)), min_size=1, max_size=6))
    def test_numbers_are_mmsas(self, values):
        cell = mmsa_row("m", [{"MAE": value} for value in values])["MAE"]
        # The expression of MMSA 2.2.1, run.py.
        mean, std = round(np.mean(values) * 100, 2), round(np.std(values) * 100, 2)
        assert cell == str((float(mean), float(std)))

    def test_each_call_appends_a_row(self, tmp_path):
        path = tmp_path / "mosi.csv"
        append_mmsa_csv(path, "dashfusion", SEEDS)
        append_mmsa_csv(path, "dashfusion", SEEDS[:1])
        table = pd.read_csv(path)
        assert list(table["Model"]) == ["dashfusion", "dashfusion"]
        assert table["MAE"][1] == "(71.23, 0.0)"

    def test_columns_are_matched_by_name_and_legacy_rows_stay(self, tmp_path):
        path = tmp_path / "mosi.csv"
        legacy = '"(np.float64(87.5), np.float64(0.0))"'
        path.write_text(f"Model,Loss,Old,MAE\nlmf,{legacy},1.50,NA\n", encoding="utf-8")
        append_mmsa_csv(path, "dashfusion", SEEDS)
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "Model,Loss,Old,MAE,Has0_acc_2"
        assert lines[1] == f"lmf,{legacy},1.50,NA,"
        assert lines[2] == 'dashfusion,"(75.0, 5.0)",,"(70.56, 0.68)","(87.5, 0.0)"'

    def test_all_diverged_gives_empty_cells(self, tmp_path):
        path = tmp_path / "mosi.csv"
        append_mmsa_csv(path, "dashfusion", SEEDS)
        append_mmsa_csv(path, "mult", [])
        assert path.read_text(encoding="utf-8").splitlines()[-1] == "mult,,,"

    def test_undefined_values_are_left_out(self):
        row = mmsa_row("m", [{"Corr": None, "Loss": None}, {"Corr": 0.5, "Loss": float("nan")}])
        assert row == {"Model": "m", "Corr": "(50.0, 0.0)", "Loss": ""}

    def test_seeds_that_return_metrics_in_another_order_agree(self):
        turned = dict(reversed(SEEDS[1].items()))
        assert mmsa_row("m", [SEEDS[0], turned]) == mmsa_row("m", SEEDS)

    @pytest.mark.parametrize("dataset", ["mosi", "sims"])
    def test_order_is_mmsas(self, dataset):
        metrics = pytest.importorskip("MMSA.utils.metricsTop").MetricsTop("regression")
        torch = pytest.importorskip("torch")
        labels = torch.linspace(-1, 1, 9)
        names = [*metrics.getMetics(dataset.upper())(labels, labels), "Loss"]
        assert ordered_metrics(reversed(names)) == names
        assert ordered_metrics(["Own", *names]) == [*names, "Own"]

    def test_an_empty_file_is_a_new_table(self, tmp_path):
        path = tmp_path / "mosi.csv"
        path.touch()
        append_mmsa_csv(path, "m", SEEDS)
        assert len(pd.read_csv(path)) == 1

    @pytest.mark.parametrize(
        "content",
        [
            b"a,b\n1,2\n",
            b"Model,b\n1,2,3\n4,5,6,7,8\n",
            b"Model,b\n1,2,3\n",
            b"\xff\xfe",
            b'Model,b\n"1,2\n',
            b"\0" * 9,
        ],
    )
    def test_another_file_is_kept_and_costs_no_row(self, tmp_path, content):
        path = tmp_path / "mosi.csv"
        for number in ("", "1"):
            path.write_bytes(content)
            with pytest.warns(StoreWarning, match=rf"mosi\.csv.*moved to mosi.csv.damaged{number}"):
                append_mmsa_csv(path, "m", SEEDS)
            assert path.with_name(f"mosi.csv.damaged{number}").read_bytes() == content
            assert list(pd.read_csv(path)["Model"]) == ["m"]

    def test_what_is_no_file_costs_no_row(self, tmp_path):
        path = tmp_path / "mosi.csv"
        os.mkfifo(path)
        with pytest.warns(StoreWarning, match="no regular file"):
            append_mmsa_csv(path, "m", SEEDS)
        assert list(pd.read_csv(path)["Model"]) == ["m"]

    def test_a_byte_order_mark_and_short_rows_are_read(self, tmp_path):
        path = tmp_path / "mosi.csv"
        path.write_bytes(b"\xef\xbb\xbfModel,Old,MAE\r\nlmf,=1\r\n\r\n")
        append_mmsa_csv(path, "=m", SEEDS[:1])
        assert path.read_text(encoding="utf-8").splitlines() == [
            "Model,Old,MAE,Has0_acc_2,Loss",
            "lmf,=1,,,",
            '\'=m,,"(71.23, 0.0)","(87.5, 0.0)","(70.0, 0.0)"',
        ]

    @pytest.mark.filterwarnings("ignore:Setting an item of incompatible dtype")
    def test_stock_reading_and_appending_still_works(self, tmp_path):
        path = tmp_path / "mosi.csv"
        append_mmsa_csv(path, "m", SEEDS)
        table = pd.read_csv(path)
        table.loc[len(table)] = ["lmf", (1.0, 0.0), (2.0, 0.0), (3.0, 0.0)]
        table.to_csv(path, index=None)
        append_mmsa_csv(path, "n", SEEDS)
        assert list(pd.read_csv(path)["Model"]) == ["m", "lmf", "n"]

    def test_writers_at_the_same_time_do_not_lose_each_others_rows(self, tmp_path):
        path, start = tmp_path / "mosi.csv", threading.Barrier(2)

        def append_many(model):
            start.wait(60)
            for _ in range(10):
                append_mmsa_csv(path, model, SEEDS)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(append_many, "ab"))
        assert sorted(pd.read_csv(path)["Model"]) == ["a"] * 10 + ["b"] * 10


class TestSeedCsv:
    def test_it_is_harmless_in_a_spreadsheet(self, tmp_path, make_record):
        write_seed_csv(tmp_path / "a.csv", [make_record(notes=["=HYPERLINK(1)"], selection="@x")])
        text = (tmp_path / "a.csv").read_text("utf-8")
        assert ",'=HYPERLINK(1)" in text
        assert ",'@x," in text

    def test_one_row_a_run_with_plain_numbers(self, tmp_path, records):
        path = tmp_path / "seeds.csv"
        write_seed_csv(path, records)
        table = pd.read_csv(path)
        assert len(table) == len(records)
        assert (table["split"] == "test").all()
        first = records[0]
        row = table[table["run"] == first.identity.short_id].iloc[0]
        for name, value in first.metrics["test"].items():
            assert table[name].dtype == np.float64
            assert row[name] == value
        assert row["seed"] == 1111
        assert row["chosen_epoch"] == first.chosen_epoch
        assert row["seconds"] == 250.25
        assert row["selection"] == first.selection
        assert row["device"] == "cpu"

    def test_is_a_pure_function_of_the_records(self, tmp_path, records):
        write_seed_csv(tmp_path / "a.csv", records)
        write_seed_csv(tmp_path / "b.csv", reversed(records))
        assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()

    def test_a_diverged_run_has_a_row_and_no_numbers(self, records):
        table = seed_table(records)
        row = table[table["status"] == "diverged"].iloc[0]
        assert (row["model"], row["seed"]) == ("text_only", 1113)
        assert np.isnan(row["MAE"])
        assert pd.isna(row["chosen_epoch"])

    def test_a_diverged_run_is_never_scored(self, make_diverged_record):
        table = seed_table([make_diverged_record(metrics={"test": {"MAE": 0.1}})])
        assert "MAE" not in table

    def test_other_splits(self, make_record):
        record = make_record(metrics={"valid": {"MAE": 0.25}, "test": {"MAE": 0.5}})
        assert seed_table([record], "valid")["MAE"].tolist() == [0.25]

    def test_no_records_give_the_head_only(self, tmp_path):
        write_seed_csv(tmp_path / "a.csv", [])
        assert pd.read_csv(tmp_path / "a.csv").columns[0] == "model"


class TestRenderTable:
    def test_shows_what_the_numbers_depend_on(self, records):
        text = render_table(records)
        for part in (
            *("mosi, test split", "sims, test split"),
            "mean ± standard deviation (sample, divisor n - 1) over n seeds, all metrics x100",
            "text_only: seed 1113: the training loss became non-finite in epoch 3",
            "dashfusion: n = 3: 1111, 1112, 1113",
            "text_only: n = 2 of 3 planned: 1111, 1112",
            *("lowest validation Loss, patience 8", "sha256 a3a3a3a3a3a3", "MMSA_ext 0.1.0"),
            *("2 threads, Linux x86_64, python 3.11.9", "torch 2.13.0"),
        ):
            assert part in text
        assert max(map(len, text.splitlines())) <= 100

    def test_configurations_of_one_model_are_not_averaged(self, make_record):
        runs = [
            make_record(configuration={"p": p}, metrics={"test": {"MAE": mae}})
            for p, mae in ((4, 0.5), (8, 0.9))
        ]
        text = render_table(runs)
        for run, mean in zip(runs, ("50.00", "90.00"), strict=True):
            row = _row(text, f"dashfusion (p = {run.identity.configuration['p']})")
            assert row[4:6] == ["1", mean]

    def test_only_diverged_runs(self, make_diverged_record):
        text = render_table([make_diverged_record()])
        assert _row(text, "dashfusion") == ["dashfusion", "0/1", "-"]
        assert "seed 1111: the training loss became non-finite" in text

    def test_notes_of_single_seeds_are_shown(self, make_record):
        note = "not better than untrained: validation MAE 2 and 1"
        runs = [
            make_record(seed=1, notes=["vision absent", note]),
            make_record(seed=2, notes=["vision absent", "one of its own"]),
        ]
        text = render_table(runs)
        for said in ("dashfusion: vision absent", "seed 2: one of its own", f"seed 1: {note}"):
            assert said in text

    def test_nothing_to_show(self):
        assert render_table([]) == "No runs to show."


def _row(text, label):
    return next(line.split() for line in text.splitlines() if line.startswith(label))


def test_all_runs_are_a_frame_with_their_settings(tmp_path, make_record):
    store = RunStore(tmp_path / "runs")
    settings = {"model_name": "a", "learning_rate": 1e-3, "reading": {"padding": "seen"}}
    store.write(make_record(model="a", seed=1, configuration=settings, epochs=1))
    store.write(make_record(model="b", seed=2, configuration={"dim": 64}, epochs=1))
    frame = runs_frame(tmp_path)
    assert list(frame["model"]) == ["a", "b"]
    assert frame["learning_rate"][0] == 1e-3
    assert frame["reading.padding"][0] == "seen"
    assert frame["dim"][1] == 64
    assert pd.isna(frame["dim"][0])
    assert set(frame["fingerprint"]) == {make_record().identity.dataset_fingerprint}
    assert frame.columns.is_unique
    with pytest.raises(ConfigError, match="there are no runs"):
        runs_frame(tmp_path / "elsewhere")
