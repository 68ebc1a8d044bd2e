"""What the report's tables say, from records."""

import io
import math

import pandas as pd

from MMSA_ext.reporting.report_contents import sections
from MMSA_ext.reporting.report_details import charts, facts
from MMSA_ext.reporting.statistics import summarise


def with_scores(make_record, scores, **changes):
    return [
        make_record(seed=seed, metrics={"test": {"MAE": score}, "valid": {"MAE": score}}, **changes)
        for seed, score in enumerate(scores)
    ]


def test_one_section_a_data_set_and_feature_file(make_record):
    runs = [
        make_record(),
        make_record(dataset="sims"),
        make_record(dataset_fingerprint="0f" * 32),
    ]
    found = sections(runs)
    assert [section.title for section in found] == [
        "mosi, features 0f0f0f0f0f0f",
        "mosi, features a3a3a3a3a3a3",
        "sims",
    ]
    assert len({section.anchor for section in found}) == 3


def test_numbers_are_mean_sample_std_and_interval(make_record):
    scores = [0.7, 0.8, 0.93]
    (section,) = sections(with_scores(make_record, scores))
    (row,) = section.result_rows
    (cell,) = row.cells
    expected = summarise(scores)
    assert row.n == "3"
    assert cell.mean == f"{100 * expected.mean:.2f}"
    assert cell.std == f"{100 * expected.std:.2f}"
    assert cell.interval == f"{100 * expected.ci_low:.2f}, {100 * expected.ci_high:.2f}"
    assert [metric.arrow for metric in section.metrics] == ["↓"]
    assert [row.cells for row in section.seed_rows] == [["70.00"], ["80.00"], ["93.00"]]


def test_one_seed_has_no_spread(make_record):
    (section,) = sections(with_scores(make_record, [0.7]))
    (cell,) = section.result_rows[0].cells
    assert (cell.mean, cell.std, cell.interval) == ("70.00", "", "")


def test_diverged_runs_are_counted_apart(make_record, make_diverged_record):
    runs = [*with_scores(make_record, [0.7, 0.8]), make_diverged_record(seed=9)]
    (section,) = sections(runs)
    assert section.result_rows[0].n == "2 of 3"
    assert section.result_rows[0].cells[0].mean == "75.00"
    assert [run.identity.seed for _, run in section.diverged] == [9]
    assert section.seed_rows[-1].cells == ["-"]


def test_only_diverged_runs_leave_no_numbers(make_diverged_record):
    (section,) = sections([make_diverged_record()])
    (row,) = section.result_rows
    assert (row.n, [cell.mean for cell in row.cells]) == ("0 of 1", ["-"])
    assert section.best_on_validation(5) == ()


def test_a_metric_that_a_seed_leaves_undefined_has_its_own_n(make_record):
    scores = [{"MAE": 0.7, "Corr": 0.5}, {"MAE": 0.8, "Corr": math.nan}]
    runs = [make_record(seed=i, metrics={"test": score}) for i, score in enumerate(scores)]
    (section,) = sections(runs)
    mae, corr = section.result_rows[0].cells
    assert (mae.own_n, corr.own_n, corr.mean) == ("", "n = 1", "50.00")


def test_best_and_second_are_marked_and_the_loss_is_not_compared(make_record):
    """It is another quantity in each model."""
    runs = [
        make_record(model=model, metrics={"test": {"MAE": mae, "Corr": corr, "Loss": 1}})
        for model, mae, corr in (("a", 0.9, 0.7), ("b", 0.7, 0.5), ("c", 0.8, 0.6))
    ]
    (section,) = sections(runs)
    assert [metric.name for metric in section.metrics] == ["MAE", "Corr"]
    marks = [[cell.best for cell in row.cells] for row in section.result_rows]
    assert marks == [["", "best"], ["best", ""], ["second", "second"]]


def test_what_the_numbers_depend_on_is_said_once(make_record, make_diverged_record):
    runs = [
        make_record(seed=1, notes=("audio removed", "stage one took 3 epochs")),
        make_record(seed=2, notes=("audio removed",)),
        make_record(model="tfn", selection="highest validation Corr"),
        make_diverged_record(model="tfn", seed=2),
    ]
    (section,) = sections(runs)
    said = [(fact.name, fact.said) for fact in section.facts]
    for fact in (
        ("selection", "tfn: highest validation Corr"),
        ("environment", runs[0].environment.describe()),
        ("note", "dashfusion: audio removed"),
    ):
        assert fact in said
    # Runs that diverged have a list of their own.
    assert not [fact for fact in said if fact[0] == "diverged"]


def test_files_for_programs_have_all_digits_and_mmsa_s_names(make_record):
    runs = [make_record(seed=s, metrics={"test": {"Non0_acc_2": 1 / s}}) for s in (3, 7)]
    (section,) = sections(runs)
    results, seeds = (pd.read_csv(io.StringIO(text)) for text in (
        section.results_csv, section.seeds_csv
    ))  # fmt: skip
    assert results["metric"].tolist() == ["Non0_acc_2"]
    assert results["mean"].tolist() == [(1 / 3 + 1 / 7) / 2]
    assert seeds["Non0_acc_2"].tolist() == [1 / 3, 1 / 7]
    assert section.metrics[0].head == "Acc-2\n(neg/pos) ↑"


def test_experiments_to_draw_are_chosen_on_validation_data(make_record):
    runs = [
        run
        for model, score in (("a", 0.9), ("b", 0.7), ("c", 0.8))
        for run in with_scores(make_record, [score, score], model=model)
    ]
    (section,) = sections(runs)
    assert [e.model for e in section.best_on_validation(2)] == ["b", "c"]


class TestDetails:
    def test_a_fact_that_all_seeds_share_stands_once(self, make_record, make_diverged_record):
        runs = [
            make_record(seed=1, notes=("a",)),
            make_record(seed=2),
            make_diverged_record(seed=3),
        ]
        found = dict(facts(runs))
        assert found["selection rule"] == [runs[0].selection]
        assert found["notes"] == ["a", "-", "-"]
        assert found["status"] == ["finished", "finished", f"diverged: {runs[2].reason}"]
        assert len(found["run"]) == len(found["recorded"]) == len(found["tested epoch"]) == 3

    def test_who_made_the_features(self, make_record):
        recipe = {"text": {"name": "minilm", "version": "0.1.0", "max_length": 50}}
        (made, unknown) = dict(facts([make_record(recipe=recipe), make_record(seed=2)]))[
            "features made by"
        ]
        assert made == "text: name minilm, version 0.1.0, max_length 50"
        assert unknown == "-"

    def test_metrics_of_the_test_split_come_first(self, make_record):
        run = make_record(
            metrics={"train": {"MAE": 0.1}, "valid": {"MAE": 0.2}, "test": {"Corr": 0.3}}
        )
        assert list(dict(facts([run])))[-3:] == [
            f"{name} \N{MULTIPLICATION SIGN}100" for name in ("test Corr", "train MAE", "valid MAE")
        ]

    def test_curves_mark_the_tested_epoch_and_where_a_run_diverged(
        self, make_record, make_diverged_record
    ):
        found = charts([make_record(seed=1), make_diverged_record(seed=2)])
        assert [chart.title for chart in found] == [
            f"validation {name} by epoch" for name in ("MAE", "Corr", "Loss")
        ]
        looks = {(line.color, line.dashes) for line in found[0].lines}
        assert len(looks) == 2
        good, bad = found[0].lines
        assert (good.diverged, bad.chosen) == (None, None)
        assert f"{good.chosen[0]},{good.chosen[1]}" in good.points.split()
        assert f"{bad.diverged[0]},{bad.diverged[1]}" == bad.points.split()[-1]
        assert [text for _, text in found[0].epochs] == ["1", "20"]

    def test_equal_or_missing_values_draw_too(self, make_record):
        run = make_record()
        flat = [
            entry.model_copy(update={"valid": {"MAE": 0.5, "Corr": None}}) for entry in run.history
        ]
        (chart,) = charts([run.model_copy(update={"history": tuple(flat)})])
        assert [text for _, text in chart.levels] == ["0.500", "0.500"]
        assert charts([run.model_copy(update={"history": ()})]) == []
