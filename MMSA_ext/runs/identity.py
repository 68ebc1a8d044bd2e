"""The name of a run: what decides its numbers, known before its data are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easydict import EasyDict

from MMSA_ext import text_encoders as encoders
from MMSA_ext.config.resolve import identity_config
from MMSA_ext.config.schema import FACTS, RunConfig
from MMSA_ext.data.features import read_features
from MMSA_ext.records.code_version import code_version
from MMSA_ext.records.record import RunIdentity
from MMSA_ext.registry import get_model, is_registered
from MMSA_ext.runs.inputs import adopt_shapes, seen_features
from MMSA_ext.runs.one_seed import run_stock_seed
from MMSA_ext.runs.own_seed import run_extension_seed

__all__ = ["identifying_configuration", "model_code_version", "run_identity"]


def identifying_configuration(args: EasyDict) -> dict[str, Any]:
    """The part of a configuration that identifies a run, known before its data are read.

    It has causes and no consequences, so not the shapes that the feature file decides, nor what
    `RunConfig.unnamed` leaves out.

    Raises:
        TextEncoderError: If the text encoder is a folder that is not there.
    """
    left_out = set(FACTS)
    if is_registered(args.model_name):
        bound = get_model(args.model_name).config.from_args(args)
        if isinstance(bound, RunConfig):
            left_out |= bound.unnamed
    kept = identity_config(args)
    configuration = {key: value for key, value in kept.items() if key not in left_out}
    if "pretrained" in configuration:
        configuration["pretrained"] = _encoder_name(configuration["pretrained"])
    return configuration


def _encoder_name(pretrained: str) -> str:
    """Identity of a text encoder; one that a record names stays, as its folder may be elsewhere."""
    if re.fullmatch(r"[^/\\]+@[0-9a-f]{12}", pretrained) and not Path(pretrained).exists():
        return pretrained
    return encoders.identity(pretrained)


def model_code_version(model_name: str, *, fast: bool = False) -> str:
    """Version of the code that decides the numbers of a model: its own, its trainer's, the data's.

    Of MMSA's models that is what brings MMSA to run here; MMSA itself is of one version.

    Args:
        model_name: Name of the model.
        fast: Whether it is built in its faster form.
    """
    parts: list[Any] = [read_features, seen_features, adopt_shapes]
    if fast:
        from MMSA_ext.models.hosts.fast import fast_form

        parts.append(fast_form)
    if not is_registered(model_name):
        return code_version(*parts, run_stock_seed)
    entry = get_model(model_name)
    run = run_extension_seed if entry.host is None else run_stock_seed
    return code_version(*parts, run, entry.build, entry.config, entry.trainer)


def run_identity(
    args: EasyDict, data: str, seed: int, marks: Mapping[str, str] | None = None
) -> RunIdentity:
    """The name of a run, known before the run.

    Args:
        args: Resolved configuration.
        data: Fingerprint of the feature files.
        seed: The seed.
        marks: What sets the run apart from one with the same configuration.

    Raises:
        TextEncoderError: If the text encoder is a folder that is not there.
    """
    return RunIdentity(
        dataset=args.dataset_name,
        dataset_fingerprint=data,
        model=args.model_name,
        configuration=identifying_configuration(args) | dict(marks or {}),
        seed=seed,
        code_version=model_code_version(args.model_name, fast=bool(args.get("fast"))),
    )
