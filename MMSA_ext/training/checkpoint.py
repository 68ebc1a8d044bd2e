"""Checkpoints that carry their configuration, and a digest of all that they hold."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from MMSA_ext.data.recipes import Recipe
from MMSA_ext.data.recipes import problems as recipe_problems
from MMSA_ext.errors import CheckpointError
from MMSA_ext.training import weights_file

logger = logging.getLogger("MMSA")

FORMAT = 2
_WITHOUT_DIGEST = 1  # the format before
_WEIGHTS = "state_dict"
_PARTS = {
    **{"config": dict, "seed": int, _WEIGHTS: dict, "metrics": dict, "scaling": dict},
    "recipe": dict,
}
# Names may share memory, as tied weights do. A model has its own for each: a multiple of the file.
_MAX_SHARING = 4
_MAX_DEPTH, _MAX_VALUES = 20, 100_000


@dataclass(frozen=True)
class Checkpoint:
    """A trained model on disk.

    Attributes:
        config: Complete configuration of the run as plain builtins, including the architecture of
            the text encoder, so that no other file is needed.
        seed: Seed of the run.
        state_dict: Weights, as of MMSA's wrapper (names begin with `Model.`).
        metrics: Metrics by split, in MMSA's units.
        scaling: What the frames were scaled by, as `FeatureScaling.plain` says it; None if they
            were not.
        recipe: Who made the features that it was trained on, as far as their file says it.
    """

    config: dict[str, Any]
    seed: int
    state_dict: dict[str, Tensor]
    metrics: dict[str, dict[str, float]]
    scaling: dict[str, Any] | None = None
    recipe: Recipe = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; what was there before stays until all of the new one is on the disk.

    Raises:
        WriteError: The disk refuses; `path` is then as it was.
    """
    write_sealed(path, vars(checkpoint))


def load_checkpoint(path: str | Path, config: dict[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`; nothing in the file is executed.

    Args:
        path: The file.
        config: Configuration for a file that holds weights alone, as MMSA writes them.

    Returns:
        What was saved, bit for bit. Of a file without a digest (weights alone, or a checkpoint of
        the format before) only the archive's checksums are known to be right: a warning says so.

    Raises:
        CheckpointError: If the file is missing, damaged or something else.
    """
    path = Path(path)
    with suppress(RuntimeError):  # nobody's home
        path = path.expanduser()
    content = weights_file.read(path)
    if isinstance(content, dict) and "format" not in content:
        check_weights(path, content)
        if config is None:
            raise CheckpointError(
                f"{path}: holds weights without their configuration; pass the configuration to "
                "MMSA_test, or use a checkpoint written by MMSA_ext."
            )
        logger.warning(
            "%s holds weights alone: nothing vouches for them, or for the configuration that is "
            "given as theirs.",
            path,
        )
        return Checkpoint(config, 0, content, {})
    content = _unsealed(path, content, (_WITHOUT_DIGEST, FORMAT))
    # Checkpoints from before there were these.
    return checked(path, {"scaling": None, "recipe": {}} | content)


def checked(path: Path, content: dict[str, Any]) -> Checkpoint:
    """A checkpoint of what a file or folder holds.

    Args:
        path: What is named in messages.
        content: The attributes of `Checkpoint`, plain values and weights that `check_weights` let
            through.

    Raises:
        CheckpointError: It is something else.
    """
    problems = [
        f"{key!r} is {type(content[key]).__name__ if key in content else 'missing'}"
        for key, kind in _PARTS.items()
        if key != "scaling" or content[key] is not None
        if type(content.get(key)) is not kind
    ]
    problems += [f"{key!r} is unknown" for key in sorted(content.keys() - _PARTS)]
    if not problems and not all(type(values) is dict for values in content["metrics"].values()):
        problems.append("'metrics' has no metrics by split")
    problems += (
        [] if problems else [f"'recipe' {found}" for found in recipe_problems(content["recipe"])]
    )
    if problems:
        raise CheckpointError(f"{path}: is no checkpoint of MMSA_ext: {', '.join(problems)}.")
    return Checkpoint(**content)


def content_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of all that a checkpoint holds, hexadecimal, whatever the form of its file."""
    facts = {key: value for key, value in vars(checkpoint).items() if key != _WEIGHTS}
    return _digest(facts, checkpoint.state_dict)


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write weights and facts about them, with a digest of both.

    Args:
        path: The file.
        content: `state_dict`, tensors on the CPU by name, and whatever JSON can say.

    Raises:
        WriteError: The disk refuses; `path` is then as it was.
    """
    weights = content[_WEIGHTS]
    facts = json.loads(json.dumps({key: content[key] for key in content if key != _WEIGHTS}))
    seal = {"format": FORMAT, "digest": _digest(facts, weights)}
    weights_file.write(path, {**seal, **facts, _WEIGHTS: weights})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Returns:
        The content, which is bit for bit what was written.

    Raises:
        CheckpointError: If the file is missing, damaged, of another format or something else.
    """
    return _unsealed(path, weights_file.read(path), (FORMAT,))


def _unsealed(path: Path, content: Any, formats: Collection[int]) -> dict[str, Any]:
    """The content without the seal, which is checked."""
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path}: holds no weights by name, so it is no checkpoint.")
    written = content.pop("format")
    if type(written) is not int or written not in formats:
        raise CheckpointError(
            f"{path}: written by another version of MMSA_ext: its format is not {FORMAT}. Use that "
            "version, or train again."
        )
    digest = content.pop("digest", None) if written == FORMAT else None
    weights: Any = content.get(_WEIGHTS)
    facts = {key: value for key, value in content.items() if key != _WEIGHTS}
    check_weights(path, weights)
    _check_plain(path, facts)
    if written == _WITHOUT_DIGEST:
        logger.warning(
            "%s was written before checkpoints carried a digest: nothing vouches for its "
            "configuration and weights. Train again to get one that does.",
            path,
        )
    elif digest != _digest(facts, weights):
        raise CheckpointError(
            f"{path}: is damaged: its content is not what its digest was made of. Copy it again "
            "from where it was made, or train again."
        )
    return content


def _digest(facts: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """SHA-256 of all facts, names, dtypes, shapes and bytes, whatever their order in the file."""

    def described(name: str) -> list[Any]:
        value = weights[name]
        content = hashlib.sha256(weights_file.array_bytes(value.contiguous())).hexdigest()
        return [name, str(value.dtype), list(value.shape), content]

    with ThreadPoolExecutor() as threads:  # hashing waits for no other Python code
        tensors = list(threads.map(described, sorted(weights)))
    return hashlib.sha256(json.dumps([facts, tensors], sort_keys=True).encode()).hexdigest()


def check_weights(path: Path, weights: Any) -> None:
    """Refuse anything but tensors by name which take about the memory that was read."""
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path}: holds no weights by name, so it is no checkpoint.")
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: {name!r:.80} is no tensor but a {type(value).__name__}; weights are "
                "tensors by name, as state_dict() gives them."
            )
    storages = (value.untyped_storage() for value in weights.values())
    read = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if sum(value.nbytes for value in weights.values()) > _MAX_SHARING * read:
        raise CheckpointError(f"{path}: its tensors take a multiple of its size, as in no model.")


def _check_plain(path: Path, facts: dict[str, Any]) -> None:
    """Refuse what JSON cannot say, and nesting and repetition beyond any configuration."""
    pending = [(key, value, 1) for key, value in facts.items()]
    seen = len(pending)
    while pending:
        key, value, depth = pending.pop()
        if value is not None and type(value) not in (str, int, float, bool, list, dict):
            raise CheckpointError(
                f"{path}: {key!r:.80} holds a {type(value).__name__}, which no configuration does."
            )
        inner: Collection[tuple[str, Any]] = value.items() if type(value) is dict else ()
        if type(value) is list:
            inner = [(key, item) for item in value]
        seen += len(inner)
        if depth > _MAX_DEPTH or seen > _MAX_VALUES:
            raise CheckpointError(f"{path}: {key!r:.80} is nested beyond any configuration.")
        pending += [(name, item, depth + 1) for name, item in inner]
