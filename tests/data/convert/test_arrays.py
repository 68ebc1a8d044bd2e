"""Arrays of numpy: their places, lengths, padding, splits, and what they lack."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MMSA_ext.data.features import safe_load
from MMSA_ext.errors import ConfigError, FeatureFileError
from tests.data.convert import sources
from tests.data.convert.test_forms import converted, frames


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    sources.arrays(tmp_path)
    return {path.stem: np.load(path) for path in (tmp_path / "arrays").glob("*.npy")}


def saved(folder: Path, values: dict[str, Any], name: str = "some") -> str:
    (folder / name).mkdir(parents=True)
    for key, value in values.items():
        np.save(folder / name / f"{key}.npy", value)
    return name


def test_npz_and_folders_by_split_say_the_same(values: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", **values)
    for ours, theirs in (("train", "train"), ("valid", "dev"), ("test", "test")):
        rows = values["split"] == ours
        own = {key: value[rows] for key, value in values.items() if key != "split"}
        saved(tmp_path / "parts", own, theirs)
    found = []
    for source in ("arrays", "all.npz", "parts"):
        converted(tmp_path, source, f"{source}.pkl")
        found.append(safe_load(tmp_path / f"{source}.pkl"))
    for other in found[1:]:
        for split in sources.SPLITS:
            for key, value in found[0][split].items():
                np.testing.assert_array_equal(value, other[split][key])


def test_a_group_in_two_folders_is_found(values: dict[str, Any], tmp_path: Path) -> None:
    for name in ("train", "test"):
        rows = values["split"] == name
        own = {key: value[rows] for key, value in values.items() if key != "split"}
        saved(tmp_path / "parts", own | {"who": np.arange(rows.sum())}, name)
    with pytest.raises(FeatureFileError, match=r"'who' is in two splits \(4\): '0', '1'"):
        converted(tmp_path, "parts", group="who")


def test_lengths_end_at_the_last_frame_that_is_not_zero(
    values: dict[str, Any], tmp_path: Path
) -> None:
    stored = values.pop("audio_lengths")
    values["audio"][0, 1] = 0  # a frame of silence within
    values["vision"][1, values["vision_lengths"][1] - 1] = 0  # stored lengths hold all the same
    report = converted(tmp_path, saved(tmp_path, values))
    train = safe_load(tmp_path / "out.pkl")["train"]
    assert train["audio_lengths"] == stored[:12].tolist()
    assert train["vision_lengths"] == values["vision_lengths"][:12].tolist()
    said = report.render()
    assert "Lengths of audio: up to the last frame that is not all zeros" in said
    assert "Lengths of vision: as stored" in said
    assert report.of("train", "audio").before.high == values["audio"].shape[1]


def test_three_aligned_arrays_keep_one_length(values: dict[str, Any], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shape = (20, 6, 3)
    data = {key: generator.normal(size=shape) for key in ("text", "audio", "vision")}
    data["text"][:, 5], data["audio"][:, 4:], data["vision"][:, 3:] = 0, 0, 0
    data |= {key: values[key] for key in ("labels", "split")}
    converted(tmp_path, saved(tmp_path, data))
    train = safe_load(tmp_path / "out.pkl")["train"]
    assert {train[key].shape[1] for key in ("text", "audio", "vision")} == {5}
    assert set(train["audio_lengths"]) == set(train["vision_lengths"]) == {5}
    assert train["id"][0] == "01"


def test_zeros_in_front_are_refused_turned_or_kept(values: dict[str, Any], tmp_path: Path) -> None:
    front = values["audio"][:, ::-1].copy()
    source = saved(tmp_path, values | {"audio": front})
    with pytest.raises(FeatureFileError, match="--front-padding turn"):
        converted(tmp_path, source)
    report = converted(tmp_path, source, front_padding="turn")
    assert "moved behind them, in samples: audio" in report.render()
    train = safe_load(tmp_path / "out.pkl")["train"]
    length = values["audio_lengths"][0]
    np.testing.assert_array_equal(
        frames(train, "audio", 0), front[0, front.shape[1] - length :].astype(np.float32)
    )
    converted(tmp_path, source, front_padding="keep")
    kept = safe_load(tmp_path / "out.pkl")["train"]["audio"]
    np.testing.assert_array_equal(kept[0, 0], front[0, 0])


def test_token_ids_are_kept_without_padding(values: dict[str, Any], tmp_path: Path) -> None:
    tokens = np.zeros((20, 3, 9), int)
    tokens[:, 0, :4], tokens[:, 1, :4] = [101, 7, 8, 102], 1
    tokens[0, :2, 4] = [102, 1]
    converted(tmp_path, saved(tmp_path, values | {"text_bert": tokens}), max_length={"text": 4})
    train = safe_load(tmp_path / "out.pkl")["train"]["text_bert"]
    assert train.shape == (12, 3, 4)
    np.testing.assert_array_equal(train[1], tokens[1, :, :4])
    assert train[0, 0].tolist() == [101, 7, 8, 102], "a text that is cut keeps its last token"


@pytest.mark.parametrize(("mask", "said"), [([0, 1, 1], "padding before"), ([0] * 3, "no token")])
def test_token_ids_without_a_beginning(
    mask: list[int], said: str, values: dict[str, Any], tmp_path: Path
) -> None:
    tokens = np.ones((20, 3, 3), int)
    tokens[5, 1] = mask
    with pytest.raises(FeatureFileError, match=f"text_bert has {said}.* id 'train5'"):
        converted(tmp_path, saved(tmp_path, values | {"text_bert": tokens}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"audio": np.zeros((19, 3, 5))}, "differ in their number of samples"),
        ({"audio_lengths": np.full(20, 99)}, "audio_lengths does not fit audio"),
        ({"audio_lengths": np.full(20, -1)}, "audio_lengths does not fit audio"),
        ({"audio": np.full((20, 3, 5), "x")}, r"audio is not \(samples, time, features\)"),
        ({"text_bert": np.ones((20, 4, 5))}, r"text_bert is not .*\(12, 4, 5\)"),
        ({"labels": np.array(["good"] * 20)}, "label is no number"),
        ({"labels": np.full(20, np.nan)}, "is empty: no label"),
        ({"split": np.array(["holdout"] * 20)}, "split is none"),
    ],
)
def test_what_does_not_fit(
    change: dict[str, Any], said: str, values: dict[str, Any], tmp_path: Path
) -> None:
    source = saved(tmp_path, values | change)
    if "no label" in said:
        assert "Column 'labels' is empty: no label" in converted(tmp_path, source).render()
        return
    with pytest.raises(FeatureFileError, match=said):
        converted(tmp_path, source)


def test_arrays_that_are_not_used_are_said(values: dict[str, Any], tmp_path: Path) -> None:
    source = saved(tmp_path, values | {"times": np.ones((20, 4)), "speaker": np.arange(20)})
    said = converted(tmp_path, source).render()
    assert "Arrays not used: times" in said
    assert "Columns not used: speaker" in said


def test_objects_are_refused_with_the_mend(values: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "arrays" / "ids.npy", values["ids"].astype(object), allow_pickle=True)
    with pytest.raises(FeatureFileError, match="dtype=str"):
        converted(tmp_path, "arrays")


def test_splits_of_folders_cannot_be_left_out(values: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path / "parts", values, "train")
    with pytest.raises(ConfigError, match="the splits are folders"):
        converted(tmp_path, "parts", columns={"split": ""})


def test_no_samples(values: dict[str, Any], tmp_path: Path) -> None:
    source = saved(tmp_path, {key: value[:0] for key, value in values.items()})
    with pytest.raises(FeatureFileError, match="no array of samples, or an empty one"):
        converted(tmp_path, source)
