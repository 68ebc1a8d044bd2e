"""One request at a time, in sentences without paths."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from MMSA_ext.errors import ConfigError, MediaError
from MMSA_ext.page import desk as module
from MMSA_ext.page.desk import Desk, in_a_sentence, without_paths


def test_two_clients_wait_for_each_other(desk, monkeypatch):
    running, most = [], []
    usual = module.read

    def slow(*given, **more):
        running.append(1)
        most.append(len(running))
        time.sleep(0.1)
        running.pop()
        return usual(*given, **more)

    monkeypatch.setattr(module, "read", slow)
    said = [("text_only", "word3"), (None, "word4"), ("text_only", "word5")]
    threads = [threading.Thread(target=desk.sentence, args=one) for one in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_a_long_video_is_refused_before_it_is_read(desk, video, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_SECONDS", 0.5)
    monkeypatch.setattr(module, "extract_video", None)
    with pytest.raises(ConfigError, match=r"new.mp4: lasts 0 minutes, and 0 are read here at most"):
        desk.video(None, video)


def test_given_words_are_not_recognised(models, video):
    """A recogniser that there is none of is not asked for."""
    asked = Desk(module.Checkpoints([], models), recogniser="nobody")
    assert asked.video("dashfusion", video, text="word3").score.utterances[0].text == "word3"
    with pytest.raises(ConfigError, match="nobody"):
        asked.video("dashfusion", video)


def test_errors_name_models_and_files_not_paths(desk, models, tmp_path):
    path = tmp_path / "upload"
    path.write_bytes(b"no video")
    with pytest.raises(MediaError) as raised:
        desk.video("text_only", path)
    assert desk.said(raised.value, {path: "mine.mp4"}).startswith("mine.mp4: is no video or audio")
    error = ConfigError(f"{models / 'dashfusion.pth'}: wrong:\n  one\n  two\nMend it.")
    assert desk.said(error) == "dashfusion: wrong: one; two Mend it."


def test_a_long_path_is_found_as_messages_shorten_it():
    path = Path("/" + "long/" * 60 + "x")
    assert in_a_sentence(f"{module.shown(path)}: is empty.", {path: "x"}) == "x: is empty."


def test_an_utterances_error_names_no_path(desk, video):
    reading = desk.video("text_only", video, text="word3")
    wrong = replace(reading.score.utterances[0], error=f"{video}: is damaged.")
    reading = replace(reading, score=replace(reading.score, utterances=(wrong,)))
    told = without_paths(reading, {video: "new"}).score.utterances[0].error
    assert told == "new: is damaged."
