import warnings

import pytest

from MMSA_ext.errors import ConfigError, MediaError
from MMSA_ext.video.subtitles import SubtitleWarning, read_subtitles

TWO = (
    "1\n00:00:01,000 --> 00:00:02,500\nHello <i>you</i>\n\n2\n00:00:03,000 --> 00:00:04,000\nBye.\n"
)


@pytest.fixture
def read(tmp_path):
    def read(content, name="a.srt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return [(cue.start, cue.end, cue.text) for cue in read_subtitles(path)]

    return read


HELLO = [(1.0, 2.5, "Hello you"), (3.0, 4.0, "Bye.")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_srt_in_any_form(read, encoding, newline):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    assert read((mark + TWO.replace("\n", newline)).encode(encoding)) == HELLO


def test_vtt_with_settings_notes_styles_names_and_no_hours(read):
    text = (
        "WEBVTT - a title\nKind: captions\n\nNOTE a remark\nover two lines\n\nSTYLE\n::cue { }\n\n"
        "first\n00:01.000 --> 00:02.500 align:start position:10%\n<v Ann>Hello &amp; {\\an8}you\n\n"
        "not a cue\n\n1:00:03.000 --> 1:00:04.000\na < b, 1 <3\n"
    )
    assert read(text, "a.vtt") == [(1.0, 2.5, "Hello & you"), (3603.0, 3604.0, "a < b, 1 <3")]


def test_numbers_and_empty_lines_in_a_text_are_text(read):
    text = "7\n00:01,5 --> 00:02\nIn\n\n1984\n42 of them\n\n8\n00:00:03.000 --> 00:00:04.000\n99\n"
    assert read(text) == [(1.5, 2.0, "In 1984 42 of them"), (3.0, 4.0, "99")]


def test_cues_are_put_in_a_row(read):
    text = "".join(
        f"00:00:{a:02},000 --> 00:00:{b:02},000\n{c}\n\n"
        for a, b, c in [(5, 8, "late"), (1, 6, "long"), (5, 6, "too")]
    )
    assert read(text) == [(1.0, 5.0, "long"), (5.0, 8.0, "late too")]


def test_automatic_captions_are_read_once_with_the_times_of_their_words(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(
        "WEBVTT\n\n00:00.000 --> 00:02.000\n \n"
        "hello<00:00.500><c> big</c><00:01.500><c> world</c>\n\n"
        "00:02.000 --> 00:02.010\nhello big world\n \n\n"
        "00:02.010 --> 00:04.000\nhello big world\nagain<00:03.000><c> and</c>\n\n"
        "00:04.000 --> 00:04.010\nagain and\n \n"
    )
    cues = read_subtitles(path)
    assert [cue.text for cue in cues] == ["hello big world", "again and"]
    assert cues[0].parts == ((0.0, 0.5, "hello"), (0.5, 1.5, "big"), (1.5, 2.0, "world"))


def test_words_said_twice_are_kept_without_times_of_words(read):
    text = "00:01,000 --> 00:02,000\nNo.\n\n00:02,000 --> 00:03,000\nNo.\n"
    assert [cue[2] for cue in read(text)] == ["No.", "No."]


def test_times_before_the_start_are_read(read):
    assert read("-00:00:01,000 --> 00:00:02,000\na\n") == [(-1.0, 2.0, "a")]


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ("这部电影真的很好看", "gb18030", "gb18030"),
        ("Le film était très beau à Noël", "latin-1", "cp1252"),
    ],
)
def test_other_encodings_are_guessed_aloud(tmp_path, text, encoding, guess):
    path = tmp_path / "a.srt"
    path.write_bytes(TWO.replace("Bye.", text).encode(encoding))
    with pytest.warns(SubtitleWarning, match=rf"a\.srt.*{guess}.*guess"):
        assert read_subtitles(path)[1].text == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWO.replace("00:00:03,000 -->", "00:00:0x,000 -->"), "line 6: .* are no times"),
        (TWO.replace("03,000 --> ", "03,000 "), "line 6: .* are no times"),
        (TWO.replace("00:00:03", "00:61:03"), "line 6: .* are no times"),
        (TWO.replace("00:00:03", "00:00:09"), "line 6: ends before it begins"),
        ("just a text\n" + TWO, "line 1: text before the first times"),
        ("", "holds no cue"),
        (b"\x00\x01\x02binary\xff", "is no text file"),
        (b"\xff\xfe\x00\xd8", "is no text file"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(read, text, said):
    with warnings.catch_warnings(), pytest.raises(MediaError, match=rf"a\.srt: {said}"):
        read(text)


def test_an_empty_vtt_says_that_nothing_is_said(read):
    assert read("WEBVTT\n\n", "a.vtt") == []


def test_files_that_are_none(tmp_path):
    for path in (tmp_path, tmp_path / "absent.srt"):
        with pytest.raises(MediaError, match=path.name):
            read_subtitles(path)
    with pytest.raises(ConfigError):
        read_subtitles("a\0b")
    large = tmp_path / "large.srt"
    with large.open("wb") as file:
        file.truncate(50 * 2**20)
    with pytest.raises(MediaError, match=r"large\.srt: cannot be read: it has 50 MiB"):
        read_subtitles(large)
