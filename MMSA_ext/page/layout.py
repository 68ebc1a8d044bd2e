"""The page: what stands where, and what a click does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from MMSA_ext.errors import ConfigError, MediaError, MMSAExtError
from MMSA_ext.page.desk import Desk, unforeseen, without_paths
from MMSA_ext.page.drawing import (
    Face,
    draw,
    draw_error,
    draw_parts,
    face_strip,
    picture_rate,
)
from MMSA_ext.page.reading import Reading
from MMSA_ext.video.media import open_clip

__all__ = ["build", "theme"]

logger = logging.getLogger("MMSA")

_KEPT_SECONDS = 3600  # an upload that nobody scores
_HEAD = (
    "<h1>What a model makes of a video</h1>"
    "<p>The score on the scale that the model learnt, how it goes over time, and what words, sound "
    "and face add to it.</p>"
)
_EMPTY = "<p class='empty'>Choose a video, a sound or a sentence, and press Score.</p>"


@dataclass
class _Visit:
    """What is kept of a client until it leaves."""

    files: dict[str, Path] = field(default_factory=dict)  # what it uploaded last, by where
    path: Path | None = None  # of the reading; None of a sentence
    reading: Reading | None = None  # what was scored last; None where that failed
    faces: tuple[Face, ...] = ()


class _Visits:
    """By session; files of one that leaves are deleted, and one in whose place another comes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._visits = folder.resolve(), dict[str, _Visit]()
        self._lock = threading.Lock()
        self.kept: set[str] = set()  # files of the page itself

    def of(self, request: gr.Request) -> _Visit:
        with self._lock:
            return self._visits.setdefault(str(request.session_hash), _Visit())

    def begin(self, request: gr.Request, path: Path | None = None, where: str = "") -> _Visit:
        """A new reading, of a file or a sentence."""
        visit = self.of(request)
        if path is not None:
            before, visit.files[where] = visit.files.get(where, path), path
            if before != path:
                self._delete(before)
        visit.path, visit.reading, visit.faces = path, None, ()
        return visit

    def end(self, request: gr.Request) -> None:
        with self._lock:
            visit = self._visits.pop(str(request.session_hash), _Visit())
        for path in visit.files.values():
            self._delete(path)

    def _delete(self, path: Path) -> None:
        if str(path) not in self.kept and path.resolve().is_relative_to(self._folder):
            path.unlink(missing_ok=True)


def theme() -> gr.themes.Base:
    """Quiet colours, and fonts of the reader's machine."""
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def build(
    desk: Desk,
    folder: Path,
    *,
    notes: Mapping[str, str] | None = None,
    sample: tuple[Path, str] | None = None,
) -> gr.Blocks:
    """Lay the page out.

    Args:
        desk: What scores.
        folder: In which gradio keeps uploads.
        notes: By checkpoint, a sentence that stands with its scores.
        sample: A clip that is there when the page opens, and what is said in it.
    """
    visits, clicks = _Visits(folder), _Clicks(desk, notes or {})
    names = list(desk.checkpoints.places())
    page = gr.Blocks(
        title="What a model makes of a video",
        analytics_enabled=False,
        delete_cache=(_KEPT_SECONDS // 12, _KEPT_SECONDS),
    )
    with page:
        gr.HTML(_HEAD, elem_id="head")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                model = gr.Dropdown(
                    names, value=next(iter(names), None), label="Model", elem_id="model"
                )
                inputs = _inputs(sample)
                visits.kept = inputs.video.keep_in_cache
            with gr.Column(scale=3, min_width=300):
                answer = gr.HTML(_EMPTY, elem_id="answer", apply_default_css=False)
                with gr.Column(visible=False) as editor:
                    transcript = gr.Textbox(
                        label="Transcript, one line an utterance", lines=3, elem_id="transcript"
                    )
                    again = gr.Button("Score this transcript", elem_id="again")
                parts = gr.HTML(elem_id="parts", apply_default_css=False)
        shown = [answer, editor, transcript, parts]
        _on_clicks(clicks, visits, model, inputs, shown, (transcript, again))
        page.load(clicks.models, model, model, api_visibility="private", show_progress="hidden")
        page.unload(visits.end)
    page.queue(max_size=20, api_open=False)
    return page


@dataclass
class _Inputs:
    video: gr.Video
    said: gr.Textbox
    score_video: gr.Button
    audio: gr.Audio
    heard: gr.Textbox
    score_audio: gr.Button
    sentence: gr.Textbox
    score_sentence: gr.Button


def _inputs(sample: tuple[Path, str] | None) -> _Inputs:
    words = "What is said, if you know it"
    clip, text = sample or (None, "")
    with gr.Tabs():
        with gr.Tab("Video"):
            video = gr.Video(
                value=clip,
                sources=["upload", "webcam"],
                webcam_options=gr.WebcamOptions(mirror=False),
                include_audio=True,
                label="Video",
                elem_id="video",
                buttons=[],
            )
            said = gr.Textbox(text, label=words, lines=2, elem_id="said")
            score_video = gr.Button("Score", variant="primary", elem_id="score-video")
        with gr.Tab("Sound"):
            audio = gr.Audio(type="filepath", editable=False, label="Sound", buttons=[])
            heard = gr.Textbox(label=words, lines=2)
            score_audio = gr.Button("Score", variant="primary", elem_id="score-sound")
        with gr.Tab("Sentence"):
            sentence = gr.Textbox(
                label="Sentence", lines=3, placeholder="What was said", elem_id="sentence"
            )
            score_sentence = gr.Button("Score", variant="primary", elem_id="score-sentence")
    return _Inputs(video, said, score_video, audio, heard, score_audio, sentence, score_sentence)


def _on_clicks(
    clicks: _Clicks,
    visits: _Visits,
    model: gr.Dropdown,
    inputs: _Inputs,
    shown: list[Any],
    edited: tuple[gr.Textbox, gr.Button],
) -> None:
    """Connect buttons with what they do. One runs at a time; gradio shows others their place."""

    def connect(trigger: Callable[..., Any], action: Callable[..., Any], given: list[Any]) -> None:
        trigger(
            action,
            given,
            shown,
            concurrency_limit=1,
            concurrency_id="model",
            api_visibility="private",
            show_progress_on=shown[0],
        )

    def file(where: str) -> Callable[..., list[Any]]:
        def action(name: str, path: str | None, text: str, request: gr.Request) -> list[Any]:
            given = None if path is None else Path(path)
            return clicks.file(name, given, text, visits.begin(request, given, where))

        return action

    def sentence(name: str, text: str, request: gr.Request) -> list[Any]:
        return clicks.sentence(name, text, visits.begin(request))

    def again(text: str, request: gr.Request) -> list[Any]:
        return clicks.again(text, visits.of(request))

    connect(inputs.score_video.click, file("video"), [model, inputs.video, inputs.said])
    connect(inputs.score_audio.click, file("sound"), [model, inputs.audio, inputs.heard])
    connect(inputs.score_sentence.click, sentence, [model, inputs.sentence])
    connect(edited[1].click, again, [edited[0]])


class _Clicks:
    """What happens on a click; each gives the answer, and whether and how it can be edited."""

    def __init__(self, desk: Desk, notes: Mapping[str, str]) -> None:
        self._desk, self._notes = desk, notes

    def models(self, chosen: str | None) -> Any:
        """The models that there are now."""
        names = list(self._desk.checkpoints.places())
        return gr.Dropdown(names, value=chosen if chosen in names else next(iter(names), None))

    def file(self, name: str, path: Path | None, text: str, visit: _Visit) -> list[Any]:
        """Score a video or a sound."""

        def score() -> Reading:
            if path is None:
                raise MediaError("there is no file; upload or record one.")
            given = text.strip() or None
            return self._desk.video(name, path, text=given)

        return self._shown(score, visit, self._faces)

    def sentence(self, name: str, text: str, visit: _Visit) -> list[Any]:
        """Score a sentence."""
        return self._shown(lambda: self._desk.sentence(name, text or ""), visit)

    def again(self, text: str, visit: _Visit) -> list[Any]:
        """Score with an edited transcript."""

        def score() -> Reading:
            if visit.reading is None:
                raise ConfigError("there is nothing to score again; score a file first.")
            count = len(visit.reading.score.utterances)
            lines = [" ".join(text.split())] if count == 1 else text.strip("\n").split("\n")
            return self._desk.edited(visit.reading, [line.strip() for line in lines])

        return self._shown(score, visit)

    def _faces(self, reading: Reading, path: Path) -> tuple[Face, ...]:
        clip = open_clip(path)
        if not clip.has_pictures:
            return ()
        return tuple(face_strip(reading.score, list(clip.pictures(picture_rate(clip.duration)))))

    def _shown(
        self,
        score: Callable[[], Reading],
        visit: _Visit,
        faces: Callable[[Reading, Path], tuple[Face, ...]] | None = None,
    ) -> list[Any]:
        names = {} if visit.path is None else {visit.path: visit.path.name}
        try:
            reading = without_paths(score(), names)
            if faces is not None and visit.path is not None:
                visit.faces = faces(reading, visit.path)
            visit.reading = reading
            note = self._notes.get(reading.model)
            drawn = draw(reading, notes=[note] if note else [])
            parts = draw_parts(reading, visit.faces)
        except MMSAExtError as error:
            return self._wrong(self._desk.said(error, names), visit)
        except Exception as error:
            logger.exception("the page")
            return self._wrong(unforeseen(error), visit)
        texts = "\n".join(one.text for one in reading.score.utterances)
        editable = not reading.is_sentence and "text" in reading.reads
        return [drawn, gr.Column(visible=editable), texts, parts]

    def _wrong(self, sentence: str, visit: _Visit) -> list[Any]:
        """A sentence; a transcript that can be edited again stays."""
        kept = gr.skip() if visit.reading else gr.Column(visible=False)
        return [draw_error(sentence), kept, gr.skip(), ""]
