"""Data sets that `save_to_disk` wrote."""

from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import pytest

from MMSA_ext.data.features import safe_load
from MMSA_ext.errors import ConfigError, FeatureFileError
from tests.data.convert import sources
from tests.data.convert.test_forms import converted


@pytest.fixture(autouse=True)
def no_bars() -> None:
    datasets.disable_progress_bars()


def save(folder: Path, features: datasets.Features | None = None, **columns: Any) -> None:
    rows = {"id": ["a", "b", "c"], "text": ["x", "y", None], "label": [1.5, -1.0, 0.0]}
    found = datasets.Dataset.from_dict(rows | columns)
    (found.cast(features) if features else found).save_to_disk(folder / "hub")


def test_one_data_set_with_a_column_of_splits(tmp_path: Path) -> None:
    save(tmp_path, split=["train", "validation", "test"], speaker=["p", "q", "r"])
    report = converted(tmp_path, "hub")
    data = safe_load(tmp_path / "out.pkl")
    assert data["valid"]["id"] == ["b"]
    assert data["test"]["raw_text"] == [""], "None is an empty text"
    assert "Columns not used: speaker" in report.render()


def test_array_2d_and_named_columns(tmp_path: Path) -> None:
    arrays = [np.full((n, 3), n, np.float32) for n in (2, 4, 3)]
    rows = datasets.Dataset.from_dict(
        {"label": [1, 0, -1], "frames": arrays},
        features=datasets.Features(
            label=datasets.Value("int64"), frames=datasets.Array2D((None, 3), "float32")
        ),
    )
    rows.save_to_disk(tmp_path / "hub")
    converted(tmp_path, "hub", columns={"audio": "frames"}, shares=(1, 0, 0))
    train = safe_load(tmp_path / "out.pkl")["train"]
    assert train["audio_lengths"] == [2, 4, 3]
    assert train["id"] == ["1", "2", "3"]
    assert train["regression_labels"].tolist() == [1, 0, -1]
    np.testing.assert_array_equal(train["audio"][0, :3, 0], [2, 2, 0])


def test_given_splits_may_be_left_out(tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_dict({"text": [name] * 4}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hub")
    report = converted(tmp_path, "hub", columns={"split": ""}, shares=(0.5, 0.25, 0.25))
    assert report.samples == {"train": 4, "valid": 2, "test": 2}


def test_a_group_in_two_splits_is_found(tmp_path: Path) -> None:
    parts = {
        "train": {"id": ["a", "b"], "text": ["x", "y"], "who": ["p", "q"]},
        "test": {"id": ["c", "d"], "text": ["z", "z"], "who": ["r", "q"]},
    }
    found = {name: datasets.Dataset.from_dict(part) for name, part in parts.items()}
    datasets.DatasetDict(found).save_to_disk(tmp_path / "hub")
    with pytest.raises(FeatureFileError, match=r"'who' is in two splits \(1\): 'q'"):
        converted(tmp_path, "hub", group="who")


def test_parts_may_differ_in_their_columns(tmp_path: Path) -> None:
    parts = {
        "test": {"id": ["c"], "text": ["z"], "audio": [[[1.0]]]},
        "train": {"id": ["a", "b"], "text": ["x", "y"], "label": [1.0, 2.0]},
        "extra": {"id": ["e"], "text": ["z"]},
    }
    found = {name: datasets.Dataset.from_dict(part) for name, part in parts.items()}
    datasets.DatasetDict(found).save_to_disk(tmp_path / "hub")
    with pytest.raises(FeatureFileError) as error:
        converted(tmp_path, "hub")
    assert error.match(r"M is missing \(column 'label'\) \(1\): id 'c'")
    assert error.match(r"audio is missing \(column 'audio'\) \(2\): id 'a', id 'b'")
    said = converted(tmp_path, "hub", columns={"audio": "", "label": ""}).render()
    assert "Split 'extra' is none of ours" in said
    datasets.DatasetDict({"full": found["extra"]}).save_to_disk(tmp_path / "one")
    with pytest.raises(FeatureFileError, match=r"no split that we know .*'full'"):
        converted(tmp_path, "one")
    assert converted(tmp_path, "one", columns={"split": ""}).samples == {"test": 1}


def test_many_rows_stay_in_order(tmp_path: Path) -> None:
    count = 150  # more than are read at a time
    rows = {"id": [f"s{i}" for i in range(count)], "label": [float(i) for i in range(count)]}
    rows["audio"] = [[[float(i)]] * (1 + i % 3) for i in range(count)]
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "hub")
    converted(tmp_path, "hub")
    train = safe_load(tmp_path / "out.pkl")["train"]
    assert train["audio"][:, 0, 0].tolist() == train["regression_labels"].tolist() == rows["label"]


def test_what_does_not_fit(tmp_path: Path) -> None:
    save(tmp_path, audio=[[[1.0, 2.0], [3.0]], [[1.0, 2.0]], None], vision=["a", "b", "c"])
    with pytest.raises(FeatureFileError, match="'vision' holds Value, no frames"):
        converted(tmp_path, "hub")
    with pytest.raises(FeatureFileError, match="column 'audio' holds List, no text"):
        converted(tmp_path, "hub", columns={"vision": "", "text": "audio", "audio": ""})
    with pytest.raises(FeatureFileError) as error:
        converted(tmp_path, "hub", columns={"vision": ""})
    assert error.match(r"audio is not \(frames, features\) of numbers.*'a'")
    assert error.match(r"audio is missing .*'c'")


def test_classes_are_said_to_be_numbers(tmp_path: Path) -> None:
    kinds = datasets.ClassLabel(names=["bad", "good"])
    rows = datasets.Dataset.from_dict(
        {"text": ["x", "y"], "label": [0, 1]},
        features=datasets.Features(text=datasets.Value("string"), label=kinds),
    )
    rows.save_to_disk(tmp_path / "hub")
    assert "classes, bad, good: taken as 0, 1" in converted(tmp_path, "hub").render()


def test_without_the_package(tmp_path: Path) -> None:
    sources.hugging_face(tmp_path)
    with (
        mock.patch.dict("sys.modules", datasets=None),
        pytest.raises(ConfigError, match=r"\[datasets\]"),
    ):
        converted(tmp_path, "hub")


def test_a_damaged_folder(tmp_path: Path) -> None:
    sources.hugging_face(tmp_path)
    for path in (tmp_path / "hub").rglob("*.arrow"):
        path.write_bytes(b"no arrow")
    with pytest.raises(FeatureFileError, match="cannot be loaded"):
        converted(tmp_path, "hub")
