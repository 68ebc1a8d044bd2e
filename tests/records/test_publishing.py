"""Records without labels: what is published, and that only the labels of the run bring it back."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from MMSA_ext.data.features import fingerprint
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.names import SPLITS
from MMSA_ext.records.publishing import Copied, publish, restore
from MMSA_ext.records.store import LabelsWithheldError, RunStore, StoreError, StoreWarning
from tests.records.conftest import features_of

IDS = ("0001", "NA", "a,b", 'say "x"', "ü", "1e5", " x ", "-0")


def predicted(seed):
    """Predictions in another order for each seed, as MMSA's loaders shuffle."""
    rng = np.random.default_rng(seed)
    tables = []
    for number, split in enumerate(SPLITS):
        labels = np.roll(np.linspace(-3, 3, len(IDS)).astype(np.float32), number)
        guess = rng.normal(size=len(IDS)).astype(np.float32)
        table = {"split": split, "id": [f"{split}{key}" for key in IDS], "label": labels}
        tables.append(pd.DataFrame(table | {"prediction": guess}))
    return pd.concat(tables).sample(frac=1, random_state=seed)


@pytest.fixture
def file(tmp_path):
    return features_of(predicted(0), tmp_path / "features.pkl")


@pytest.fixture
def store(tmp_path, file, make_record, make_diverged_record):
    """Two runs with predictions, one that diverged, one of another data set."""
    store = RunStore(tmp_path / "complete")
    data = {"dataset_fingerprint": fingerprint(file)}
    for seed in (1, 2):
        store.write(make_record(seed=seed, **data), predicted(seed))
    store.write(make_diverged_record(seed=3, **data))
    store.write(make_record(dataset="sims", seed=4), predicted(4))
    return store


@pytest.fixture
def published(tmp_path, store):
    published = RunStore(tmp_path / "published")
    assert publish(store, published) == Copied(4, 0, {})
    return published


def contents(store):
    files = (path for path in store.root.rglob("*") if path.suffix in (".json", ".csv"))
    return {path.relative_to(store.root): path.read_bytes() for path in files}


def first(store):
    """The record of seed 1, and its predictions' file."""
    record = next(record for record in store.records("mosi") if record.identity.seed == 1)
    return record, store.predictions_path(record.identity)


def test_what_is_published_is_all_but_the_labels(store, published):
    old, new = contents(store), contents(published)
    assert set(new) == set(old)
    tables = [path for path in old if path.suffix == ".csv"]
    assert len(tables) == 3
    assert all(new[path] == old[path] for path in old if path not in tables)
    for path in tables:
        complete, without = (
            pd.read_csv(at.root / path, dtype=str, keep_default_na=False)
            for at in (store, published)
        )
        assert (without["label"] == "").all()
        pd.testing.assert_frame_equal(without.drop(columns="label"), complete.drop(columns="label"))


def test_published_again_nothing_changes(store, published, make_record):
    before = contents(published)
    assert publish(store, published) == Copied(0, 4, {})
    assert contents(published) == before
    store.write(make_record(dataset="sims", seed=5), predicted(5))
    store.write(make_record(seed=5), predicted(5))
    assert publish(store, published, ["sims"]) == Copied(1, 1, {})
    first(published)[1].unlink()  # as where a process was killed
    assert publish(store, published, ["mosi"]) == Copied(2, 2, {})


def test_withheld_labels_are_said_with_the_file_and_the_mend(published, file):
    record, _ = first(published)
    with pytest.raises(LabelsWithheldError) as said:
        published.predictions(record)
    assert str(said.value).startswith(f"{published.path(record.identity)}: the labels of")
    assert fingerprint(file) in str(said.value)
    assert "mmsa-ext verify -f FILE" in str(said.value)


def test_labels_are_put_back_exactly(tmp_path, store, published, file, make_record):
    back = RunStore(tmp_path / "back")
    sims = make_record(dataset="sims").identity.dataset_fingerprint
    assert restore(published, back, [file]) == Copied(3, 0, {sims: 1})
    complete = {path: content for path, content in contents(store).items() if "mosi" in path.parts}
    assert contents(back) == complete
    assert restore(published, back, [file]) == Copied(0, 3, {sims: 1})
    record, _ = first(back)
    pd.testing.assert_frame_equal(back.predictions(record), store.predictions(record))
    # A store of one's own may have complete predictions and withheld ones.
    assert restore(published, published, [file]) == Copied(2, 1, {sims: 1})
    assert complete.items() <= contents(published).items()


def test_another_file_is_refused(tmp_path, published, file):
    table = predicted(0)
    table.iloc[3, 2] += 0.5  # a label
    other = features_of(table, tmp_path / "other.pkl")
    with pytest.raises(StoreError, match=f"other.pkl: none of.*{fingerprint(other)}.*were from"):
        restore(published, published, [file, other])
    with pytest.raises(FeatureFileError):
        restore(published, published, [tmp_path / "absent.pkl"])


@pytest.mark.parametrize("column", ["label", "prediction", "id"])
def test_one_changed_cell_is_found(tmp_path, published, file, column):
    record, path = first(published)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[3, column] = "0.25"
    path.write_text(table.to_csv(index=False))
    with pytest.raises(StoreError, match="not the predictions that the record was written with"):
        restore(published, RunStore(tmp_path / "back"), [file])
    if column == "label":  # seen without the file
        with pytest.raises(StoreError, match=r"csv: these are not the predictions"):
            published.predictions(record)


def test_other_content_is_never_replaced(tmp_path, store, published, file, make_record):
    with pytest.raises(StoreError, match="name another folder"):
        publish(store, RunStore(tmp_path / "published" / ".." / "complete"))
    again = RunStore(tmp_path / "again")
    again.write(make_record(seed=1, dataset_fingerprint=fingerprint(file), notes=["other"]))
    before = contents(again)
    with pytest.raises(StoreError) as said:
        publish(store, again)
    for each in (store, again):
        assert str(each.path(first(store)[0].identity)) in str(said.value)
    assert before.items() <= contents(again).items()
    # Labels that are there are neither removed nor taken for published.
    complete = RunStore(tmp_path / "back")
    restore(published, complete, [file])
    before = contents(complete)
    with pytest.raises(StoreError, match=r"csv: is there already, with other content than .*csv"):
        publish(store, complete)
    assert contents(complete) == before


def test_what_could_not_be_put_back_is_not_published(tmp_path, store):
    record, path = first(store)
    path.write_text(pd.read_csv(path, dtype=str).to_csv(index=False))
    content = json.loads(store.path(record.identity).read_text())
    content["predictions_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    store.path(record.identity).write_text(json.dumps(content))
    with pytest.raises(StoreError, match="written by another program"):
        publish(store, RunStore(tmp_path / "published"))


def test_runs_without_labels_are_passed_over(published, file):
    runs = list(published.records("mosi"))[:3]
    finished = [run for run in runs if run.finished]
    with pytest.raises(LabelsWithheldError):
        published.usable_predictions(finished)
    restore(published, published, [file])
    assert len(published.usable_predictions(finished)) == 2
    _, path = first(published)
    without = pd.read_csv(path, dtype=str, keep_default_na=False).assign(label="")
    path.write_text(without.to_csv(index=False))
    with pytest.warns(StoreWarning, match=r"labels of its predictions are withheld.*passed over"):
        assert len(published.usable_predictions(finished)) == 1
