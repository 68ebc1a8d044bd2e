"""The cache changes nothing but time and memory, and no accident in it reaches a reading."""

import copy
import errno
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock

from MMSA_ext.data import feature_cache
from MMSA_ext.data.feature_cache import VARIABLE, cache_folder, clear, entries
from MMSA_ext.data.features import check_features, read_features, write_features
from MMSA_ext.errors import FeatureFileError
from tests.conftest import make_feature_data, tiny_config, train
from tests.data.comparing import assert_same_features as assert_same
from tests.data.comparing import is_mapped

Data = dict[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one's own, which maps what is small and knows a file as soon as it is written."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(feature_cache, "_SMALLEST_BYTES", 1)
    monkeypatch.setattr(feature_cache, "_SMALL_BYTES", 512)
    monkeypatch.setattr(feature_cache, "_TICK_NS", 0)
    return tmp_path / "cache"


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on nothing may unpickle a file."""

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was unpickled")

    return lambda: monkeypatch.setattr(feature_cache, "load_file", refuse)


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
    test["id"] = np.array([name.encode() for name in test["id"]])
    train["raw_text"] = train["raw_text"].astype(object)
    valid["raw_text"] = tuple(valid["raw_text"].tolist())
    train["audio"] = train["audio"].astype(np.float16)
    test["audio"] = test["audio"].astype(">f8")
    train["vision"] = (train["vision"] * 9).astype(np.int16)
    train["regression_labels"] = train["regression_labels"].tolist()
    valid["regression_labels"] = valid["regression_labels"][:, None]
    valid["audio_lengths"] = np.array(valid["audio_lengths"])
    test["vision_lengths"] = [np.int64(length) for length in test["vision_lengths"]]
    test["vision_lengths"][2] = 0
    train["unimodal_labels"] = "noted"
    data["recipe"] = {"audio": {"name": "opensmile", "version": "2", "rates": [1, 0.5, None]}}
    data["about"] = train["planted"] = {"nobody": [np.ones(3)], 1: b"reads this"}


CONTENTS: dict[str, Callable[[Data], Any]] = {
    "usual": lambda data: None,
    "gaps": _gaps,
    "without lengths": _without_lengths,
    "other forms": _other_forms,
    "without vision": lambda data: [
        split.pop(key) for split in data.values() for key in ("vision", "vision_lengths")
    ],
    "before recipes": lambda data: data.update(text_encoder="minilm"),
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
    first = read_features(path, dataset)
    assert_same(first, expected)
    findings = feature_cache._surveyed(feature_cache.load_file(path)).known
    unread()
    assert feature_cache.load_cached(path).known == findings
    found = read_features(path, dataset)
    assert_same(found, expected)
    assert not found.splits["train"].audio.flags.writeable
    assert is_mapped(first.splits["train"].audio)
    assert is_mapped(found.splits["train"].audio)


def test_a_file_with_a_broken_recipe_is_not_kept(
    tmp_path: Path, cache: Path, feature_data: Data
) -> None:
    path = write_features(tmp_path / "data.pkl", feature_data | {"recipe": {"audio": ("a", "1")}})
    for _ in range(2):  # JSON would make a list of the tuple
        with pytest.raises(FeatureFileError, match="recipe audio is a tuple"):
            read_features(path)
    assert not entries()


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
    @pytest.mark.parametrize("how", ["in place", "renamed into place"])
    def test_a_changed_file_of_the_same_size_and_time_is_read(
        self, feature_data: Data, feature_file: Path, how: str
    ) -> None:
        read_features(feature_file)
        times = feature_file.stat()
        feature_data["train"]["audio"][0, 0, 0] += 1
        content = pickle.dumps(feature_data, protocol=4)
        time.sleep(0.05)  # a tick of the file system's clock
        target = feature_file if how == "in place" else feature_file.with_name("new.pkl")
        target.write_bytes(content)
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        target.replace(feature_file)
        assert feature_file.stat().st_size == times.st_size
        assert_same(read_features(feature_file), read_features(feature_file, cache=False))
        assert len(entries()) == 1  # in the place of the old one

    def test_a_link_leads_to_what_is_kept(
        self, tmp_path: Path, feature_file: Path, unread: Any
    ) -> None:
        read_features(feature_file)
        link = tmp_path / "link.pkl"
        link.symlink_to(feature_file)
        unread()
        assert read_features(link).path == link

    @pytest.mark.parametrize("seconds", [0, 1.5])
    def test_a_file_that_has_just_changed_is_not_kept(
        self, feature_file: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        """It may change once more within one tick of its clock, and nobody would see it."""
        monkeypatch.setattr(feature_cache, "_TICK_NS", 2 * 10**9)
        changed = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: changed + int(seconds * 1e9))
        read_features(feature_file)
        assert entries() == []
        monkeypatch.setattr(time, "time_ns", lambda: changed + 3 * 10**9)
        read_features(feature_file)
        assert len(entries()) == 1

    def test_a_file_that_changes_while_it_is_read_is_not_kept(
        self, feature_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load = feature_cache.load_file
        monkeypatch.setattr(
            feature_cache, "load_file", lambda path: (load(path), os.utime(path, (1, 1)))[0]
        )
        read_features(feature_file)
        assert entries() == []


class TestHashing:
    """What is only mapped is hashed once for each stat, and once a day."""

    @pytest.fixture
    def hashed(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Sizes of the mapped arrays that were hashed since the list was cleared."""
        sizes: list[int] = []
        digest = feature_cache._digest

        def spied(file: Any, start: int, size: int) -> str:
            sizes.extend([size] if size >= 512 else [])
            return digest(file, start, size)

        monkeypatch.setattr(feature_cache, "_digest", spied)
        return sizes

    def test_once(self, feature_file: Path, hashed: list[int]) -> None:
        read_features(feature_file)
        assert not hashed  # it was just written
        read_features(feature_file)
        assert len(hashed) >= 12
        hashed.clear()
        for _ in range(3):
            read_features(feature_file)
        assert not hashed

    @pytest.mark.parametrize("change", ["mtime", "mode", "copied"])
    def test_again_when_the_stat_changes(
        self, feature_file: Path, hashed: list[int], change: str
    ) -> None:
        for _ in range(2):
            read_features(feature_file)
        (entry,) = entries()
        time.sleep(0.05)
        if change == "mtime":
            os.utime(entry.path, (1, 1))
        elif change == "mode":
            entry.path.chmod(0o600)
        else:
            shutil.copy2(entry.path, entry.path.with_name("copy")).replace(entry.path)
        hashed.clear()
        read_features(feature_file)
        assert hashed
        hashed.clear()
        read_features(feature_file)
        assert not hashed

    def test_again_after_a_day(
        self, feature_file: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(2):
            read_features(feature_file)
        note = entries()[0].path.with_suffix(".checked")
        for hours, again in ((23, False), (25, True), (-1, True)):
            then = time.time() - hours * 3600
            os.utime(note, (then, then))
            hashed.clear()
            read_features(feature_file)
            assert bool(hashed) == again

    def test_what_was_just_written_is_hashed_but_not_noted(
        self, feature_file: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may change once more within one tick of its clock, and nobody would see it."""
        read_features(feature_file)
        monkeypatch.setattr(feature_cache, "_TICK_NS", 3600 * 10**9)
        for _ in range(2):
            hashed.clear()
            read_features(feature_file)
            assert hashed

    def test_small_arrays_are_hashed_each_time(
        self, feature_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feature_cache, "_SMALL_BYTES", 1 << 20)
        for _ in range(2):
            read_features(feature_file)
        digest = mock.Mock(wraps=feature_cache._digest)
        monkeypatch.setattr(feature_cache, "_digest", digest)
        split = read_features(feature_file).splits["train"]
        assert digest.call_count >= 15
        assert not is_mapped(split.audio)


class TestAccidents:
    """`tests/attack/feature_cache.py` has a hundred more; here is what is said of them."""

    def test_a_damaged_entry_is_made_anew_with_one_line(
        self, feature_file: Path, unread: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = read_features(feature_file, cache=False)
        read_features(feature_file)
        entry = entries()[0].path
        content = bytearray(entry.read_bytes())
        content[100] ^= 1
        entry.write_bytes(content)
        with caplog.at_level(logging.INFO, "MMSA"):
            assert_same(read_features(feature_file), expected)
        (message,) = caplog.messages
        assert f"{entry} cannot be used (an array is not what was written)" in message
        assert f"{feature_file} is kept as memory-mapped arrays" in message
        unread()
        assert_same(read_features(feature_file), expected)

    def test_what_was_mapped_of_a_replaced_entry_stays(
        self, feature_file: Path, feature_data: Data
    ) -> None:
        split = read_features(feature_file).splits["train"]
        before = split.audio.copy()
        feature_data["train"]["audio"] += 1
        write_features(feature_file, feature_data)
        read_features(feature_file)
        np.testing.assert_array_equal(split.audio, before)

    def test_other_code_makes_another_version(
        self, feature_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        read_features(feature_file)
        monkeypatch.setattr(feature_cache, "_version", lambda: "another")
        with caplog.at_level(logging.INFO, "MMSA"):
            read_features(feature_file)
        assert "another version of the file or of MMSA_ext" in caplog.text
        assert len(entries()) == 1

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
    def test_a_failing_disk_costs_only_the_cache(
        self,
        cache: Path,
        feature_file: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        number: int,
    ) -> None:
        monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(number, "refused")))
        expected = read_features(feature_file, cache=False)
        with caplog.at_level(logging.INFO, "MMSA"):
            assert_same(read_features(feature_file), expected)
        (message,) = caplog.messages
        assert f"is not kept in the cache {cache}" in message
        assert "full" in message if number != errno.EROFS else "refused" in message
        assert entries() == []
        assert not list((cache / "feature_maps").glob(".unfinished*"))

    def test_a_disk_with_less_room_than_the_file_is_left_alone(
        self, cache: Path, feature_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        free = mock.Mock(free=feature_file.stat().st_size - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
        with caplog.at_level(logging.INFO, "MMSA"):
            read_features(feature_file)
        assert "MiB too little free space" in caplog.text
        assert entries() == []

    def test_the_folder_is_a_file(self, cache: Path, feature_file: Path) -> None:
        cache.write_text("")
        for _ in range(2):
            read_features(feature_file)
        assert entries() == []
        assert clear() == 0

    def test_interrupted_writing_leaves_nothing(
        self, cache: Path, feature_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(feature_cache, "_write", mock.Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                read_features(feature_file)
        assert entries() == []
        assert not list((cache / "feature_maps").glob(".unfinished*"))
        read_features(feature_file)
        assert len(entries()) == 1

    @pytest.mark.parametrize("remove", [clear, None], ids=["cleared", "filled"])
    def test_what_a_killed_process_left_goes(
        self, cache: Path, feature_file: Path, remove: Callable[[], int] | None
    ) -> None:
        killed = "import os, sys; from pathlib import Path; from MMSA_ext.files import replaced\n"
        killed += "with replaced(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
        folder = cache / "feature_maps"
        subprocess.run([sys.executable, "-c", killed, folder / "a.arrays"], check=False)
        assert len(list(folder.iterdir())) == 1
        (remove or (lambda: read_features(feature_file)))()
        assert not list(folder.glob(".unfinished*"))

    def test_while_another_process_writes_the_file_is_read(
        self, feature_file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = read_features(feature_file, cache=False)
        read_features(feature_file)
        entry = entries()[0].path
        entry.unlink()
        with FileLock(entry.with_suffix(".lock")), caplog.at_level(logging.INFO, "MMSA"):
            assert_same(read_features(feature_file), expected)
        assert "another process" in caplog.text
        assert entries() == []

    def test_what_another_process_has_just_written_is_not_written_again(
        self, feature_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load, write = feature_cache.load_file, mock.Mock(wraps=feature_cache._write)

        def overtaken(path: Path) -> Any:
            monkeypatch.setattr(feature_cache, "load_file", load)
            read_features(path)
            return load(path)

        monkeypatch.setattr(feature_cache, "load_file", overtaken)
        monkeypatch.setattr(feature_cache, "_write", write)
        assert is_mapped(read_features(feature_file).splits["train"].audio)
        assert write.call_count == 1

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

    def test_the_problems_of_a_file_stay_the_same(self, tmp_path: Path, feature_data: Data) -> None:
        feature_data["valid"]["audio_lengths"][0] = 99
        feature_data["test"]["vision"][1, 0, 0] = np.inf
        path = write_features(tmp_path / "bad.pkl", feature_data)
        with pytest.raises(FeatureFileError) as expected:
            read_features(path, cache=False)
        for _ in range(2):
            with pytest.raises(FeatureFileError) as found:
                read_features(path)
            assert str(found.value) == str(expected.value)

    def test_checking_reads_the_file(self, feature_file: Path) -> None:
        check_features(feature_file)
        assert entries() == []

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data.pop("train"),
            lambda data: data["train"].update(audio=data["train"]["audio"].tolist()),
            lambda data: data["train"].update(audio=_time_first(data["train"]["audio"])),
            lambda data: data["test"].update(audio=np.asfortranarray(data["test"]["audio"])),
            lambda data: data["train"].update(id=[name.encode() for name in data["train"]["id"]]),
        ],
        ids=["a split is missing", "nested lists", "time first", "Fortran order", "bytes"],
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
    config = tiny_config("dashfusion", tiny_encoder, num_epochs=1, corruption=corruption)

    def run(folder: str) -> dict[str, float]:
        return dict(train("dashfusion", feature_file, tmp_path / folder, config=config).metrics)

    written, mapped = run("written"), run("mapped")
    assert len(entries()) == 1
    monkeypatch.setenv(VARIABLE, "off")
    assert run("off") == written == mapped


class TestFolder:
    def test_default_is_the_users_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "~/features")
        assert cache_folder() == Path.home() / "features"
        monkeypatch.delenv(VARIABLE)
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert cache_folder() == Path("/somewhere/MMSA_ext")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "MMSA_ext"
        monkeypatch.setattr(Path, "home", mock.Mock(side_effect=RuntimeError))
        assert cache_folder() is None

    def test_list_and_clear(self, cache: Path, feature_file: Path) -> None:
        kept = read_features(feature_file)
        (entry,) = entries()
        assert entry.source == str(feature_file.resolve())
        assert entry.size == entry.path.stat().st_size
        assert abs(entry.last_used - time.time()) < 60
        (cache / "feature_maps" / "mine.txt").write_text("stays")
        before = kept.splits["train"].audio.copy()
        assert clear() == entry.size
        assert entries() == []
        assert [path.name for path in (cache / "feature_maps").iterdir()] == ["mine.txt"]
        np.testing.assert_array_equal(kept.splits["train"].audio, before)

    def test_a_damaged_entry_is_listed_without_its_source(self, feature_file: Path) -> None:
        read_features(feature_file)
        entries()[0].path.write_bytes(b"nonsense")
        assert [(entry.source, entry.size) for entry in entries()] == [("", 8)]

    def test_entries_not_used_for_long_make_room(
        self, tmp_path: Path, feature_file: Path, feature_data: Data
    ) -> None:
        for _ in range(2):
            read_features(feature_file)
        old = entries()[0].path
        month = time.time() - 31 * 24 * 3600
        feature_data["train"]["audio"][0] += 1
        for name, paths, left in (
            ("two.pkl", [old], 2),  # it was hashed today
            ("three.pkl", [old, old.with_suffix(".checked")], 2),
        ):
            for path in paths:
                os.utime(path, (month, month))
            read_features(write_features(tmp_path / name, feature_data))
            assert len(entries()) == left
        assert not old.with_suffix(".checked").exists()
