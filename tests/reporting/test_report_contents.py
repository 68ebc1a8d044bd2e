"""What the report's tables say, from records."""

import math

import pytest

from MMSA_ext.reporting.groups import flatten
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
    assert section.metrics == ()
    assert section.result_rows[0].n == "0 of 1"
    assert section.best_on_validation(5) == ()


def test_a_metric_that_a_seed_leaves_undefined_has_its_own_n(make_record):
    scores = [{"MAE": 0.7, "Corr": 0.5}, {"MAE": 0.8, "Corr": math.nan}]
    runs = [make_record(seed=i, metrics={"test": score}) for i, score in enumerate(scores)]
    (section,) = sections(runs)
    mae, corr = section.result_rows[0].cells
    assert (mae.own_n, corr.own_n, corr.mean) == ("", "n = 1", "50.00")


def test_best_and_second_follow_the_direction(make_record):
    runs = [
        make_record(model=model, metrics={"test": {"MAE": mae, "Corr": corr}})
        for model, mae, corr in (("a", 0.9, 0.7), ("b", 0.7, 0.5), ("c", 0.8, 0.6))
    ]
    (section,) = sections(runs)
    marks = [[cell.best for cell in row.cells] for row in section.result_rows]
    assert marks == [["", "best"], ["best", ""], ["second", "second"]]


def test_only_differing_settings_are_shown(make_record):
    shared = {"batch_size": 32, "fusion": {"p": 8, "kind": "BF"}}
    one = make_record(configuration={**shared, "learning_rate": 1e-3})
    two = make_record(
        configuration={"batch_size": 32, "fusion": {"p": 4, "kind": "BF"}, "learning_rate": 1e-3,
                       "extra": [1, 2]}
    )  # fmt: skip
    other = make_record(model="text_only", configuration={"batch_size": 8})
    (section,) = sections([one, two, other])
    difference = {e.id: e.difference for e in section.experiments}
    assert difference[one.identity.experiment] == "fusion.p 8, extra not set"
    assert difference[two.identity.experiment] == "fusion.p 4, extra [1, 2]"
    assert difference[other.identity.experiment] == ""
    labels = {e.id: e.label for e in section.experiments}
    key = one.identity.experiment
    assert labels[key] == f"dashfusion #{key[:6]}"
    assert labels[other.identity.experiment] == "text_only"


def test_labels_stay_different_where_ids_begin_alike(make_record):
    """The ids of these two begin with the same six digits, and with seven."""
    runs = [make_record(configuration={"k": k}) for k in (1012, 6368)]
    (section,) = sections(runs)
    labels = [e.label for e in section.experiments]
    assert labels == [f"dashfusion #{e.id[:8]}" for e in section.experiments]
    assert len({label[:-1] for label in labels}) == 1
    assert len(section.result_rows) == len(set(labels)) == 2


def test_code_versions_are_a_difference(make_record):
    runs = [make_record(code_version=version) for version in ("0.1.0+aa", "0.1.0+bb")]
    (section,) = sections(runs)
    assert sorted(e.difference for e in section.experiments) == [
        "code version 0.1.0+aa",
        "code version 0.1.0+bb",
    ]


def test_many_differences_are_counted(make_record):
    runs = [make_record(configuration={f"k{i}": i + j for i in range(9)}) for j in (0, 1)]
    (section,) = sections(runs)
    assert all(e.difference.endswith(", 3 more") for e in section.experiments)


def test_marks_say_what_numbers_depend_on(make_record):
    runs = [
        make_record(seed=1, notes=("audio removed", "stage one took 3 epochs")),
        make_record(seed=2, notes=("audio removed",)),
        make_record(
            model="text_only",
            configuration={"pretrained": "minilm"},
            selection="highest validation Corr",
        ),
    ]
    (section,) = sections(runs)
    assert [row.basis for row in section.result_rows] == [
        ["S1", "T1", "E1", "C1", "N1"],
        ["S2", "T2", "E1", "C1"],
    ]
    said = {entry.mark: entry.text for entry in section.legend.entries}
    assert said["S2"] == "highest validation Corr"
    assert said["T2"] == "text encoder minilm"
    assert said["E1"] == runs[0].environment.describe()
    assert said["C1"] == "MMSA_ext 0.1.0"
    assert said["N1"] == "audio removed"


def test_seed_rows_use_the_marks_of_the_legend(make_record):
    runs = [make_record(seed=1, notes=("a", "b")), make_record(seed=2, notes=("a",))]
    (section,) = sections(runs)
    legend = section.legend.entries
    assert {mark for row in section.seed_rows for mark in row.basis} == {e.mark for e in legend}
    assert [entry.text for entry in legend if entry.name == "note of all seeds"] == ["a"]


def test_experiments_to_draw_are_chosen_on_validation_data(make_record):
    runs = [
        run
        for model, score in (("a", 0.9), ("b", 0.7), ("c", 0.8))
        for run in with_scores(make_record, [score, score], model=model)
    ]
    (section,) = sections(runs)
    assert [e.model for e in section.best_on_validation(2)] == ["b", "c"]


@pytest.mark.parametrize(
    ("configuration", "flat"),
    [
        ({"a": {"b": {"c": 1.5}}, "d": None}, {"a.b.c": "1.5", "d": "null"}),
        ({"a": {}, "b": [1, {"c": 2}]}, {"a": "{}", "b": '[1, {"c": 2}]'}),
        ({"a": "text", "b": True}, {"a": "text", "b": "true"}),
    ],
)
def test_flatten(configuration, flat):
    assert flatten(configuration) == flat


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
            f"validation {name} by epoch, 2 seeds" for name in ("MAE", "Corr", "Loss")
        ]
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
