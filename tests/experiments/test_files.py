"""The form of experiment files, those that are shipped, and the numbers of the papers."""

import json
from pathlib import Path

import pytest

from MMSA_ext import mmsa_files
from MMSA_ext.config.files import supported_datasets
from MMSA_ext.errors import ConfigError
from MMSA_ext.experiments import Experiment, list_experiments, load, published_numbers, settings
from tests.experiments.conftest import CONTENT, PRINTED


class TestShipped:
    @pytest.mark.parametrize("name", list_experiments())
    def test_can_be_run(self, name):
        settings(load(name))

    def test_are_the_papers_tables_and_all_baselines(self):
        papers = {
            *(f"dashfusion_table{number}" for number in (2, 3, 4, 5)),
            *(f"infoenh_table{number}" for number in (1, 2, 3)),
        }
        baselines = {f"baselines_{dataset}" for dataset in ("mosi", "mosei", "sims")}
        assert set(list_experiments()) == papers | baselines | {"dashfusion_figure4", "robustness"}

    @pytest.mark.parametrize("name", list_experiments())
    def test_no_two_rows_are_the_same_run(self, name):
        rows = [row for row in load(name).rows if row.model is not None]
        said = [json.dumps([row.model, row.config], sort_keys=True) for row in rows]
        assert len(set(said)) == len(said)

    @pytest.mark.parametrize("name", list_experiments())
    def test_a_row_without_infoenh_is_the_hosts_own_run(self, name):
        """Its numbers are the same, and other experiments have made them already."""
        assert not [row.label for row in load(name).rows if row.config.get("infoenh", "") is None]

    @pytest.mark.parametrize("name", list_experiments())
    def test_both_controls_stand_in_every_table(self, name):
        controls = [row for row in load(name).rows if row.role == "control"]
        assert any(row.model == "text_only" for row in controls)
        random = {"infoenh": {"gates": "random"}}
        assert any(row.model == "self_mm_infoenh" and row.config == random for row in controls)

    @pytest.mark.parametrize("name", list_experiments())
    def test_every_row_of_the_paper_is_shown(self, name):
        experiment = load(name)
        shown = {row.published for row in experiment.rows if row.published is not None}
        assert shown == set(published_numbers(experiment)["row"])

    @pytest.mark.parametrize("name", list_experiments())
    def test_the_reconstruction_says_so(self, name):
        for row in load(name).rows:
            assert (row.model == "fdmer_reconstructed") == (row.label == "FDMER (reconstruction)")

    @pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
    def test_baselines_are_all_models_of_mmsa_that_are_configured(self, dataset):
        configured = {name for name in mmsa_files.models() if dataset in supported_datasets(name)}
        assert configured <= {row.model for row in load(f"baselines_{dataset}").rows}

    def test_the_ablations_share_their_hosts_and_complete_models_with_table_1(self):
        def runs(name):
            experiment = load(name)
            return {json.dumps([row.model, experiment.overrides(row)]) for row in experiment.rows}

        shared = runs("infoenh_table1") & runs("infoenh_table2")
        assert {json.loads(said)[0] for said in shared} == {
            "self_mm", "self_mm_infoenh", "confede", "confede_infoenh", "text_only"
        }  # fmt: skip

    def test_the_bottleneck_sweep_has_the_papers_points(self):
        experiment = load("dashfusion_figure4")
        points = {row.x: row.config for row in experiment.rows if row.series is not None}
        assert points == {x: {} if x == 8 else {"bottleneck_tokens": x} for x in (4, 8, 16, 32, 64)}


def test_the_documented_file_can_be_run(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "experiments.md"
    path = tmp_path / "documented.json"
    path.write_text(page.read_text("utf-8").split("```json\n")[1].split("```")[0])
    settings(load(path))


ROW = CONTENT["rows"][0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row": []}, "row: Extra"),
        ({"rows": []}, "rows"),
        ({"datasets": ["mosie"]}, "did you mean mosi"),
        ({"datasets": ["mosi", "sims"]}, "metrics to show for sims"),
        ({"rows": [ROW] * 2}, "'slow' occurs twice"),
        ({"rows": [{"label": "a", "modle": "b"}]}, r"rows\.0\.modle: Extra"),
        ({"rows": [{"label": "a"}]}, "'a' needs a model to run, or a published row"),
        ({"rows": [{"label": "a", "published": "Fast", "config": {"k": 1}}]}, "no model to run"),
        ({"rows": [ROW | {"x": 1}]}, "series and x together"),
        ({"rows": [ROW | {"role": "contrl"}]}, r"rows\.0\.role"),
        ({"baseline": "slwo"}, "baseline: no row 'slwo'; did you mean slow"),
        ({"rows": [ROW | {"compared_with": "slwo"}]}, "compared_with: no row 'slwo'"),
        ({"rows": [ROW | {"compared_with": "slow"}]}, "compared_with names the row itself"),
        ({"figure": {"reference": "slwo"}}, "figure: no row 'slwo'"),
        ({"figure": {"kind": "sweep"}}, "a sweep needs rows with series and x"),
        (
            {"figure": {"x_label": "rate"}},
            "x_label is of sweep, robustness; a figure of kind 'comp",
        ),
        ({"figure": {"reference": "slow"}}, "reference is of sweep; a figure of kind 'comparison'"),
        ({"figure": {"kind": "curves", "metrics": ["MAE"]}}, "metrics is of comparison, sweep"),
        ({"figure": {"metrics": ["Cor"]}}, "'Cor' is none of the columns of mosi.*mean Corr"),
        ({"columns": {"mosi": ["Non0_acc2"]}}, "no metric of mosi; did you mean Non0_acc_2"),
        ({"columns": {"mosi": ["MAE", "Mult_acc_9"]}}, "'Mult_acc_9' is no metric of mosi"),
        ({"columns": {"mosi": ["MAE"], "mosie": ["MAE"]}}, "columns: unknown data set 'mosie'"),
        ({"seeds": [1, -1]}, "-1 is no seed; give whole numbers from 0 to 4294967295"),
        ({"seeds": [2**32]}, "4294967296 is no seed"),
        ({"seeds": [1, 2, 1]}, "seeds: one occurs twice"),
        ({"models": {"text_onyl": {}}}, "did you mean text_only"),
    ],
)
def test_mistakes_are_named(make, changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        make(**changes)
    assert "Value error" not in str(caught.value)


def test_the_loss_is_a_metric_of_every_data_set(make):
    assert make(columns={"mosi": ["Loss", "MAE"]}).columns["mosi"] == ("Loss", "MAE")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1, 2]", "holds no JSON object"),
        (b'[["title", 1]]', "holds no JSON object"),
        (b'{"title": "\xe4"}', "not a text in UTF-8"),
        (None, "is a folder"),
    ],
)
def test_what_is_no_experiment_file_is_named(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"x\.json: {said}"):
        load(path)


def test_unknown_names_are_answered_with_the_closest(make, tmp_path):
    with pytest.raises(ConfigError, match="did you mean infoenh_table1"):
        load("infoenh_tabel1")
    with pytest.raises(ConfigError, match=r"none\.json"):
        load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="it runs on mosi"):
        make().narrowed(datasets=["mosei"])
    with pytest.raises(ConfigError, match="did you mean slow"):
        make().narrowed(baseline="slwo")
    with pytest.raises(ConfigError, match="-3 is no seed"):
        make().narrowed(seeds=[1, -3])


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


class TestOverridesOfAllRows:
    """They reach the rows whose models read them; what none reads is refused."""

    ROWS = (
        {"label": "a", "model": "text_only"},
        {"label": "b", "model": "lf_dnn"},
        {"label": "c", "model": "mult"},
        {"label": "d", "model": "mult", "config": {"use_bert": True, "use_finetune": True}},
    )

    def test_a_row_is_given_what_its_model_reads(self, make, caplog):
        experiment = make(rows=list(self.ROWS), models={"lf_dnn": {"early_stop": 2}}).narrowed(
            config={"pretrained": "minilm", "num_epochs": 3, "warmup_ratio": 0, "batch_size": 8}
        )
        given = {row.label: experiment.overrides(row) for row in experiment.rows}
        common = {"num_epochs": 3, "batch_size": 8}
        assert given["a"] == common | {"pretrained": "minilm", "warmup_ratio": 0}
        assert given["b"] == common | {"early_stop": 2}
        assert given["c"] == common
        assert given["d"] == self.ROWS[3]["config"] | common | {"pretrained": "minilm"}
        settings(experiment)
        assert "config: warmup_ratio is left out for lf_dnn, mult" in caplog.text
        assert "config: pretrained is left out for lf_dnn, mult" in caplog.text
        assert "batch_size" not in caplog.text

    def test_what_no_model_reads_is_refused_in_every_row(self, make):
        experiment = make(rows=list(self.ROWS[:2])).narrowed(config={"num_epoch": 3})
        with pytest.raises(ConfigError, match=r"2 row\(s\)(?s:.*)did you mean num_epochs"):
            settings(experiment)

    def test_what_one_model_does_not_read_is_refused_in_its_own_values(self, make):
        experiment = make(rows=list(self.ROWS[:2]))
        with pytest.raises(ConfigError, match=r"b on mosi: (?s:.*)warmup_epochs: lf_dnn has no"):
            settings(experiment.narrowed(config={"lf_dnn:warmup_epochs": 3}))
        rows = [self.ROWS[0], self.ROWS[1] | {"config": {"lr": 1}}]
        with pytest.raises(ConfigError, match=r"b on mosi: (?s:.*)did you mean learning_rate"):
            settings(make(rows=rows))


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


def test_a_row_without_a_model_is_not_run(make):
    experiment = make(rows=[ROW, {"label": "theirs", "published": "Fast"}])
    assert [row.label for row, _ in experiment.cells()] == ["slow"]


class TestPublished:
    @pytest.mark.parametrize("name", list_experiments())
    def test_names_are_metrics_and_come_once(self, name):
        experiment = load(name)
        numbers = published_numbers(experiment)
        known = set(zip(numbers["row"], numbers["dataset"], numbers["metric"], strict=True))
        assert len(known) == len(numbers)
        columns = {(data, metric) for data, names in experiment.columns.items() for metric in names}
        assert {(dataset, metric) for _, dataset, metric in known} <= columns

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
    def test_unusable_numbers_are_named(self, make, content, said):
        with pytest.raises(ConfigError, match=f"table9.csv: {said}"):
            make(printed=content)


def test_some_rows_are_run_and_the_others_stay_in_the_table(make):
    rows = [
        {"label": "a", "model": "text_only"},
        {"label": "b", "model": "text_only"},
        {"label": "c", "model": "lf_dnn"},
        {"label": "printed", "published": "Fast"},
    ]
    experiment = make(rows=rows, baseline="a")

    def run(**chosen):
        return [row.label for row, _ in experiment.narrowed(**chosen).narrowed(seeds=[3]).cells()]

    assert run() == ["a", "b", "c"]
    assert run(rows=["c", "b"]) == ["b", "c"]
    assert run(models=["text_only"]) == ["a", "b"]
    assert run(rows=["a", "c"], models=["lf_dnn"]) == ["c"]
    assert len(experiment.narrowed(rows=["c"]).rows) == 4
    with pytest.raises(ConfigError, match="runs no 'printed'"):
        run(rows=["printed"])
