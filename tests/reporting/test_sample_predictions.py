import pandas as pd
import pytest

from MMSA_ext.records.store import RunStore, StoreError, StoreWarning
from MMSA_ext.reporting.sample_predictions import by_sample
from MMSA_ext.reporting.statistics import StatisticsError

FRAME = pd.DataFrame(
    {
        "split": ["test", "test", "test", "valid"],
        "id": ["a", "b", "c", "a"],
        "label": [1.0, 2.0, 3.0, 9.0],
        "prediction": [1.1, 2.1, 3.1, 9.1],
    }
)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path)


@pytest.fixture
def write(store, make_record):
    def write(model, seed, table):
        record = make_record(model=model, seed=seed, epochs=1)
        store.write(record, table)
        return next(r for r in store.records(model=model) if r.identity.seed == seed)

    return write


def test_joins_by_id(store, write):
    other = FRAME.assign(prediction=FRAME["prediction"] + 1).iloc[[2, 0, 3, 1]]
    systems = {"one": [write("one", 1, FRAME)], "two": [write("two", s, other) for s in (1, 2)]}
    labels, found = by_sample(store, systems)
    assert labels.to_dict() == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert found["one"][1].tolist() == [1.1, 2.1, 3.1]
    assert list(found["two"]) == [1, 2]
    assert found["two"][2].tolist() == [2.1, 3.1, 4.1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[1:], "one run only, such as 'a'"),
        (lambda f: f.assign(label=0.0), "labels of the test split differ"),
    ],
)
def test_runs_on_other_data_are_refused(store, write, change, message):
    systems = {"one": [write("one", 1, FRAME)], "two": [write("two", 1, change(FRAME))]}
    with pytest.raises(StatisticsError, match=message):
        by_sample(store, systems)


def test_a_system_without_predictions_is_named(store, write):
    systems = {"one": [write("one", 1, FRAME)], "two": [write("two", 1, None)]}
    with (
        pytest.warns(StoreWarning, match="without predictions"),
        pytest.raises(StoreError, match="two has no run whose predictions can be used"),
    ):
        by_sample(store, systems)
