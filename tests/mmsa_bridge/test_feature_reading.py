"""What MMSA's loader finds in its files: what this package read of them, once."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmsa_toys import LENGTHS, write_features

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.files import read_config
from MMSA_ext.data import features as reading
from MMSA_ext.data.features import FeatureSet, read_features
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.mmsa_bridge.feature_reading import provided_features

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_features(tmp_path / "mosi.pkl", "mosi")


def arguments(path: Path, **changes: Any) -> Any:
    args = read_config("regression", "lf_dnn", "mosi")
    args.update(featurePath=str(path), need_normalized=False, **changes)
    files = {key: args.pop(key, None) for key in ("feature_T", "feature_A", "feature_V")}
    return mmsa_bridge.complete_args(args, device=CPU, model_save_path="unused", **files)


def loaded(args: Any, split: str = "valid") -> Any:
    return mmsa_bridge.stock_loaders(args)[split].dataset


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The readings made from now on."""
    made: list[Any] = []
    read = reading.read_features

    def counted(*args: Any, **options: Any) -> FeatureSet:
        made.append(args)
        return read(*args, **options)

    monkeypatch.setattr(reading, "read_features", counted)
    return made


class TestOnce:
    def test_a_file_is_read_once_for_all_splits(self, file: Path, readings: list[Any]) -> None:
        mmsa_bridge.stock_loaders(arguments(file))
        assert len(readings) == 1

    def test_what_is_provided_is_not_read(self, file: Path, readings: list[Any]) -> None:
        features = read_features(file, "mosi")
        other = replace(features.splits["valid"], audio=features.splits["valid"].audio + 1)
        readings.clear()
        with provided_features(replace(features, splits=features.splits | {"valid": other})):
            changed = loaded(arguments(file))
            with provided_features(features):
                np.testing.assert_array_equal(loaded(arguments(file)).audio + 1, changed.audio)
        assert not readings
        np.testing.assert_array_equal(loaded(arguments(file)).audio + 1, changed.audio)


class TestFiles:
    @pytest.fixture
    def parts(self, tmp_path: Path) -> Callable[..., dict[str, Path]]:
        """Files that hold one modality each, the text's with everything but the frames."""

        def write(**changes: Any) -> dict[str, Path]:
            content = pickle.loads(write_features(tmp_path / "all.pkl", "mosi").read_bytes())
            keys = {
                "T": ("text", "text_bert", "raw_text", "regression_labels"),
                "A": ("audio", "audio_lengths"),
                "V": ("vision", "vision_lengths"),
            }
            files = {}
            for role, own in keys.items():
                files[f"feature_{role}"] = path = tmp_path / f"{role}.pkl"
                splits = {n: {k: s[k] for k in (*own, "id")} for n, s in content.items()}
                path.write_bytes(pickle.dumps(splits))
            return files

        return write

    def test_three_files_need_no_base(self, parts: Any, tmp_path: Path) -> None:
        files = parts()
        whole = loaded(arguments(tmp_path / "all.pkl"))
        found = loaded(arguments(tmp_path / "nowhere.pkl", **files))
        for key in ("text", "audio", "vision", "audio_lengths", "vision_lengths", "ids"):
            np.testing.assert_array_equal(getattr(found, key), getattr(whole, key))
        np.testing.assert_array_equal(found.labels["M"], whole.labels["M"])

    def test_two_need_one(self, parts: Any, tmp_path: Path) -> None:
        files = parts()
        del files["feature_V"]
        with pytest.raises(FeatureFileError, match=r"nowhere\.pkl does not exist"):
            loaded(arguments(tmp_path / "nowhere.pkl", **files))

    def test_the_configuration_is_as_it_was(self, parts: Any, tmp_path: Path) -> None:
        args = arguments(tmp_path / "nowhere.pkl", **parts())
        loaded(args)
        assert args.custom_feature is None
        assert args.featurePath == str(tmp_path / "nowhere.pkl")

    def test_a_file_without_the_text_that_is_read(self, tmp_path: Path) -> None:
        path = write_features(tmp_path / "mosi.pkl", "mosi", text=None)
        with pytest.raises(FeatureFileError, match="has no 'text', which lf_dnn reads"):
            loaded(arguments(path))
        assert loaded(arguments(path, use_bert=True)).text.shape[2] == LENGTHS["text"]

    def test_a_file_without_frames_that_are_read(self, tmp_path: Path) -> None:
        path = write_features(tmp_path / "mosi.pkl", "mosi", vision=None, vision_lengths=None)
        with pytest.raises(FeatureFileError, match="has no vision, which MMSA's loader reads"):
            loaded(arguments(path))


def stock(path: Path, need_normalized: bool) -> Any:
    """MMSA's data set, nothing changed."""
    from MMSA.data_loader import MMDataset

    args = arguments(path)
    args.need_normalized = need_normalized
    return MMDataset(args, mode="valid")


@pytest.mark.usefixtures("stock_mmsa")
@pytest.mark.parametrize("need_normalized", [False, True])
def test_a_sound_file_is_read_as_mmsa_reads_it(file: Path, need_normalized: bool) -> None:
    """Bit for bit; where MMSA averages, its number of a NaN, of silence, of columns by rows."""
    content = pickle.loads(file.read_bytes())
    valid = content["valid"]
    rng = np.random.default_rng(1)
    valid["audio"] = np.asfortranarray(rng.lognormal(sigma=2, size=(6, 9, 5))).astype(np.float16)
    valid["vision"] = rng.lognormal(sigma=5, size=(6, 7, 4))
    valid["audio"][3, 2:4] = -np.inf
    if need_normalized:
        valid["audio"][4, 1, 2] = valid["vision"][2, 3, 1] = valid["vision"][2, 5, 1] = np.nan
    file.write_bytes(pickle.dumps(content))
    theirs = stock(file, need_normalized)
    mmsa_bridge.register()
    ours = stock(file, need_normalized)
    for key in ("text", "audio", "vision"):
        assert getattr(ours, key).dtype == getattr(theirs, key).dtype == np.float32
        np.testing.assert_array_equal(getattr(ours, key), getattr(theirs, key))
    assert ours.audio_lengths == theirs.audio_lengths
    assert ours.vision_lengths == theirs.vision_lengths
    assert (ours.ids, ours.raw_text) == (theirs.ids, theirs.raw_text)
    np.testing.assert_array_equal(ours.labels["M"], theirs.labels["M"])
