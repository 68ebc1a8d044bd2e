"""Audio and vision features on one scale: mean 0 and deviation 1 over the training split's frames.

An encoder that adds a class token and positions of about 1 to its frames sees nothing of a feature
of 0.001, and nothing but one of 1,000. Each feature is therefore standardised by the valid frames
of the training split; the same numbers scale the other splits, and travel with the checkpoint to
whatever it predicts later. A feature that is constant in training becomes 0, and so does padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.config.schema import Scaling
from MMSA_ext.data.feature_cache import remembered
from MMSA_ext.data.feature_checks import blocks
from MMSA_ext.errors import CheckpointError, ConfigError, suggest
from MMSA_ext.names import FRAMES

# A smaller deviation is none in float32, in which models compute.
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class ModalityScaling:
    """Scaling of one modality.

    Attributes:
        mean: `(d,)` float64.
        deviation: `(d,)` float64, 0 of a constant feature.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def of(cls, frames: NDArray[Any], lengths: NDArray[Any]) -> Self:
        """Fit to the valid frames of `(N, L, d)`, in blocks of samples; lengths are `(N,)`."""
        from sklearn.preprocessing import StandardScaler

        if not frames.shape[2]:  # the modality is absent
            return cls(np.zeros(0), np.zeros(0))
        scaler = StandardScaler()
        for start, block in blocks(frames):
            valid = _valid(lengths[start : start + len(block)], frames.shape[1])
            scaler.partial_fit(block[valid].astype(np.float64))
        deviation = np.sqrt(scaler.var_)
        # Of a feature that is constant but for rounding, scikit-learn makes the scale 1; that of
        # the file's numbers is coarser than its own.
        rounding = np.finfo(frames.dtype).eps if frames.dtype.kind == "f" else 0.0
        varies = (scaler.scale_ == deviation) & (deviation > rounding * np.abs(scaler.mean_))
        return cls(scaler.mean_, np.where(varies & (deviation >= _SMALLEST), deviation, 0.0))

    def plain(self) -> dict[str, list[float]]:
        """As JSON can say it, exactly."""
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_plain(cls, plain: Any) -> Self:
        """What `plain` was made of.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        mean, deviation = (np.array(plain[name], np.float64) for name in ("mean", "deviation"))
        if mean.ndim != 1 or mean.shape != deviation.shape:
            raise ValueError("a feature has no mean or no deviation")
        if not (np.abs(mean) <= np.finfo(np.float32).max).all():
            raise ValueError("a mean is no usable number")
        if not ((deviation == 0) | ((deviation >= _SMALLEST) & np.isfinite(deviation))).all():
            raise ValueError("a deviation is no usable number")
        return cls(mean, deviation)

    def apply(self, frames: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.float32]:
        """Scaled copy, float32, of frames `(B, L, d)`; zero behind their lengths `(B,)`."""
        varies, factor = self.deviation > 0, np.zeros_like(self.deviation)
        factor[varies] = 1 / self.deviation[varies]
        # In float64: a mean may be larger than the deviation by more than float32 resolves.
        with np.errstate(over="ignore"):  # what is so far off is seen in the prediction
            scaled = ((frames - self.mean) * factor).astype(np.float32)
        scaled[~_valid(lengths, frames.shape[1])] = 0
        return scaled

    def blocks(
        self, frames: NDArray[Any], lengths: NDArray[Any]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """`apply` to many samples, in groups with the index of their first; no group is large."""
        for start, block in blocks(frames):
            yield start, self.apply(block, lengths[start : start + len(block)])

    def scaled(self, frames: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.float32]:
        """`apply` to a whole split `(N, L, d)`, without another temporary of its size."""
        result = np.empty(frames.shape, np.float32)
        for start, block in self.blocks(frames, lengths):
            result[start : start + len(block)] = block
        return result

    def after(self, before: ModalityScaling) -> ModalityScaling:
        """One scaling in place of `before` and, on what that gives, this one."""
        return ModalityScaling(
            before.mean + before.deviation * self.mean, before.deviation * self.deviation
        )


@dataclass(frozen=True)
class FeatureScaling:
    """Scaling of the frames of a feature file.

    Attributes:
        audio, vision: By modality.
    """

    audio: ModalityScaling
    vision: ModalityScaling

    @classmethod
    def of(cls, train: Any) -> Self:
        """Fit to a training split: a `FeatureSplit`, or what else has frames and their lengths."""
        return cls(
            ModalityScaling.of(train.audio, np.asarray(train.audio_lengths)),
            ModalityScaling.of(train.vision, np.asarray(train.vision_lengths)),
        )

    @classmethod
    def of_file(cls, train: Any, path: Path, reading: str) -> Self:
        """`of`; for a large file the result is kept in the cache.

        Args:
            train: Its training split.
            path: The file.
            reading: Its content, and how it was read, from which the frames follow.
        """
        about = hashlib.sha256(reading.encode())
        about.update(Path(__file__).read_bytes())
        for modality in FRAMES:
            lengths: NDArray[Any] = getattr(train, f"{modality}_lengths")
            about.update(f"{getattr(train, modality).shape}".encode() + lengths.tobytes())
        plain = remembered(path, about.hexdigest(), lambda: cls.of(train).plain())
        try:
            return cls.from_plain(plain, str(path))
        except CheckpointError:  # a stranger's value in the cache
            return cls.of(train)

    def without(self, modalities: Iterable[str]) -> Self:
        """Scaling of the same features without some modalities, as `FeatureSet.without` has it."""
        left_out = set(modalities) & set(FRAMES)
        return replace(self, **{m: ModalityScaling(np.zeros(0), np.zeros(0)) for m in left_out})

    def plain(self) -> dict[str, dict[str, list[float]]]:
        """As JSON can say it, exactly."""
        return {modality: found.plain() for modality, found in vars(self).items()}

    @classmethod
    def from_plain(cls, plain: Any, source: str) -> Self:
        """What `plain` was made of.

        Args:
            plain: The value.
            source: The file that it is from.

        Raises:
            CheckpointError: If it is something else.
        """
        try:
            found = {modality: ModalityScaling.from_plain(plain[modality]) for modality in FRAMES}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source}: its feature scaling cannot be used ({error}); use a checkpoint as "
                "MMSA_ext wrote it, or train again."
            ) from None
        return cls(**found)

    def check_widths(self, feature_dims: Sequence[int], source: str) -> None:
        """Refuse what is of other features than the model's.

        Args:
            feature_dims: Features of a word, an audio frame and a vision frame.
            source: The file that the scaling is from.

        Raises:
            CheckpointError: If a number of features differs.
        """
        found = [len(part.mean) for part in (self.audio, self.vision)]
        if found != list(feature_dims[1:]):
            raise CheckpointError(
                f"{source}: scales {found} features of audio and vision, its model reads "
                f"{list(feature_dims[1:])}; use a checkpoint as MMSA_ext wrote it."
            )


def check_scaling(value: object) -> None:
    """Check the key `feature_scaling` of a configuration.

    Raises:
        ConfigError: It is none of `Scaling`.
    """
    if value not in get_args(Scaling):
        known = list(get_args(Scaling))
        raise ConfigError(f"feature_scaling is {value!r:.80}; {suggest(str(value), known)}")


def wants_scaling(args: Mapping[str, Any]) -> bool:
    """Whether a configuration asks for scaled features."""
    return bool(args.get("feature_scaling", "none") == "standardise")


def _valid(lengths: NDArray[Any], time: int) -> NDArray[np.bool_]:
    """Mask `(B, L)` of valid frames."""
    valid: NDArray[np.bool_] = np.arange(time) < lengths[:, None]
    return valid
