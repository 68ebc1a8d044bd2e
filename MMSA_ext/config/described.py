"""A configuration explained: every key with its value, what it means, and where it is from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from MMSA_ext.config.files import layers
from MMSA_ext.config.resolve import resolve
from MMSA_ext.config.schema import MMSAKeys
from MMSA_ext.registry import get_model, is_registered

__all__ = ["DescribedKey", "described"]


class DescribedKey(NamedTuple):
    """A key of a configuration.

    Attributes:
        key: Nested ones have a dot.
        value: As a run has it.
        source: The file and its part, `given` for an override, or `default`.
        meaning: As its configuration class says; empty of keys that MMSA's code alone reads.
    """

    key: str
    value: Any
    source: str
    meaning: str


def described(
    model_name: str,
    dataset_name: str,
    config_file: str | Path = "",
    overrides: Mapping[str, Any] | None = None,
) -> list[DescribedKey]:
    """Every key of the configuration that a run would have.

    Arguments and errors are those of `config.resolve.resolve`.
    """
    args = resolve(model_name, dataset_name, config_file, overrides)
    names = ("model_name", "dataset_name")
    parts = [("default", dict(args)), *layers(args.model_name, args.dataset_name, config_file)]
    parts.append(("given", dict.fromkeys(names) | dict(_leaves(overrides or {}))))
    own = is_registered(args.model_name)
    classes = [*([get_model(args.model_name).config] if own else []), MMSAKeys]
    return [
        DescribedKey(key, value, _source(key, parts), _meaning(key, classes))
        for key, value in _leaves(args)
    ]


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def _source(key: str, parts: list[tuple[str, Mapping[str, Any]]]) -> str:
    """The last part that has the key, or one that it is nested in."""
    names = {key} | {key[: dot.start()] for dot in re.finditer(r"\.", key)}
    having = [where for where, values in parts if names & values.keys()]
    return having[-1]


def _meaning(key: str, classes: Sequence[type[BaseModel]]) -> str:
    """What the docstring of a class, or of one that it is nested or inherited from, says of it."""
    name, _, rest = key.partition(".")
    for cls in (base for known in classes for base in known.__mro__):
        if rest and issubclass(cls, BaseModel) and name in cls.model_fields:
            inner = _model_in(cls.model_fields[name].annotation)
            return "" if inner is None else _meaning(rest, [inner])
        found = re.search(
            rf"^    (?:\w+, )*{re.escape(name)}(?:, \w+)*: (.+?)(?=^    \S|\Z|^\S)",
            inspect.cleandoc(cls.__doc__ or ""),
            re.MULTILINE | re.DOTALL,
        )
        if found:
            return " ".join(str(found[1]).split())
    return ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The configuration class that an annotation such as `Reading | None` names."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, getattr(annotation, "__args__", ()))), None)
