"""What a click does, without a browser."""

from types import SimpleNamespace

import pytest

from MMSA_ext.page import layout
from tests.video.fakes import write_sound

NOTE = "Learnt from little."


@pytest.fixture
def clicks(desk):
    return layout._Clicks(desk, {"dashfusion": NOTE})


def of(path=None):
    return layout._Visit(path=path)


def test_a_video_its_parts_and_its_faces(clicks, video):
    answer, editor, transcript, parts = clicks.file("dashfusion", video, " word3 ", of(video))
    assert NOTE in answer
    assert "word3</span>" in answer
    assert editor.visible
    assert transcript == "word3"
    assert parts.count("<img") == 8
    assert "A face was found in 100 %" in parts


def test_a_sound_has_no_pictures_and_that_is_said(clicks, tmp_path):
    sound = write_sound(tmp_path / "a.wav")
    answer, _, _, parts = clicks.file("dashfusion", sound, "word3", of(sound))
    assert "No face: no pictures." in answer
    assert "<img" not in parts


def test_a_sentence_is_not_edited(clicks):
    answer, editor, _, parts = clicks.sentence("text_only", "word3", of())
    assert "weakly" in answer or "neutral" in answer or "positive" in answer
    assert NOTE not in answer
    assert not editor.visible
    assert "words</th>" in parts


def test_an_edited_transcript_keeps_the_faces(clicks, video):
    visit = of(video)
    clicks.file("dashfusion", video, "word3", visit)
    answer, _, transcript, parts = clicks.again("word9\nword20", visit)
    assert transcript == "word9 word20"  # of one utterance all lines
    assert "word20</span>" in answer
    assert parts.count("<img") == 8


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda clicks, video: clicks.file("dashfusion", None, "", of()), "there is no file"),
        (lambda clicks, video: clicks.file("../x", video, "", of(video)), "there is no model"),
        (lambda clicks, video: clicks.sentence("text_only", " ", of()), "there is no text"),
        (lambda clicks, video: clicks.sentence("dashfusion", "a", of()), "reads audio and vision"),
        (lambda clicks, video: clicks.again("a", of()), "score a file first"),
    ],
)
def test_what_is_wrong_is_said_on_the_page(clicks, video, act, said):
    answer, editor, _, parts = act(clicks, video)
    assert 'role="alert"' in answer
    assert said in answer
    assert str(video.parent) not in answer
    assert parts == ""
    assert not editor.visible


def test_an_error_of_our_own_shows_no_traceback(clicks, desk, monkeypatch, caplog):
    monkeypatch.setattr(desk, "sentence", lambda *_: 1 / 0)
    answer, *_ = clicks.sentence("text_only", "word3", of())
    assert "nobody foresaw (ZeroDivisionError)" in answer
    assert "Traceback" not in answer
    assert "Traceback" in caplog.text


def test_an_upload_is_deleted_when_another_comes_or_its_client_leaves(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    names = ("first", "second", "sound", "sample")
    first, second, sound, sample = files = [folder / name for name in names]
    elsewhere = tmp_path / "elsewhere"
    for path in (*files, elsewhere):
        path.touch()
    visits, client = layout._Visits(folder), SimpleNamespace(session_hash="a")
    visits.kept = {str(sample)}
    assert visits.begin(client, first, "video").path == first
    visits.begin(client, first, "video")
    visits.begin(client, sound, "sound")
    assert visits.begin(client).path is None  # a sentence
    assert first.exists()  # it is still shown, and may be scored again
    for path in (sample, elsewhere, second):
        visits.begin(client, path, "video")
    assert not first.exists()
    visits.begin(SimpleNamespace(session_hash="b"), elsewhere, "video")
    visits.end(client)
    assert not second.exists()
    assert not sound.exists()
    assert sample.exists()
    assert elsewhere.exists()
    assert visits.of(client).files == {}
