"""Single samples through several systems, from records and the feature file."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from MMSA_ext.data.features import read_features
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.explain.cases import case_study, find_records, to_markdown
from MMSA_ext.records.store import RunStore, StoreError
from tests.reporting.conftest import make_diverged, make_finished


@pytest.fixture
def features(feature_file):
    return read_features(feature_file)


@pytest.fixture
def store(tmp_path, features):
    """host is off by 1; variant by 0.5 on most, by 3 on the last; two seeds around these means."""
    runs = RunStore(tmp_path / "runs")
    test = features.splits["test"]
    label = test.labels["M"].astype(float)
    off = {"host": np.full(6, 1.0), "variant": np.array([0.5, 0.5, 0.2, 0.5, 0.5, 3.0])}
    for model, error in off.items():
        for seed, shift in ((1, -0.1), (2, 0.1)):
            record = make_finished(
                model=model, seed=seed, dataset_fingerprint=features.fingerprint,
                configuration={"infoenh": {"bottleneck": True}},
            )  # fmt: skip
            order = np.arange(6)[:: 1 if seed == 1 else -1]  # pairs are by id, not by place
            table = pd.DataFrame(
                {
                    "split": "test",
                    "id": np.array(test.ids)[order],
                    "label": label[order],
                    "prediction": (label + error + shift)[order],
                }
            )
            runs.write(record, table)
    return runs


@pytest.fixture
def systems(store, features):
    return {
        name: find_records(store, model, features.fingerprint)
        for name, model in (("Host", "host"), ("Host + InfoEnh", "variant"))
    }


def test_means_over_seeds_are_paired_by_id(store, systems, features):
    table = case_study(store, systems, features).table
    assert sorted(table["id"]) == sorted(features.splits["test"].ids)
    np.testing.assert_allclose(table["Host"] - table["label"], 1.0, atol=1e-6)
    np.testing.assert_allclose(table["Host std"], np.std([-0.1, 0.1], ddof=1), atol=1e-6)


@pytest.mark.parametrize(("rule", "first"), [("difference", 5), ("gain", 2), ("loss", 5)])
def test_the_rules_choose_as_they_say(rule, first, store, systems, features):
    study = case_study(store, systems, features, count=2, rule=rule)
    assert len(study.table) == 2
    assert study.table.loc[0, "id"] == f"test$_${first}"
    assert study.table.loc[0, "text"] == features.splits["test"].raw_text[first]
    assert study.table.loc[0, "label"] == pytest.approx(features.splits["test"].labels["M"][first])
    assert study.seeds == {"Host": (1, 2), "Host + InfoEnh": (1, 2)}
    assert "nearer to the label than Host on 5 and farther on 1" in study.summary
    assert "1.000 (Host), 0.867 (Host + InfoEnh)" in study.summary


def test_samples_by_id_in_the_order_asked_for(store, systems, features):
    study = case_study(store, systems, features, ids=["test$_$4", "test$_$0"])
    assert study.table["id"].tolist() == ["test$_$4", "test$_$0"]
    with pytest.raises(FeatureFileError, match=r"split 'test': has no sample 'test\$_\$44'; did"):
        case_study(store, systems, features, ids=["test$_$44"])


def test_markdown_holds_the_text_and_the_seeds(store, systems, features):
    features.splits["test"].raw_text[5] = "a | b\n$5"
    text = to_markdown(case_study(store, systems, features, count=1))
    assert r"| test$\_$5 | a \| b $5 |" in text
    assert "± 0.14" in text
    assert "seeds: Host 2; Host + InfoEnh 2" in text


def test_other_features_are_refused(store, systems, features):
    other = replace(features, fingerprint="f" * 64)
    with pytest.raises(
        StoreError, match=r"Host: its run with seed 1 was made from another feature"
    ):
        case_study(store, systems, other)
    with pytest.raises(StoreError, match="made from another feature file"):
        find_records(store, "host", other.fingerprint)


def test_other_labels_are_refused(store, systems, features):
    features.splits["test"].labels["M"] = features.splits["test"].labels["M"] + 1
    with pytest.raises(FeatureFileError, match="labels of 'test' are not those of the runs"):
        case_study(store, systems, features)


def test_missing_text_is_refused(store, systems, features):
    features.splits["test"].raw_text[:] = [""] * 6
    with pytest.raises(FeatureFileError, match="no transcripts"):
        case_study(store, systems, features)


def test_systems_that_cannot_be_compared_are_refused(store, systems, features):
    with pytest.raises(ConfigError, match="give two or more"):
        case_study(store, {"Host": systems["Host"]}, features)
    with pytest.raises(ConfigError, match="no system 'Hots'; did you mean Host"):
        case_study(store, systems, features, compared=("Hots", "Host"))
    with pytest.raises(StoreError, match="no predictions of the dev split were kept"):
        case_study(store, systems, features, split="dev")


def test_runs_of_several_configurations_must_be_told_apart(store, features):
    more = make_finished(
        model="variant", seed=1, dataset_fingerprint=features.fingerprint,
        configuration={"infoenh": {"bottleneck": False}},
    )  # fmt: skip
    store.write(more)
    store.write(make_diverged(model="variant", dataset_fingerprint=features.fingerprint))
    with pytest.raises(StoreError, match=r"several configurations.*infoenh.bottleneck=\w+ or"):
        find_records(store, "variant", features.fingerprint)
    found = find_records(store, "variant", features.fingerprint, {"infoenh.bottleneck": False})
    assert found == (more,)
    with pytest.raises(StoreError, match=r"has infoenh.k=9; there is infoenh.bottleneck="):
        find_records(store, "variant", features.fingerprint, {"infoenh.k": 9})
    with pytest.raises(StoreError, match="no finished run of 'nothing'"):
        find_records(store, "nothing", features.fingerprint)
