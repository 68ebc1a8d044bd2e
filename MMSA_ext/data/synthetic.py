"""Generated data sets in MMSA's feature-file layout, with a known structure planted in them.

A sample's label is the sum of a text, an audio and a vision part. The text part is one sentiment
word; the nonverbal parts are short cues among frames of noise. Each cue accompanies a marker word
and comes before or after it by a fixed lag; in some samples one of the two markers turns the sign
of its cue, so that only who aligns the modalities in time can tell what the cue means. No modality
and no two modalities suffice. `achievable` computes what the best possible predictor reaches.
``docs/data.md`` has the equations.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from MMSA_ext.data import synthetic_text as words
from MMSA_ext.data.recipes import Recipe
from MMSA_ext.data.synthetic_structure import (
    CUE_LEVELS,
    DATASETS,
    MIN_WORDS,
    RANK,
    TEXT_LEVELS,
    DatasetSpec,
    FloatArray,
    IntArray,
    Structure,
    achievable,
    cue_direction,
    cue_frames,
    gate_signs,
    resolve_spec,
    resolve_structure,
    source_channels,
)
from MMSA_ext.data.synthetic_text import read_transcripts, vocabulary, write_tiny_encoder
from MMSA_ext.errors import ConfigError
from MMSA_ext.files import replaced
from MMSA_ext.names import MODALITIES, SPLITS

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "Structure",
    "achievable",
    "cue_direction",
    "cue_frames",
    "make",
    "vocabulary",
    "write",
    "write_tiny_encoder",
]

Split = dict[str, Any]
Sizes = tuple[int, int, int] | Literal["official"] | None

_VERSION = "1"  # of what is generated; a change of it gives all files another name
DEFAULT_SIZES = (512, 128, 256)
MARKER_GAP = 2
TEXT_FEATURE_NOISE = 0.1
_BLOCK = 256


@dataclass(frozen=True)
class _Parts:
    """Latent parts of n samples: ``parts`` (n, 3) in label units, ``amplitude`` (n, 2) of cues."""

    level: IntArray
    parts: NDArray[np.float64]
    conflict: NDArray[np.bool_]
    gate: IntArray
    amplitude: NDArray[np.float64]


def _exact_fraction(rng: np.random.Generator, n: int, fraction: float) -> NDArray[np.bool_]:
    return rng.permutation(n) < round(fraction * n)


def _draw_parts(
    rng: np.random.Generator, n: int, spec: DatasetSpec, structure: Structure
) -> _Parts:
    scale = np.array(structure.shares) * spec.label_range
    level = rng.integers(len(TEXT_LEVELS), size=n)
    text = TEXT_LEVELS[level] * scale[0]
    cue = rng.choice(CUE_LEVELS, size=(n, 2))
    conflict = _exact_fraction(rng, n, structure.conflict)
    # One joint turn of both signs: their magnitudes and their agreement stay independent of text.
    wrong = (text * (cue @ scale[1:]) < 0) != conflict
    cue[wrong] *= -1
    gate = _exact_fraction(rng, n, structure.gated) * rng.integers(1, 3, size=n)
    parts = np.column_stack([text, cue * scale[1:]])
    return _Parts(level, parts, text * parts[:, 1:].sum(1) < 0, gate, cue * gate_signs(gate))


def _draw_word_counts(rng: np.random.Generator, n: int, spec: DatasetSpec) -> IntArray:
    counts = np.round(rng.lognormal(*spec.words_log, size=n)).astype(np.int64)
    return np.clip(counts, MIN_WORDS, spec.lengths[0] - 2)


def _place(rng: np.random.Generator, counts: IntArray, lag: Sequence[float]) -> IntArray:
    """Choose the words that carry text, audio and vision cue: (n, 3), all different.

    A nonverbal cue's word is such that the cue, shifted by its lag, stays within the utterance; the
    two are at least `MARKER_GAP` words apart.
    """
    position = np.arange(int(counts.max()))

    def pick(allowed: NDArray[np.bool_], shift: float) -> IntArray:
        last = counts[:, None] - 1
        inside = (position <= last - max(shift, 0)) & (position >= -min(shift, 0))
        keys = rng.random((len(counts), len(position)))
        chosen: IntArray = np.where(inside & allowed, keys, -1.0).argmax(1)
        return chosen

    audio = pick(np.array(True), lag[0])
    from_audio = np.abs(position - audio[:, None])
    vision = pick(from_audio >= MARKER_GAP, lag[1])
    text = pick((from_audio > 0) & (position != vision[:, None]), 0.0)
    return np.column_stack([text, audio, vision])


def _render(
    rng: np.random.Generator,
    spec: DatasetSpec,
    structure: Structure,
    modality: int,
    counts: IntArray,
    word: IntArray,
    reading: NDArray[np.float64],
) -> tuple[FloatArray, IntArray, IntArray]:
    """Write a modality's frames: noise, and one cue per sample.

    Args:
        rng: Source of randomness.
        spec: The data set.
        structure: What is planted.
        modality: 1 audio, 2 vision.
        counts: Words per sample, (n,).
        word: Position of the word that the cue accompanies, (n,).
        reading: Amplitude of the cue, (n,).

    Returns:
        Features (n, L, d), lengths in frames (n,), first frame of the cue (n,).
    """
    n, total, dim = len(counts), spec.lengths[modality], spec.dims[modality]
    wanted = counts * (total / (spec.lengths[0] - 2)) * rng.uniform(1 - structure.jitter, 1, n)
    lengths: IntArray = np.clip(np.round(wanted).astype(np.int64), counts, total)
    span = cue_frames(spec, modality)
    centre = (word + 0.5 + structure.lag[modality - 1]) / counts * lengths
    first = np.clip(np.floor(centre).astype(np.int64) - span // 2, 0, np.maximum(lengths - span, 0))

    features = np.zeros((n, total, dim), dtype=np.float32)
    valid, source = np.arange(total) < lengths[:, None], source_channels(dim)
    for block in range(0, n, _BLOCK):  # in blocks, so that noise does not double the memory
        here = valid[block : block + _BLOCK]
        shape = (int(here.sum()), min(dim, RANK))
        frames = rng.standard_normal(shape, dtype=np.float32) * np.float32(structure.noise)
        features[block : block + _BLOCK][here] = frames[:, source]
    name: Literal["audio", "vision"] = "audio" if modality == 1 else "vision"
    cue = reading[:, None].astype(np.float32) * cue_direction(name, dim)
    cue[:, source == 0] = 1  # the onset flag
    rows = np.arange(n)[:, None]
    features[rows, first[:, None] + np.arange(span)] += structure.gain * cue[:, None]
    return features, lengths, first


def _generators(seed: int, dataset: str, split: str) -> list[np.random.Generator]:
    """One source of randomness for each of: latent parts, text, audio, vision."""
    key = [seed, list(DATASETS).index(dataset), SPLITS.index(split)]
    return [np.random.default_rng(child) for child in np.random.SeedSequence(key).spawn(4)]


def _generated_split(
    dataset: str,
    split: str,
    n: int,
    spec: DatasetSpec,
    structure: Structure,
    generators: list[np.random.Generator],
    tokenizer: Any,
) -> Split:
    """A split without its text features."""
    latent, text = generators[:2]
    counts = _draw_word_counts(latent, n, spec)
    drawn = _draw_parts(latent, n, spec, structure)
    place = _place(latent, counts, structure.lag)
    reading = drawn.amplitude + structure.cue_noise * latent.standard_normal((n, 2))
    sentence = words.compose(
        text,
        spec.lexicon,
        counts,
        place[:, 0],
        drawn.level,
        place[:, 1:],
        gate_signs(drawn.gate) < 0,
    )
    raw_text = words.join(spec.lexicon, sentence, counts)
    if tokenizer is None:
        text_bert = words.encode_words(spec.lexicon, sentence, counts, spec.lengths[0])
    else:
        text_bert = words.encode_strings(tokenizer, raw_text, spec.lengths[0])
    labels = spec.quantise(drawn.parts.sum(1))
    result = {
        "raw_text": np.array(raw_text),
        "id": [f"{dataset}_{split}_{i:05d}" for i in range(n)],
        "text_bert": text_bert,
        **_label_entries(labels),
        "planted": {
            **{f"{m}_part": drawn.parts[:, i] for i, m in enumerate(MODALITIES)},
            "conflict": drawn.conflict,
            "gate": drawn.gate,
            "text_word": place[:, 0],
        },
    }
    if spec.unimodal:
        for i, letter in enumerate("TAV"):
            result[f"regression_labels_{letter}"] = drawn.parts[:, i].astype(np.float32)
    _add_nonverbal(result, spec, structure, generators[2:], counts, place[:, 1:], reading)
    return result


def _transcribed_split(
    dataset: str,
    table: pd.DataFrame,
    spec: DatasetSpec,
    structure: Structure,
    generators: list[np.random.Generator],
    tokenizer: Any,
) -> Split:
    """A split on given text and labels: the cues are noisy readings of the label."""
    latent, n = generators[0], len(table)
    raw_text, labels = table["text"].tolist(), table["label"].to_numpy(np.float64)
    counts = np.array([len(spec.lexicon.split(text)) for text in raw_text])
    counts = np.clip(counts, 1, spec.lengths[0] - 2)
    turned = _exact_fraction(latent, n, structure.conflict)
    amplitude = np.where(turned, -labels, labels)[:, None] / spec.label_range
    reading = amplitude + structure.reading_noise * latent.standard_normal((n, 2))
    result = {
        "raw_text": np.array(raw_text),
        "id": table["id"].tolist(),
        "text_bert": words.encode_strings(tokenizer, raw_text, spec.lengths[0]),
        **_label_entries(labels),
        "planted": {"conflict": turned & (labels != 0)},
    }
    if spec.unimodal:
        result |= {f"regression_labels_{m}": result["regression_labels"].copy() for m in "TAV"}
        result["unimodal_labels"] = "copied from M"
    place = latent.integers(counts[:, None], size=(n, 2))
    _add_nonverbal(result, spec, structure, generators[2:], counts, place, reading)
    return result


def _label_entries(labels: NDArray[np.float64]) -> Split:
    classes = np.sign(labels).astype(np.int64) + 1
    return {
        "annotations": np.array(["Negative", "Neutral", "Positive"])[classes],
        "regression_labels": labels.astype(np.float32),
        "classification_labels": classes,
    }


def _add_nonverbal(
    split: Split,
    spec: DatasetSpec,
    structure: Structure,
    generators: list[np.random.Generator],
    counts: IntArray,
    place: IntArray,
    reading: NDArray[np.float64],
) -> None:
    for i, name in enumerate(("audio", "vision")):
        features, lengths, first = _render(
            generators[i], spec, structure, i + 1, counts, place[:, i], reading[:, i]
        )
        split[name], split[f"{name}_lengths"] = features, lengths.tolist()
        split["planted"] |= {
            f"{name}_word": place[:, i],
            f"{name}_frame": first,
            f"{name}_reading": reading[:, i],
        }


def _resolve_sizes(sizes: Sizes, spec: DatasetSpec) -> tuple[int, int, int]:
    resolved = spec.sizes if sizes == "official" else sizes or DEFAULT_SIZES
    if len(resolved) != 3 or min(resolved) < 1:
        raise ConfigError(
            f"sizes={sizes!r}: give 'official' or three positive numbers (train, valid, test)."
        )
    return resolved


def make(
    dataset: str = "mosi",
    *,
    sizes: Sizes = None,
    seed: int = 0,
    tokenizer: Any = None,
    transcripts: Path | str | None = None,
    lengths: tuple[int, int, int] | None = None,
    dims: tuple[int, int, int] | None = None,
    text_features: bool = True,
    **structure: Any,
) -> dict[str, Split]:
    """Generate a data set in MMSA's feature-file layout.

    The same arguments give the same arrays; a split does not depend on the size of the others.
    MOSEI at its official sizes holds 4.6 GB, and another 3.5 GB with ``text_features``.

    Args:
        dataset: A shipped one (``DATASETS``): label range and grid, language, dimensions.
        sizes: Samples of train, valid, test; ``"official"``; None: 512, 128, 256. With
            ``transcripts``: at most that many first rows of each split; None: all.
        seed: Seed of everything but what a feature means (token vectors, cue directions).
        tokenizer: A Hugging Face tokenizer, or a name or folder for
            `MMSA_ext.text_encoders.load_tokenizer`. None: the ids of `vocabulary`.
        transcripts: CSV with ``id, split, text, label`` to build on; needs a tokenizer. Audio and
            vision cues are then noisy readings of the label.
        lengths: Time steps of text, audio, vision; None: the official ones.
        dims: Feature dimensions of text, audio, vision; None: the official ones.
        text_features: Whether to add ``text``, vectors for models that take no token ids.
        **structure: The fields of `Structure`.

    Returns:
        ``{"train": split, "valid": split, "test": split}``. A split holds MMSA's keys: ``raw_text``
        (n,) str, ``id`` list of str, ``text`` (n, L, d) float32, ``text_bert`` (n, 3, L) float32,
        ``audio`` and ``vision`` (n, L, d) float32, ``audio_lengths`` and ``vision_lengths`` list of
        int (frames), ``annotations``, ``regression_labels`` (n,) float32, ``classification_labels``
        (n,) int64 and, for SIMS, ``regression_labels_T/_A/_V``: the parts, or, with transcripts, a
        copy that ``unimodal_labels`` admits. ``planted`` holds the truth (see docs/data.md).

    Raises:
        ConfigError: An argument is not usable.
        FeatureFileError: The transcript file is not usable.
        TextEncoderError: The tokenizer cannot be loaded.
    """
    spec = resolve_spec(dataset, lengths, dims)
    planted = resolve_structure(structure)
    if seed < 0:
        raise ConfigError(f"seed={seed}: give 0 or more.")
    table = None if transcripts is None else read_transcripts(transcripts, spec.label_range)
    if table is not None and tokenizer is None:
        raise ConfigError(
            "transcripts need a tokenizer: tokenizer='minilm', a folder, or a folder made by "
            "write_tiny_encoder(folder, texts=...)."
        )
    data = {}
    for i, split in enumerate(SPLITS):
        generators = _generators(seed, dataset, split)
        if table is None:
            n = _resolve_sizes(sizes, spec)[i]
            content = _generated_split(dataset, split, n, spec, planted, generators, tokenizer)
        else:
            rows = table[table["split"] == split]
            if sizes not in (None, "official"):
                rows = rows.head(_resolve_sizes(sizes, spec)[i])
            content = _transcribed_split(dataset, rows, spec, planted, generators, tokenizer)
        if text_features:
            content["text"] = words.embed(
                generators[1], content["text_bert"], spec.dims[0], TEXT_FEATURE_NOISE
            )
        data[split] = content
    return data


def write(path: Path | str, dataset: str = "mosi", **options: Any) -> Path:
    """Write a generated data set as a pickle (protocol 4); the file appears complete or not at all.

    Beside the splits it has a recipe: frames of one data set, `gain` and `noise` mean the same,
    whatever their seed, size and labels.

    Args:
        path: The file; its folder is created, an existing file replaced.
        dataset: As in `make`.
        **options: The other arguments of `make`.

    Returns:
        The path.
    """
    path = Path(path).expanduser()
    data = {**make(dataset, **options), "recipe": _recipe(dataset, **options)}
    with replaced(path) as staged, staged.open("wb") as file:
        pickle.dump(data, file, protocol=4)
    return path


def _recipe(dataset: str, *, tokenizer: Any = None, **options: Any) -> Recipe:
    """Who made the modalities: what of the options of `make` a word or frame depends on."""
    if isinstance(tokenizer, str | Path):
        from MMSA_ext.text_encoders import identity  # as in `synthetic_text`

        tokenizer = identity(str(tokenizer))
    elif tokenizer is not None:
        tokenizer = f"{type(tokenizer).__name__} of {len(tokenizer)} words"
    made = {"name": __name__, "version": _VERSION, "dataset": dataset}
    heights = ("gain", "noise")
    frames = made | {key: float(options.get(key, getattr(Structure, key))) for key in heights}
    return {"text": made | {"tokenizer": tokenizer}, "audio": frames, "vision": frames}
