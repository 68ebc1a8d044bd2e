"""Which records make a table, and what stands in it."""

import json
import math
import pickle
import shutil

import numpy as np
import pytest

from MMSA_ext.config.resolve import resolve
from MMSA_ext.experiments import run, table, write_tables
from MMSA_ext.records.store import RunStore
from MMSA_ext.reporting.comparison_table import comparison_table
from MMSA_ext.reporting.render import to_text
from MMSA_ext.runs.identity import identifying_configuration
from tests.conftest import make_feature_data, tiny_config
from tests.experiments.conftest import options_in, written


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_encoder):
    """The records of both rows, run once for all tests here."""
    folder = tmp_path_factory.mktemp("made")
    features = folder / "features.pkl"
    features.write_bytes(pickle.dumps(make_feature_data()))
    experiment = written(folder, baseline="slow").narrowed(
        config=tiny_config("text_only", tiny_encoder)
    )
    run(experiment, **options_in(folder, features))
    return experiment, RunStore(folder / "r" / "runs")


@pytest.fixture
def done(made):
    return made[0]


@pytest.fixture
def store(made, tmp_path):
    """A copy of the records, to be changed."""
    shutil.copytree(made[1].root, tmp_path / "copy")
    return RunStore(tmp_path / "copy")


def numbers(experiment, store):
    (comparison,) = table(experiment, store)
    return comparison.numbers


def remarks(experiment, store):
    (comparison,) = table(experiment, store)
    return {fact.rows: fact.text for fact in comparison.facts if fact.name == "remark"}


def copied(store, record, year, **identity):
    """The same record, of another identity and made in another year."""
    changed = record.identity.model_copy(update=identity)
    created = record.created.replace(year=year)
    update = {"identity": changed, "created": created, "predictions_sha256": None}
    store.write(record.model_copy(update=update))


def of_rate(store, rate):
    return [r for r in store.records() if r.identity.configuration["learning_rate"] == rate]


def test_numbers_are_those_of_the_records(done, store):
    found = numbers(done, store)
    assert found["row"].tolist() == ["slow", "slow", "fast", "fast"]
    assert found["metric"].tolist() == ["MAE", "Corr"] * 2
    assert found["role"].tolist() == ["baseline"] * 2 + ["system"] * 2
    for rate, label in ((0.0005, "slow"), (0.001, "fast")):
        values = [record.metrics["test"]["MAE"] for record in of_rate(store, rate)]
        line = found[(found["row"] == label) & (found["metric"] == "MAE")].iloc[0]
        assert line["n"] == len(values) == 2
        assert line["mean"] == pytest.approx(np.mean(values))
        assert line["std"] == pytest.approx(np.std(values, ddof=1))


def test_text_names_n_rule_environment_data_and_overrides(done, store):
    (comparison,) = table(done, store)
    text = to_text(comparison_table(comparison))
    for part in (
        *("Two rates", "A paper, Table 9", "mosi", "±", "1, 2"),
        *("lowest validation MAE", "cpu", "torch", "sha256", "MMSA_ext", '"num_epochs": 2'),
    ):
        assert part in text, part


def settings(experiment):
    (comparison,) = table(experiment, RunStore("none"))
    return {f.rows: json.loads(f.text) for f in comparison.facts if f.name == "settings"}


def test_settings_are_true_of_the_rows_they_name(make):
    rows = [
        {"label": "a", "model": "text_only"},
        {"label": "b", "model": "text_only", "config": {"early_stop": 2, "num_epochs": 19}},
        {"label": "c", "model": "self_mm_infoenh", "config": {"infoenh": {"gates": "random"}}},
        {"label": "d", "published": "Fast"},
    ]
    common, models = {"batch_size": 4, "early_stop": 8}, {"text_only": {"num_epochs": 16}}
    found = settings(make(rows=rows, config=common, models=models))
    assert found == {
        (): {"batch_size": 4},
        ("a",): {"early_stop": 8, "num_epochs": 16},
        ("b",): {"early_stop": 2, "num_epochs": 19},
        ("c",): {"early_stop": 8, "infoenh.gates": "random"},
    }


def test_settings_name_no_folder_of_this_machine(make, tiny_encoder):
    rows = [{"label": "a", "model": "text_only"}]
    config = {
        "pretrained": str(tiny_encoder), "featurePath": "/data/x.pkl",
        "dataset_root_dir": "/data", "early_stop": 8,
    }  # fmt: skip
    found = settings(make(rows=rows, config=config))[()]
    assert found.keys() == {"pretrained", "early_stop"}
    assert found["pretrained"].startswith(f"{tiny_encoder.name}@")
    gone = settings(make(rows=rows, config={"pretrained": "/gone/encoder"}))[()]
    assert gone == {"pretrained": "encoder"}


def test_rows_are_compared_with_what_they_name(make):
    rows = [
        {"label": "a", "model": "text_only"},
        {"label": "b", "model": "text_only", "config": {"num_epochs": 12}},
        {"label": "c", "model": "text_only", "config": {"num_epochs": 13}, "compared_with": "b"},
        {"label": "d", "model": "text_only", "config": {"num_epochs": 14}, "compared_with": None},
    ]
    found = numbers(make(rows=rows, baseline="a"), RunStore("none"))
    to = dict(zip(found["row"], found["compared_with"], strict=True))
    assert to == {"a": "", "b": "a", "c": "b", "d": ""}


def test_published_numbers_are_in_our_units(done, store):
    found = numbers(done, store).set_index(["row", "metric"])
    assert found.loc[("fast", "MAE"), "published_value"] == 0.709
    assert found.loc[("fast", "MAE"), "published_mark"] == "‡"
    assert math.isnan(found.loc[("fast", "Corr"), "published_value"])
    assert math.isnan(found.loc[("slow", "MAE"), "published_value"])
    percent = done.model_copy(update={"columns": {"mosi": ("Non0_acc_2",)}})
    found = numbers(percent, store).set_index("row")
    assert found.loc["fast", "published_value"] == pytest.approx(0.845)


def test_a_row_without_a_model_shows_the_papers_numbers_alone(make, store):
    rows = [
        {"label": "ours", "model": "text_only"},
        {"label": "theirs", "published": "Fast", "remarks": ["not open"]},
    ]
    (comparison,) = table(make(rows=rows), store)
    theirs = comparison.numbers[comparison.numbers["row"] == "theirs"]
    assert theirs["n"].tolist() == [0, 0]
    assert theirs["seeds"].tolist() == [0, 0]
    assert theirs["published_value"].tolist()[0] == 0.709
    assert ("not run", ("theirs",)) in [(fact.name, fact.rows) for fact in comparison.facts]


def test_without_runs_says_so(make, tmp_path):
    found = numbers(make(), RunStore(tmp_path / "none"))
    assert found["n"].tolist() == [0] * 4
    assert found["mean"].isna().all()


def test_a_row_whose_encoder_is_gone_has_no_numbers(done, store, caplog):
    gone = done.narrowed(config={"pretrained": "./nowhere"})
    assert numbers(gone, store)["n"].tolist() == [0] * 4
    assert "nowhere" in caplog.text


def test_other_configurations_do_not_count(done, store):
    assert numbers(done.narrowed(config={"num_epochs": 3}), store)["n"].sum() == 0
    assert numbers(done.narrowed(seeds=[2, 9]), store)["n"].tolist() == [1] * 4


def test_the_code_with_most_finished_seeds_is_shown_and_the_rest_is_said(done, store):
    before = numbers(done, store)
    fast, other = of_rate(store, 0.001)
    version = fast.identity.code_version
    copied(store, fast, 2998, code_version="0.0.0+new")
    assert numbers(done, store).drop(columns="remark").equals(before.drop(columns="remark"))
    new = "1 newer run(s) with fewer finished seeds by MMSA_ext 0.0.0+new, not shown"
    assert remarks(done, store)[("fast",)] == new
    copied(store, other, 2998, code_version="0.0.0+new")
    assert numbers(done, store)["n"].tolist() == [2] * 4
    assert numbers(done, store)["code_version"].tolist() == [version] * 2 + ["0.0.0+new"] * 2
    said = remarks(done, store)
    assert said[("fast",)] == f"2 older run(s) by MMSA_ext {version}, not shown"
    (comparison,) = table(done, store)
    code = {fact.rows: fact.text for fact in comparison.facts if fact.name == "code"}
    assert code == {("slow",): f"MMSA_ext {version}", ("fast",): "MMSA_ext 0.0.0+new"}


def test_diverged_seeds_do_not_make_a_set_complete(done, store):
    for record in of_rate(store, 0.001):
        gone = {"status": "diverged", "reason": "it did", "metrics": {}}
        copied(store, record.model_copy(update=gone), 2998, code_version="0.0.0+new")
    assert numbers(done, store)["n"].tolist() == [2] * 4


def test_the_file_with_most_finished_seeds_takes_the_whole_data_set(done, store):
    before = numbers(done, store)
    for record in of_rate(store, 0.001):
        copied(store, record, 2999, dataset_fingerprint="0" * 64)
    assert numbers(done, store).drop(columns="remark").equals(before.drop(columns="remark"))
    said = f"2 newer run(s) on other data, sha256 {'0' * 12}, not shown"
    assert remarks(done, store) == {("fast",): said}
    for record in of_rate(store, 0.0005):
        copied(store, record, 2999, dataset_fingerprint="0" * 64)
    assert set(numbers(done, store)["fingerprint"]) == {"0" * 64}


def test_older_sets_can_be_asked_for(done, store):
    first = next(iter(store.records())).identity
    for record in list(store.records()):
        copied(store, record, 2998, code_version="0.0.0+new")
        copied(store, record, 2999, dataset_fingerprint="0" * 64)
    newest, by_code, on_file = (
        numbers(experiment, store)
        for experiment in (
            done,
            done.narrowed(code="0.0.0"),
            done.narrowed(fingerprint=first.dataset_fingerprint, code=first.code_version),
        )
    )
    assert set(newest["fingerprint"]) == {"0" * 64}
    assert set(by_code["code_version"]) == {"0.0.0+new"}
    assert set(on_file["fingerprint"]) == {first.dataset_fingerprint}
    assert set(on_file["code_version"]) == {first.code_version}
    assert numbers(done.narrowed(code="none"), store)["n"].sum() == 0
    assert numbers(done.narrowed(fingerprint="9" * 64), store)["n"].sum() == 0


def test_code_is_asked_for_by_model(done, store):
    """A digest is one model's, so the rows of others keep their records."""
    (_, other) = of_rate(store, 0.001)
    copied(store, other, 2000, code_version="0123456789ab")
    assert numbers(done, store)["n"].tolist() == [2] * 4
    asked = numbers(done.narrowed(code="0123"), store).set_index("row")["n"]
    assert (asked["slow"] == 2).all()
    assert (asked["fast"] == 1).all()


def test_models_of_aligned_data_have_a_file_of_their_own(make, store):
    """MMSA gives them another file, so theirs must not push the others' records out."""
    rows = [{"label": "MFN", "model": "mfn"}, {"label": "LF-DNN", "model": "lf_dnn"}]
    experiment = make(rows=rows)
    template = next(iter(store.records()))
    for year, row in enumerate(experiment.rows, start=2990):
        configuration = identifying_configuration(resolve(row.model, "mosi"))
        copied(
            store, template, year, model=row.model, configuration=configuration,
            dataset_fingerprint=f"{year:064d}",
        )  # fmt: skip
    assert numbers(experiment, store)["n"].tolist() == [1] * 4


def test_another_baseline_may_be_chosen(done, store):
    found = numbers(done.narrowed(baseline="fast"), store)
    assert found["role"].tolist() == ["system"] * 2 + ["baseline"] * 2


def test_files_are_written(done, store, tmp_path):
    comparisons = table(done, store)
    paths = write_tables(comparisons, done, tmp_path / "tables")
    assert [path.name for path in paths] == [
        f"rates-mosi.{ending}" for ending in ("csv", "md", "tex", "html")
    ]
    assert all(path.stat().st_size for path in paths)
    (only,) = write_tables(comparisons, done, tmp_path / "one", ["md"])
    assert only.suffix == ".md"
