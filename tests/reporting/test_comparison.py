import math
from functools import partial

import pytest

from MMSA_ext.reporting.comparison import (
    COLUMNS,
    PublishedNumber,
    SystemRuns,
    compare,
    text_encoder,
)
from MMSA_ext.reporting.render import Fact
from MMSA_ext.reporting.statistics import StatisticsError, holm, paired_difference, summarise

SEEDS = (1, 2, 3, 4, 5)
HOST = {"MAE": (0.80, 0.82, 0.79, 0.81, 0.83), "Corr": (0.70, 0.72, 0.71, 0.69, 0.73)}
BETTER = {"MAE": (0.78, 0.79, 0.78, 0.79, 0.80), "Corr": (0.74, 0.73, 0.75, 0.72, 0.74)}
OTHER = {"MAE": (0.81, 0.80, 0.80, 0.83, 0.82), "Corr": (0.71, 0.70, 0.72, 0.71, 0.70)}


@pytest.fixture
def system(make_system):
    """Make a row of five seeds, or of those given."""
    return partial(make_system, seeds=SEEDS)


@pytest.fixture
def found(system):
    return compare(
        [system("host", HOST), system("better", BETTER), system("other", OTHER, role="control")],
        ["MAE", "Corr"],
        baseline="host",
    )


def line(comparison, row, metric):
    numbers = comparison.numbers
    (chosen,) = numbers[(numbers["row"] == row) & (numbers["metric"] == metric)].to_dict("records")
    return chosen


def texts(comparison, name):
    return [(fact.text, fact.rows) for fact in comparison.facts if fact.name == name]


class TestNumbers:
    def test_one_line_a_row_and_metric_in_order(self, found):
        assert tuple(found.numbers.columns) == COLUMNS
        assert list(found.numbers["row"]) == ["host", "host", "better", "better", "other", "other"]
        assert list(found.numbers["metric"]) == ["MAE", "Corr"] * 3
        assert found.rows == ("host", "better", "other")
        assert (found.dataset, found.baseline) == ("mosi", "host")

    def test_a_line_has_the_statistics_of_its_seeds(self, found):
        cell = line(found, "better", "MAE")
        mean = summarise(BETTER["MAE"])
        gap = paired_difference(*(dict(enumerate(side["MAE"])) for side in (BETTER, HOST)))
        assert cell["test"] == "paired t-test"
        for key, value in {
            **{"n": 5, "mean": mean.mean, "std": mean.std},
            **{"ci_low": mean.ci_low, "ci_high": mean.ci_high},
            **{"difference": -0.022, "difference_n": 5, "p_value": gap.p_value},
            **{"difference_low": gap.ci_low, "difference_high": gap.ci_high},
        }.items():
            assert cell[key] == pytest.approx(value), key

    def test_holm_is_over_all_tests_of_the_table(self, found):
        cells = [line(found, row, metric) for row in ("better", "other") for metric in HOST]
        adjusted = holm([cell["p_value"] for cell in cells])
        assert [cell["p_holm"] for cell in cells] == pytest.approx(adjusted)
        assert "over the 4 tests" in texts(found, "difference")[0][0]

    def test_baseline_is_not_compared_with_itself(self, found):
        cell = line(found, "host", "MAE")
        assert (cell["role"], cell["test"], cell["difference_n"]) == ("baseline", "", 0)
        assert math.isnan(cell["p_holm"])
        assert math.isnan(cell["difference"])

    def test_without_a_baseline_nothing_is_tested(self, system):
        found = compare([system("host", HOST), system("other", OTHER)], ["MAE"])
        assert found.numbers["p_value"].isna().all()
        assert set(found.numbers["role"]) == {"system"}
        assert not texts(found, "difference")

    def test_only_shared_seeds_are_paired(self, system):
        short = {"MAE": (0.7, 0.9)}
        found = compare(
            [system("host", HOST), system("short", short, seeds=(4, 5))], ["MAE"], baseline="host"
        )
        cell = line(found, "short", "MAE")
        assert (cell["n"], cell["difference_n"]) == (2, 2)
        assert cell["difference"] == pytest.approx(((0.7 - 0.81) + (0.9 - 0.83)) / 2)

    def test_other_splits_and_levels(self, system, make_record):
        scores = {"valid": {"MAE": 0.5}, "test": {"MAE": 0.6}}
        runs = tuple(make_record(seed=seed, metrics=scores, epochs=1) for seed in (1, 2))
        found = compare([SystemRuns("a", "a", runs, (1, 2))], ["MAE"], split="valid")
        assert line(found, "a", "MAE")["mean"] == 0.5
        assert found.split == "valid"


class TestOwnReferences:
    @pytest.fixture
    def mixed(self, system):
        return compare(
            [
                system("host", HOST),
                system("better", BETTER, compared_with="host"),
                system("other", OTHER),
                system("alone", OTHER, compared_with=None),
            ],
            ["MAE"],
            baseline="better",
        )

    def test_each_row_is_tested_against_its_own(self, mixed):
        cells = {row: line(mixed, row, "MAE") for row in mixed.rows}
        to = {row: cell["compared_with"] for row, cell in cells.items()}
        assert to == {"host": "better", "better": "host", "other": "better", "alone": ""}
        assert cells["better"]["difference"] == pytest.approx(-0.022)
        assert cells["host"]["difference"] == pytest.approx(0.022)
        assert cells["alone"]["difference_n"] == 0
        assert math.isnan(cells["alone"]["p_holm"])

    def test_no_row_is_the_baseline_and_each_reference_is_said(self, mixed):
        assert mixed.baseline is None
        assert set(mixed.numbers["role"]) == {"system"}
        assert texts(mixed, "difference")[1:] == [
            ("to better", ("host", "other")),
            ("to host", ("better",)),
            ("not tested against another row", ("alone",)),
        ]

    def test_one_reference_that_serves_all_is_the_baseline(self, system):
        rows = [system("host", HOST), system("better", BETTER, compared_with="host")]
        found = compare(rows, ["MAE"])
        assert found.baseline == "host"
        assert line(found, "host", "MAE")["role"] == "baseline"

    def test_rows_that_are_none_are_refused(self, system):
        host = system("host", HOST)
        with pytest.raises(StatisticsError, match=r"'a': no row 'hots'.*did you mean host"):
            compare([host, system("a", OTHER, compared_with="hots")], ["MAE"])
        with pytest.raises(StatisticsError, match="'a' is to be compared with itself"):
            compare([host, system("a", OTHER, compared_with="a")], ["MAE"])


class TestBest:
    def marks(self, found, metric):
        return {row: line(found, row, metric)["best"] for row in found.rows}

    def test_direction_follows_the_metric(self, found):
        assert self.marks(found, "MAE") == {"host": "second", "better": "best", "other": ""}
        assert self.marks(found, "Corr") == {"host": "second", "better": "best", "other": ""}

    def test_what_prints_alike_is_shared(self, system):
        rows = [
            system("a", {"MAE": (0.70001,)}, seeds=(1,)),
            system("b", {"MAE": (0.69999,)}, seeds=(1,)),
            system("c", {"MAE": (0.75,)}, seeds=(1,)),
        ]
        marks = self.marks(compare(rows, ["MAE"]), "MAE")
        assert marks == {"a": "best", "b": "best", "c": "second"}

    def test_rows_without_runs_and_printed_numbers_do_not_compete(self, system):
        printed = {"MAE": PublishedNumber(0.1, "", "a paper")}
        empty = SystemRuns("empty", "", (), (), printed)
        rows = [empty, system("a", HOST, published=printed), system("b", OTHER)]
        assert self.marks(compare(rows, ["MAE"]), "MAE") == {
            "empty": "",
            "a": "best",
            "b": "second",
        }

    def test_rows_with_missing_seeds_do_not_compete_against_complete_ones(self, system):
        lucky = system("lucky", {"MAE": (0.1,)}, seeds=(1,))
        lucky = SystemRuns("lucky", "lucky", lucky.records, SEEDS)
        found = compare([system("a", HOST), lucky, system("b", OTHER)], ["MAE"])
        assert self.marks(found, "MAE") == {"a": "best", "lucky": "", "b": "second"}
        assert [rows for _, rows in texts(found, "best")] == [("lucky",)]

    def test_rows_compete_where_none_is_complete(self, system):
        rows = [
            SystemRuns(name, name, system(name, {"MAE": (value,)}, seeds=(1,)).records, SEEDS)
            for name, value in (("a", 0.2), ("b", 0.1))
        ]
        found = compare(rows, ["MAE"])
        assert self.marks(found, "MAE") == {"a": "second", "b": "best"}
        assert not texts(found, "best")

    def test_the_loss_ranks_nobody(self, system):
        rows = [system(name, {"Loss": (loss,)}, seeds=(1,)) for name, loss in (("a", 1), ("b", 2))]
        assert self.marks(compare(rows, ["Loss"]), "Loss") == {"a": "", "b": ""}

    def test_a_single_row_is_not_the_best_of_anything(self, system):
        assert self.marks(compare([system("a", HOST)], ["MAE"]), "MAE") == {"a": ""}


class TestWhatNumbersDependOn:
    def test_every_line_stands_alone(self, system):
        configuration = {"pretrained": "minilm", "freeze_text": True}
        rows = [
            system("host", HOST),
            system("a", OTHER, notes=("vision removed",), configuration=configuration),
        ]
        cell = line(compare(rows, ["MAE"], baseline="host", confidence=0.9), "a", "MAE")
        assert (cell["split"], cell["confidence"], cell["compared_with"]) == ("test", 0.9, "host")
        assert (cell["text"], cell["notes"]) == ("text encoder minilm, frozen", "vision removed")
        assert cell["selection"] == "lowest validation Loss, patience 8"
        assert "torch 2.13.0" in cell["environment"]
        assert len(cell["fingerprint"]) == 64

    def test_facts_name_rows_only_where_they_differ(self, system):
        rows = [system("a", HOST), system("b", OTHER, selection="lowest validation MAE")]
        found = compare(rows, ["MAE"])
        assert texts(found, "selection") == [
            ("lowest validation Loss, patience 8", ("a",)),
            ("lowest validation MAE", ("b",)),
        ]
        assert texts(found, "seeds") == [("n = 5: 1, 2, 3, 4, 5", ())]

    def test_diverged_seeds_are_counted_and_named(self, system, make_diverged_record):
        row = system("a", {"MAE": HOST["MAE"][:2]}, seeds=(1, 2))
        diverged = make_diverged_record(model="a", seed=3)
        row = SystemRuns("a", "a", (*row.records, diverged), (1, 2, 3, 4))
        cell = line(found := compare([row], ["MAE"]), "a", "MAE")
        assert (cell["n"], cell["seeds"], cell["diverged"]) == (2, 4, 1)
        assert cell["reason"] == "the training loss became non-finite in epoch 3"
        assert texts(found, "seeds") == [("n = 2 of 4 planned: 1, 2", ())]
        assert texts(found, "diverged") == [
            ("seed 3: the training loss became non-finite in epoch 3", ("a",))
        ]

    def test_undefined_metrics_have_their_own_n(self, system):
        row = system("a", {"MAE": (0.8, 0.9), "Corr": (0.5, None)}, seeds=(1, 2))
        found = compare([row], ["MAE", "Corr"])
        assert [line(found, "a", name)["n"] for name in ("MAE", "Corr")] == [2, 1]
        assert texts(found, "undefined") == [("Corr in 1 of 2 runs", ("a",))]

    def test_controls_remarks_and_shared_notes_are_named(self, system):
        row = system("a", HOST, role="control", remarks=("ours",), notes=("vision removed",))
        found = compare([row, system("b", OTHER)], ["MAE"], baseline="b")
        assert texts(found, "control") == [("a control, not a system", ("a",))]
        assert texts(found, "remark") == [("ours", ("a",))]
        assert texts(found, "note") == [("vision removed", ("a",))]
        assert line(found, "a", "MAE")["remark"] == "ours"
        assert line(found, "a", "MAE")["role"] == "control"

    def test_notes_of_single_seeds_stay_in_the_records_unless_asked_for(self, system):
        vain = "not better than untrained: validation MAE 2 in the best epoch, 1, and 1 before"
        first = system("a", {"MAE": (0.8,)}, seeds=(1,), notes=("shared", "of seed 1", vain))
        second = system("a", {"MAE": (0.9,)}, seeds=(2,), notes=("shared",))
        row = SystemRuns("a", "a", first.records + second.records, (1, 2))
        found = compare([row], ["MAE"])
        assert texts(found, "note") == [("shared", ("a",))]
        assert texts(found, "untrained") == [(f"seed 1: {vain}", ("a",))]
        assert line(found, "a", "MAE")["n"] == 2  # finished all the same
        everything = compare([row], ["MAE"], seed_notes=True)
        assert texts(everything, "note") == [("shared", ("a",)), ("seed 1: of seed 1", ("a",))]

    def test_the_callers_facts_come_first(self, system):
        fact = Fact("settings", "early_stop = 2")
        found = compare([system("a", HOST)], ["MAE"], title="T", facts=[fact])
        assert found.facts[0] == fact
        assert found.title == "T"

    def test_published_numbers_stand_beside_ours_with_settings(self, system):
        printed = {"MAE": PublishedNumber(0.709, "†", "A, Table 1 (bert-base-uncased)")}
        configuration = {"pretrained": "minilm"}
        rows = [
            system("a", HOST, published=printed, configuration=configuration),
            system("b", OTHER),
            SystemRuns("never run", "", (), (), printed),
        ]
        found = compare(rows, ["MAE", "Corr"])
        cell = line(found, "a", "MAE")
        assert (cell["published_value"], cell["published_mark"]) == (0.709, "†")
        assert cell["published_source"] == "A, Table 1 (bert-base-uncased)"
        assert cell["remark"] == (
            "paper: † A, Table 1 (bert-base-uncased); here: text encoder minilm, "
            "features sha256 a3a3a3a3a3a3, lowest validation Loss, patience 8"
        )
        assert math.isnan(line(found, "a", "Corr")["published_value"])
        assert line(found, "b", "MAE")["published_source"] == ""
        never = line(found, "never run", "MAE")
        assert (never["n"], never["published_value"]) == (0, 0.709)
        assert never["remark"] == "paper: † A, Table 1 (bert-base-uncased)"
        assert [rows for _, rows in texts(found, "printed")] == [("a",), ("never run",), ()]
        assert all("never run" not in rows for _, rows in texts(found, "seeds"))


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        ({"pretrained": "minilm"}, "text encoder minilm"),
        ({"pretrained": "minilm", "use_bert": True, "use_finetune": False}, "minilm, frozen"),
        ({"pretrained": "bert", "freeze_text": True}, "text encoder bert, frozen"),
        ({"pretrained": "tiny", "random_init": True}, "text encoder tiny, untrained"),
        ({"pretrained": "minilm", "use_bert": False}, "text features of the file"),
        ({"hidden_dims": [8]}, "text features of the file"),
    ],
)
def test_text_encoder_is_read_from_the_configuration(make_record, configuration, said):
    assert text_encoder(make_record(configuration=configuration, epochs=1)).endswith(said)


class TestRefusals:
    @pytest.mark.parametrize(
        ("labels", "metrics", "options", "said"),
        [
            ("", ["MAE"], {}, "at least one row"),
            ("aa", ["MAE"], {}, "'a' occurs twice"),
            ("a", ["MAE", "MAE"], {}, "'MAE' occurs twice"),
            ("ab", ["MAE"], {"baseline": "aa"}, "did you mean a"),
            ("a", ["MAE"], {"dataset": "sims"}, "mosi where sims was asked for"),
        ],
    )
    def test_rows_metrics_and_data_set(self, system, labels, metrics, options, said):
        with pytest.raises(StatisticsError, match=said):
            compare([system(label, HOST) for label in labels], metrics, **options)

    def test_runs_that_do_not_belong_together(self, system):
        row = system("a", HOST)
        with pytest.raises(StatisticsError, match="two runs of seed 1"):
            compare([SystemRuns("a", "a", row.records * 2, SEEDS)], ["MAE"])
        with pytest.raises(StatisticsError, match="seed 5, which is not planned"):
            compare([SystemRuns("a", "a", row.records, SEEDS[:4])], ["MAE"])
        other = system("a", {"MAE": (0.5,)}, seeds=(6,), dataset_fingerprint="0" * 64)
        mixed = SystemRuns("a", "a", row.records + other.records, (*SEEDS, 6))
        with pytest.raises(StatisticsError, match="different feature files"):
            compare([mixed], ["MAE"])

    def test_several_data_sets(self, system):
        with pytest.raises(StatisticsError, match=r"one data set.*mosi, sims"):
            compare([system("a", HOST), system("b", OTHER, dataset="sims")], ["MAE"])
