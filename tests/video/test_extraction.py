"""Corpora of videos into feature files: what is found, kept, left out and gone on with."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from MMSA_ext.data.features import check_features
from MMSA_ext.data.safe_pickle import safe_load
from MMSA_ext.data.shards import read_utterances, shard_files, shard_recipe
from MMSA_ext.errors import ConfigError, FeatureFileError, MediaError
from MMSA_ext.video import extract
from MMSA_ext.video.contract import Track
from tests.video.fakes import Brightness, Loudness, write_pictures, write_sound

SPLITS = ("train", "train", "valid", "test")


def write_table(folder, rows, columns="id,path,text,label,split"):
    path = folder / "corpus.csv"
    path.write_text("\n".join([columns, *rows]) + "\n", "utf-8")
    return path


def sounds(folder, count=4):
    """A table of so many clips, each louder than the one before."""
    rows = []
    for i in range(count):
        write_sound(folder / "clips" / f"c{i}.wav", 0.3 + 0.1 * i, 0.1 * (i + 1))
        rows.append(f"u{i},clips/c{i}.wav,word{i} word{i + 1},{i - 1.5},{SPLITS[i % 4]}")
    return write_table(folder, rows)


def taken(tmp_path, source, **options):
    """The report, and what is in the file."""
    given = {"audio": Loudness(), "vision": None, "cache": tmp_path / "cache", "progress": False}
    report = extract(source, tmp_path / "features.pkl", **given | options)
    return report, safe_load(tmp_path / "features.pkl")


def test_a_table_becomes_a_file_to_train_on(tmp_path, tiny_encoder):
    report, data = taken(tmp_path, sounds(tmp_path), pretrained=str(tiny_encoder))
    assert data["train"]["id"] == ["u0", "u1"]
    assert data["train"]["raw_text"] == ["word0 word1", "word1 word2"]
    assert data["train"]["audio_lengths"] == [3, 4]
    np.testing.assert_allclose(data["train"]["audio"][0, :3, 0], 0.1**2 / 2, rtol=0.1)
    assert data["recipe"]["audio"] == Loudness().recipe()
    assert data["recipe"]["text"]["max_length"] == 50
    assert "vision" not in data["train"]
    assert report.found["audio"].count == 4
    assert "share found" in report.render()
    check = check_features(tmp_path / "features.pkl", "mosi")
    assert check.ok, check.render()


def test_parts_of_a_file_are_clips_of_their_own(tmp_path):
    write_sound(tmp_path / "long.wav", 1.0)
    rows = ["a,long.wav,0.2,0.5,x,1,train", "b,long.wav,0.5,,y,1,valid", "c,long.wav,,,z,1,test"]
    source = write_table(tmp_path, rows, "id,path,start,end,text,label,split")
    _, data = taken(tmp_path, source)
    lengths = [data[split]["audio_lengths"][0] for split in ("train", "valid", "test")]
    assert lengths == [3, 5, 10]


def test_splits_that_are_made_keep_a_video_together(tmp_path):
    rows = []
    for video in range(6):
        write_sound(tmp_path / f"v{video}.wav", 0.8)
        rows += [f"{video}_{i},v{video}.wav,{0.2 * i:.1f},{0.2 * i + 0.2:.1f},1" for i in range(4)]
    source = write_table(tmp_path, rows, "id,path,start,end,label")
    report, data = taken(tmp_path, source)
    videos = [{name.split("_")[0] for name in data[s]["id"]} for s in ("train", "valid", "test")]
    assert sum(map(len, videos)) == 6
    assert any("no 'path' in two splits" in note for note in report.notes)


def test_clips_are_found_by_the_ids_of_mmsas_data_sets(tmp_path):
    write_sound(tmp_path / "Raw" / "film" / "0001.wav")
    source = write_table(tmp_path, ["film,0001,said,1,train"], "video_id,clip_id,text,label,mode")
    _, data = taken(tmp_path, source)
    assert data["train"]["id"] == ["film$_$0001"]


def test_a_folder_takes_words_from_beside_the_files(tmp_path):
    folder = tmp_path / "folder"
    write_sound(folder / "one.wav")
    write_sound(folder / "deep" / "two.wav")
    (folder / "one.txt").write_text("word1 word2\n")
    (folder / "notes.md").write_text("no video")
    _, data = taken(tmp_path, folder)
    assert data["test"]["id"] == ["deep/two", "one"]
    assert data["test"]["raw_text"] == ["", "word1 word2"]


def test_a_broken_link_in_a_folder_is_named(tmp_path):
    folder = tmp_path / "folder"
    write_sound(folder / "one.wav")
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    with pytest.raises(FeatureFileError, match=r"no such file \(1\): id 'gone'"):
        taken(tmp_path, folder)
    report, data = taken(tmp_path, folder, incomplete="drop")
    assert list(report.failed) == ["gone"]
    assert data["test"]["id"] == ["one"]


def test_where_nothing_is_found_nothing_is_written(tmp_path):
    with pytest.raises(FeatureFileError, match="nothing was found in any clip"):
        taken(tmp_path, write_sound(tmp_path / "one.wav"), audio=None, vision=Brightness())


def test_one_video_is_one_sample(tmp_path):
    _, data = taken(tmp_path, write_sound(tmp_path / "one.wav"), text="word1")
    assert data["id"] == "one"
    assert data["raw_text"] == "word1"
    assert data["audio"].shape == (5, 2)


def test_one_video_may_be_its_utterances(tmp_path):
    video = write_sound(tmp_path / "long.wav", 4)
    video.with_suffix(".srt").write_text(
        "1\n00:00:00,500 --> 00:00:01,600\none two.\n\n2\n00:00:02,000 --> 00:00:03,900\nthree.\n"
    )
    _, data = taken(tmp_path, video, split="auto")
    assert data["test"]["id"] == ["long$_$1", "long$_$2"]
    assert data["test"]["raw_text"] == ["one two.", "three."]
    assert data["test"]["audio_lengths"] == [11, 19]


def test_files_of_one_name_have_ids_of_their_own(tmp_path):
    for name in ("a.wav", "b.wav"):
        write_sound(tmp_path / "folder" / name)
    write_pictures(tmp_path / "folder" / "a.mp4")
    _, data = taken(tmp_path, tmp_path / "folder")
    assert data["test"]["id"] == ["a.mp4", "a.wav", "b"]


def test_what_a_clip_lacks_is_a_frame_of_zeros_and_said(tmp_path):
    write_sound(tmp_path / "sound.wav")
    write_pictures(tmp_path / "pictures.mp4")
    rows = ["s,sound.wav,a,1,train", "p,pictures.mp4,b,-1,train"]
    source = write_table(tmp_path, rows)
    report, data = taken(tmp_path, source, vision=Brightness())
    train = data["train"]
    assert train["vision_lengths"] == [1, 5]
    assert not train["vision"][0].any()
    assert not train["audio"][1].any()
    said = report.render()
    assert "vision is missing, a frame of zeros in its place (1): id 's' (no pictures)" in said
    assert "audio is missing, a frame of zeros in its place (1): id 'p' (no sound)" in said
    assert (report.found["vision"].low, report.found["vision"].high) == (0.0, 0.5)


def test_what_all_clips_lack_is_absent(tmp_path, tiny_encoder):
    source = write_table(tmp_path, [f"{s},s.wav,1,{s}" for s in SPLITS[1:]], "id,path,label,split")
    write_sound(tmp_path / "s.wav")
    report, data = taken(tmp_path, source, vision=Brightness(), pretrained=str(tiny_encoder))
    assert not {"vision", "text_bert"} & data["train"].keys()
    assert set(data["recipe"]) == {"audio"}
    assert "vision is missing in all clips (no pictures): it is absent." in report.render()
    assert "No clip has a transcript" in report.render()


class TestBrokenClips:
    @pytest.fixture
    def source(self, tmp_path):
        table = sounds(tmp_path)
        (tmp_path / "clips" / "c1.wav").write_bytes(b"this is no sound")
        return table

    def test_are_named_and_nothing_is_written(self, tmp_path, source):
        with pytest.raises(FeatureFileError, match=r"(?s)id 'u1': .*c1.wav: is no video.*1 of 4"):
            taken(tmp_path, source)
        assert not (tmp_path / "features.pkl").exists()

    def test_are_left_out_if_told_to_and_the_others_not_extracted_again(self, tmp_path, source):
        log = tmp_path / "log"
        with pytest.raises(FeatureFileError):
            taken(tmp_path, source, audio=Loudness(log))
        report, data = taken(tmp_path, source, audio=Loudness(log), incomplete="drop")
        assert data["train"]["id"] == ["u0"]
        assert list(report.failed) == ["u1"]
        assert "Left out, cannot be extracted: id 'u1'" in report.render()
        assert sorted(log.read_text().split()) == ["c0.wav", "c2.wav", "c3.wav"]
        (tmp_path / "clips" / "c1.wav").unlink()
        report, _ = taken(tmp_path, source, incomplete="drop")
        assert "no such file" in report.failed["u1"]

    def test_an_extractor_that_fails_is_named(self, tmp_path, monkeypatch):
        def fail(self, clip):
            raise ZeroDivisionError("by zero")

        monkeypatch.setattr(Loudness, "__call__", fail)
        with pytest.raises(FeatureFileError, match="'loudness' fails: ZeroDivisionError: by zero"):
            taken(tmp_path, sounds(tmp_path, 2))

    def test_a_process_that_dies_costs_its_clip_alone(self, tmp_path):
        report, data = taken(
            tmp_path, sounds(tmp_path), audio=Loudness(dies_at="c2"), jobs=2, incomplete="drop"
        )
        assert list(report.failed) == ["u2"]
        assert "its process died" in report.failed["u2"]
        assert [data[s]["id"] for s in ("train", "test")] == [["u0", "u1"], ["u3"]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,gone.wav,,,1", "there is no such file"),
        ("a,,,,1", "path is empty"),
        ("a,s.wav,2,1,1", "end is not behind start"),
        ("a,s.wav,one,,1", "start is no number of seconds"),
        ("a,s.wav,-1,,1", "start is no number of seconds"),
        ("b,s.wav,,,1", "id occurs more than once"),
        ("a,s.wav,,,", "M is missing"),
        ("a,s.wav,,,x", "label is no number"),
    ],
)
def test_a_wrong_table_is_told_before_anything_is_extracted(tmp_path, row, words):
    write_sound(tmp_path / "s.wav")
    source = write_table(tmp_path, ["b,s.wav,,,1", row], "id,path,start,end,label")
    log = tmp_path / "log"
    with pytest.raises(FeatureFileError, match=words):
        taken(tmp_path, source, audio=Loudness(log))
    assert not log.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"audio": Brightness()}, "extracts vision"),
        ({"jobs": 0}, "jobs"),
        ({"text": "said"}, "of one file"),
        ({"cache": 3}, "3 is no path"),
        ({"split": "pauses"}, "of one video"),
        ({"split": "half"}, "split is 'half'"),
        ({"audio": "no_such"}, "no_such"),
        ({"incomplete": "maybe"}, "incomplete"),
    ],
)
def test_options_are_checked(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        taken(tmp_path, sounds(tmp_path, 1), **options)


def test_a_folder_without_media_and_table_options_beside_a_folder(tmp_path):
    with pytest.raises(MediaError, match="holds no video or audio file"):
        taken(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="goes with a table"):
        taken(tmp_path, tmp_path, group="speaker")


class TestCache:
    def extracted(self, tmp_path, source, **recipe):
        log = tmp_path / "log"
        log.write_text("")
        taken(tmp_path, source, audio=Loudness(log, **recipe))
        return log.read_text().split()

    def test_nothing_is_extracted_twice_unless_file_or_recipe_changes(self, tmp_path):
        source = sounds(tmp_path)
        assert len(self.extracted(tmp_path, source)) == 4
        assert self.extracted(tmp_path, source) == []
        write_sound(tmp_path / "clips" / "c1.wav", level=0.9)
        assert self.extracted(tmp_path, source) == ["c1.wav"]
        (tmp_path / "clips" / "c0.wav").rename(tmp_path / "clips" / "moved.wav")
        table = source.read_text().replace("c0.wav", "moved.wav")
        source.write_text(table)
        assert self.extracted(tmp_path, source) == []  # by content, not by name
        assert len(self.extracted(tmp_path, source, version="2")) == 4

    def test_a_file_that_is_read_beside_the_video_counts(self, tmp_path, monkeypatch):
        notes = tmp_path / "notes.csv"
        notes.write_text("1")
        monkeypatch.setattr(Loudness, "beside", lambda self, video: [notes], raising=False)
        source = sounds(tmp_path, 2)
        assert len(self.extracted(tmp_path, source)) == 2
        assert self.extracted(tmp_path, source) == []
        notes.write_text("22")
        assert len(self.extracted(tmp_path, source)) == 2

    def test_damage_is_made_anew(self, tmp_path):
        source = sounds(tmp_path)
        self.extracted(tmp_path, source)
        _, before = taken(tmp_path, source)
        one, other, *_ = sorted((tmp_path / "cache").glob("*.npz"))
        one.write_bytes(one.read_bytes()[:-30])
        other.write_bytes(b"")
        assert len(self.extracted(tmp_path, source)) == 2
        _, after = taken(tmp_path, source)
        np.testing.assert_array_equal(before["train"]["audio"], after["train"]["audio"])

    def test_without_a_cache_nothing_is_kept(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        taken(tmp_path, sounds(tmp_path), cache=False)
        assert not any((tmp_path / "temporary").iterdir())
        assert not (tmp_path / "cache").exists()


OWN = """
from MMSA_ext.video.extractors import register_extractor
from tests.video.fakes import Loudness

register_extractor("loudness")(Loudness)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_an_extraction_that_was_ended_goes_on(tmp_path, number):
    """Also by SIGKILL, and with its processes, which end with it."""
    source, log = sounds(tmp_path, 12), tmp_path / "log"
    (tmp_path / "own.py").write_text(OWN)
    command = [sys.executable, "-m", "MMSA_ext", "extract", source, "-o", tmp_path / "f.pkl"]
    command += ["--import", tmp_path / "own.py", "--audio", f"loudness:log={log},seconds=0.15"]
    command += ["--vision", "none", "-j", "2"]
    options = {"cwd": Path(__file__).parents[2], "text": True}
    options["env"] = os.environ | {"MMSA_EXT_CACHE": str(tmp_path / "cache")}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, **options)
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().split()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(running.pid, number)
    _, said = running.communicate(timeout=20)
    if number == signal.SIGINT:
        assert running.returncode == 130
        assert "the same command goes on from there" in said
    time.sleep(0.5)  # its processes see its end
    done = log.read_text().split()
    assert 3 <= len(done) < 12
    time.sleep(0.5)
    assert log.read_text().split() == done
    kept = len(list((tmp_path / "cache" / "clips").glob("*.npz")))
    assert len(done) - 2 <= kept <= len(done)  # each process may have been about to keep one
    log.write_text("")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    counts = Counter(log.read_text().split())
    assert set(counts.values()) == {1}
    assert len(counts) == 12 - kept
    assert len(safe_load(tmp_path / "f.pkl")["train"]["id"]) == 6


def test_shards_hold_the_same(tmp_path):
    source = sounds(tmp_path)
    _, data = taken(tmp_path, source)
    options = {"audio": Loudness(), "vision": None, "cache": False, "progress": False}
    extract(source, tmp_path / "shards", shards=2, **options)
    parts = shard_files(tmp_path / "shards")
    assert shard_recipe(parts[0]) == {"audio": Loudness().recipe()}
    found = {}
    for part in parts:
        for some in read_utterances(part):
            found |= dict(zip(some.ids, some.arrays["audio"], strict=True))
    for split in ("train", "valid", "test"):
        rows = zip(*(data[split][key] for key in ("id", "audio", "audio_lengths")), strict=True)
        for name, frames, length in rows:
            np.testing.assert_array_equal(found[name], frames[:length])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (None, "returns NoneType"),
        (Track([[1.0, 2.0]], [0.0]), "must be NumPy arrays"),
        (Track(np.zeros((2, 2)), np.arange(2.0)), "frames are float64"),
        (Track(np.zeros((2, 3), np.float32), np.arange(2.0)), "not float32 .L, 2."),
        (Track(np.full((2, 2), np.inf, np.float32), np.arange(2.0)), "no finite numbers"),
        (Track(np.zeros((2, 2), np.float32), np.arange(3.0)), "times are"),
        (Track(np.zeros((2, 2), np.float32), np.array([1.0, 0.0])), "times do not grow"),
        (Track(np.zeros((2, 2), np.float32), np.arange(2.0), found=2), "found is 2"),
        (Track(np.zeros((0, 2), np.float32), np.zeros(0)), "does not say why"),
        (Track(np.zeros((2, 2), np.float32), np.arange(2.0), shown={"x": np.zeros(1)}), "shown"),
    ],
)
def test_what_an_extractor_makes_is_checked(tmp_path, monkeypatch, made, words):
    monkeypatch.setattr(Loudness, "__call__", lambda self, clip: made)
    with pytest.raises(FeatureFileError, match=f"'loudness' fails: .*{words}"):
        taken(tmp_path, sounds(tmp_path, 1))
    assert not list((tmp_path / "cache").glob("*.npz"))


def test_an_error_of_others_is_one_line_and_a_local_class_stays_in_its_process(tmp_path):
    class Local(Loudness):
        def __call__(self, clip):
            raise RuntimeError("one\ntwo")

    with pytest.raises(FeatureFileError, match="RuntimeError: one two"):
        taken(tmp_path, sounds(tmp_path, 1), audio=Local())
    with pytest.raises(ConfigError, match="top of a module"):
        taken(tmp_path, sounds(tmp_path, 2), audio=Local(), jobs=2)


def test_no_file_that_is_read_is_written(tmp_path):
    source, clip = sounds(tmp_path), tmp_path / "clips" / "c1.wav"
    before = clip.read_bytes()
    with pytest.raises(ConfigError, match="is the input"):
        extract(source, clip, audio=Loudness(), vision=None, cache=False)
    assert clip.read_bytes() == before


def test_it_is_said_what_is_kept_and_why_nothing_is_left(tmp_path):
    source = write_table(tmp_path, ["a,a.wav,,1,train", "b,b.wav,,1,test"])
    write_sound(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("no sound")
    with pytest.raises(FeatureFileError, match="kept in the cache"):
        taken(tmp_path, source)
    with pytest.raises(FeatureFileError, match="Nothing is kept without the cache"):
        taken(tmp_path, source, cache=False)
    (tmp_path / "a.wav").write_text("neither")
    with pytest.raises(FeatureFileError, match=r"id 'a': .*\n.*id 'b': .*\n.*2 of 2 clips"):
        taken(tmp_path, source, incomplete="drop")
