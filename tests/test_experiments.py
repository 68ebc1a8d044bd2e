"""Experiment files: form, order of overrides, going on where one was, and the table."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from MMSA_ext import experiments
from MMSA_ext.errors import ConfigError, TextEncoderError
from MMSA_ext.experiments import (
    Experiment,
    check,
    list_experiments,
    load,
    published_numbers,
    render,
    run,
    table,
)
from MMSA_ext.reporting.store import RunStore
from tests.conftest import tiny_config

CONTENT = {
    "title": "Two rates",
    "source": {"paper": "A paper", "table": "Table 9", "csv": "table9.csv"},
    "datasets": ["mosi"],
    "seeds": [1, 2],
    "columns": {"mosi": ["MAE", "Corr"]},
    "rows": [
        {"label": "slow", "model": "text_only", "config": {"learning_rate": 0.0005}},
        {"label": "fast", "model": "text_only", "published": "Fast"},
    ],
}

PRINTED = """row,dataset,metric,value,mark,source
Fast,mosi,MAE,0.709,‡,"A paper, Table 9"
Fast,mosei,Corr,0.5,‡,"A paper, Table 9"
"""


@pytest.fixture
def make(tmp_path):
    """An experiment from `CONTENT` with some of it replaced, and the numbers of its paper."""
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "table9.csv").write_text(PRINTED, "utf-8")

    def make(**changes) -> Experiment:
        path = tmp_path / "rates.json"
        path.write_text(json.dumps(CONTENT | changes))
        return load(path)

    return make


@pytest.fixture
def options(tmp_path, feature_file):
    folders = {"model_save_dir": "m", "res_save_dir": "r", "log_dir": "l"}
    return {
        "custom_feature": feature_file,
        "gpu_ids": "cpu",
        "num_workers": 0,
        "verbose_level": 0,
    } | {key: tmp_path / name for key, name in folders.items()}


@pytest.fixture
def tiny(tiny_encoder):
    return tiny_config("text_only", tiny_encoder)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "r" / "runs")


class TestFiles:
    @pytest.mark.parametrize("name", list_experiments())
    def test_shipped_experiments_can_be_run(self, name):
        check(load(name))

    def test_shipped_experiments_are_the_papers_tables(self):
        rows = {name: len(load(name).rows) for name in list_experiments()}
        assert rows == {
            "infoenh_table1": 8, "infoenh_table2": 16, "infoenh_table3": 14, "robustness": 24
        }  # fmt: skip

    @pytest.mark.parametrize("name", list_experiments())
    def test_no_two_rows_of_a_shipped_experiment_are_the_same_run(self, name):
        said = [json.dumps([row.model, row.config], sort_keys=True) for row in load(name).rows]
        assert len(set(said)) == len(said)

    @pytest.mark.parametrize("name", list_experiments())
    def test_a_row_without_infoenh_is_the_hosts_own_run(self, name):
        """Its numbers are the same, and other experiments have made them already."""
        assert not [row.label for row in load(name).rows if row.config.get("infoenh", "") is None]

    def test_the_ablations_share_their_hosts_and_complete_models_with_table_1(self):
        def runs(name):
            experiment = load(name)
            return {json.dumps([row.model, experiment.overrides(row)]) for row in experiment.rows}

        shared = runs("infoenh_table1") & runs("infoenh_table2")
        assert {json.loads(said)[0] for said in shared} == {
            "self_mm", "self_mm_infoenh", "confede", "confede_infoenh"
        }  # fmt: skip

    def test_the_documented_file_can_be_run(self, tmp_path):
        page = Path(__file__).parents[1] / "docs" / "experiments.md"
        path = tmp_path / "documented.json"
        path.write_text(page.read_text("utf-8").split("```json\n")[1].split("```")[0])
        check(load(path))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"row": []}, "row: Extra"),
            ({"rows": []}, "rows"),
            ({"datasets": ["mosie"]}, "did you mean mosi"),
            ({"datasets": ["mosi", "sims"]}, "metrics to show for sims"),
            ({"rows": [CONTENT["rows"][0]] * 2}, "'slow' occurs twice"),
            ({"rows": [{"label": "a", "modle": "b"}]}, r"rows\.0\.model: .*\n.*rows\.0\.modle"),
        ],
    )
    def test_mistakes_are_named(self, make, changes, said):
        with pytest.raises(ConfigError, match=said):
            make(**changes)

    def test_unknown_names_are_answered_with_the_closest(self, make, tmp_path):
        with pytest.raises(ConfigError, match="did you mean infoenh_table1"):
            load("infoenh_tabel1")
        with pytest.raises(ConfigError, match=r"none\.json"):
            load(tmp_path / "none.json")
        with pytest.raises(ConfigError, match="it runs on mosi"):
            make().narrowed(datasets=["mosei"])

    def test_rows_that_cannot_be_run_are_all_named_before_any_is(self, make, options, store):
        bad = [
            {"label": "one", "model": "text_onyl"},
            {"label": "two", "model": "text_only", "config": {"dimm": 3}},
        ]
        with pytest.raises(ConfigError, match=r"(?s)2 row.*one.*text_only.*two.*dim"):
            run(make(rows=[CONTENT["rows"][0], *bad]), **options)
        assert not list(store.records())

    def test_one_file_does_not_serve_two_data_sets(self, make, options):
        columns = {"mosi": ["MAE"], "mosei": ["MAE"]}
        two = make(datasets=["mosi", "mosei"], columns=columns)
        with pytest.raises(ConfigError, match="--dataset"):
            run(two, **options)


class TestPublished:
    @pytest.mark.parametrize("name", list_experiments())
    def test_every_shipped_row_that_a_paper_has_is_complete(self, name):
        experiment = load(name)
        numbers = published_numbers(experiment)
        known = set(zip(numbers["row"], numbers["dataset"], numbers["metric"], strict=True))
        assert len(known) == len(numbers)
        for row, dataset in experiment.cells():
            for metric in experiment.columns[dataset]:
                assert row.published is None or (row.published, dataset, metric) in known

    @pytest.mark.parametrize(
        ("name", "row", "dataset", "metric", "value", "mark"),
        [
            ("infoenh_table1", "self-MM + InfoEnh", "mosi", "MAE", 0.709, ""),
            ("infoenh_table1", "self-MM", "mosi", "Has0_acc_2", 82.33, "‡"),
            ("infoenh_table1", "self-MM", "mosi", "Non0_acc_2", 84.75, "‡"),
            ("infoenh_table1", "DBF", "mosei", "Has0_F1_score", 84.80, "†"),
            ("infoenh_table1", "ConFEDE + InfoEnh", "mosei", "Mult_acc_7", 55.38, ""),
            ("infoenh_table2", "ConFEDE + InfoEnh: w/o FIB", "mosi", "Corr", 0.800, ""),
            ("infoenh_table2", "self-MM + InfoEnh: w/o FIA", "mosei", "Non0_F1_score", 84.95, ""),
            ("infoenh_table3", "w/o Text, w/ InfoEnh", "mosei", "Has0_acc_2", 66.75, ""),
            ("infoenh_table3", "w/o Text, w/o InfoEnh", "mosei", "Has0_F1_score", 54.45, ""),
        ],
    )
    def test_values_are_as_printed(self, name, row, dataset, metric, value, mark):
        numbers = published_numbers(load(name)).set_index(["row", "dataset", "metric"])
        line = numbers.loc[(row, dataset, metric)]
        assert (line["value"], line["mark"]) == (value, mark)
        assert line["source"].startswith(f"InfoEnh, Table {name[-1]}")

    def test_the_ablations_ends_are_rows_of_table_1(self):
        first, second = (
            published_numbers(load(f"infoenh_table{number}"))
            .set_index(["dataset", "metric", "row"])["value"]
            .unstack("row")
            for number in (1, 2)
        )
        for host in ("self-MM", "ConFEDE"):
            assert first[f"{host} + InfoEnh"].equals(second[f"{host} + InfoEnh"])
            assert (first[host] == second[f"{host} + InfoEnh: w/o InfoEnh"]).all()

    def test_stands_beside_ours_in_the_tables_unit(self, make, store):
        numbers = table(make(), store)
        assert numbers["published"].fillna("").tolist() == ["", "", "Fast", "Fast"]
        assert numbers["published_value"].tolist()[2] == pytest.approx(70.9)
        assert numbers["published_value"].isna().tolist() == [True, True, False, True]
        lines = render(make(), numbers).splitlines()
        (fast,) = (number for number, line in enumerate(lines) if line.startswith("fast"))
        assert lines[fast + 1].split() == ["printed", "‡", "70.90", "-"]
        assert "printed: A paper, Table 9" in lines
        assert "encoder, features and selection rule are unknown" in lines[-1]

    def test_percentages_are_not_scaled(self, store):
        numbers = table(load("infoenh_table3"), store).set_index(["row", "metric"])
        line = numbers.loc[("ConFEDE + InfoEnh, w/o Text at test", "Has0_acc_2")]
        assert line["published_value"] == 66.75

    def test_without_any_there_is_no_word_of_it(self, make, store):
        rows = [{"label": "slow", "model": "text_only"}]
        experiment = make(rows=rows, source={"paper": "A paper"})
        assert "printed" not in render(experiment, table(experiment, store))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"source": {"paper": "p", "csv": "none.csv"}}, "source.csv names none.csv"),
            ({"source": {"paper": "p"}}, "'fast' has published, but"),
            (
                {"rows": [{"label": "a", "model": "text_only", "published": "Fsat"}]},
                "table9.csv has no row 'Fsat'; did you mean Fast",
            ),
        ],
    )
    def test_what_points_at_nothing_is_named(self, make, changes, said):
        with pytest.raises(ConfigError, match=said):
            make(**changes)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("row,dataset,metric,value\nFast,mosi,MAE,1\n", "no column mark, source"),
            (PRINTED.replace("0.709", "- / 84.6"), "not a table of published numbers"),
            ("", "not a table of published numbers"),
        ],
    )
    def test_unusable_numbers_are_named(self, make, tmp_path, content, said):
        (tmp_path / "published" / "table9.csv").write_text(content, "utf-8")
        with pytest.raises(ConfigError, match=f"table9.csv: {said}"):
            make()


def test_a_rows_own_values_win_and_reach_below():
    experiment = Experiment(
        **CONTENT | {"name": "x", "folder": ".", "config": {"infoenh": {"k": 4}, "num_epochs": 3}}
    ).narrowed(config={"infoenh.d": 16, "num_epochs": 5})
    row = experiment.rows[0]

    def given(config):
        return experiment.overrides(row.model_copy(update={"config": config}))

    assert given({}) == {"infoenh": {"k": 4, "d": 16}, "num_epochs": 5}
    assert given({"infoenh": {"k": 2}})["infoenh"] == {"k": 2, "d": 16}
    assert given({"infoenh.k": 2})["infoenh"] == {"k": 2, "d": 16}
    assert given({"infoenh": None})["infoenh"] is None


def test_values_for_one_model_reach_its_rows_alone(make):
    rows = [{"label": "a", "model": "text_only"}, {"label": "b", "model": "self_mm"}]
    experiment = make(rows=rows, config={"x": 1}, models={"self_mm": {"x": 2}})
    experiment = experiment.narrowed(config={"self_mm:y.z": 3, "y.w": 4})
    assert [experiment.overrides(row) for row in experiment.rows] == [
        {"x": 1, "y": {"w": 4}},
        {"x": 2, "y": {"w": 4, "z": 3}},
    ]
    with pytest.raises(ConfigError, match="did you mean self_mm"):
        experiment.narrowed(config={"self_m:y": 3})
    with pytest.raises(ConfigError, match="did you mean self_mm"):
        make(rows=rows, models={"self_m": {}})


class TestRuns:
    def test_is_run_row_by_row_and_looked_up_afterwards(self, make, options, tiny):
        experiment = make().narrowed(config=tiny)
        seen = []

        def progress(number, count, row, dataset):
            seen.append((number, count, row.label, dataset))

        first = run(experiment, progress=progress, **options)
        assert seen == [(1, 2, "slow", "mosi"), (2, 2, "fast", "mosi")]
        assert [len(cell.results.seeds) for cell in first] == [2, 2]
        assert not any(seed.reused for cell in first for seed in cell.results.seeds)
        again = run(experiment, **options)
        assert all(seed.reused for cell in again for seed in cell.results.seeds)
        more = run(experiment.narrowed(seeds=[1, 3]), **options)
        assert [[s.reused for s in cell.results.seeds] for cell in more] == [[True, False]] * 2

    def test_a_refused_row_does_not_stop_the_others(self, make, options, tiny, store):
        rows = [
            {"label": "no encoder", "model": "text_only", "config": {"pretrained": "./nowhere"}},
            CONTENT["rows"][1],
        ]
        refused, fine = run(make(rows=rows).narrowed(config=tiny, seeds=[1]), **options)
        assert isinstance(refused.error, TextEncoderError)
        assert refused.results is None
        assert fine.error is None
        assert len(list(store.records())) == 1

    def test_a_row_whose_encoder_is_gone_has_no_numbers(self, make, tiny, store, caplog):
        experiment = make().narrowed(config=tiny | {"pretrained": "./nowhere"})
        assert table(experiment, store)["n"].tolist() == [0] * 4
        assert "nowhere" in caplog.text

    def test_a_model_of_mmsa_is_a_row_like_any_other(self, make, options, store):
        rows = [{"label": "LF-DNN", "model": "lf_dnn", "config": {"early_stop": 1}}]
        experiment = make(rows=rows, seeds=[1])
        run(experiment, **options)
        assert table(experiment, store)["n"].tolist() == [1, 1]


class TestTable:
    @pytest.fixture
    def done(self, make, options, tiny):
        """The experiment, run."""
        experiment = make().narrowed(config=tiny)
        run(experiment, **options)
        return experiment

    def test_numbers_are_those_of_the_records(self, done, store):
        numbers = table(done, store)
        assert numbers["row"].tolist() == ["slow", "slow", "fast", "fast"]
        assert numbers["metric"].tolist() == ["MAE", "Corr"] * 2
        for rate, label in ((0.0005, "slow"), (0.001, "fast")):
            values = [
                record.metrics["test"]["MAE"]
                for record in store.records()
                if record.identity.configuration["learning_rate"] == rate
            ]
            line = numbers[(numbers["row"] == label) & (numbers["metric"] == "MAE")].iloc[0]
            assert line["n"] == len(values) == 2
            assert line["mean"] == pytest.approx(np.mean(values))
            assert line["std"] == pytest.approx(np.std(values, ddof=1))

    def test_text_names_n_rule_environment_data_and_overrides(self, done, store):
        text = render(done, table(done, store))
        for part in (
            *("Two rates", "A paper, Table 9", "mosi, test split", "± ", "(2)", "seeds: 1, 2"),
            *("selection: lowest validation Loss", "environment: cpu", "torch", "data: sha256"),
            *("code: MMSA_ext", '"num_epochs": 2'),
        ):
            assert part in text, part
        assert "slow:" not in text  # nothing differs between the rows

    def test_rows_are_named_where_they_differ(self, done, store):
        numbers = table(done, store)
        numbers.loc[numbers["row"] == "slow", "selection"] = "another rule"
        text = render(done, numbers)
        assert "selection: slow: another rule" in text
        assert "selection: fast: lowest" in text

    def test_files_are_written(self, done, store, tmp_path):
        numbers = table(done, store)
        csv, text = experiments.write(done, numbers, tmp_path / "tables")
        assert (csv.name, text.name) == ("rates.csv", "rates.txt")
        assert "environment" in csv.read_text().splitlines()[0]
        assert text.read_text() == render(done, numbers) + "\n"

    def test_without_runs_says_so(self, make, store):
        numbers = table(make(), store)
        assert numbers["n"].tolist() == [0] * 4
        assert numbers["mean"].isna().all()
        assert "-" in render(make(), numbers)

    def test_other_configurations_do_not_count(self, done, store):
        assert table(done.narrowed(config={"num_epochs": 3}), store)["n"].sum() == 0
        assert table(done.narrowed(seeds=[2, 9]), store)["n"].tolist() == [1] * 4

    def test_one_file_and_one_version_of_the_code_is_shown(self, done, store):
        """A newer record on other data takes the whole data set, on older code its row alone."""
        records = list(store.records())
        before = table(done, store)

        def copy(record, year, **identity):
            changed = record.identity.model_copy(update=identity)
            created = record.created.replace(year=year)
            store.write(
                record.model_copy(
                    update={"identity": changed, "created": created, "predictions_sha256": None}
                )
            )

        fast = next(r for r in records if r.identity.configuration["learning_rate"] == 0.001)
        copy(fast, 2998, code_version="0.0.0+new")
        after = table(done, store)
        assert after["n"].tolist() == [2, 2, 1, 1]
        assert after["code_version"].tolist()[2:] == ["0.0.0+new"] * 2
        assert after["mean"].tolist()[:2] == before["mean"].tolist()[:2]
        copy(fast, 2999, dataset_fingerprint="0" * 64, code_version="0.0.0+newer")
        assert table(done, store)["n"].tolist() == [0, 0, 1, 1]

    def test_diverged_seeds_are_counted_and_have_no_numbers(self, done, store):
        record = next(iter(store.records()))
        store.write(
            record.model_copy(
                update={
                    "status": "diverged", "reason": "it did", "metrics": {},
                    "predictions_sha256": None,
                }
            ),
            overwrite=True,
        )  # fmt: skip
        numbers = table(done, store)
        assert sorted(numbers["n"].tolist()) == [1, 1, 2, 2]
        assert sorted(numbers["diverged"].tolist()) == [0, 0, 1, 1]
        assert "1 of 2 seeds: it did" in render(done, numbers)
        assert math.isnan(numbers[numbers["n"] == 1]["std"].iloc[0])
