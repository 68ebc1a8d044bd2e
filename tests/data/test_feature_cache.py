"""The cache changes nothing but time and memory, and no accident in it reaches a reading."""

import copy
import errno
import json
import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from MMSA_ext import MMSA_run
from MMSA_ext.data import feature_cache
from MMSA_ext.data.feature_cache import VARIABLE, cache_folder, clear, entries
from MMSA_ext.data.features import FeatureSet, check_features, read_features, write_features
from MMSA_ext.errors import FeatureFileError
from tests.conftest import make_feature_data, tiny_config

Data = dict[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one's own, which takes small files and knows a file as soon as it is written."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(feature_cache, "_SMALLEST_BYTES", 1)
    monkeypatch.setattr(feature_cache, "_RESERVE_BYTES", 1)
    monkeypatch.setattr(feature_cache, "_SETTLED_NS", 0)
    return tmp_path / "cache"


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on nothing may unpickle a file."""

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was unpickled")

    return lambda: monkeypatch.setattr(feature_cache, "load_file", refuse)


def assert_same(found: FeatureSet, expected: FeatureSet) -> None:
    """Equal to the last bit: values, dtypes, report, fingerprint."""
    assert found.report == expected.report
    assert found.report.render() == expected.report.render()
    assert (found.fingerprint, found.path) == (expected.fingerprint, expected.path)
    assert list(found.splits) == list(expected.splits)
    for name, split in found.splits.items():
        for field in fields(split):
            _same(getattr(split, field.name), getattr(expected.splits[name], field.name))


def _same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(found, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    elif isinstance(found, dict):
        assert list(found) == list(expected)
        for key, value in found.items():
            _same(value, expected[key])
    else:
        assert found == expected


def _gaps(data: Data) -> None:
    data["train"]["audio"][1, 0] = -np.inf
    data["train"]["audio"][4, 2, 1] = np.nan
    data["valid"]["vision"][0, 0, 0] = np.nan
    data["test"]["vision"][:] = 0


def _without_lengths(data: Data) -> None:
    for split in data.values():
        del split["audio_lengths"]


def _other_forms(data: Data) -> None:
    train, valid, test = data.values()
    train["id"], valid["id"] = np.array(train["id"]), list(range(6))
    test["id"] = [name.encode() for name in test["id"]]
    train["raw_text"] = train["raw_text"].astype(object)
    valid["raw_text"] = tuple(valid["raw_text"].tolist())
    train["audio"] = train["audio"].astype(np.float16)
    test["audio"] = np.asfortranarray(test["audio"].astype(">f8"))
    train["vision"] = (train["vision"] * 9).astype(np.int16)
    train["regression_labels"] = train["regression_labels"].tolist()
    valid["regression_labels"] = valid["regression_labels"][:, None]
    valid["audio_lengths"] = np.array(valid["audio_lengths"])
    test["vision_lengths"] = [np.int64(length) for length in test["vision_lengths"]]
    test["vision_lengths"][2] = 0
    data["text_encoder"] = train["unimodal_labels"] = "noted"


CONTENTS: dict[str, Callable[[Data], Any]] = {
    "usual": lambda data: None,
    "gaps": _gaps,
    "without lengths": _without_lengths,
    "other forms": _other_forms,
    "without text": lambda data: [split.pop("text") for split in data.values()],
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("dataset", ["mosi", "sims", None])
def test_what_is_read_is_the_same(
    tmp_path: Path, cache: Path, unread: Any, kind: str, dataset: str | None
) -> None:
    data = make_feature_data(dataset=dataset or "mosi")
    CONTENTS[kind](data)
    path = write_features(tmp_path / "data.pkl", data)
    expected = read_features(path, dataset, cache=False)
    assert not cache.exists()
    assert_same(read_features(path, dataset), expected)
    unread()
    found = read_features(path, dataset)
    assert_same(found, expected)
    assert not found.splits["train"].audio.flags.writeable
    assert isinstance(found.splits["train"].audio.base, np.memmap)


def test_the_first_use_hands_over_maps(feature_file: Path) -> None:
    split = read_features(feature_file).splits["train"]
    assert isinstance(split.vision.base, np.memmap)


def test_checks_are_made_anew_on_what_is_kept(feature_file: Path, unread: Any) -> None:
    read_features(feature_file, "mosi")
    unread()
    with pytest.raises(FeatureFileError, match="outside \\[-1, 1\\], the range of sims"):
        read_features(feature_file, "sims")


def test_files_of_modalities_are_kept_too(
    tmp_path: Path, feature_data: Data, feature_file: Path, unread: Any
) -> None:
    other = copy.deepcopy(feature_data)
    for split in other.values():
        split["audio"] = split["audio"][:, :, :2] + 1
        split["text"] = split["text"] * 2
        del split["vision"], split["audio_lengths"]
    other["train"]["audio"][3, 1] = np.nan
    path = write_features(tmp_path / "other.pkl", other)
    modalities = {"feature_T": path, "feature_A": path}
    expected = read_features(feature_file, "mosi", **modalities, cache=False)
    assert any(str(path) in warning for warning in expected.report.warnings)
    assert_same(read_features(feature_file, "mosi", **modalities), expected)
    assert len(entries()) == 2
    unread()
    assert_same(read_features(feature_file, "mosi", **modalities), expected)
    assert_same(
        read_features(feature_file, "mosi"), read_features(feature_file, "mosi", cache=False)
    )


def test_a_modality_that_was_replaced_is_looked_at_when_it_is_used(
    tmp_path: Path, feature_data: Data, feature_file: Path
) -> None:
    feature_data["valid"]["audio"][2, 0, 0] = np.inf
    path = write_features(tmp_path / "bad.pkl", feature_data)
    for _ in range(2):
        read_features(path, "mosi", feature_A=feature_file)
        with pytest.raises(FeatureFileError, match=r"\[valid\] audio: is infinite in 1 sample: 2"):
            read_features(path, "mosi")


class TestSources:
    def test_a_noted_file_is_not_read(
        self, feature_file: Path, monkeypatch: pytest.MonkeyPatch, unread: Any
    ) -> None:
        read_features(feature_file)
        unread()
        monkeypatch.setattr(feature_cache.hashlib, "file_digest", None)
        read_features(feature_file)

    @pytest.mark.parametrize("how", ["copied", "touched", "linked"])
    def test_the_same_content_is_found_elsewhere(
        self, tmp_path: Path, feature_file: Path, unread: Any, how: str
    ) -> None:
        expected = read_features(feature_file)
        other = tmp_path / "same.pkl"
        if how == "copied":
            shutil.copyfile(feature_file, other)
        elif how == "linked":
            other.symlink_to(feature_file)
        else:
            other = feature_file
            os.utime(other, (1, 1))
        unread()
        found = read_features(other)
        assert found.path == other
        assert found.fingerprint == expected.fingerprint

    def test_a_changed_file_of_the_same_size_and_time_is_read(
        self, tmp_path: Path, feature_data: Data, feature_file: Path
    ) -> None:
        read_features(feature_file)
        times = feature_file.stat()
        feature_data["train"]["audio"][0, 0, 0] += 1
        content = pickle.dumps(feature_data, protocol=4)
        time.sleep(0.05)  # a tick of the file system's clock
        feature_file.write_bytes(content)
        os.utime(feature_file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert feature_file.stat().st_size == times.st_size
        assert_same(read_features(feature_file), read_features(feature_file, cache=False))

    def test_a_file_that_has_just_changed_is_not_noted(
        self, cache: Path, feature_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feature_cache, "_SETTLED_NS", 3600 * 10**9)
        read_features(feature_file)
        read_features(feature_file)
        assert not (cache / "sources").exists()
        assert len(entries()) == 1


def _remove(entry: Path) -> None:
    (entry / "train.audio.npy").unlink()


def _truncate(entry: Path) -> None:
    os.truncate(entry / "train.audio.npy", 300)


def _no_bytes(entry: Path) -> None:
    (entry / "train.audio.npy").write_bytes(b"")


def _exchange(entry: Path) -> None:
    shutil.copyfile(entry / "test.audio.npy", entry / "train.audio.npy")


def _garble(entry: Path) -> None:
    (entry / "manifest.json").write_text("{")


def _age(entry: Path) -> None:
    manifest = json.loads((entry / "manifest.json").read_text())
    (entry / "manifest.json").write_text(json.dumps(manifest | {"format": "0"}))


def _empty(entry: Path) -> None:
    (entry / "manifest.json").write_text("{}")


class TestAccidents:
    @pytest.mark.parametrize(
        "damage", [_remove, _truncate, _no_bytes, _exchange, _garble, _age, _empty]
    )
    def test_a_damaged_entry_is_made_anew(
        self, feature_file: Path, unread: Any, damage: Callable[[Path], None]
    ) -> None:
        expected = read_features(feature_file, cache=False)
        read_features(feature_file)
        damage(entries()[0].path)
        assert_same(read_features(feature_file), expected)
        unread()
        assert_same(read_features(feature_file), expected)

    def test_a_damaged_note_is_ignored(self, cache: Path, feature_file: Path, unread: Any) -> None:
        read_features(feature_file)
        (note,) = (cache / "sources").iterdir()
        note.write_text("[]")
        unread()
        read_features(feature_file)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
    def test_a_failing_disk_costs_only_the_cache(
        self,
        cache: Path,
        feature_file: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        number: int,
    ) -> None:
        save, calls = np.save, []

        def fail_later(*args: Any, **options: Any) -> None:
            calls.append(args)
            if len(calls) > 3:
                raise OSError(number, os.strerror(number))
            save(*args, **options)

        monkeypatch.setattr(np, "save", fail_later)
        expected = read_features(feature_file, cache=False)
        with caplog.at_level(logging.INFO, "MMSA"):
            assert_same(read_features(feature_file), expected)
        (message,) = caplog.messages
        assert str(cache) in message
        assert os.strerror(number) in message
        assert entries() == []
        assert [path for path in (cache / "features").iterdir() if path.is_dir()] == []

    def test_a_full_disk_is_left_alone(
        self, feature_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        monkeypatch.setattr(feature_cache, "_RESERVE_BYTES", 1 << 60)
        with caplog.at_level(logging.INFO, "MMSA"):
            read_features(feature_file)
        assert "MiB too little free space" in caplog.text
        assert entries() == []

    def test_the_folder_is_a_file(self, cache: Path, feature_file: Path) -> None:
        cache.write_text("")
        for _ in range(2):
            read_features(feature_file)

    def test_interrupted_writing_leaves_nothing(
        self, cache: Path, feature_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(np, "save", interrupt)
            with pytest.raises(KeyboardInterrupt):
                read_features(feature_file)
        assert entries() == []
        read_features(feature_file)
        assert len(entries()) == 1

    def test_what_a_killed_process_left_is_replaced(self, cache: Path, feature_file: Path) -> None:
        read_features(feature_file)
        entry = entries()[0].path
        entry.rename(entry.with_name(f".{entry.name}.writing"))
        read_features(feature_file)
        assert [path.name for path in entry.parent.iterdir() if path.is_dir()] == [entry.name]

    def test_while_another_process_writes_the_file_is_read(
        self, cache: Path, feature_file: Path
    ) -> None:
        expected = read_features(feature_file, cache=False)
        folder = cache / "features"
        folder.mkdir(parents=True)
        name = f".{feature_file.stat().st_size}-{expected.fingerprint}.lock"
        with FileLock(folder / name):
            assert_same(read_features(feature_file), expected)
        assert entries() == []

    def test_many_at_once(self, feature_file: Path) -> None:
        expected = read_features(feature_file, cache=False)
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(lambda _: read_features(feature_file), range(16)):
                assert_same(found, expected)
        assert len(entries()) == 1


def _time_first(array: np.ndarray) -> np.ndarray:
    """The same array (n, L, d) in the memory order (L, n, d)."""
    return np.ascontiguousarray(array.transpose(1, 0, 2)).transpose(1, 0, 2)


class TestWhatIsNotKept:
    def test_small_files(self, feature_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feature_cache, "_SMALLEST_BYTES", 1 << 30)
        read_features(feature_file)
        assert entries() == []

    def test_files_with_problems(self, tmp_path: Path, feature_data: Data) -> None:
        feature_data["valid"]["audio_lengths"][0] = 99
        path = write_features(tmp_path / "bad.pkl", feature_data)
        for _ in range(2):
            with pytest.raises(FeatureFileError, match="outside 1"):
                read_features(path)
        assert entries() == []

    def test_checking_reads_the_file(self, feature_file: Path) -> None:
        check_features(feature_file)
        assert entries() == []

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data.pop("train"),
            lambda data: data["train"].update(audio=data["train"]["audio"].tolist()),
            lambda data: data["train"].update(audio=_time_first(data["train"]["audio"])),
        ],
        ids=["a split is missing", "nested lists", "another memory order"],
    )
    def test_unusual_files(self, tmp_path: Path, feature_data: Data, change: Any) -> None:
        change(feature_data)
        path = tmp_path / "data.pkl"
        path.write_bytes(pickle.dumps(feature_data, protocol=5))
        found = read_features(path, require_labels=False)
        assert_same(found, read_features(path, require_labels=False, cache=False))
        assert entries() == []

    def test_off(self, cache: Path, feature_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "OFF")
        read_features(feature_file)
        assert (cache_folder(), entries(), clear()) == (None, [], 0)
        assert not cache.exists()


@pytest.mark.parametrize(
    "corruption", [None, {"remove": "audio", "drop_rate": 0.3, "noise": 0.5, "at": "all"}]
)
def test_a_run_is_the_same(
    tmp_path: Path,
    feature_file: Path,
    tiny_encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    corruption: Data | None,
) -> None:
    config = tiny_config("dashfusion", tiny_encoder, featurePath=str(feature_file), num_epochs=1)

    def run(folder: str) -> dict[str, float]:
        results = MMSA_run(
            "dashfusion",
            "mosi",
            config=config | {"corruption": corruption},
            seeds=[1],
            verbose_level=0,
            model_save_dir=tmp_path / folder,
            res_save_dir=tmp_path / folder,
            log_dir=tmp_path / folder,
        )
        assert not results.seeds[0].reused
        return dict(results.seeds[0].metrics)

    written, mapped = run("written"), run("mapped")
    assert len(entries()) == 1
    monkeypatch.setenv(VARIABLE, "off")
    assert run("off") == written == mapped


class TestFolder:
    def test_default_is_the_users_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(VARIABLE)
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert cache_folder() == Path("/somewhere/MMSA_ext")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "MMSA_ext"

    def test_home_is_expanded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "~/features")
        assert cache_folder() == Path.home() / "features"

    def test_list_and_clear(self, cache: Path, feature_file: Path) -> None:
        kept = read_features(feature_file)
        (entry,) = entries()
        assert entry.sources == (str(feature_file.resolve()),)
        assert entry.size == sum(file.stat().st_size for file in entry.path.iterdir())
        assert abs(entry.last_used - time.time()) < 60
        before = kept.splits["train"].audio.copy()
        assert clear() >= entry.size
        assert entries() == []
        np.testing.assert_array_equal(kept.splits["train"].audio, before)

    def test_entries_not_used_for_long_make_room(
        self, tmp_path: Path, feature_file: Path, feature_data: Data
    ) -> None:
        read_features(feature_file)
        old = entries()[0].path
        os.utime(old / "manifest.json", (1, 1))
        feature_data["train"]["audio"][0] += 1
        read_features(write_features(tmp_path / "new.pkl", feature_data))
        (entry,) = entries()
        assert entry.path != old
