"""What a model needs of its data and cannot do without: refused before it is trained.

MMSA's loaders and models accept such data and fail later, in a loss that is not a number or in an
error of torch that names neither the model nor the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from MMSA_ext.data.corruption import CorruptionConfig
from MMSA_ext.data.features import FeatureSet
from MMSA_ext.errors import ConfigError

__all__ = ["check"]


def check(
    args: Mapping[str, Any], features: FeatureSet, corruption: CorruptionConfig | None = None
) -> None:
    """Refuse what a model cannot be trained on.

    Args:
        args: Configuration of the run; `model_name`, `use_bert`, `data_missing` and
            `frame_lengths` are read.
        features: The data before `corruption`; without splits, only the configuration is checked.
        corruption: What will be taken from them, from `corruption.bind`; None is nothing.

    Raises:
        ConfigError: With every reason.
    """
    model = str(args["model_name"])
    host = model.removesuffix("_infoenh")
    problems = [] if corruption is None else _conflicts(corruption, args, host)
    if host == "misa" and args.get("frame_lengths", "text") == "text":
        problems += _too_short_for_misa(features)
    if host == "mmim":
        problems += _constant_for_mmim(features)
    if problems:
        raise ConfigError(f"{model} cannot be run so:\n  " + "\n  ".join(problems))


def _conflicts(corruption: CorruptionConfig, args: Mapping[str, Any], host: str) -> list[str]:
    problems = []
    if args.get("data_missing"):
        problems.append(
            "corruption: this model is trained on incomplete data of MMSA's own making "
            "(missing_rate, missing_seed), which it must be able to compare with the complete "
            "data; leave corruption out."
        )
    named = corruption.modalities is not None and "text" in corruption.modalities
    if corruption.noise > 0 and named and args.get("use_bert"):
        problems.append(
            "corruption: noise on text, of which this model reads token ids, has no meaning; leave "
            "'text' out of corruption.modalities, or lose tokens with corruption.drop_rate."
        )
    removed = [name for name in ("audio", "vision") if name in corruption.remove]
    if host == "mmim" and corruption.at == "all" and removed:
        problems.append(
            f"corruption: {' and '.join(removed)} removed in training leaves nothing that varies "
            "over samples, and MMIM's entropy term, the logarithm of a covariance's determinant, "
            "is then not a number; use corruption.at='test'."
        )
    return problems


def _too_short_for_misa(features: FeatureSet) -> list[str]:
    """MISA packs audio and vision by the text's length; one problem for each of the two."""
    tokens = {
        name: int((split.text_bert[:, 1] != 0).sum(axis=1).max())
        for name, split in features.splits.items()
        if split.text_bert is not None
    }
    problems = []
    for key in ("audio", "vision"):
        frames = {name: getattr(features.splits[name], key).shape[1] for name in tokens}
        short = [name for name in tokens if frames[name] < tokens[name]]
        if short:
            said = ", ".join(f"{name} has {frames[name]} for {tokens[name]}" for name in short)
            problems.append(
                f"{features.path}: {key} has fewer frames than the longest text has tokens "
                f"({said}); MISA reads as many frames as the text has tokens. Pad {key} with zeros "
                f"to {max(tokens[name] for name in short)} frames, or run misa_infoenh with "
                "frame_lengths='own' (and infoenh=None for MISA itself)."
            )
    return problems


def _constant_for_mmim(features: FeatureSet) -> list[str]:
    """MMIM takes the log-determinant of a covariance over samples."""
    train = features.splits.get("train")
    keys = ("audio", "vision") if train is not None else ()
    return [
        f"{features.path}: {key} is the same in all training samples, and MMIM's entropy term, the "
        "logarithm of a covariance's determinant, is then not a number; use another model, or a "
        f"file with {key}."
        for key in keys
        if _is_constant(getattr(train, key))
    ]


def _is_constant(values: NDArray[Any]) -> bool:
    """Whether all samples of (n, L, d) are the same, without a temporary of that size."""
    return bool((values.min(axis=0) == values.max(axis=0)).all())
