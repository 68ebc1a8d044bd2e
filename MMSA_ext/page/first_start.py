"""Models for who has none yet: trained on generated sentences and talking heads, in a minute or so.

They show how the page works, and measure nothing. A sentence is a frame with a word of known
sentiment in it; a head says one (its voice has no words, see `video.talking_head`) with a face and
a voice of a sentiment of their own. Its label is the mean of the two, so each modality counts.

    <folder>/text_only.pth    reads sentences
    <folder>/dashfusion.pth   reads words, sound and face
    <folder>/sample.mp4       a clip that neither has seen
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from MMSA_ext.data.convert import convert
from MMSA_ext.data.encode_text import text_recipe
from MMSA_ext.datasets import Dataset, known
from MMSA_ext.errors import MMSAExtError, TrainingDivergedError
from MMSA_ext.files import exclusive, scratch_folder, write_error
from MMSA_ext.page import kept
from MMSA_ext.runs.api import MMSA_run
from MMSA_ext.version import __version__
from MMSA_ext.video import extract
from MMSA_ext.video.extractors import extractor
from MMSA_ext.video.talking_head import make_talking_head

__all__ = ["NOTE", "SAMPLE_TEXT", "FirstStart", "first_start"]

NOTE = (
    "This model learnt from generated sentences and talking heads, to show the page. Its scores "
    "are no measure of anything."
)
SAMPLE_TEXT = "I had a wonderful day, and the concert was great."

_ENCODER = "minilm"
_EXTRACTORS = ("sims33", "facemesh")
_DATASET = Dataset(name="generated_heads", label_range=(-3.0, 3.0), metrics="mosi", like="mosi")
# Sentiment -> words, and frames that leave it as it is, or turn and weaken it.
_WORDS = {
    3: "wonderful brilliant amazing fantastic excellent",
    2: "great lovely delightful beautiful impressive",
    1: "good nice pleasant fine decent",
    0: "ordinary average usual plain long",
    -1: "slow weak dull bland tiring",
    -2: "bad poor annoying boring disappointing",
    -3: "terrible awful horrible dreadful disgusting",
}
_THINGS = ("film", "food", "music", "story", "hotel", "day", "book", "game", "talk", "concert")
_FRAMES = (
    ("The {thing} was {word}.", 1.0),
    ("I think this {thing} is {word}.", 1.0),
    ("What a {word} {thing}!", 1.0),
    ("We had a {word} {thing}.", 1.0),
    ("It was not a {word} {thing}.", -0.5),
)
_AN = re.compile(r"\ba(?= [aeiou])")
_SENTENCES = 210
_HEADS = 48
_HEAD: dict[str, Any] = {"seconds": 2.0, "rate": 15, "size": 160}
_HELD_OUT = 8  # of each kind in validation, and as many in testing
_TEXT_ONLY = {"num_epochs": 6, "learning_rate": 2e-4, "readout": "first_and_mean"}
_DASHFUSION = {"num_epochs": 8, "learning_rate": 2e-4, "batch_size": 8}
_SEED = 1111
_WAIT_SECONDS = 900.0  # for another start that makes them


@dataclass(frozen=True)
class FirstStart:
    """Two checkpoints and a clip."""

    text_only: Path
    dashfusion: Path
    sample: Path

    @classmethod
    def within(cls, folder: Path) -> FirstStart:
        """By their names in a folder."""
        names = ("text_only.pth", "dashfusion.pth", "sample.mp4")
        return cls(*(folder / name for name in names))


def first_start(cache: Path, say: Callable[[str], None]) -> FirstStart:
    """Make the models and the clip, unless they are there.

    All appear when all are complete. Of several starts at once one makes them, the others wait.
    Others are made where an extractor, the text encoder or this package changed.

    Args:
        cache: Folder that keeps them, in a folder of their own.
        say: Told of each step.

    Raises:
        ConfigError: A package of the extra is not installed.
        TextEncoderError: The text encoder is not installed, with the line that installs it.
        WriteError: The disk refuses, or another start takes too long.
    """
    folder = kept.folder_of(cache, _recipe_digest())
    if folder.is_dir():
        return FirstStart.within(folder)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(cache / "demo.lock", _WAIT_SECONDS):
            if not folder.is_dir():
                with scratch_folder(cache) as scratch:
                    _make(scratch, say).rename(folder)
    except OSError as error:
        if isinstance(error, MMSAExtError):
            raise
        raise write_error(folder, error) from error
    return FirstStart.within(folder)


def _recipe_digest() -> str:
    """Digest of what decides how a video is extracted, and a sentence read."""
    recipes = [extractor(name).recipe() for name in _EXTRACTORS]
    text = json.dumps([__version__, text_recipe(_ENCODER, 0), recipes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _make(scratch: Path, say: Callable[[str], None]) -> Path:
    """A folder with everything, in a scratch folder."""
    (made := scratch / "made").mkdir()
    there = FirstStart.within(made)
    rng = np.random.default_rng(_SEED)
    numbers = count(1)

    @contextmanager
    def step(what: str) -> Iterator[None]:
        say(f"{next(numbers)} of 4: {what} ...")
        began = time.monotonic()
        yield
        say(f"        done in {time.monotonic() - began:.0f} s")

    with known(_DATASET):
        with step("training text_only on generated sentences"):
            features = _sentences(scratch, rng)
            _train("text_only", features, scratch, _TEXT_ONLY, there.text_only)
        with step(f"making {_HEADS} talking heads"):
            table = _heads(scratch, rng)
            make_talking_head(there.sample, 0.8, 5.0, _SEED)
        with step("extracting sound and faces"):
            features, (audio, vision) = scratch / "heads.pkl", _EXTRACTORS
            makers: dict[str, Any] = {"audio": audio, "vision": vision, "pretrained": _ENCODER}
            extract(table, features, cache=scratch / "clips", **makers)
        with step("training dashfusion on them"):
            _train("dashfusion", features, scratch, _DASHFUSION, there.dashfusion)
    return made


def _sentences(scratch: Path, rng: np.random.Generator) -> Path:
    rows = _drawn(rng, _SENTENCES)
    table = _written(scratch / "sentences.csv", [{"text": t, "label": v} for t, v in rows])
    features = scratch / "sentences.pkl"
    convert(table, features, pretrained=_ENCODER)
    return features


def _heads(scratch: Path, rng: np.random.Generator) -> Path:
    """A table of clips, and the clips."""
    rows = []
    for number, (text, sentiment) in enumerate(_drawn(rng, _HEADS)):
        shown = float(rng.uniform(-1, 1))
        path = scratch / f"head-{number}.mp4"
        make_talking_head(path, shown, seed=number, **_HEAD)
        rows.append({"path": path.name, "text": text, "label": (sentiment + 3 * shown) / 2})
    return _written(scratch / "heads.csv", rows)


def _drawn(rng: np.random.Generator, count: int) -> list[tuple[str, float]]:
    """Sentences and their sentiment, from -3 to 3; each once."""
    words = [(word, value) for value, listed in _WORDS.items() for word in listed.split()]
    every = list(product(words, _FRAMES, _THINGS))
    chosen = rng.choice(len(every), count, replace=False)
    return [
        (_AN.sub("an", frame.format(word=word, thing=thing)), value * factor)
        for (word, value), (frame, factor), thing in (every[i] for i in chosen)
    ]


def _written(table: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A CSV with ids and splits."""
    splits = ["valid"] * _HELD_OUT + ["test"] * _HELD_OUT
    splits += ["train"] * (len(rows) - len(splits))
    pd.DataFrame(rows).assign(split=splits).to_csv(table, index_label="id")
    return table


def _train(
    model: str, features: Path, scratch: Path, config: dict[str, Any], checkpoint: Path
) -> None:
    (seed,) = MMSA_run(
        model,
        _DATASET.name,
        config=config | {"pretrained": _ENCODER},
        seeds=[_SEED],
        custom_feature=features,
        gpu_ids="cpu",
        num_workers=0,
        verbose_level=0,
        model_save_dir=scratch / model,
        res_save_dir=scratch / model,
        log_dir=scratch / model,
    ).seeds
    if seed.checkpoint is None:
        raise TrainingDivergedError(f"{model} could not be trained: {seed.record.reason}")
    seed.checkpoint.rename(checkpoint)
