"""Build the network of a configuration; with trained weights, if they fit it."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict
from torch import OutOfMemoryError, Tensor, nn
from torch.nn.modules import module as torch_module

from MMSA_ext.errors import CheckpointError, MMSAExtError, TextEncoderError
from MMSA_ext.mmsa_bridge.registration import building, registered
from MMSA_ext.mmsa_bridge.runtime import preserved_random_state
from MMSA_ext.text_encoders import given_weights

logger = logging.getLogger("MMSA")

# What a configuration may build beside what the weights fill: encoders that are replaced, buffers.
_SPARE_TENSORS, _SPARE_VALUES = 200, 10_000_000
_SHOWN = 3  # weights that a message names
_LONGEST = 500  # characters that a message takes over


def build_model(args: EasyDict) -> nn.Module:
    """MMSA's `AMIO(args)`, for its own models and the added ones; the network is `.Model`."""
    with registered(), building(args):
        model: nn.Module = import_module("MMSA.models.AMIO").AMIO(args)
    return model


def trained_model(args: EasyDict, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """`build_model` with trained weights; of a text encoder only the configuration is read.

    An outline of the model without memory (on torch's device `meta`) is compared with the weights
    first, so that a configuration that does not belong to them is refused before it takes any.

    Args:
        args: From `complete_args`; `model_save_path` is the file of the weights.
        state_dict: Trained weights.

    Returns:
        MMSA's `AMIO` on `args.device`, the network in `.Model`.

    Raises:
        CheckpointError: If the configuration builds no model or another one, or a weight is not a
            finite number.
        TextEncoderError: If the model reads a text encoder that cannot be loaded.
    """
    with preserved_random_state(), _silent():
        outline = _outline(args, state_dict)
        problems = _misfits(outline, state_dict) or _not_finite(outline, state_dict)
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"{args.model_save_path}: its weights do not fit {args.model_name} as configured: "
            f"{'; '.join(problems[:_SHOWN])}{more}. Use the configuration that trained them, or "
            "another checkpoint."
        )
    with preserved_random_state(), given_weights():
        model = build_model(args)
    model.load_state_dict(state_dict)
    return model.to(args.device)


def _outline(args: EasyDict, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The model without memory; or, where its code needs numbers to build it, with."""
    source = args.model_save_path
    values = sum(value.numel() for value in state_dict.values())
    _check_numbers(args.get("text_encoder_config"), max(values, _SPARE_VALUES), source)
    with _limited(2 * len(state_dict) + _SPARE_TENSORS, 2 * values + _SPARE_VALUES, source):
        try:
            try:
                return _built_on(torch.device("meta"), args)
            except (NotImplementedError, RuntimeError) as error:
                if "meta" not in str(error):
                    raise
                return _built_on(torch.device("cpu"), args)
        except (CheckpointError, MemoryError, OutOfMemoryError):
            raise
        except Exception as error:  # whatever a model makes of values that are missing or wrong
            stored = args.get("text_encoder_config") is not None
            if isinstance(error, TextEncoderError) and not stored:
                raise  # the encoder is missing on this machine, not in the checkpoint
            said = (
                str(error)
                if isinstance(error, MMSAExtError)
                else f"{type(error).__name__}: {error}"
            )
            raise CheckpointError(
                f"{source}: its configuration builds no {args.model_name} ({said[:_LONGEST]}). Use "
                "the configuration that trained the weights, or another checkpoint."
            ) from error


def _built_on(device: torch.device, args: EasyDict) -> nn.Module:
    args = copy.deepcopy(args)
    args.device = device
    with device:
        return build_model(args)


@contextmanager
def _limited(tensors: int, values: int, source: Path) -> Iterator[None]:
    """Stop the building of modules that have more parameters and buffers than this."""
    left, thread = [tensors, values], threading.get_ident()

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != thread:
            return
        left[0] -= 1
        left[1] -= value.numel()
        if min(left) < 0:
            raise CheckpointError(
                f"{source}: its configuration describes a model that is larger than its weights; "
                "use the configuration that trained them, or another checkpoint."
            )

    hooks = (
        torch_module.register_module_parameter_registration_hook(count),
        torch_module.register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_numbers(description: Any, largest: int, source: Path) -> None:
    """Refuse a text encoder of which some part is said to be larger than all weights.

    Before transformers builds a module, it makes lists as long as some of these numbers say.
    """
    pending = [description]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
        elif isinstance(value, int) and value > largest:
            raise CheckpointError(
                f"{source}: text_encoder_config in its configuration holds the number {value}, and "
                "the weights are fewer; use the configuration that trained them, or another "
                "checkpoint."
            )


def _misfits(outline: nn.Module, state_dict: Mapping[str, Tensor]) -> list[str]:
    """What differs between the weights and what the model needs."""
    expected = outline.state_dict()
    problems, fitting = [], {}
    for name, value in state_dict.items():
        wanted = expected.get(name, value)
        if (value.shape, value.dtype) == (wanted.shape, wanted.dtype):
            fitting[name] = value.to(wanted.device)
        else:
            problems.append(f"{name} is {_form(value)}, not {_form(wanted)}")
            fitting[name] = wanted
    missing, unexpected = outline.load_state_dict(fitting, strict=False)  # as the model lets it be
    problems += [f"{name} is missing" for name in missing]
    return problems + [f"{name} is in no part of the model" for name in unexpected]


def _not_finite(outline: nn.Module, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Trained weights that are NaN or infinite; buffers may be."""
    return [
        f"{name} holds values that are not finite"
        for name, _ in outline.named_parameters()
        if (value := state_dict.get(name)) is not None
        and value.is_floating_point()
        and value.numel()
        and not all(math.isfinite(end) for end in value.aminmax())
    ]


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what is said of the outline from being said twice."""
    thread = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)
