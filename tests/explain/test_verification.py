"""Stored predictions give the stored metrics back, and a record that was changed is named."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from MMSA_ext import mmsa_bridge
from MMSA_ext.cli import report as commands
from MMSA_ext.data.features import fingerprint
from MMSA_ext.errors import ConfigError
from MMSA_ext.explain.verification import problems, render, verify_store
from MMSA_ext.records.publishing import publish
from MMSA_ext.records.store import Environment, RunIdentity, RunRecord, RunStore, StoreError
from tests.records.conftest import features_of

SPLITS = {"train": 30, "valid": 20, "test": 20}


def predictions(seed: int = 0, nan: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    tables = []
    for split, n in SPLITS.items():
        label = np.round(rng.uniform(-3, 3, n), 1).astype(np.float32)
        guess = np.zeros(n) if nan else label + rng.normal(size=n)
        ids = [f"{split}{i}" for i in range(n)]
        values = {"split": split, "id": ids, "label": label, "prediction": guess.astype("f4")}
        tables.append(pd.DataFrame(values))
    return pd.concat(tables)


def scored(table: pd.DataFrame, dataset: str, loss: str) -> dict[str, dict[str, float]]:
    metrics = {}
    for split, rows in table.groupby("split", sort=False):
        prediction, label = (torch.tensor(rows[k].to_numpy()) for k in ("prediction", "label"))
        metrics[str(split)] = mmsa_bridge.metrics(dataset)(prediction, label)
        mse = torch.nn.functional.mse_loss(prediction, label).item()
        metrics[str(split)]["Loss"] = mse if loss == "mse" else 123.0
    return metrics


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def write(store):
    def write(model="text_only", dataset="mosi", seed=1, table=None, change=None, **more):
        table = predictions(seed) if table is None else table
        metrics = scored(table, dataset, "mse" if model == "text_only" else "batches")
        for split, key, value in change or ():
            metrics[split][key] = value if value is None else metrics[split][key] + value
        identity = RunIdentity(
            dataset=dataset,
            dataset_fingerprint=more.pop("data", "0" * 64),
            model=model,
            configuration={},
            seed=seed,
            code_version="1",
        )
        values = {"status": "finished", "metrics": metrics} | more
        record = RunRecord(
            identity=identity,
            selection="lowest validation Loss",
            environment=Environment(device="cpu", python="3", platform="any"),
            **values,
        )
        return store.write(record, None if more.get("reason") else table)

    return write


def statuses(store):
    return [check.status for check in verify_store(store)]


@pytest.mark.parametrize("dataset", ["mosi", "sims"])
@pytest.mark.parametrize("model", ["text_only", "lf_dnn", "mult_infoenh"])
def test_untouched_records_are_equal(store, write, model, dataset):
    table = predictions().assign(label=lambda t: t["label"] / (3 if dataset == "sims" else 1))
    write(model, dataset, table=table)
    (check,) = verify_store(store)
    assert check.status == "equal"
    per_split = {"mosi": 8, "sims": 6}[dataset] + (model == "text_only")
    assert check.compared == 3 * per_split
    assert len(check.left_out) == (model != "text_only")
    assert ("Loss" in render([check])) == (model != "text_only")


def test_an_undefined_correlation_is_equal(store, write):
    with np.errstate(invalid="ignore"):
        write(table=predictions(nan=True))
        assert statuses(store) == ["equal"]


@pytest.mark.parametrize(
    ("key", "change", "status"),
    [
        ("MAE", 1e-4, "rounded"),
        ("Corr", -1e-4, "rounded"),
        ("MAE", 2e-4, "differs"),
        ("Has0_acc_2", 1e-4, "differs"),
        ("Corr", None, "differs"),
        ("Loss", 1e-7, "rounded"),
        ("Loss", 1e-3, "differs"),
    ],
)
@pytest.mark.parametrize("split", ["test", "train"])
def test_a_changed_metric_is_found(store, write, split, key, change, status):
    write(change=[(split, key, change)])
    (check,) = verify_store(store)
    assert check.status == status
    assert f"{split} {key} is stored as" in check.detail
    assert bool(problems([check])) == (status == "differs")


def test_the_loss_of_mmsas_loop_is_left_out(store, write):
    write("lf_dnn", change=[("test", "Loss", 5.0)])
    (check,) = verify_store(store)
    assert check.status == "equal"
    assert "batches of MMSA's loop" in check.left_out[0]


def test_a_split_without_predictions_is_named_with_its_file(store, write):
    table = predictions(1)
    metrics = scored(table, "mosi", "mse")
    path = write(table=table[table["split"] != "test"], metrics=metrics)
    shown = render(verify_store(store))
    assert f"{path.stem}.predictions.csv: has no predictions of the test split" in shown


def test_changed_predictions_are_damaged(store, write):
    path = write().with_suffix(".predictions.csv")
    path.write_text(path.read_text().replace("test1", "test9", 1))
    (check,) = verify_store(store)
    assert check.status == "damaged"
    assert "not the predictions that the record was written with" in check.detail


def test_predictions_changed_together_with_their_digest_differ(store, write):
    import hashlib

    path = write()
    table_path = path.with_suffix(".predictions.csv")
    table = pd.read_csv(table_path)
    table.loc[table["split"] == "test", "prediction"] += 0.5
    table_path.write_text(table.to_csv(index=False))
    content = json.loads(path.read_text())
    content["predictions_sha256"] = hashlib.sha256(table_path.read_bytes()).hexdigest()
    path.write_text(json.dumps(content))
    (check,) = verify_store(store)
    assert check.status == "differs"
    assert "test MAE" in check.detail
    assert "train" not in check.detail


def test_what_cannot_be_checked_is_named(store, write, tmp_path):
    write(seed=1, status="diverged", metrics={}, reason="the loss was not finite")
    write(seed=2, table=predictions().query("split != 'train'"))
    path = write(seed=3)
    content = json.loads(path.read_text()) | {"predictions_sha256": None}
    path.write_text(json.dumps(content))
    write(seed=4).write_text("{")
    found = {check.status: check for check in verify_store(store)}
    assert set(found) == {"diverged", "equal", "no predictions", "damaged"}
    assert found["equal"].compared == 18
    assert "this run record is damaged" in found["damaged"].detail
    shown = render(found.values())
    assert "no predictions: mosi/text_only/" in shown
    assert "4 records: 1 give their metrics back, 1 do not or are damaged." in shown


@pytest.fixture
def file(tmp_path):
    return features_of(predictions(1), tmp_path / "features.pkl")


def test_withheld_labels_are_said_and_checked_with_the_feature_file(store, write, file, tmp_path):
    write(data=fingerprint(file))
    write("lf_dnn", data=fingerprint(file), change=[("test", "MAE", 0.1)])
    published = RunStore(tmp_path / "published")
    publish(store, published)
    checks = list(verify_store(published))
    assert {check.status for check in checks} == {"labels withheld"}
    assert not problems(checks)
    shown = render(checks)
    lines = [line for line in shown.splitlines() if line.startswith("labels withheld: ")]
    assert len(lines) == 1
    assert lines[0].startswith("labels withheld: 2 records not computed again; give the feature")
    assert fingerprint(file) in shown
    assert "0 do not or are damaged, 2 have their labels withheld." in shown
    given = {check.record.split("/")[1]: check for check in verify_store(published, [file])}
    assert given["text_only"].status == "equal"
    assert given["text_only"].compared == 27
    assert given["lf_dnn"].status == "differs"
    path = next(published.root.rglob("text_only/*.csv"))
    path.write_text(path.read_text().replace("test1", "test9", 1))
    found = {check.record.split("/")[1]: check for check in verify_store(published, [file])}
    assert found["text_only"].status == "damaged"
    assert "with the labels of their feature file put back" in found["text_only"].detail


def test_a_feature_file_of_no_record_is_an_error(store, write, file):
    write()
    with pytest.raises(StoreError, match=r"features.pkl: none of these records was made from"):
        list(verify_store(store, [file]))


def test_command(store, write, capsys):
    import typer

    with pytest.raises(ConfigError, match="no such folder, so there are no runs"):
        commands.verify(str(store.root.parent))
    write()
    commands.verify(str(store.root.parent))
    assert "1 record: 1 give their metrics back" in capsys.readouterr().out
    write(seed=2, change=[("test", "MAE", 0.1)])
    with pytest.raises(typer.Exit) as stop:
        commands.verify(str(store.root.parent))
    assert stop.value.exit_code == 1
    assert "test MAE is stored as" in capsys.readouterr().out


def test_an_empty_store(store):
    store.root.mkdir(parents=True)
    assert render(verify_store(store)) == "The store has no records."
