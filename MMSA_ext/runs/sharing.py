"""A trained model made ready for others: a folder that needs nothing of this machine."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from MMSA_ext import text_encoders
from MMSA_ext.config.resolve import check_replaces, merge
from MMSA_ext.config.schema import PLACES
from MMSA_ext.errors import CheckpointError, ConfigError, TextEncoderError, UnknownModelError
from MMSA_ext.paths import Places, expand, why_no_model
from MMSA_ext.records.store import RunRecord, RunStore, StoreError, file_digest
from MMSA_ext.registry import check_names, trains_in_mmsa, unread_modalities
from MMSA_ext.runs.model_card import UNDECIDED, model_card
from MMSA_ext.training import model_folder
from MMSA_ext.training.checkpoint import Checkpoint, load_checkpoint

__all__ = ["check_finished", "open_trained", "save_pretrained"]

logger = logging.getLogger("MMSA")

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,40}")


def open_trained(
    path: str, overrides: dict[str, Any] | None = None
) -> tuple[Checkpoint, Path | None]:
    """Read a checkpoint, or the folder of a shared model.

    Args:
        path: A `.pth` file or a folder, from `expand`.
        overrides: The configuration of a file that holds weights alone.

    Returns:
        The checkpoint; and the folder with configuration and tokenizer of its text encoder, where
        it brings that.

    Raises:
        CheckpointError: It is missing, damaged or something else. A name of the Hugging Face Hub is
            something else: nothing is downloaded unless that is asked for.
    """
    place = Path(path)
    if place.is_dir():
        return model_folder.read(place)
    if reason := why_no_model(path):
        raise CheckpointError(f"{path}: {reason}.")
    if place.name == model_folder.WEIGHTS and (place.parent / model_folder.CONFIG).is_file():
        raise CheckpointError(
            f"{path}: is part of a shared model; give its folder, {place.parent}."
        )
    return load_checkpoint(place, overrides), None


def save_pretrained(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    results: str | Path | None = None,
    license: str | None = None,
    overrides: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trained model as a folder that can be used on any machine, without a network.

    The folder has the weights (safetensors), all that a checkpoint says beside them, the text
    encoder's configuration and tokenizer, and a card. It appears when it is complete.

    Args:
        checkpoint: Checkpoint written by `MMSA_run`; or another such folder, which is copied.
        folder: The folder to write.
        results: Folder of results that holds the record of the run, for the card: how many samples,
            the other seeds, the rule of selection. None looks into the default one.
        license: Identifier of the weights' licence, as the Hugging Face Hub has it, such as `mit`.
        overrides: Configuration values to replace, such as `pretrained` where the text encoder lies
            elsewhere on this machine now.
        overwrite: Whether a model that is in the folder already is replaced.

    Returns:
        The folder.

    Raises:
        CheckpointError: The checkpoint is missing, damaged or of a model that is not known.
        ConfigError: The folder holds something else, an override replaces nothing, a value of the
            configuration is a path of this machine, or the licence is no identifier.
        TextEncoderError: The text encoder's configuration or tokenizer cannot be loaded.
        WriteError: The disk refuses; the folder is as it was.
    """
    source, target = expand(checkpoint), Path(expand(folder))
    if license is not None and not _LICENSE.fullmatch(license):
        raise ConfigError(
            f"license is {license!r:.80}; give an identifier such as mit, apache-2.0, cc-by-nc-4.0 "
            "or other (https://huggingface.co/docs/hub/repositories-licenses)."
        )
    if reason := why_no_model(source):
        raise CheckpointError(f"{source}: {reason}.")
    model_folder.check_place(target, overwrite=overwrite)
    if Path(source).is_dir():
        check_finished(source, results, license, overrides)
        model_folder.read(Path(source))
        model_folder.copy(Path(source), target, overwrite=overwrite)
        return target
    trained = load_checkpoint(source, overrides)
    check_replaces(overrides, trained.config)
    given = {k: str(v) if isinstance(v, Path) else v for k, v in (overrides or {}).items()}
    config = dict(merge(trained.config, given))
    try:
        check_names(str(config.get("model_name")))
    except UnknownModelError as error:
        raise CheckpointError(f"{source}: {error}") from None
    config = {key: value for key, value in config.items() if key not in PLACES}
    portable = {key: value for key, value in config.items() if key != "pretrained"}
    _check_no_paths(portable, trained.recipe, source)
    encoder, described = _encoder(config, source)
    if described is not None:
        portable["pretrained"] = described["name"]
    about = {
        "text_encoder": described,
        "run": _run(source, trained, results),
        "license": license or UNDECIDED,
        "parameters": sum(value.numel() for value in trained.state_dict.values()),
    }
    model_folder.write(
        target,
        replace(trained, config=portable),
        encoder=encoder,
        about=about,
        card=model_card,
        overwrite=overwrite,
    )
    return target


def check_finished(folder: str | Path, results: object, license: object, overrides: object) -> None:
    """Refuse options that have an effect on what is made of a checkpoint alone."""
    if results or license or overrides:
        raise ConfigError(
            f"{folder}: is a finished folder, on which results, license and overrides have no "
            "effect; give the checkpoint, or edit the folder's README.md."
        )


def _encoder(config: Mapping[str, Any], source: str) -> tuple[Path | None, dict[str, Any] | None]:
    """Folder with the text encoder's configuration and tokenizer, and what it is; or neither."""
    pretrained, reads = config.get("pretrained"), "text" not in unread_modalities(config)
    if not (pretrained and reads and config.get("use_bert")):
        return None, None
    try:
        folder = text_encoders.tokenizer_folder(pretrained)
    except TextEncoderError as error:
        if trains_in_mmsa(config["model_name"]) or config.get("text_encoder_config"):
            raise
        told = "%s: the folder gets no tokenizer, so it scores no raw texts. %s"
        logger.warning(told, source, error)
        return None, None
    name, local = text_encoders.identity(pretrained), Path(expand(pretrained)).is_dir()
    architecture = text_encoders.load_config(pretrained)
    return folder, {
        "name": name,
        "version": text_encoders.version(pretrained),
        "hub": None if local or name in text_encoders.ALIASES else name,
        "architecture": f"{architecture.model_type}, {architecture.hidden_size} wide",
    }


def _check_no_paths(config: Mapping[str, Any], recipe: Mapping[str, Any], source: str) -> None:
    """Refuse what only this machine has: it would be of no use elsewhere, and may name a person."""
    pending = [*config.items(), *((f"recipe.{key}", value) for key, value in recipe.items())]
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping):
            pending += [(f"{key}.{name}", inner) for name, inner in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(key, inner) for inner in value]
        elif isinstance(value, str) and any(
            kind(value).is_absolute() for kind in (PurePosixPath, PureWindowsPath)
        ):
            mend = f"Replace it: --set {key}=..., in Python overrides={{'{key}': ...}}."
            if key.startswith("recipe."):
                mend = "Make the features with a recipe without paths, and train again."
            raise ConfigError(f"{source}: {key} is a path of this machine, {value!r:.120}. {mend}")


def _run(source: str, checkpoint: Checkpoint, results: str | Path | None) -> dict[str, Any] | None:
    """What the record of a checkpoint's run says for its card; None if there is no record."""
    root = Places.resolved(results=str(results) if results else None).results / "runs"
    store = RunStore(root)
    record = _record_of(store, Path(source), checkpoint)
    if record is None:
        told = (
            "%s: no record of its run in %s, so the card says neither how many samples nor other "
            "seeds; name the folder of results: --res-save-dir, in Python results=."
        )
        logger.warning(told, source, root)
        return None
    seeds = [
        other
        for other in store.records(record.identity.dataset, record.identity.model)
        if other.identity.experiment == record.identity.experiment
    ]
    samples: dict[str, int] = {}
    try:
        samples = dict(Counter(store.predictions(record)["split"].tolist()))
    except StoreError as error:
        logger.warning("%s The card does not say how many samples there were.", error)
    return {
        "dataset_fingerprint": record.identity.dataset_fingerprint,
        "samples": samples,
        "selection": record.selection,
        "chosen_epoch": record.chosen_epoch,
        "environment": record.environment.describe(),
        "code_version": record.identity.code_version,
        "created": record.created.isoformat(),
        "notes": list(record.notes),
        "seeds": {
            str(each.identity.seed): dict(each.metrics.get("test", {}))
            for each in seeds
            if each.finished
        },
        "diverged": [each.identity.seed for each in seeds if not each.finished],
    }


def _record_of(store: RunStore, path: Path, checkpoint: Checkpoint) -> RunRecord | None:
    """The record that says that its run made these weights."""
    digest, config = file_digest(path), checkpoint.config
    records = store.records(config.get("dataset_name"), config.get("model_name"))
    return next((record for record in records if record.checkpoint_sha256 == digest), None)
