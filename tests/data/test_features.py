"""Reading and checking feature files: what is accepted, repaired, reported and refused."""

import copy
import hashlib
import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from MMSA_ext.data.feature_checks import Scope, check_ids
from MMSA_ext.data.feature_report import FeatureReport
from MMSA_ext.data.features import (
    check_features,
    fingerprint,
    read_features,
    safe_load,
    write_features,
)
from MMSA_ext.datasets import Dataset, known
from MMSA_ext.errors import FeatureFileError

Data = dict[str, Any]
SIZES = {"train": 6, "valid": 3, "test": 4}


def make_split(name: str, n: int, seed: int) -> Data:
    generator = np.random.default_rng(seed)
    text_lengths = generator.integers(3, 9, n)
    mask = (np.arange(8) < text_lengths[:, None]).astype(np.float32)
    audio_lengths, vision_lengths = generator.integers(1, 6, n), generator.integers(1, 5, n)
    audio = generator.normal(size=(n, 5, 3)).astype(np.float32)
    vision = generator.normal(size=(n, 4, 2)).astype(np.float32)
    audio[np.arange(5) >= audio_lengths[:, None]] = 0
    vision[np.arange(4) >= vision_lengths[:, None]] = 0
    return {
        "id": [f"{name}_{i}" for i in range(n)],
        "raw_text": np.array([f"text {i}" for i in range(n)]),
        "text_bert": np.stack([mask * 2053, mask, mask * 0], axis=1),
        "text": generator.normal(size=(n, 8, 6)).astype(np.float32),
        "audio": audio,
        "vision": vision,
        "audio_lengths": audio_lengths.tolist(),
        "vision_lengths": vision_lengths,
        "regression_labels": generator.uniform(-1, 1, n).astype(np.float32),
        "annotations": np.array(["Neutral"] * n),
    }


@pytest.fixture
def data() -> Data:
    return {name: make_split(name, n, seed) for seed, (name, n) in enumerate(SIZES.items())}


@pytest.fixture
def problems(tmp_path: Path) -> Callable[..., list[str]]:
    def check(data: Any, dataset: str | None = "mosi", **options: Any) -> list[str]:
        write = tmp_path / "data.pkl"
        write.write_bytes(pickle.dumps(data, protocol=4))
        return check_features(write, dataset, **options).problems

    return check


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Any]:
    def reader(data: Any, dataset: str | None = "mosi", **options: Any) -> Any:
        return read_features(write_features(tmp_path / "data.pkl", data), dataset, **options)

    return reader


class TestGoodFiles:
    def test_everything_arrives_unchanged(self, data: Data, read: Any) -> None:
        features = read(data)
        assert features.fingerprint == hashlib.sha256(features.path.read_bytes()).hexdigest()
        assert features.fingerprint == features.report.fingerprint
        assert list(features.splits) == ["train", "valid", "test"]
        assert features.report.problems == features.report.warnings == features.report.notes == []
        for name, split in features.splits.items():
            assert split.name == name
            assert len(split) == SIZES[name]
            assert split.ids == data[name]["id"]
            assert split.raw_text == data[name]["raw_text"].tolist()
            assert type(split.raw_text[0]) is str
            for key in ("text_bert", "text", "audio", "vision"):
                np.testing.assert_array_equal(getattr(split, key), data[name][key])
            for key in ("audio_lengths", "vision_lengths"):
                assert getattr(split, key).dtype == np.int64
                np.testing.assert_array_equal(getattr(split, key), data[name][key])
            assert list(split.labels) == ["M"]
            assert split.labels["M"].dtype == np.float32

    def test_stored_dtypes_stay(self, data: Data, read: Any) -> None:
        data["train"]["audio"] = data["train"]["audio"].astype(np.float16)
        data["train"]["vision"] = (data["train"]["vision"] * 10).astype(np.int16)
        data["train"]["text_bert"] = data["train"]["text_bert"].astype(np.int32)
        split = read(data).splits["train"]
        assert split.audio.dtype == np.float16
        assert split.vision.dtype == np.int16
        assert split.text_bert.dtype == np.int32

    def test_ids_may_be_numbers_and_labels_a_list(self, data: Data, read: Any) -> None:
        data["valid"]["id"] = [1, 2, 3]
        data["valid"]["regression_labels"] = [0.5, -1, 1]
        split = read(data).splits["valid"]
        assert split.ids == ["1", "2", "3"]
        assert split.labels["M"].tolist() == [0.5, -1, 1]

    @pytest.mark.parametrize("dropped", ["text", "text_bert"])
    def test_one_text_key_is_enough(self, data: Data, read: Any, dropped: str) -> None:
        for split in data.values():
            del split[dropped]
        assert getattr(read(data).splits["test"], dropped) is None

    def test_lengths_are_derived_from_trailing_zero_frames(self, data: Data, read: Any) -> None:
        expected = {name: split.pop("audio_lengths") for name, split in data.items()}
        data["train"]["audio"][2, 0] = 0  # a zero frame before the end counts
        data["test"]["audio"][1] = 0
        expected["test"][1] = 1
        features = read(data)
        for name, split in features.splits.items():
            if name == "train":
                assert split.audio_lengths[2] == max(expected[name][2], 1)
            assert split.audio_lengths.tolist() == expected[name]
        assert "[train] audio_lengths: is absent; derived" in features.report.notes[0]

    def test_zero_length_becomes_one(self, data: Data, read: Any) -> None:
        data["train"]["vision_lengths"][4] = 0
        features = read(data)
        assert features.splits["train"].vision_lengths[4] == 1
        assert features.report.warnings == [
            "[train] vision_lengths: is 0 in 1 sample: 4 (id 'train_4'); read as 1."
        ]

    def test_unimodal_labels_of_sims(self, data: Data, read: Any) -> None:
        for split in data.values():
            for kind in "TA":
                split[f"regression_labels_{kind}"] = split["regression_labels"] * 0.5
        data["unimodal_labels"] = "copied from M"
        features = read(data, "sims")
        assert list(features.splits["train"].labels) == ["M", "T", "A"]
        notes = "\n".join(features.report.notes)
        assert "unimodal_labels: copied from M" in notes
        assert "[train] regression_labels_V: absent" in notes

    def test_modality_of_zeros_is_noted(self, data: Data, read: Any) -> None:
        data["train"]["vision"][:] = 0
        assert "[train] vision: is all zeros" in read(data).report.notes[0]


class TestRepairs:
    def test_nan_and_silence_become_zero(self, data: Data, read: Any) -> None:
        data["train"]["audio"][1, 0, :2] = -np.inf
        data["train"]["audio"][3, 1, 0] = np.nan
        data["test"]["vision"][0, 0] = np.nan
        features = read(data)
        assert not features.splits["train"].audio[1, 0, :2].any()
        assert features.splits["train"].audio[1, 0, 2] == data["train"]["audio"][1, 0, 2]
        assert np.isfinite(features.splits["test"].vision).all()
        assert features.report.warnings == [
            "[train] audio: 1 NaN and 2 -inf set to 0 in 2 samples: 1 (id 'train_1'), 3 (id "
            "'train_3').",
            "[test] vision: 2 NaN set to 0 in 1 sample: 0 (id 'test_0').",
        ]

    def test_read_only_arrays_are_repaired_too(self, data: Data, tmp_path: Path) -> None:
        data["train"]["audio"][1, 0, 0] = np.nan
        data["train"]["audio"].flags.writeable = False
        path = tmp_path / "data.pkl"
        path.write_bytes(pickle.dumps(data, protocol=5))
        assert read_features(path, "mosi").splits["train"].audio[1, 0, 0] == 0

    def test_memory_is_about_the_size_of_the_file(self, data: Data, tmp_path: Path) -> None:
        data["train"]["audio"] = np.ones((6, 200_000, 3), np.float32)
        data["train"]["audio"][0, 0, 0] = np.nan
        del data["train"]["audio_lengths"]
        path = write_features(tmp_path / "large.pkl", data)
        del data
        tracemalloc.start()
        read_features(path, "mosi")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.5 * path.stat().st_size


def _set(split: str, key: str, value: Any) -> Callable[[Data], None]:
    return lambda data: data[split].__setitem__(key, value)


def _edit(split: str, key: str, index: Any, value: Any) -> Callable[[Data], None]:
    return lambda data: data[split][key].__setitem__(index, value)


def _drop(split: str, *keys: str) -> Callable[[Data], None]:
    return lambda data: [data[split].pop(key) for key in keys] and None


BAD = {
    "no split": (lambda d: d.pop("valid"), r"Splits missing: valid\. .*other keys: none"),
    "split called dev": (
        lambda d: d.update(Dev=d.pop("valid")), r"Splits missing: valid\..* Rename 'Dev' to 'valid'"
    ),
    "labels under another key": (
        lambda d: d["test"].update(labels=d["test"].pop("regression_labels")),
        r"\[test\] regression_labels: is missing\..* Rename 'labels'",
    ),
    "split is a list": (lambda d: d.update(test=[]), r"\[test\] is a list; must be a dict"),
    "no audio": (_drop("train", "audio"), r"\[train\] audio: is missing\. Store it in every split"),
    "no text": (_drop("train", "text", "text_bert"), r"\[train\] text_bert: is missing.*encode-te"),
    "no id": (_drop("train", "id"), r"\[train\] id: is missing"),
    "no raw_text": (_drop("train", "raw_text"), r"\[train\] raw_text: is missing"),
    "no labels": (_drop("test", "regression_labels"), r"\[test\] regression_labels: is missing"),
    "text in some splits": (_drop("test", "text"), r"\[test\] text: is missing, but train, v"),
    "2-D audio": (_set("train", "audio", np.ones((6, 3))), r"\[train\] audio: has 2 dimensions"),
    "no frames": (_set("train", "audio", np.ones((6, 0, 3))), r"\[train\] audio: is empty"),
    "text dtype": (_set("train", "audio", np.full((6, 5, 3), "x")), r"\[train\] audio: .*dtype <U"),
    "object dtype": (
        _set("train", "audio", np.array([np.ones((2, 3)), None] * 3, dtype=object)),
        r"\[train\] audio: has samples of different shapes, or without values",
    ),
    "ragged lists": (
        _set("train", "audio", [[[1.0]], [[1.0], [2.0]]] * 3),
        r"\[train\] audio: has samples of different shapes",
    ),
    "infinite audio": (
        _edit("valid", "audio", (2, 0, 0), np.inf),
        r"^\[valid\] audio: is infinite in 1 sample: 2 \(id 'valid_2'\)",
    ),
    "infinite vision": (_edit("valid", "vision", (2, 0, 0), np.inf), r"vision: is infinite in 1"),
    "minus infinite": (_edit("valid", "vision", (2, 0, 0), -np.inf), r"vision: is infinite in 1"),
    "counts": (
        _set("train", "vision", np.ones((5, 4, 2))),
        r"\[train\] samples: .*id 6.*vision 5",
    ),
    "feature dimension": (
        _set("test", "audio", np.ones((4, 5, 7))),
        r"audio: the feature dimension differs .*train 3, valid 3, test 7",
    ),
    "length too long": (
        _edit("train", "audio_lengths", 2, 6),
        r"\[train\] audio_lengths: is outside 1\.\.5 .* 2 \(id 'train_2'\); the first is 6",
    ),
    "negative length": (_edit("train", "audio_lengths", 2, -1), r"outside 1\.\.5"),
    "fractional length": (_edit("train", "audio_lengths", 2, 1.5), r"no whole number in 1 sample"),
    "2-D lengths": (_set("train", "audio_lengths", np.ones((6, 2), int)), r"must have shape"),
    "repeated id": (_edit("train", "id", 3, "train_1"), r"\[train\] id: 1 ids .*'train_1' at \[1,"),
    "id in two splits": (
        _edit("test", "id", 2, "train_1"),
        r"\[train, test\] id: 1 samples are in both splits: 'train_1' \(train 1, test 2\)",
    ),
    "id of three parts": (
        lambda d: d["train"].update(id=np.array([[i, "0", "1"] for i in d["train"]["id"]])),
        r"\[train\] id: must be a list or 1-D array .*shape \(6, 3\)\. Join the parts",
    ),
    "id is one text": (_set("train", "id", "abc"), r"\[train\] id: must be a list"),
    "text is none": (_set("train", "raw_text", ["a"] * 5 + [None]), r"NoneType instead of .*: 5"),
    "NaN label": (
        _edit("valid", "regression_labels", 1, np.nan),
        r"\[valid\] regression_labels: is absent, NaN or infinite in 1 sample: 1 \(id 'valid_1'\)",
    ),
    "label range": (
        _edit("valid", "regression_labels", 1, 3.5),
        r"\[valid\] regression_labels: is outside \[-3, 3\], the range of mosi, .*first is 3\.5",
    ),
    "label shape": (_set("test", "regression_labels", np.ones((4, 2))), r"must have shape"),
    "text_bert swapped": (
        lambda d: d["train"].update(text_bert=d["train"]["text_bert"].swapaxes(1, 2)),
        r"\[train\] text_bert: must have shape \(samples, 3, tokens\).*Swap",
    ),
    "fractional id": (_edit("train", "text_bert", (1, 0, 0), 0.5), r"no token numbers in .*: 1 \("),
    "negative token": (_edit("train", "text_bert", (1, 0, 0), -1), r"no token numbers"),
    "NaN token": (_edit("train", "text_bert", (1, 0, 0), np.nan), r"no token numbers"),
    "mask value": (_edit("train", "text_bert", (1, 1, 0), 2), r"mask \(row 1\) is not 0 or 1"),
    "mask hole": (_edit("train", "text_bert", (1, 1, 0), 0), r"not ones followed by zeros.*: 1 \("),
    "mask empty": (_edit("train", "text_bert", (1, 1), 0), r"mask \(row 1\) is all 0 in 1 sample"),
    "segments": (_edit("train", "text_bert", (1, 2, 0), 7), r"segments \(row 2\) are not 0 or 1"),
    "float16 tokens": (
        lambda d: d["train"].update(text_bert=d["train"]["text_bert"].astype(np.float16)),
        r"\[train\] text_bert: is float16, which rounds token ids above 2048",
    ),
}  # fmt: skip


class TestValues:
    """Sound for a reader, not for training."""

    @pytest.mark.parametrize(
        ("dtype", "value"), [(np.float32, 3e38), (np.float64, -1e30), (np.float64, 1e300)]
    )
    def test_too_large_to_compute_with(
        self, data: Data, problems: Any, dtype: type, value: float
    ) -> None:
        data["train"]["vision"] = data["train"]["vision"].astype(dtype)
        data["train"]["vision"][3, 1, 1] = data["train"]["vision"][5, :, 1] = value
        (problem,) = problems(data)
        assert problem.startswith(
            f"[train] vision: is as large as {abs(value):.3g} in feature 1 of"
        )
        assert "2 samples: 3 (id 'train_3'), 5 (id 'train_5'): models compute in float32" in problem

    def test_beside_nan_and_infinity(self, data: Data, problems: Any) -> None:
        audio = data["train"]["audio"]
        audio[0, 0, 0], audio[1, 0, 1], audio[2, 0, 2] = np.nan, np.inf, 1e25
        infinite, large = problems(data)
        assert "is infinite in 1 sample: 1 (id 'train_1')" in infinite
        assert "in feature 2 of 1 sample: 2 (id 'train_2')" in large

    def test_sums_of_squares_of_what_is_taken_are_finite(self, data: Data, read: Any) -> None:
        limit = np.sqrt(np.finfo(np.float32).max / (5 * 3))
        data["train"]["audio"][:] = limit * 0.999
        taken = read(data).splits["train"].audio
        assert np.isfinite((taken**2).sum(axis=(1, 2), dtype=np.float32)).all()
        data["train"]["audio"][:] = limit * 1.001
        with pytest.raises(FeatureFileError, match="is as large as"):
            read(data)

    def test_features_of_another_scale(self, data: Data, read: Any) -> None:
        data["train"]["audio"] = np.random.default_rng(0).normal(size=(6, 5, 8))
        for name in ("valid", "test"):
            data[name]["audio"] = np.ones((SIZES[name], 5, 8))
        assert read(data).report.warnings == []
        data["train"]["audio"][..., [2, 5]] *= 1000
        data["train"]["audio"][..., 7] /= 1000
        data["train"]["audio"][..., 1] = 0
        (warning,) = read(data).report.warnings
        assert warning.startswith("[train] audio: is not of one scale: features 2, 5 are up to")
        assert "and feature 7 is 1/" in warning
        assert "mmsa-ext standardise" in warning

    def test_padding_has_no_part_in_the_scale(self, data: Data, read: Any) -> None:
        data["train"]["audio"][:, 1:] = 0
        data["train"]["audio_lengths"] = [1] * 6
        assert read(data).report.warnings == []

    @pytest.mark.parametrize("key", ["raw_text", "id"])
    def test_half_a_surrogate_pair(self, data: Data, problems: Any, key: str) -> None:
        texts = list(data["valid"][key])
        texts[2] = f"caf\ud83d {texts[2]}"
        data["valid"][key] = texts
        (problem,) = problems(data)
        assert problem.startswith(f"[valid] {key}: holds half of a surrogate pair")
        assert "in 1 sample: 2" in problem
        problem.encode()

    def test_half_a_surrogate_pair_elsewhere_can_be_shown(self, data: Data, tmp_path: Path) -> None:
        data["text_encoder"] = data["train"]["unimodal_labels"] = "half \udc00"
        data["\ud83d"] = data.pop("valid")
        path = tmp_path / "data.pkl"
        path.write_bytes(pickle.dumps(data))
        report = check_features(path, "mosi")
        assert "half \\udc00" in report.render()
        (report.render() + report.error_message()).encode()

    def test_an_id_of_thousands_of_digits(self) -> None:
        report = FeatureReport(Path())
        assert check_ids(Scope(report, "valid"), [1, 10**5000, 3]) is None
        (problem,) = report.problems
        assert "[valid] id: is int instead of text in 1 sample: 1" in problem


class TestLabels:
    @pytest.fixture
    def many(self, data: Data) -> Data:
        """30 samples a split, labels in [-3, 3]."""
        return {
            name: make_split(name, 30, seed)
            | {"regression_labels": np.linspace(-3, 3, 30, dtype=np.float32)}
            for seed, name in enumerate(SIZES)
        }

    @pytest.mark.parametrize("dataset", ["mosi", "mosei"])
    def test_of_another_scale(self, many: Data, read: Any, dataset: str) -> None:
        assert read(many, dataset).report.warnings == []
        for split in many.values():
            split["regression_labels"] /= 3
        (warning,) = read(many, dataset).report.warnings
        assert f"all are within [-1, 1], the range of sims, and the file is read as {dataset}" in (
            warning
        )
        assert read(many, "sims").report.warnings == []
        assert read(many, None).report.warnings == []
        assert read(many, dataset, require_labels=False).report.warnings == []

    def test_far_from_0(self, many: Data, read: Any) -> None:
        for split in many.values():
            split["regression_labels"] += 4
        with known(Dataset(name="mine", label_range=(1, 7))):
            (warning,) = read(many, "mine").report.warnings
            assert "[train] regression_labels: are around 4 with a deviation of 1.8." in warning
            assert "Subtract 4, the middle of label_range" in warning
            assert read(many, "mine", require_labels=False).report.warnings == []
        for split in many.values():
            split["regression_labels"] -= 2
        with known(Dataset(name="mine", label_range=(-1, 5))):
            assert read(many, "mine").report.warnings == []

    @pytest.mark.parametrize(
        ("value", "undefined"), [(0, "Corr, and Non0_* where they are scored."), (1, "Corr.")]
    )
    def test_one_value_in_a_split(
        self, data: Data, read: Any, value: float, undefined: str
    ) -> None:
        data["test"]["regression_labels"][:] = value
        (warning,) = read(data).report.warnings
        assert warning.startswith(
            f"[test] regression_labels: is {value} in all 4 samples; not defined on this split: "
            f"{undefined}"
        )
        assert read(data, require_labels=False).report.warnings == []

    def test_a_split_of_one_sample(self, data: Data, read: Any) -> None:
        data["test"] = make_split("test", 1, 2)
        (warning,) = read(data).report.warnings
        assert "in its only sample; not defined on this split: Corr." in warning

    @pytest.mark.parametrize("value", [0, 0.5])
    def test_nothing_is_learned_from_one_value(
        self, data: Data, problems: Any, value: float
    ) -> None:
        data["train"]["regression_labels"][:] = value
        (problem,) = problems(data)
        assert problem.startswith(
            f"[train] regression_labels: is {value} in all 6 samples; a model"
        )
        assert problems(data, require_labels=False) == []


class TestBadFiles:
    @pytest.mark.parametrize("name", BAD)
    def test_each_problem_names_its_place(self, data: Data, problems: Any, name: str) -> None:
        damage, message = BAD[name]
        damage(data)
        (problem,) = problems(data)
        assert re.search(message, problem), problem

    def test_all_problems_in_one_error(self, data: Data, read: Any) -> None:
        data["train"]["regression_labels"][2] = np.nan
        data["valid"]["audio_lengths"][0] = 99
        data["test"]["id"][0] = "train_0"
        del data["test"]["vision"]
        with pytest.raises(FeatureFileError) as error:
            read(data)
        message = str(error.value)
        assert "data.pkl has 4 problems:" in message
        for place in (
            "[train] regr",
            "[valid] audio_l",
            "[train, test] id",
            "[test] vision: is mi",
        ):
            assert place in message

    def test_long_lists_are_cut(self, data: Data, problems: Any) -> None:
        data["train"]["regression_labels"][:] = np.nan
        (problem,) = problems(data)
        assert "6 samples: 0 (id 'train_0'), " in problem
        assert "'train_4') and 1 more" in problem

    def test_time_dimension_may_differ_with_a_warning(self, data: Data, read: Any) -> None:
        data["test"]["vision"] = np.ones((4, 6, 2))
        (warning,) = read(data).report.warnings
        assert "vision: the time dimension differs" in warning

    @pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"dev": {}}, None])
    def test_other_contents(self, problems: Any, content: Any) -> None:
        (problem,) = problems(content)
        assert "must hold a dict" in problem or "Splits missing: train, valid, test" in problem

    @pytest.mark.parametrize("name", ["audio", "regression_labels", "id", "text_bert"])
    @pytest.mark.parametrize("value", [None, 3, "x", {}, [], [None], np.array(2.0)])
    def test_nonsense_is_reported_not_raised(
        self, data: Data, problems: Any, name: str, value: Any
    ) -> None:
        data["train"][name] = value
        if name == "text_bert" and value is None:
            data["train"].pop("text")
        assert problems(data)

    def test_label_range_follows_the_data_set(self, data: Data, problems: Any) -> None:
        data["train"]["regression_labels"][0] = 2.5
        assert problems(data, "mosei") == problems(data, None) == problems(data, "other") == []
        (problem,) = problems(data, "SIMS")
        assert "[-1, 1], the range of sims" in problem


class TestOtherFiles:
    def other(self, data: Data, tmp_path: Path, name: str = "other.pkl") -> Path:
        changed = copy.deepcopy(data)
        for split in changed.values():
            n = len(split["id"])
            split["audio"] = np.full((n, 2, 9), 5.0)
            split["audio_lengths"] = [2] * n
            split["vision"] = np.full((n, 3, 8), 6.0)
            del split["vision_lengths"], split["text"]
            split["text_bert"] = split["text_bert"][:, :, :8] * 1
            split["text_bert"][:, 0] = split["text_bert"][:, 1] * 7
        return write_features(tmp_path / name, changed)

    def test_modalities_come_from_the_other_file(
        self, data: Data, read: Any, tmp_path: Path
    ) -> None:
        other = self.other(data, tmp_path)
        split = read(data, feature_A=other, feature_V="").splits["train"]
        assert split.audio.shape == (6, 2, 9)
        assert split.audio_lengths.tolist() == [2] * 6
        assert split.vision.shape == (6, 4, 2)
        split = read(data, feature_V=other).splits["train"]
        assert split.vision.shape == (6, 3, 8)
        assert split.vision_lengths.tolist() == [3] * 6, "derived, not taken from the base file"
        split = read(data, feature_T=other).splits["train"]
        assert split.text_bert.max() == 7
        assert split.text is None, "text of another encoder must not be mixed in"

    def test_a_broken_key_in_the_base_file_does_not_matter(
        self, data: Data, read: Any, tmp_path: Path
    ) -> None:
        other = self.other(data, tmp_path)
        for split in data.values():
            del split["audio"]
        assert read(data, feature_A=other).splits["train"].audio.shape == (6, 2, 9)

    def test_fingerprint_covers_all_files(self, data: Data, read: Any, tmp_path: Path) -> None:
        other = self.other(data, tmp_path)
        prints = {
            read(data).fingerprint,
            read(data, feature_A=other).fingerprint,
            read(data, feature_V=other).fingerprint,
            read(data, feature_A=other, feature_V=other).fingerprint,
        }
        assert len(prints) == 4

    def test_other_order_is_a_problem(self, data: Data, problems: Any, tmp_path: Path) -> None:
        changed = copy.deepcopy(data)
        changed["valid"]["id"].reverse()
        other = self.other(changed, tmp_path)
        (problem,) = problems(data, feature_A=other)
        assert f"[valid] id (feature_A) of {other}: differs from the base file: " in problem
        assert "'valid_2' against 'valid_0' at sample 0" in problem

    def test_findings_name_the_other_file(self, data: Data, problems: Any, tmp_path: Path) -> None:
        other = self.other(data, tmp_path)
        changed = safe_load(other)
        changed["train"]["audio_lengths"][1] = 3
        del changed["test"]
        write_features(other, changed)
        found = "\n".join(problems(data, feature_A=other))
        assert f"[train] audio_lengths of {other}: is outside 1..2" in found
        assert f"[test] audio of {other}: the file has no split 'test'" in found

    def test_without_ids_the_order_is_trusted_with_a_warning(
        self, data: Data, read: Any, tmp_path: Path
    ) -> None:
        changed = copy.deepcopy(data)
        other = self.other(changed, tmp_path)
        stripped = safe_load(other)
        for split in stripped.values():
            del split["id"]
        write_features(other, stripped)
        report = read(data, feature_A=other).report
        assert "id (feature_A)" in report.warnings[0]


class TestThreeFiles:
    @pytest.fixture
    def parts(self, data: Data, tmp_path: Path) -> dict[str, Path]:
        """The text's file has ids, texts and labels; the others their modality and ids."""
        text = ("id", "raw_text", "regression_labels", "text", "text_bert")
        keys = {"T": text, "A": ("id", "audio", "audio_lengths"), "V": ("id", "vision")}
        return {
            f"feature_{role}": write_features(
                tmp_path / f"{role}.pkl",
                {name: {key: split[key] for key in own} for name, split in data.items()},
            )
            for role, own in keys.items()
        }

    def test_need_no_base(self, data: Data, parts: dict[str, Path]) -> None:
        features = read_features(None, "mosi", **parts)
        assert features.path == parts["feature_T"]
        for name, split in features.splits.items():
            assert split.ids == data[name]["id"]
            for key in ("text_bert", "text", "audio", "vision"):
                np.testing.assert_array_equal(getattr(split, key), data[name][key])
            np.testing.assert_array_equal(split.labels["M"], data[name]["regression_labels"])
        assert "those of feature_T" in features.report.notes[0]
        assert check_features(None, "mosi", **parts).render() == features.report.render()

    def test_fingerprint_is_that_of_the_text_as_the_base(self, parts: dict[str, Path]) -> None:
        found = read_features(None, "mosi", **parts).fingerprint
        assert found == fingerprint(None, **parts)
        text = parts.pop("feature_T")
        assert found == fingerprint(text, **parts)
        swapped = {"feature_A": parts["feature_V"], "feature_V": parts["feature_A"]}
        assert found != fingerprint(text, **swapped)

    def test_two_need_one(self, parts: dict[str, Path]) -> None:
        parts.pop("feature_V")
        for function in (read_features, check_features, fingerprint):
            with pytest.raises(FeatureFileError, match="all of feature_T, feature_A and feature_V"):
                function(None, **parts)


class TestAbsent:
    """A modality that no split has."""

    def test_is_frames_of_no_features(self, data: Data, read: Any) -> None:
        for split in data.values():
            del split["audio"], split["audio_lengths"]
        features = read(data)
        assert features.absent == ("audio",)
        for name, split in features.splits.items():
            assert split.audio.shape == (SIZES[name], 1, 0)
            assert not split.audio_lengths.any()
            np.testing.assert_array_equal(split.vision, data[name]["vision"])
        assert features.report.warnings == []
        assert any(note.startswith("audio: absent") for note in features.report.notes)
        assert re.search(r"train +6 +absent", features.report.render())

    def test_a_file_of_text_alone(self, data: Data, read: Any) -> None:
        keys = ("id", "raw_text", "text_bert", "regression_labels")
        texts = {name: {key: split[key] for key in keys} for name, split in data.items()}
        split = read(texts).splits["valid"]
        assert split.absent == ("audio", "vision")
        batch = split.batch(torch.tensor([2, 0]))
        assert batch["audio"].shape == batch["vision"].shape == (2, 1, 0)
        assert not batch["audio_mask"].any()
        assert split.by_length().tolist() == sorted(
            range(3), key=lambda i: data["valid"]["text_bert"][i, 1].sum()
        )
        assert split.take([1]).absent == split.absent

    def test_text_is_warned_of_and_has_one_masked_position(self, data: Data, read: Any) -> None:
        for split in data.values():
            del split["text"], split["text_bert"]
        features = read(data)
        assert features.absent == ("text",)
        assert "text: absent" in features.report.warnings[0]
        batch = features.splits["train"].batch(torch.arange(4))
        assert batch["text"].shape == (4, 3, 1)
        assert not batch["text_mask"].any()

    def test_a_sample_without_splits(self, data: Data, read: Any) -> None:
        features = read({"text_bert": data["test"]["text_bert"][0]}, require_labels=False)
        assert features.absent == ("audio", "vision")

    @pytest.mark.parametrize(("role", "key"), [("T", "text_bert"), ("A", "audio"), ("V", "vision")])
    def test_a_file_that_was_to_have_it_does_not(
        self, data: Data, problems: Any, tmp_path: Path, role: str, key: str
    ) -> None:
        path = write_features(
            tmp_path / "other.pkl", {name: {"id": split["id"]} for name, split in data.items()}
        )
        found = problems(data, **{f"feature_{role}": path})
        assert [f"] {key} of {path}: is missing" in problem for problem in found] == [True] * 3

    def test_lengths_of_frames_that_are_not_there(self, data: Data, problems: Any) -> None:
        for split in data.values():
            del split["audio"]
        found = problems(data)
        assert ["audio: is missing. Store it" in problem for problem in found] == [True] * 3

    def test_to_a_model_that_does_not_read_it_it_is_as_if_absent(
        self, data: Data, read: Any
    ) -> None:
        data["train"]["audio"][1, 0, 0] = np.nan
        before = read(data)
        after = before.without(("audio", "text"))
        assert after.absent == ("text", "audio")
        assert after.splits["train"].gaps == {}
        assert after.splits["train"].vision is before.splits["train"].vision


class TestPrediction:
    SAMPLE = {  # noqa: RUF012
        "audio": np.ones((5, 3)),
        "vision": np.ones((4, 2)),
        "text": np.ones((8, 6)),
        "text_bert": np.array([[7.0, 8, 0], [1, 1, 0], [0, 0, 0]]),
    }

    def test_single_sample_of_mmsa_test(self, read: Any) -> None:
        features = read(dict(self.SAMPLE), require_labels=False)
        (split,) = features.splits.values()
        assert (split.name, split.ids, split.raw_text) == ("sample", ["sample"], [""])
        assert split.audio.shape == (1, 5, 3)
        assert split.text_bert.shape == (1, 3, 3)
        assert split.audio_lengths.tolist() == [5]
        assert split.labels == {}

    def test_single_sample_with_everything(self, read: Any) -> None:
        more = {"id": "a", "raw_text": "b", "audio_lengths": 2, "regression_labels": 0.5}
        split = read(self.SAMPLE | more, require_labels=False).splits["sample"]
        assert (split.ids, split.raw_text) == (["a"], ["b"])
        assert split.audio_lengths.tolist() == [2]
        assert split.labels["M"].tolist() == [0.5]

    def test_single_sample_with_another_files_audio(self, read: Any, tmp_path: Path) -> None:
        other = write_features(tmp_path / "a.pkl", {"audio": np.ones((2, 9))})
        split = read(dict(self.SAMPLE), require_labels=False, feature_A=other).splits["sample"]
        assert split.audio.shape == (1, 2, 9)

    def test_single_sample_cannot_be_trained_on(self, problems: Any) -> None:
        (problem,) = problems(dict(self.SAMPLE))
        assert "one sample without splits" in problem

    def test_samples_without_split(self, data: Data, problems: Any) -> None:
        (problem,) = problems(data["train"], require_labels=False)
        assert "several samples without splits" in problem

    def test_some_splits_without_labels_and_ids(self, data: Data, read: Any) -> None:
        for key in ("id", "raw_text", "regression_labels"):
            del data["test"][key]
        features = read({"test": data["test"]}, require_labels=False)
        split = features.splits["test"]
        assert split.ids == ["test_0", "test_1", "test_2", "test_3"]
        assert split.raw_text == [""] * 4
        assert split.labels == {}

    @pytest.mark.parametrize(
        "labels",
        [[None] * 4, [""] * 4, "", np.array([None] * 4), np.array([""] * 4), [np.nan] * 4, []],
    )
    def test_no_label_is_no_label(self, data: Data, read: Any, labels: Any) -> None:
        data["test"]["regression_labels"] = labels
        features = read({"test": data["test"]}, require_labels=False)
        assert features.splits["test"].labels == {}
        assert features.report.warnings == []
        assert "[test] regression_labels: holds no label" in "\n".join(features.report.notes)

    @pytest.mark.parametrize("gap", [None, "", np.nan, np.inf])
    def test_some_labels_are_none(self, data: Data, read: Any, problems: Any, gap: Any) -> None:
        data["test"]["regression_labels"] = np.array([0.5, gap, 1.5, -1], dtype=object)
        features = read({"test": data["test"]}, require_labels=False)
        assert features.splits["test"].labels == {}
        assert "absent, NaN or infinite in 1 sample: 1 (id 'test_1')" in features.report.warnings[0]
        (problem,) = problems(data)
        assert "absent, NaN or infinite in 1 sample: 1 (id 'test_1')" in problem


class TestReport:
    def test_summary(self, data: Data, read: Any) -> None:
        data["train"]["regression_labels"][:] = [-1, -0.5, 0, 0.5, 1, 1]
        data["train"]["audio_lengths"] = [1, 2, 3, 4, 5, 5]
        summary = read(data).report.summary["train"]
        assert summary.samples == 6
        assert summary.arrays["audio"] == ((6, 5, 3), "float32")
        lengths = summary.lengths["audio"]
        assert (lengths.minimum, lengths.median, lengths.maximum) == (1, 3.5, 5)
        assert lengths.padded_to == 5
        assert set(summary.lengths) == {"text", "audio", "vision"}
        label = summary.labels["M"]
        assert (label.negative, label.neutral, label.positive) == (2, 1, 3)
        assert label.mean == pytest.approx(1 / 6)
        assert (label.minimum, label.maximum) == (-1, 1)

    def test_the_spread_of_scales(self, data: Data, read: Any) -> None:
        audio = np.zeros_like(data["train"]["audio"])
        audio[:, :, 1], audio[:, :, 2] = 2, 300
        data["train"]["audio"] = audio
        report = read(data).report
        scales = report.scales["audio"]
        assert (scales.features, scales.zero) == (3, 1)
        assert (scales.smallest, scales.median, scales.largest) == pytest.approx((2, 151, 300))
        line = next(line for line in report.render().splitlines() if line.startswith("audio"))
        assert line.split() == ["audio", "3", "1", "2", "151", "300", "150"]

    def test_render(self, data: Data, tmp_path: Path) -> None:
        data["train"]["vision_lengths"][0] = 0
        data["test"]["regression_labels"][1] = np.nan
        path = write_features(tmp_path / "data.pkl", data)
        text = check_features(path, "mosi").render()
        assert str(path) in text
        assert "NOT usable: 1 problem, 1 warning, 0 notes" in text
        assert "6x5x3 float32" in text
        assert "  1. [test] regression_labels: is absent, NaN" in text
        assert all(ord(character) < 128 for character in text), "plain ASCII on any terminal"

    def test_render_of_a_file_with_nothing_usable(self, tmp_path: Path) -> None:
        path = write_features(tmp_path / "data.pkl", {"dev": {}})
        assert "Splits missing: train, valid, test" in check_features(path).render()


class TestWriting:
    def test_failure_leaves_the_old_file(self, data: Data, tmp_path: Path) -> None:
        path = write_features(tmp_path / "new" / "data.pkl", data)
        before = path.read_bytes()
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            write_features(path, {"train": lambda: None})
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path], "no temporary file stays"


@pytest.mark.parametrize(
    ("name", "sizes", "dtype", "warnings"),
    [
        ("mosi_valid229_av.pkl", [137, 45, 47], np.float32, []),
        ("mosi_text_audio.pkl", [1284, 229, 686], np.float16, ["audio: is not of one scale"]),
        ("mmmo_av.pkl", [220, 40, 80], np.float32, ["audio: is not of one scale"]),
        ("mmmo_tri120.pkl", [60, 20, 40], np.float32, ["audio: is not of one scale"]),
    ],
)
def test_real_files_have_no_problem(
    real_data: Path, name: str, sizes: list[int], dtype: type, warnings: list[str]
) -> None:
    features = read_features(real_data / name, "mosi")
    assert features.report.problems == []
    assert [line.split("] ")[1][: len("audio: is not of one scale")] for line in
            features.report.warnings] == warnings  # fmt: skip
    assert [len(split) for split in features.splits.values()] == sizes
    assert features.splits["train"].audio.dtype == dtype
