"""Zeros in front of the frames: found, turned round, or kept; and silence is left alone."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MMSA_ext.data.features import check_features, read_features
from MMSA_ext.data.front_padding import turned, turned_tokens
from MMSA_ext.data.standardise import standardise
from MMSA_ext.errors import ConfigError, FeatureFileError
from tests.conftest import make_feature_data

Data = dict[str, Any]
REFUSED = r"audio: \d+ of \d+ samples begin with zero frames .* --front-padding turn"


def in_front(array: np.ndarray, lengths: Any) -> np.ndarray:
    """(n, L, d) with the valid frames at the end."""
    moved = np.zeros_like(array)
    for row, length in enumerate(lengths):
        moved[row, array.shape[1] - length :] = array[row, :length]
    return moved


def front_padded(data: Data, *keys: str) -> Data:
    data = copy.deepcopy(data)
    for split in data.values():
        for key in keys:
            split[key] = in_front(split[key], split[f"{key}_lengths"])
    return data


@pytest.fixture
def data() -> Data:
    """No frame is zero but the padding."""
    return make_feature_data()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: Data, name: str = "data.pkl") -> Path:
        path = tmp_path / name
        path.write_bytes(pickle.dumps(data))
        return path

    return write


def without_lengths(data: Data) -> Data:
    for split in data.values():
        for key in ("audio_lengths", "vision_lengths"):
            del split[key]
    return data


class TestFound:
    @pytest.mark.parametrize("lengths", [True, False])
    def test_refused_with_the_mend(self, data: Data, write: Any, lengths: bool) -> None:
        padded = front_padded(data, "audio")
        path = write(padded if lengths else without_lengths(padded))
        with pytest.raises(FeatureFileError, match=REFUSED) as error:
            read_features(path, "mosi")
        assert "vision:" not in str(error.value)
        with pytest.raises(FeatureFileError, match=REFUSED):
            read_features(path, "mosi", require_labels=False)

    def test_in_a_large_file_that_is_kept(
        self, data: Data, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MMSA_EXT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("MMSA_ext.data.feature_cache._SMALLEST_BYTES", 1)
        path = write(without_lengths(front_padded(data, "audio")))
        expected = read_features(path, "mosi", front_padding="turn", cache=False)
        for _ in range(2):
            found = read_features(path, "mosi", front_padding="turn")
            for name, split in found.splits.items():
                np.testing.assert_array_equal(split.audio, expected.splits[name].audio)
                assert split.audio_lengths.tolist() == data[name]["audio_lengths"]
            with pytest.raises(FeatureFileError, match=REFUSED):
                read_features(path, "mosi")

    def test_kept_on_request(self, data: Data, write: Any) -> None:
        padded = front_padded(data, "audio")
        split = read_features(write(padded), "mosi", front_padding="keep").splits["train"]
        np.testing.assert_array_equal(split.audio, padded["train"]["audio"])

    def test_silence_is_no_padding(self, data: Data, write: Any) -> None:
        for split in data.values():
            split["audio"][:4, :3] = 0  # also of samples as long as the array
            split["vision"][1:5, :2] = 0
        assert check_features(write(data), "mosi").ok

    def test_frames_of_one_length_with_silence_on_both_sides(self, data: Data, write: Any) -> None:
        generator = np.random.default_rng(0)
        for split in data.values():
            n = len(split["id"])
            split["vision"] = generator.normal(size=(n, 8, 4)).astype(np.float32)
            split["vision"][: n // 2, :3] = 0
            split["vision"][n // 2 :, 6:] = 0
            split["vision_lengths"] = [8] * n
        assert check_features(write(data), "mosi").ok

    def test_no_vision_is_no_padding(self, data: Data, write: Any) -> None:
        for split in data.values():
            split["vision"] = np.zeros((len(split["id"]), 1, 4), np.float32)
            split["vision_lengths"] = [1] * len(split["id"])
        assert check_features(write(data), "mosi").ok

    def test_samples_without_frames_do_not_hide_it(self, data: Data, write: Any) -> None:
        padded = without_lengths(front_padded(data, "vision"))
        for split in padded.values():
            split["vision"][::2] = 0
        assert any("vision: " in line for line in check_features(write(padded), "mosi").problems)

    def test_an_unknown_choice(self, data: Data, write: Any) -> None:
        with pytest.raises(ConfigError, match=r"use 'turn'.*'keep'"):
            read_features(write(data), "mosi", front_padding="flip")  # type: ignore[arg-type]


class TestTurned:
    @pytest.mark.parametrize("lengths", [True, False])
    def test_everything_is_where_it_belongs(self, data: Data, write: Any, lengths: bool) -> None:
        padded = front_padded(data, "audio", "vision")
        path = write(padded if lengths else without_lengths(padded))
        features = read_features(path, "mosi", front_padding="turn")
        for name, split in features.splits.items():
            for key in ("audio", "vision"):
                np.testing.assert_array_equal(getattr(split, key), data[name][key])
                assert getattr(split, f"{key}_lengths").tolist() == data[name][f"{key}_lengths"]
        assert "[train] audio: zero frames in front of 9 samples" in "\n".join(
            features.report.notes
        )
        assert features.report.warnings == []

    def test_silence_at_the_start_stays_where_the_lengths_are_stored(
        self, data: Data, write: Any
    ) -> None:
        data["train"]["audio"][3, :2] = 0
        padded = front_padded(data, "audio")
        split = read_features(write(padded), "mosi", front_padding="turn").splits["train"]
        np.testing.assert_array_equal(split.audio, data["train"]["audio"])

    def test_what_is_padded_behind_stays(self, data: Data, write: Any) -> None:
        features = read_features(write(data), "mosi", front_padding="turn")
        plain = read_features(write(data), "mosi")
        for name, split in features.splits.items():
            np.testing.assert_array_equal(split.audio, plain.splits[name].audio)
            np.testing.assert_array_equal(split.text_bert, plain.splits[name].text_bert)

    def test_no_frame_is_lost(self) -> None:
        generator = np.random.default_rng(0)
        array = generator.normal(size=(600, 7, 2)) * (generator.random((600, 7, 1)) < 0.4)
        lengths = generator.integers(1, 8, 600)
        for known in ({}, {"audio": lengths}):
            before = array.copy()
            moved, count = turned({"audio": array}, known)["audio"]
            np.testing.assert_array_equal(array, before)
            assert 0 < count < 600
            for old, new in zip(array, moved, strict=True):
                kept = [frame.tolist() for frame in old if frame.any()]
                assert [frame.tolist() for frame in new if frame.any()] == kept

    @pytest.mark.parametrize("absent", [None, "audio"])
    def test_steps_of_aligned_modalities_stay_together(
        self, data: Data, write: Any, absent: str | None
    ) -> None:
        generator = np.random.default_rng(1)
        for split in data.values():
            lengths = split["audio_lengths"] = split["vision_lengths"] = generator.integers(
                3, 9, len(split["id"])
            ).tolist()
            valid = (np.arange(8) < np.array(lengths)[:, None])[..., None]
            for key, width in (("text", 6), ("audio", 5), ("vision", 4)):
                split[key] = generator.normal(size=(len(lengths), 8, width)) * valid
            split["vision"][:, 0] = 0  # no face at the first word
            split["vision"][2] = 0
        padded = copy.deepcopy(data)
        for split in padded.values():
            for key in ("text", "audio", "vision"):
                split[key] = in_front(split[key], split["audio_lengths"])
            split.pop(absent, None)
        features = read_features(write(without_lengths(padded)), "mosi", front_padding="turn")
        for name, split in features.splits.items():
            for key in {"text", "audio", "vision"} - {absent}:
                np.testing.assert_array_equal(getattr(split, key), data[name][key])

    def test_tokens(self, data: Data, write: Any) -> None:
        padded = front_padded(data, "audio")
        for split in padded.values():
            lengths = split["text_bert"][:, 1].sum(axis=1).astype(int)
            tokens = in_front(split["text_bert"].swapaxes(1, 2), lengths).swapaxes(1, 2)
            split["text_bert"] = tokens
        path = write(padded)
        with pytest.raises(FeatureFileError, match=r"text_bert: mask .* --front-padding turn"):
            read_features(path, "mosi")
        features = read_features(path, "mosi", front_padding="turn")
        for name, split in features.splits.items():
            np.testing.assert_array_equal(split.text_bert, data[name]["text_bert"])

    @pytest.mark.parametrize("value", [None, "text", [[1], [1, 2]], np.ones((2, 2, 5)), [[[None]]]])
    def test_what_are_no_tokens_is_left_to_the_checks(self, value: Any) -> None:
        assert turned_tokens(value) is value

    def test_one_sample(self, write: Any) -> None:
        sample = {
            "audio": np.concatenate([np.zeros((3, 2)), np.ones((4, 2))]),
            "vision": np.ones((4, 2)),
            "text": np.ones((5, 6)),
        }
        path = write(sample)
        split = read_features(path, require_labels=False).splits["sample"]
        assert split.audio_lengths.tolist() == [7]  # three frames of silence, as far as one can see
        split = read_features(path, require_labels=False, front_padding="turn").splits["sample"]
        assert split.audio_lengths.tolist() == [4]
        assert split.audio[0, :4].all()


def test_standardising_writes_a_file_that_is_padded_behind(
    data: Data, write: Any, tmp_path: Path
) -> None:
    path = write(without_lengths(front_padded(data, "audio", "vision")))
    with pytest.raises(FeatureFileError, match=REFUSED):
        standardise(path, tmp_path / "out.pkl")
    expected = standardise(write(data, "plain.pkl"), tmp_path / "expected.pkl")
    found = standardise(path, tmp_path / "out.pkl", front_padding="turn")
    for name, split in read_features(expected, "mosi").splits.items():
        other = read_features(found, "mosi").splits[name]
        np.testing.assert_array_equal(other.audio, split.audio)
        np.testing.assert_array_equal(other.vision_lengths, split.vision_lengths)
