"""Which runs are one row, what a user may call them, and which seeds pair."""

import pytest

from MMSA_ext.records.store import RunStore
from MMSA_ext.reporting.groups import select_groups, shared_seeds
from MMSA_ext.reporting.statistics import StatisticsError


@pytest.fixture
def store(tmp_path, make_record, make_diverged_record):
    """Two models over three seeds, the third of `bad` diverged."""
    store = RunStore(tmp_path)
    for seed in (1, 2, 3):
        store.write(make_record(model="good", seed=seed, epochs=1))
        make = make_diverged_record if seed == 3 else make_record
        store.write(make(model="bad", seed=seed))
    return store


@pytest.fixture
def groups(store):
    return select_groups(store.records(), ["good", "bad"])


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


def test_experiments_of_one_model_are_told_apart(store, groups, make_record):
    other = make_record(model="good", seed=1, code_version="0.2.0", epochs=1)
    store.write(other)
    ids = [run.identity.experiment for run in (groups[0].records[0], other)]
    labels = [group.label for group in select_groups(store.records(), ids)]
    assert labels == [f"good #{i[:6]}" for i in ids]


def test_several_data_sets_need_a_choice(store, make_record):
    store.write(make_record(model="good", dataset="sims", seed=1, epochs=1))
    with pytest.raises(StatisticsError, match="2 experiments"):
        select_groups(store.records(), ["good"])
    assert select_groups(store.records(), ["good"], "mosi")[0].label == "good"
    sims = next(r for r in store.records("sims"))
    with pytest.raises(StatisticsError, match="several data sets, mosi, sims"):
        select_groups(store.records(), [sims.identity.experiment, "bad"])


def test_names_that_fit_nothing(store):
    with pytest.raises(StatisticsError, match=r"no runs of 'goood'; did you mean good"):
        select_groups(store.records(), ["goood"])
    with pytest.raises(
        StatisticsError, match=r"no runs of 'good' on sims; there are runs on mosi\."
    ):
        select_groups(store.records(), ["good"], "sims")
    with pytest.raises(StatisticsError, match=r"'goood' on sims; there are runs on mosi\."):
        select_groups(store.records(), ["goood"], "sims")
    with pytest.raises(StatisticsError, match="there are no runs here at all"):
        select_groups([], ["good"], "sims")
    with pytest.raises(StatisticsError, match=r"no runs of 'ffffffff'"):
        select_groups(store.records(), ["ffffffff"])


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
