import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MMSA_ext.records.store import StoreWarning
from MMSA_ext.reporting.tables import (
    append_mmsa_csv,
    csv_text,
    mmsa_row,
    ordered_metrics,
    render_table,
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


class TestSpreadsheets:
    CELLS = ("=1+1", "+x", "-3g5yACwYnA$_$1", "@cmd", "\t=1", "\r=1", "\n=1")

    def test_a_text_that_begins_like_a_formula_gets_an_apostrophe(self):
        table = pd.DataFrame({"=head": self.CELLS, "n": range(7)})
        read = pd.read_csv(io.StringIO(csv_text(table), newline=""), dtype=str)
        assert list(read.columns) == ["'=head", "n"]
        assert list(read["'=head"]) == [f"'{cell}" for cell in self.CELLS]

    def test_numbers_and_other_texts_stay(self):
        cells = ["-1.5", "+2e3", "a=1", "'=1", "", "(1, 2)", "é", None]
        table = pd.DataFrame({"text": cells, "number": [-1.0, *range(7)]})
        assert csv_text(table) == table.to_csv(index=False, lineterminator="\n")

    def test_what_programs_read_is_exact(self):
        table = pd.DataFrame({"id": self.CELLS})
        read = pd.read_csv(io.StringIO(csv_text(table, exact=True), newline=""), dtype=str)
        assert tuple(read["id"]) == self.CELLS

    def test_the_seeds_table_is_harmless(self, make_record):
        text = csv_text(seed_table([make_record(notes=["=HYPERLINK(1)"], selection="@x")]))
        assert ",'=HYPERLINK(1)" in text
        assert ",'@x," in text


class TestSeedCsv:
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
            "mosi, test split: mean ± std (population) over n seeds, x100",
            "sims, test split",
            "text_only: seed 1113, the training loss became non-finite in epoch 3",
            "dashfusion: 1111, 1112, 1113",
            "lowest validation Loss, patience 8",
            "sha256 a3a3a3a3a3a3, MMSA_ext 0.1.0",
            "2 threads, Linux x86_64, python 3.11.9",
            "torch 2.13.0",
        ):
            assert part in text

    def test_numbers_are_mean_std_and_n(self, make_record):
        runs = [
            make_record(seed=seed, metrics={"test": {"MAE": mae}})
            for seed, mae in ((1, 0.70), (2, 0.72), (3, 0.77))
        ]
        row = _row(render_table(runs), "dashfusion")
        assert row == ["dashfusion", "3", "73.00", "±", "2.94"]

    def test_one_seed_shows_no_spread(self, make_record):
        text = render_table([make_record(metrics={"test": {"MAE": 0.7}})])
        assert _row(text, "dashfusion") == ["dashfusion", "1", "70.00"]

    def test_a_metric_undefined_for_a_seed_says_its_own_n(self, make_record):
        runs = [
            make_record(seed=seed, metrics={"test": {"MAE": 0.5, "Corr": corr}})
            for seed, corr in ((1, 0.5), (2, 0.5), (3, None))
        ]
        assert "50.00 ± 0.00 (n=2)" in render_table(runs)

    def test_is_aligned_and_fits(self, records):
        lines = render_table(records).splitlines()
        assert max(map(len, lines)) <= 100
        for index, line in enumerate(lines):
            if set(line) == {"-"}:
                assert len(lines[index - 1]) == len(line) == len(lines[index + 1])

    def test_configurations_of_one_model_are_not_averaged(self, make_record):
        runs = [
            make_record(configuration={"p": p}, metrics={"test": {"MAE": mae}})
            for p, mae in ((4, 0.5), (8, 0.9))
        ]
        text = render_table(runs)
        assert "50.00" in text
        assert "90.00" in text
        assert f"dashfusion #{runs[0].identity.experiment[:6]}" in text

    def test_differing_selection_rules_are_named_by_model(self, make_record):
        rules = ("lowest validation Loss", "lowest validation MAE")
        runs = [make_record(model=m, selection=s) for m, s in zip("ab", rules, strict=True)]
        text = render_table(runs)
        assert "a: lowest validation Loss" in text
        assert "b: lowest validation MAE" in text

    def test_only_diverged_runs(self, make_diverged_record):
        text = render_table([make_diverged_record()])
        assert _row(text, "dashfusion") == ["dashfusion", "0"]
        assert "none finished" in text

    def test_chosen_metrics_and_notes(self, make_record):
        text = render_table([make_record(notes=["vision absent"])], metrics=["MAE"])
        assert "vision absent" in text
        assert "Corr" not in text

    def test_a_seed_that_trained_in_vain_is_named(self, make_record):
        note = "not better than untrained: validation MAE 2 and 1"
        assert f"seed 1, {note}" in render_table([make_record(seed=1, notes=[note])])

    def test_nothing_to_show(self):
        assert render_table([]) == "No runs to show."


def _row(text, label):
    return next(line.split() for line in text.splitlines() if line.startswith(label))
