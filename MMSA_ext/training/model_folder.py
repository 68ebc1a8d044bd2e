"""A trained model as a folder, to be shared: no pickle, no path of a machine, complete.

    config.json          all that a checkpoint says beside its weights, and a digest of every file
    model.safetensors    the weights, the text encoder's too
    text_encoder/        configuration and tokenizer of the text encoder, where there is one
    README.md            the card; it belongs to who shares the model, and no digest covers it

Such folders come from strangers. Reading one runs nothing of it, and believes nothing that its
digest does not cover.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from MMSA_ext.data.shards import shard_files
from MMSA_ext.encoder_files import files_of
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError, WriteError
from MMSA_ext.file_kinds import HEAD_BYTES, foreign_kind
from MMSA_ext.files import read_regular, reason, scratch_folder, sync_folder, write_error
from MMSA_ext.json_files import parse_json
from MMSA_ext.training.checkpoint import Checkpoint, check_weights, checked
from MMSA_ext.version import __version__

__all__ = [
    "CARD",
    "CONFIG",
    "ENCODER",
    "PATTERNS",
    "check_place",
    "copy",
    "files",
    "read",
    "read_facts",
    "write",
]

FORMAT = "MMSA_ext model"
VERSION = 1
CONFIG, WEIGHTS, CARD, ENCODER = "config.json", "model.safetensors", "README.md", "text_encoder"
_ENCODER_SUFFIXES = (".json", ".txt", ".model", ".codes")
# What may be in such a folder, as patterns of the hub's.
PATTERNS = (CONFIG, WEIGHTS, CARD, *(f"{ENCODER}/*{suffix}" for suffix in _ENCODER_SUFFIXES))
_CONFIG_BYTES = 32 * 2**20
_MEND = "Copy it again from where it was made, or `mmsa-ext pull` it again."
# Keys of an encoder's files that name a path, or code to be run.
_PATHS = ("_name_or_path", "name_or_path")
_CODE = "auto_map"
# Numbers only, which are written on one line.
_NUMBERS = re.compile(r"\[\s+([-+.\deE,\s]+?)\s+\]")


def write(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    encoder: Path | None,
    about: Mapping[str, Any],
    card: Callable[[dict[str, Any]], str],
    overwrite: bool = False,
) -> None:
    """Write a folder that is complete, or what it was before.

    Args:
        folder: The folder; missing ones above it are made.
        checkpoint: The trained model, without paths.
        encoder: Folder with configuration and tokenizer of its text encoder.
        about: Further facts, plain JSON.
        card: Makes the card of the content of `config.json`.
        overwrite: Whether an earlier model may be in its place.

    Raises:
        ConfigError: The folder holds something, and that is not to be overwritten.
        CheckpointError: A weight has a dtype that safetensors does not have.
        TextEncoderError: The files of the encoder cannot be used elsewhere.
        WriteError: The disk refuses; the folder is as it was.
    """
    check_place(folder, overwrite=overwrite)
    weights, tied = _untied(checkpoint.state_dict)
    try:
        with scratch_folder(folder.absolute().parent) as scratch:
            staged = scratch / "model"
            staged.mkdir()
            try:
                save_file(weights, staged / WEIGHTS, {"format": "pt"})
            except SafetensorError as error:
                raise write_error(folder / WEIGHTS, error) from error
            except KeyError as error:  # a dtype that it lacks
                raise CheckpointError(f"{folder}: safetensors cannot hold {error}.") from error
            if encoder is not None:
                _copy_encoder(encoder, staged / ENCODER)
            covered = sorted(path for path in staged.rglob("*") if path.is_file())
            facts: dict[str, Any] = {
                "format": FORMAT,
                "format_version": VERSION,
                "library_version": __version__,
                **_strict({k: v for k, v in vars(checkpoint).items() if k != "state_dict"}),
                **about,
                "tied_weights": tied,
                "files": {path.relative_to(staged).as_posix(): _sha256(path) for path in covered},
            }
            facts["digest"] = _digest(facts)
            text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
            text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
            (staged / CONFIG).write_text(f"{text}\n", encoding="utf-8")
            (staged / CARD).write_text(card(facts), encoding="utf-8")
            shutil.copymode(staged / CONFIG, staged / WEIGHTS)  # safetensors': for its owner alone
            _finish(staged, folder, scratch)
    except WriteError:
        raise
    except OSError as error:
        raise write_error(folder, error) from error


def read(folder: Path) -> tuple[Checkpoint, Path | None]:
    """Read such a folder, every file of which is compared with its digest.

    Returns:
        The trained model, in whose configuration `pretrained` is a name alone; and the folder with
        configuration and tokenizer of its text encoder, if it has one.

    Raises:
        CheckpointError: It is none, incomplete, damaged, or of a newer version.
    """
    facts = read_facts(folder)
    files = facts["files"]
    for name, digest in files.items():
        _check_file(folder / name, digest)
    encoder = folder / ENCODER if any(name.startswith(f"{ENCODER}/") for name in files) else None
    if encoder is not None:
        _check_encoder(encoder, files)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(folder / WEIGHTS, f"no sound safetensors file ({reason(error)})") from error
    for name, kept in facts["tied_weights"].items():
        if name in weights or kept not in weights:
            raise _damaged(folder / CONFIG, f"tied_weights names {name!r:.80} wrongly")
        weights[name] = weights[kept]
    check_weights(folder, weights)
    content = {key: facts.get(key) for key in ("config", "seed", "scaling", "recipe")}
    content["metrics"] = _with_nan(facts.get("metrics"))
    return checked(folder, {**content, "state_dict": weights}), encoder


def read_facts(folder: Path) -> dict[str, Any]:
    """Content of the `config.json` of such a folder; its other files are not looked at.

    Raises:
        CheckpointError: It is none, or it is damaged or of a newer version.
    """
    path = folder / CONFIG
    try:
        content = read_regular(path, _CONFIG_BYTES)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: {_what_else(folder)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)}).") from error
    if (kind := foreign_kind(content[:HEAD_BYTES])) is not None:
        raise CheckpointError(f"{path}: is {kind}.")
    try:
        facts = parse_json(content.decode(), str(path))
    except (ConfigError, UnicodeDecodeError) as error:
        raise _damaged(path, f"no JSON ({str(error).removeprefix(f'{path}: ')})") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: {_what_else(folder)}")
    version = facts.get("format_version")
    if type(version) is not int or version < 1:
        raise _damaged(path, "format_version is no version")
    if version > VERSION:
        raise CheckpointError(
            f"{path}: written by a newer MMSA_ext (format {version}; this one reads {VERSION}). "
            "Update MMSA_ext."
        )
    if facts.get("digest") != _digest(facts):
        raise _damaged(path, "not what its digest was made of")
    covered, tied = facts.get("files"), facts.get("tied_weights")
    if not (
        _names(covered) and _names(tied) and WEIGHTS in covered and all(map(_is_ours, covered))
    ):
        raise _damaged(path, "its files are not those of a model")
    return facts


def files(folder: Path) -> list[str]:
    """Names of the files of a model that `read` let through, relative to its folder, with `/`."""
    names = [CONFIG, *read_facts(folder)["files"]]
    return [*names, CARD] if (folder / CARD).is_file() else names


def copy(folder: Path, target: Path, *, overwrite: bool = False) -> None:
    """Copy a model that `read` let through, so that it is there when it is complete.

    Raises:
        ConfigError: As `write`.
        WriteError: As `write`.
    """
    check_place(target, overwrite=overwrite)
    try:
        with scratch_folder(target.absolute().parent) as scratch:
            staged = scratch / "model"
            for name in files(folder):
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, staged / name)
            _finish(staged, target, scratch)
    except WriteError:
        raise
    except OSError as error:
        raise write_error(target, error) from error


def _check_file(path: Path, digest: str) -> None:
    """Refuse a file that is not there as it was written."""
    if os.path.lexists(path) and not path.is_file():
        raise CheckpointError(f"{path}: is no regular file. {_MEND}")
    try:
        with path.open("rb") as file:
            kind = foreign_kind(file.read(HEAD_BYTES))
        found = _sha256(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing. {_MEND}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)}).") from error
    if found != digest:
        raise _damaged(path, kind or "not what config.json has the digest of")


def _check_encoder(encoder: Path, files: Mapping[str, str]) -> None:
    """Refuse what would be read with the encoder's files and is not among them, and code."""
    for path in sorted(encoder.iterdir()):
        if f"{ENCODER}/{path.name}" not in files:
            raise CheckpointError(f"{path}: is no file of this model; take it out of the folder.")
        if path.name in (CONFIG, "tokenizer_config.json") and _CODE in _json_object(path):
            raise CheckpointError(
                f"{path}: names code of its own ({_CODE}), which is never run; without it the text "
                "encoder is another one. Do not use this model."
            )


def _what_else(folder: Path) -> str:
    """What a folder is that holds no model, and the mend."""
    mend = "Give the .pth of a checkpoint, or a folder that `mmsa-ext share` or `pull` wrote."
    if not folder.is_dir():
        return f"no such checkpoint. {mend}"
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        return f"cannot be read ({reason(error)})."
    if checkpoints := [name for name in names if name.endswith(".pth")]:
        more = f" and {len(checkpoints) - 3} more" if checkpoints[3:] else ""
        return f"is a folder of checkpoints; give one of them: {', '.join(checkpoints[:3])}{more}."
    try:
        shard_files(folder)
    except FeatureFileError:
        pass
    else:
        return f"is a folder of shards, which are features and no model. {mend}"
    if CONFIG in names and "model_type" in _json_object(folder / CONFIG):
        return f"holds a text encoder of transformers, and no model of MMSA_ext. {mend}"
    if WEIGHTS in names and CONFIG not in names:
        return f"is an incomplete model: {CONFIG} is missing. {_MEND}"
    return f"is a folder that holds no model of MMSA_ext. {mend}"


def check_place(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse to write over anything but a model, and over that unless asked to.

    Raises:
        ConfigError: The folder holds something.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise ConfigError(f"{folder}: is there, and no folder; choose another name.")
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return
    if others := [name for name in names if name not in (CONFIG, WEIGHTS, CARD, ENCODER)]:
        raise ConfigError(
            f"{folder}: holds {others[0]}, which is no part of a model; choose another folder."
        )
    try:
        read_facts(folder)
    except CheckpointError as error:
        raise ConfigError(f"{error} It is not written over; choose another folder.") from error
    if not overwrite:
        raise ConfigError(
            f"{folder}: holds a model already; choose another folder, or --overwrite it (in Python "
            "overwrite=True)."
        )


def _finish(staged: Path, folder: Path, scratch: Path) -> None:
    """Bring a folder to the disk, and let it have its name; the one before goes with `scratch`."""
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    before = scratch / "before"
    if folder.is_dir():
        folder.rename(before)
    try:
        staged.rename(folder)
    except OSError:
        if before.is_dir():
            before.rename(folder)
        raise
    sync_folder(folder.absolute().parent)


def _copy_encoder(source: Path, target: Path) -> None:
    """Configuration and tokenizer, without paths of this machine and without code of their own."""
    target.mkdir()
    names = files_of("tokenizer", [path.name for path in source.iterdir() if path.is_file()])
    for name in names:
        if not _is_ours(f"{ENCODER}/{name}"):
            continue
        content: dict[str, Any] = {}
        if name in (CONFIG, "tokenizer_config.json"):
            content = _json_object(source / name)
        if content.keys() & {*_PATHS, _CODE}:
            kept = {k: v for k, v in content.items() if k not in (*_PATHS, _CODE)}
            (target / name).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(source / name, target / name)


def _untied(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights of which none shares memory, and the names that are another one's; both by name."""
    kept: dict[tuple[Any, ...], str] = {}
    alone: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    storages: set[int] = set()
    for name, value in weights.items():
        storage = value.untyped_storage().data_ptr()
        view = (storage, value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() and view in kept:
            tied[name] = kept[view]
            continue
        kept[view] = name
        whole = value.is_contiguous() and value.nbytes == value.untyped_storage().nbytes()
        copied = storage in storages or not whole
        alone[name] = (
            value.detach().clone(memory_format=torch.contiguous_format) if copied else value
        )
        storages.add(storage)
    return alone, tied


def _strict(value: Any) -> Any:
    """Plain values as strict JSON has them: what is no number is null."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(metrics: Any) -> Any:
    """Metrics, of which one that is null is not defined."""
    if not isinstance(metrics, dict):
        return metrics
    return {
        split: {k: math.nan if v is None else v for k, v in values.items()}
        if isinstance(values, dict)
        else values
        for split, values in metrics.items()
    }


def _digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of all facts but the digest."""
    rest = {key: value for key, value in facts.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(value: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(type(name) is str for name in value.values())


def _is_ours(name: str) -> bool:
    """Whether a file, by its path with `/`, may be one of a model's that a digest covers."""
    folder, _, base = name.rpartition("/")
    if not folder:
        return base == WEIGHTS
    ours = folder == ENCODER and base in files_of("tokenizer", [base])
    return ours and base.endswith(_ENCODER_SUFFIXES) and not fnmatch(base, "chat_template*")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: is damaged: {what.rstrip('.')}. {_MEND}")
