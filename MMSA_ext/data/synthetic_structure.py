"""What generated data sets contain, and the best that any predictor can reach on them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from MMSA_ext.data import synthetic_text as words
from MMSA_ext.datasets import SHIPPED
from MMSA_ext.errors import ConfigError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

MIN_WORDS = 6
NOT_INVERTED, AUDIO_INVERTED, VISION_INVERTED = 0, 1, 2
# A cue's amplitude is one of these, a text part one of those, both in shares of their modality.
CUE_LEVELS = np.array([k / 5 for k in range(-5, 6) if k])
TEXT_LEVELS = np.array(words.SENTIMENT_LEVELS) / 3
UNALIGNED = "text+audio+vision, unaligned"
RANK = 16
_BLOCK = 256


@dataclass(frozen=True)
class DatasetSpec:
    """What a generated data set has in common with the official one.

    Attributes:
        sizes: Samples of train, valid and test.
        lengths: Time steps of text, audio and vision, unaligned.
        dims: Feature dimensions of text, audio and vision (MMSA's ``feature_dims``).
        label_range: Labels lie in [-label_range, label_range].
        steps: Labels are multiples of 1/steps, as most of the official ones are.
        words_log: Mean and standard deviation of the logarithm of the words a sample has; measured
            as WordPieces of the official transcripts, as a generated word is one of them.
        lexicon: The language.
        unimodal: Whether each modality has labels of its own.
    """

    sizes: tuple[int, int, int]
    lengths: tuple[int, int, int]
    dims: tuple[int, int, int]
    label_range: int
    steps: int
    words_log: tuple[float, float]
    lexicon: words.Lexicon
    unimodal: bool = False

    def quantise(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Clip to the label range and round to the grid of labels."""
        clipped = np.clip(values, -self.label_range, self.label_range)
        # Rounding first to 9 digits keeps a sum such as 0.1 + 0.2 from moving a tie.
        rounded: NDArray[np.float64] = np.round(np.round(clipped * self.steps, 9)) / self.steps
        return rounded + 0.0


def _official(name: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Lengths and dimensions of text, audio and vision in the official file."""
    official = SHIPPED[name]
    return cast("Any", official.seq_lens), cast("Any", official.feature_dims)


DATASETS = {
    "mosi": DatasetSpec(
        (1284, 229, 686),
        *_official("mosi"),
        3,
        5,
        (2.40, 0.62),
        words.ENGLISH,
    ),
    "mosei": DatasetSpec(
        (16326, 1871, 4659),
        *_official("mosei"),
        3,
        3,
        (3.00, 0.65),
        words.ENGLISH,
    ),
    "sims": DatasetSpec(
        (1368, 456, 457),
        *_official("sims"),
        1,
        5,
        (2.65, 0.49),
        words.CHINESE,
        unimodal=True,
    ),
}
# What is not known of SIMSv2 (sizes, lengths, words) is as in SIMS.
DATASETS["simsv2"] = replace(DATASETS["sims"], dims=cast("Any", SHIPPED["simsv2"].feature_dims))


@dataclass(frozen=True)
class Structure:
    """What is planted; every field is an option of `make`, `write` and `achievable`.

    Attributes:
        shares: Largest part of text, audio and vision, as shares of the label's half-range.
        conflict: Fraction of samples whose text part has the opposite sign of audio + vision.
        gated: Fraction of samples in which one of the two markers turns the sign of its cue.
        lag: By how many words the audio and the vision cue follow their word (negative: precede).
        noise: Standard deviation of every value of every audio and vision frame.
        gain: Height of a full cue in every channel that carries it, and of the onset flag.
        cue_noise: Standard deviation that is added to a cue's amplitude (whose largest is 1).
        reading_noise: The same with ``transcripts``, where cues are noisy readings of the label.
        jitter: Audio and vision of a sample are shorter by up to this fraction than its words call
            for.
    """

    shares: tuple[float, float, float] = (0.4, 0.4, 0.35)
    conflict: float = 0.2
    gated: float = 0.3
    lag: tuple[float, float] = (1.0, -1.0)
    noise: float = 0.3
    gain: float = 3.0
    cue_noise: float = 0.1
    reading_noise: float = 0.5
    jitter: float = 0.05

    def __post_init__(self) -> None:
        wrong = [
            f"{name}={getattr(self, name)} (wanted: between 0 and {top})"
            for name, top in {"conflict": 1, "gated": 1, "jitter": 0.5}.items()
            if not 0 <= getattr(self, name) <= top
        ]
        wrong += [
            f"{name}={getattr(self, name)} (wanted: 0 or more)"
            for name in ("noise", "cue_noise", "reading_noise")
            if not getattr(self, name) >= 0
        ]
        if not self.gain > 0:
            wrong.append(f"gain={self.gain} (wanted: above 0)")
        if np.shape(self.shares) != (3,) or not min(self.shares) >= 0:
            wrong.append(f"shares={self.shares} (wanted: three numbers, 0 or more)")
        if np.shape(self.lag) != (2,) or not np.abs(self.lag).max() <= 1:
            wrong.append(f"lag={self.lag} (wanted: two numbers of words, between -1 and 1)")
        if wrong:
            raise ConfigError("Generated data: " + "; ".join(wrong) + ".")


def cue_direction(modality: Literal["audio", "vision"], dim: int) -> FloatArray:
    """Return the direction of a modality's cue, (dim,): 0 for the onset flag, else -1 or 1.

    It depends on nothing but its arguments, so that models carry over between generated files.
    """
    signs = np.random.default_rng(len(modality)).choice([-1.0, 1.0], size=dim).astype(np.float32)
    signs[0] = 0
    return signs[source_channels(dim)]


def source_channels(dim: int) -> IntArray:
    """Return the channel that each channel repeats, (dim,): its index modulo `RANK`.

    As in real descriptors, many channels are no more facts: with 709 independent channels of noise
    a model could tell the training samples apart by noise alone.
    """
    return np.arange(dim) % RANK


def cue_frames(spec: DatasetSpec, modality: int) -> int:
    """Return how many frames a cue of a modality (1 audio, 2 vision) lasts: 0.4 words, 1 to 4."""
    return int(np.clip(round(0.4 * spec.lengths[modality] / spec.lengths[0]), 1, 4))


def resolve_spec(
    dataset: str, lengths: tuple[int, int, int] | None, dims: tuple[int, int, int] | None
) -> DatasetSpec:
    """Return a data set's specification with other lengths and dimensions, checked."""
    if dataset not in DATASETS:
        raise ConfigError(
            f"data set {dataset!r} cannot be generated: what is planted is made for the shipped "
            f"ones, {', '.join(DATASETS)}; give a feature file of it (-f FILE)."
        )
    spec = DATASETS[dataset]
    spec = replace(spec, lengths=lengths or spec.lengths, dims=dims or spec.dims)
    least = spec.lengths[0] - 2
    if min(spec.lengths[1:]) < least or least < MIN_WORDS:
        raise ConfigError(
            f"lengths={spec.lengths}: text needs at least {MIN_WORDS + 2} steps, and audio and "
            "vision at least as many steps as text less 2, or cues cannot be told apart in time."
        )
    if min(spec.dims) < 2:
        raise ConfigError(f"dims={spec.dims}: each must be at least 2 (onset flag and cue).")
    return spec


def resolve_structure(options: dict[str, Any]) -> Structure:
    """Return the structure that the options name."""
    known = [field.name for field in fields(Structure)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"Unknown options of generated data: {unknown}; known are {known}.")
    return Structure(**options)


def gate_signs(gate: IntArray) -> IntArray:
    """Return what the gate multiplies the audio and the vision cue by: (..., 2), 1 or -1."""
    return np.where(gate[..., None] == np.array([AUDIO_INVERTED, VISION_INVERTED]), -1, 1)


@dataclass(frozen=True)
class _States:
    """Every latent state: label, text level and gate (S,), cue amplitudes (S, 2), prior (S,).

    Sorted by label. ``level`` is None where nothing is known of how the text shows the label.
    """

    label: NDArray[np.float64]
    prior: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    gate: IntArray
    level: IntArray | None

    def posterior(
        self,
        rows: IntArray,
        seen: Sequence[str],
        readings: NDArray[np.float64],
        sigma: NDArray[np.float64],
        aligned: bool,
    ) -> NDArray[np.float64]:
        """Probability of every state (m, S), where state ``rows[i]`` shows ``readings[i]``."""
        log = np.broadcast_to(np.log(self.prior), (len(rows), len(self.prior))).copy()
        for i, name in enumerate(("audio", "vision")):
            if name in seen:
                log -= 0.5 * ((readings[:, i, None] - self.amplitude[:, i]) / sigma[i]) ** 2
        if "text" in seen and self.level is not None:
            # The text shows that a marker inverts; which cue it is for, alignment shows.
            code = self.gate if aligned and len(seen) > 1 else self.gate > 0
            differs = (self.level != self.level[rows, None]) | (code != code[rows, None])
            log[differs] = -np.inf
        weight = np.exp(log - log.max(1, keepdims=True))
        result: NDArray[np.float64] = weight / weight.sum(1, keepdims=True)
        return result

    def score(
        self,
        subset: str,
        rows: IntArray,
        readings: NDArray[np.float64],
        sigma: NDArray[np.float64],
    ) -> dict[str, float]:
        """MAE of the posterior median and Corr of the posterior mean, for a subset by name."""
        aligned = subset != UNALIGNED
        seen = subset.removesuffix(", unaligned").split("+")
        truth, mean, median = self.label[rows], np.empty(len(rows)), np.empty(len(rows))
        for block in range(0, len(rows), _BLOCK):  # S is 1,800: all rows at once are too many
            here = slice(block, block + _BLOCK)
            p = self.posterior(rows[here], seen, readings[here], sigma, aligned)
            mean[here] = p @ self.label
            median[here] = self.label[(p.cumsum(1) >= 0.5).argmax(1)]
        corr = np.nan if subset == "none" else np.corrcoef(mean, truth)[0, 1]
        return {"mae": float(np.abs(median - truth).mean()), "corr": float(corr)}


def _generated_states(spec: DatasetSpec, structure: Structure) -> _States:
    scale = np.array(structure.shares) * spec.label_range
    counts = (len(TEXT_LEVELS), len(CUE_LEVELS), len(CUE_LEVELS), 3)
    level, audio, vision, gate = (index.ravel() for index in np.indices(counts))
    text, cue = TEXT_LEVELS[level] * scale[0], CUE_LEVELS[np.column_stack([audio, vision])]
    agreement = np.sign(np.round(text * (cue @ scale[1:]), 9))
    p_agreement = np.array([structure.conflict, 0.5, 1 - structure.conflict])
    p_gate = np.array([1 - structure.gated, structure.gated / 2, structure.gated / 2])
    prior = p_agreement[agreement.astype(int) + 1] * p_gate[gate]
    label = spec.quantise(text + cue @ scale[1:])
    order = np.flatnonzero(prior)
    order = order[np.argsort(label[order])]
    prior = prior[order] / prior[order].sum()
    return _States(label[order], prior, (cue * gate_signs(gate))[order], gate[order], level[order])


def _transcribed_states(labels: NDArray[np.float64], spec: DatasetSpec, conflict: float) -> _States:
    value, count = np.unique(labels, return_counts=True)
    value, sign = np.repeat(value, 2), np.tile([1, -1], len(value))
    prior = np.repeat(count / count.sum(), 2) * np.where(sign > 0, 1 - conflict, conflict)
    amplitude = np.column_stack([sign * value / spec.label_range] * 2)
    keep = prior > 0
    return _States(
        value[keep], prior[keep], amplitude[keep], np.zeros(keep.sum(), dtype=np.int64), None
    )


def achievable(
    dataset: str = "mosi",
    *,
    transcripts: Path | str | None = None,
    lengths: tuple[int, int, int] | None = None,
    dims: tuple[int, int, int] | None = None,
    samples: int = 5000,
    seed: int = 0,
    **structure: Any,
) -> pd.DataFrame:
    """Compute what the best predictor reaches, for every subset of the modalities.

    The predictor knows how the data are generated, reads every cue without missing it, and answers
    with the exact posterior's median (MAE) or mean (Corr). Its errors are averaged over states and
    readings drawn from the generator's distribution.

    Args:
        dataset: As in `make`, and so are ``transcripts``, ``lengths``, ``dims``, ``structure``.
        transcripts: With them only audio, vision and both: how the text shows the label is unknown.
        lengths: Time steps.
        dims: Feature dimensions.
        samples: Draws; the MAE's standard error is about its value / sqrt(samples).
        seed: Seed of the draws.
        **structure: The fields of `Structure`.

    Returns:
        Columns ``mae`` (label units) and ``corr``; index: the modalities seen, joined by "+";
        ``none`` for a constant; ``text+audio+vision, unaligned`` for all three without knowing
        which word a cue accompanies.

    Raises:
        ConfigError: An argument is not usable.
        FeatureFileError: The transcript file is not usable.
    """
    spec, planted = resolve_spec(dataset, lengths, dims), resolve_structure(structure)
    if transcripts is None:
        states, cue_noise = _generated_states(spec, planted), planted.cue_noise
        subsets = ["none", "text", "audio", "vision", "text+audio", "text+vision", "audio+vision"]
        subsets += [UNALIGNED, "text+audio+vision"]
    else:
        labels = words.read_transcripts(transcripts, spec.label_range)["label"].to_numpy(np.float64)
        states = _transcribed_states(labels, spec, planted.conflict)
        cue_noise = planted.reading_noise
        subsets = ["none", "audio", "vision", "audio+vision"]
    cells = np.array([(min(spec.dims[m], RANK) - 1) * cue_frames(spec, m) for m in (1, 2)])
    sigma = np.sqrt(cue_noise**2 + (planted.noise / planted.gain) ** 2 / cells)
    sigma = np.maximum(sigma, 1e-6)

    rng = np.random.default_rng(seed)
    rows = rng.choice(len(states.prior), size=samples, p=states.prior)
    readings = states.amplitude[rows] + sigma * rng.standard_normal((samples, 2))
    scores = {subset: states.score(subset, rows, readings, sigma) for subset in subsets}
    return pd.DataFrame.from_dict(scores, orient="index")
