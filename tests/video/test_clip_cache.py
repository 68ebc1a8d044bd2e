"""What was extracted of clips is kept, found and cleared."""

import json
import os
import time

import numpy as np
import pytest

from MMSA_ext.errors import WriteError
from MMSA_ext.video import clip_cache
from MMSA_ext.video.clip_cache import ClipCache, key_of, opened_cache
from MMSA_ext.video.contract import Track, Word

TRACK = Track(
    np.arange(6, dtype=np.float32).reshape(3, 2),
    np.array([0.1, 0.2, 0.3]),
    0.5,
    "",
    {"face": np.full((3, 4), np.nan, np.float32)},
)
NOTHING = Track(np.zeros((0, 2), np.float32), np.zeros(0), 0.0, "kein Gesicht 没有脸")


@pytest.mark.parametrize("track", [TRACK, NOTHING])
def test_a_track_comes_back_as_it_was(tmp_path, track):
    cache = ClipCache(tmp_path / "clips")
    assert cache.track("a", 2) is None
    cache.keep_track("a", track, "it breaks off")
    found, damage = cache.track("a", 2)
    assert damage == "it breaks off"
    assert (found.found, found.missing) == (track.found, track.missing)
    for one, other in zip(
        (found.frames, found.times, *found.shown.values()),
        (track.frames, track.times, *track.shown.values()),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert cache.words("a") is None


def test_words_come_back(tmp_path):
    cache = ClipCache(tmp_path)
    cache.keep_words("w", [Word("你好", 0.25, 1.0)])
    cache.keep_words("none", [])
    assert cache.words("w") == [Word("你好", 0.25, 1.0)]
    assert cache.words("none") == []
    assert cache.track("w", 2) is None


def test_a_key_is_of_all_that_decides():
    keys = {key_of("a", 0.0, None), key_of("a", 0.0, 1.0), key_of("b", 0.0, None)}
    assert len(keys) == 3
    assert key_of({"x": 1, "y": 2}) == key_of({"y": 2, "x": 1})


def test_an_entry_with_a_pickle_is_not_loaded(tmp_path):
    cache = ClipCache(tmp_path)
    np.savez(tmp_path / "bad.npz", frames=np.array([object()]), times=np.zeros(1), facts=b"{}")
    assert cache.track("bad", 2) is None


def test_what_is_not_used_for_long_goes(tmp_path):
    cache = ClipCache(tmp_path)
    for key in ("old", "new"):
        cache.keep_track(key, TRACK)
    past = time.time() - clip_cache._UNUSED_SECONDS - 60
    for path in cache.entries():
        os.utime(path, (past, past))
    cache.track("new", 2)  # is used
    with opened_cache(tmp_path):
        pass
    assert [path.stem for path in cache.entries()] == ["new"]
    assert cache.clear() > 0
    assert cache.entries() == []


FACTS = {"found": 1.0, "missing": "", "damage": ""}


@pytest.mark.parametrize(
    ("facts", "frames", "times"),
    [
        ([], TRACK.frames, TRACK.times),
        ({}, TRACK.frames, TRACK.times),
        (FACTS | {"found": "x"}, TRACK.frames, TRACK.times),
        (FACTS, TRACK.frames[:, :1], TRACK.times),
        (FACTS, TRACK.frames * np.float32("nan"), TRACK.times),
        (FACTS, TRACK.frames, TRACK.times[:2]),
        ({"words": [{"text": 1}]}, TRACK.frames, TRACK.times),
    ],
)
def test_what_is_no_sound_entry_is_none(tmp_path, facts, frames, times):
    told = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(tmp_path / "k.npz", facts=told, frames=frames, times=times)
    cache = ClipCache(tmp_path)
    assert cache.track("k", 2) is None
    assert cache.words("k") is None


def test_a_folder_that_cannot_be_written_is_named_with_the_mend(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="MMSA_EXT_CACHE"):
        ClipCache(tmp_path / "file").keep_track("k", TRACK)
