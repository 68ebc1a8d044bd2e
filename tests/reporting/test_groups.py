"""Which runs are one row, what a user may call them, and which seeds pair."""

import re

import pytest

from MMSA_ext.reporting.groups import (
    by_experiment,
    flatten,
    labels,
    select_groups,
    settings_facts,
    shared_seeds,
)
from MMSA_ext.reporting.statistics import StatisticsError


def test_by_model(groups):
    good, bad = groups
    assert (good.label, bad.label) == ("good", "bad")
    assert list(good.finished) == [1, 2, 3]
    assert list(bad.finished) == [1, 2]
    assert bad.seeds == (1, 2, 3)


def test_by_the_first_digits_of_an_experiment_or_a_run(store, groups):
    run = groups[0].records[1]
    (experiment,) = select_groups(store.records(), [run.identity.experiment[:6]])
    assert len(experiment.records) == 3
    (single,) = select_groups(store.records(), [run.identity.short_id])
    assert single.records == (run,)


def test_several_experiments_are_listed(store, groups, make_record):
    store.write(make_record(model="good", seed=7, code_version="0.2.0", epochs=1))
    with pytest.raises(StatisticsError, match="runs of 2 experiments") as refused:
        select_groups(store.records(), ["good", "bad"])
    assert groups[0].records[0].identity.experiment[:8] in str(refused.value)
    assert "seeds 7" in str(refused.value)
    assert "code 0.2.0" in str(refused.value)


class TestLabels:
    """What tells the experiments of one model apart."""

    def named(self, make_record, *configurations, **identity):
        runs = [make_record(configuration=c, epochs=1, **identity) for c in configurations]
        found = labels(by_experiment(runs))
        return [found[run.identity.experiment] for run in runs]

    def test_a_single_one_is_its_model(self, make_record):
        runs = [make_record(model=model, epochs=1) for model in ("a", "b")]
        assert list(labels(by_experiment(runs)).values()) == ["a", "b"]

    @pytest.mark.parametrize(
        ("one", "other", "said"),
        [
            ({"scaling": "none"}, {"scaling": "on"}, ("scaling = none", "scaling = on")),
            ({"lr": 0.0005}, {"lr": 5e-05}, ("lr = 0.0005", "lr = 5e-05")),
            ({"p": 8}, {"p": 8, "extra": [1, "a"]}, ("extra not set", "extra = [1, a]")),
            ({"f": {"p": 8, "q": 1}}, {"f": {"q": 1}}, ("f.p = 8", "f.p not set")),
            ({"f": {"p": 8, "q": 1}}, {}, ("f.p = 8, f.q = 1", "f not set")),
            ({"f": {"p": 8, "q": 1}}, {"f": None}, ("f.p = 8, f.q = 1", "f = none")),
        ],
    )  # fmt: skip
    def test_what_differs_is_named(self, make_record, one, other, said):
        shared = {"batch_size": 32, "fusion": {"kind": "BF"}}
        found = self.named(make_record, shared | one, shared | other)
        assert found == [f"dashfusion ({text})" for text in said]

    def test_of_many_settings_three_are_named_and_the_others_counted(self, make_record):
        found = self.named(make_record, *({f"k{i}": i + j for i in range(9)} for j in (1, 11)))
        assert found[0] == "dashfusion (k0 = 1, k1 = 2, k2 = 3, 6 more)"
        facts = settings_facts(by_experiment([make_record(configuration={"k": k}) for k in (1, 2)]))
        assert all(re.fullmatch("[0-9a-f]{8}", fact.text) for fact in facts)

    def test_where_long_values_look_alike_the_ids_tell_them_apart(self, make_record):
        found = self.named(make_record, *({"k": "x" * 40 + end} for end in "ab"))
        assert len(set(found)) == 2
        assert all(re.fullmatch(r"dashfusion \(k = x+…\) #[0-9a-f]{6}", label) for label in found)

    def test_code_and_features_are_differences(self, make_record):
        runs = [make_record(code_version=code, epochs=1) for code in ("0.1.0", "0.2.0")]
        runs += [make_record(model="b", dataset_fingerprint=f * 64, epochs=1) for f in "ab"]
        assert set(labels(by_experiment(runs)).values()) == {
            *("dashfusion (code version = 0.1.0)", "dashfusion (code version = 0.2.0)"),
            *(f"b (features = {f * 12})" for f in "ab"),
        }


def test_rows_stand_in_the_order_of_papers(make_record):
    """The control, MMSA's models, others; settings by their numbers."""
    runs = [make_record(model=m, epochs=1) for m in ("own", "text_only", "tfn_infoenh", "tfn")]
    runs += [make_record(configuration={"p": p}, epochs=1) for p in (16, 4, 8)]
    assert list(labels(by_experiment(runs)).values()) == [
        *("text_only", "tfn", *(f"dashfusion (p = {p})" for p in (4, 8, 16)), "own"),
        "tfn_infoenh",
    ]


@pytest.mark.parametrize(
    ("configuration", "flat"),
    [
        ({"a": {"b": {"c": 1.5}}, "d": None}, {"a.b.c": "1.5", "d": "null"}),
        ({"a": {}, "b": [1, {"c": 2}]}, {"a": "{}", "b": '[1, {"c": 2}]'}),
        ({"a": "text", "b": True}, {"a": "text", "b": "true"}),
        # Numbers stand as users type them.
        ({"a": 0.0005, "b": 5e-05, "c": 0.001}, {"a": "0.0005", "b": "5e-05", "c": "0.001"}),
    ],
)
def test_flatten(configuration, flat):
    assert flatten(configuration) == flat


def test_several_data_sets_need_a_choice(store, make_record):
    store.write(make_record(model="good", dataset="sims", seed=1, epochs=1))
    with pytest.raises(StatisticsError, match="2 experiments"):
        select_groups(store.records(), ["good"])
    assert select_groups(store.records(), ["good"], "mosi")[0].label == "good"
    sims = next(r for r in store.records("sims"))
    with pytest.raises(StatisticsError, match="several data sets, mosi, sims"):
        select_groups(store.records(), [sims.identity.experiment, "bad"])


@pytest.mark.parametrize(
    ("name", "dataset", "said"),
    [
        ("goood", None, r"no runs of 'goood'; did you mean good"),
        ("good", "sims", r"no runs of 'good' on sims; there are runs on mosi\.$"),
        ("goood", "sims", r"'goood' on sims; there are runs on mosi\.$"),
        ("ffffffff", None, r"no runs of 'ffffffff'"),
    ],
)
def test_names_that_fit_nothing(store, name, dataset, said):
    with pytest.raises(StatisticsError, match=said):
        select_groups(store.records(), [name], dataset)
    with pytest.raises(StatisticsError, match="there are no runs here at all"):
        select_groups([], [name], dataset)


def test_shared_finished_seeds(groups):
    assert shared_seeds(*groups) == (1, 2)


def test_other_features(store, groups, make_record):
    store.write(make_record(model="else", seed=1, dataset_fingerprint="b" * 64, epochs=1))
    (other,) = select_groups(store.records(), ["else"])
    with pytest.raises(StatisticsError, match=r"other features \(sha256 a3a3a3a3a3a3 and bbbb"):
        shared_seeds(groups[0], other)


def test_no_shared_seed_and_the_same_runs(store, groups, make_record):
    store.write(make_record(model="else", seed=9, epochs=1))
    (other,) = select_groups(store.records(), ["else"])
    with pytest.raises(StatisticsError, match="no finished seed: 1, 2, 3 against 9"):
        shared_seeds(groups[0], other)
    with pytest.raises(StatisticsError, match=r"good and .* are the same runs"):
        select_groups(store.records(), ["good", groups[0].records[0].identity.experiment])
