import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from MMSA_ext.errors import ConfigError, MediaError

pytest.importorskip("av")
pytest.importorskip("soxr")

from MMSA_ext.video import media
from MMSA_ext.video.media import open_clip
from tests.video.make import RATE, clicks, grey_of, greys, write

AT = (1.0, 2.5)


def grey(picture: np.ndarray) -> int:
    """Brightness away from the white corner."""
    return int(np.median(picture[picture.shape[0] // 2 :, picture.shape[1] // 2 :]))


def is_number(picture: np.ndarray, number: int) -> bool:
    return abs(grey(picture) - grey_of(number)) <= 3


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write(path, greys(100), clicks(4, AT), options={"movflags": "faststart"})


def test_a_film_has_its_length_its_sound_and_its_pictures(film):
    clip = open_clip(film)

    assert (clip.has_audio, clip.has_pictures, clip.damage) == (True, True, "")
    assert clip.duration == pytest.approx(4, abs=0.03)
    assert clip.audio(16_000).shape == (round(clip.duration * 16_000),)
    shown = list(clip.pictures(25))
    assert [time for time, _ in shown] == pytest.approx(np.arange(100) / 25)
    assert all(is_number(picture, k) for k, (_, picture) in enumerate(shown))
    assert shown[0][1].shape == (48, 64, 3)
    assert shown[0][1][4, 4].min() > 240


@pytest.mark.parametrize(
    ("name", "codec", "rate", "off"),
    [
        ("a.mp4", "aac", RATE, 2e-4),
        ("a.m4a", "aac", RATE, 2e-4),
        ("a.mp3", "mp3", RATE, 2e-4),
        ("a.wav", "pcm_s16le", RATE, 2e-4),
        ("a.flac", "flac", RATE, 2e-4),
        ("a.ogg", "libopus", 48_000, 2e-4),
        ("a.mkv", "aac", RATE, 1e-3),
        ("a.webm", "libopus", 48_000, 1.5e-3),
    ],
)
def test_a_click_is_heard_when_it_was_made(tmp_path, name, codec, rate, off):
    path = write(tmp_path / name, None, clicks(4, AT, rate), sound_rate=rate, codecs=("", codec))

    whole = open_clip(path).audio(rate)
    part = open_clip(path, 2.3, 3.1).audio(rate)

    for time in AT:
        near = whole[round((time - 0.2) * rate) : round((time + 0.2) * rate)]
        assert abs(np.argmax(np.abs(near)) / rate - 0.2) <= off
    assert len(part) == round(0.8 * rate)
    assert abs(np.argmax(np.abs(part)) / rate - 0.2) <= off


def test_a_part_of_the_sound_is_that_part_of_the_whole(tmp_path):
    path = write(tmp_path / "a.wav", None, clicks(4, AT), codecs=("", "pcm_s16le"))

    whole, part = open_clip(path).audio(RATE), open_clip(path, 1.2345, 3).audio(RATE)

    first = round(1.2345 * RATE)
    assert np.abs(part - whole[first : first + len(part)]).max() < 1e-6
    assert np.abs(whole - clicks(4, AT)).max() < 1e-4


def test_a_part_of_the_pictures_begins_between_key_frames(film):
    shown = list(open_clip(film, 2.28, 3.08).pictures(25))

    assert len(shown) == 20
    assert all(is_number(picture, 57 + k) for k, (_, picture) in enumerate(shown))


@pytest.mark.parametrize("rate", [10, 25, 60])
def test_pictures_of_a_varying_rate_come_at_a_fixed_one(tmp_path, rate):
    times = [0, 40, 50, 300, 310, 320, 900, 1000, 1010]
    path = write(tmp_path / "varying.mkv", greys(9), milliseconds=times)

    shown = list(open_clip(path).pictures(rate))

    assert [time for time, _ in shown] == pytest.approx(np.arange(len(shown)) / rate)
    assert shown[-1][0] == pytest.approx(1.01, abs=0.06)
    for time, picture in shown:
        last = max(k for k, at in enumerate(times) if at <= time * 1000 + 1)
        assert is_number(picture, last)


def test_a_turned_film_is_upright(tmp_path):
    path = write(tmp_path / "phone.mp4", greys(3), turned=90)

    _, picture = next(open_clip(path).pictures(25))

    assert picture.shape == (64, 48, 3)
    assert picture[-4, 4].min() > 240  # turned against the clock
    assert picture[4, 4].max() < 100


def test_large_pictures_are_made_smaller(tmp_path):
    path = write(tmp_path / "large.mp4", greys(1, (640, 320)))

    _, picture = next(open_clip(path).pictures(25, largest=160))

    assert picture.shape == (80, 160, 3)


def test_sound_without_pictures_and_pictures_without_sound(tmp_path):
    sound = open_clip(write(tmp_path / "a.wav", None, clicks(1, ()), codecs=("", "pcm_s16le")))
    film = open_clip(write(tmp_path / "a.mp4", greys(1)))

    assert (sound.has_audio, sound.has_pictures) == (True, False)
    assert list(sound.pictures(25)) == []
    assert (film.has_audio, film.has_pictures) == (False, True)
    assert film.audio(16_000).shape == (0,)
    assert len(list(film.pictures(25))) == 1


def test_sound_that_ends_before_the_pictures_is_silent_there(tmp_path):
    clip = open_clip(write(tmp_path / "a.mp4", greys(50), clicks(1, (0.5,))))

    sound = clip.audio(16_000)

    assert len(sound) == round(clip.duration * 16_000) == 32_000
    assert np.abs(sound[:16_000]).max() > 0.5
    assert np.abs(sound[17_000:]).max() == 0


def test_sound_that_is_no_number_or_beyond_full_scale_is_mended(tmp_path):
    sound = clicks(1, ())
    sound[1000:1100], sound[30_000:30_100] = np.nan, 1e30
    path = write(tmp_path / "a.wav", None, sound, codecs=("", "pcm_f32le"))

    heard = open_clip(path).audio(16_000)

    assert np.abs(heard).max() == 1
    assert np.abs(heard[:9_000]).max() < 0.01
    assert heard[2_000:8_000].std() > 5e-4


def test_names_in_chinese_and_of_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("视频 一.mp4", "concat:a.mp4"):
        write(tmp_path / "a.mp4", greys(2)).rename(tmp_path / name)
        assert open_clip(name).has_pictures


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.mp4", None, "no such file"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"hello " * 500, "is no video or audio file"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfilm.mp4\n", "is no video"),
        ("list.mp4", b"ffconcat version 1.0\nfile film.mp4\n", "is no video or audio file"),
        ("net.m3u8", b"#EXTM3U\n#EXTINF:4,\nhttp://127.0.0.1:9/a.ts\n", "is no video"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "is no video or audio file"),
    ],
)
def test_what_is_no_media_file_is_said_so(tmp_path, film, name, content, said):
    os.link(film, tmp_path / "film.mp4")  # that a playlist could open
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(MediaError, match=f"{name}: {said}"):
        open_clip(tmp_path / name)


def test_a_folder_is_no_media_file(tmp_path):
    with pytest.raises(MediaError, match="is a folder"):
        open_clip(tmp_path)


@pytest.mark.parametrize(
    ("name", "codecs", "said"),
    [
        ("a.mp4", ("libx264", "aac"), "it breaks off at .* of 4.0"),
        ("a.mkv", ("libx264", "aac"), "it breaks off at .* of 4.0"),
        ("a.avi", ("mpeg4", "mp3"), "it breaks off at"),
        ("a.wav", ("", "pcm_s16le"), "it breaks off at 2.00 s"),
    ],
)
def test_a_file_that_breaks_off_gives_what_is_there(tmp_path, name, codecs, said):
    pictures = greys(100) if codecs[0] else None
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = write(tmp_path / name, pictures, clicks(4, AT), codecs=codecs, options=options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])

    clip = open_clip(path)

    assert 1 < clip.duration < 3
    assert re.match(said, clip.damage)
    sound = clip.audio(16_000)
    assert np.abs(sound[15_000:17_000]).max() > 0.5
    if pictures:
        assert len(list(clip.pictures(25))) >= clip.duration * 25 - 3


def test_an_mp4_without_its_index_says_so(tmp_path):
    path = write(tmp_path / "a.mp4", greys(10))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 4])

    with pytest.raises(MediaError, match="breaks off before its index"):
        open_clip(path)


def test_damaged_packets_are_left_out_and_noted(film, tmp_path):
    content = bytearray(film.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content) // 2, len(content), 400):
        content[place] = rng.integers(256)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)

    clip = open_clip(path)
    sound, pictures = clip.audio(16_000), list(clip.pictures(25))

    assert "cannot be decoded" in clip.damage
    assert np.isfinite(sound).all()
    assert len(pictures) == 100
    assert is_number(pictures[3][1], 3)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (-1, None, "no stretch of time"),
        (1, 1, "no stretch of time"),
        (math.nan, None, "no stretch of time"),
        (0, math.inf, "no stretch of time"),
        (5, None, "no stretch of time"),
        (5, 6, "is not in the file, which has 4.0"),
        (0, 9, "is not in the file"),
    ],
)
def test_a_stretch_outside_of_the_file_is_refused(film, start, end, said):
    with pytest.raises(MediaError, match=said):
        open_clip(film, start, end)


def test_an_end_a_little_behind_the_files_is_the_files(film):
    clip = open_clip(film, 1, 4.4)

    assert clip.start + clip.duration == pytest.approx(open_clip(film).duration)


def test_more_than_memory_holds_is_refused(film, monkeypatch):
    monkeypatch.setattr(media, "LONGEST_SECONDS", 3.0)

    with pytest.raises(MediaError, match="give start and end"):
        open_clip(film)
    assert open_clip(film, 1, 3).duration == 2


def test_a_rate_that_is_none(film):
    with pytest.raises(ConfigError, match="rate"):
        next(open_clip(film).pictures(0))


def test_a_clip_goes_to_other_processes(film):
    clip = pickle.loads(pickle.dumps(open_clip(film, 1, 2)))

    assert len(clip.audio(8_000)) == 8_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="its peak is not known there")
def test_ten_minutes_do_not_lie_in_memory(tmp_path):
    """One picture is 0.9 MB here: all of them were 14 GB."""
    path = write(tmp_path / "long.mp4", greys(1, (640, 480)) * 15_000, clicks(600, (599.0,)))
    code = (
        "import sys\n"
        "from MMSA_ext.processes import peak_rss_mb\n"
        "from MMSA_ext.video.media import open_clip\n"
        "clip = open_clip(sys.argv[1])\n"
        "print(len(clip.audio(16000)), sum(1 for _ in clip.pictures(25)))\n"
        "print(round(peak_rss_mb()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )

    samples, pictures, peak = map(int, done.stdout.split())
    assert (samples, pictures) == (9_600_000, 15_000)
    assert peak < 1_000_000 / 2**10  # MiB
