"""What is wrong with arguments and configurations, in sentences a user can act on."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from MMSA_ext.errors import ConfigError, suggest

# What numpy's random numbers can be seeded with; torch and Python take these too.
SEEDS = range(2**32)


def integer(value: object) -> int | None:
    """The integer that a value is, numpy's included; None for all else, True and "1" too."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def whole_number(name: str, value: object, least: int) -> int:
    """An argument that is an integer, and not less than `least`.

    Raises:
        ConfigError: If it is not.
    """
    number = integer(value)
    if number is None or number < least:
        raise ConfigError(f"{name} is {value!r:.80}; give a whole number, {least} or more.")
    return number


def flag(name: str, value: object) -> bool:
    """An argument that is true or false; a text is neither.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or integer(value) in (0, 1):
        return bool(value)
    raise ConfigError(f"{name} is {value!r:.80}; give True or False.")


def verbosity(value: object) -> int:
    """The argument `verbose_level`.

    Raises:
        ConfigError: If it is not 0, 1 or 2.
    """
    number = integer(value)
    if number not in (0, 1, 2):
        raise ConfigError(f"verbose_level is {value!r:.80}; use 0, 1 or 2.")
    return number


def distinct_seeds(seeds: object) -> list[int]:
    """Seeds, each once: a repeated one would count twice in mean and spread.

    Args:
        seeds: An integer, or integers in anything that can be iterated; numpy's count.

    Raises:
        ConfigError: If one is no integer or out of range; a text is none, "1111" neither.
    """
    given: Any = seeds if integer(seeds) is None else [seeds]
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigError(
            f"seeds is {seeds!r:.80}; give whole numbers, such as seeds=[1111, 1112]."
        )
    found: dict[int, None] = {}
    for seed in given:
        number = integer(seed)
        if number is None or number not in SEEDS:
            raise ConfigError(no_seed(seed) + ".")
        found[number] = None
    return list(found)


def no_seed(seed: object) -> str:
    """That something is no seed, and what is."""
    return f"{seed!r:.80} is no seed; give whole numbers from 0 to {SEEDS.stop - 1}"


def explain(error: ValidationError, cls: type[BaseModel], below: str = "") -> list[str]:
    """One line for each problem: the key, what is wrong, and the closest known key.

    Args:
        error: Of validating values for `cls`.
        cls: The class with the known keys, nested ones included.
        below: Key under which the values stand in the user's configuration.
    """
    return [_line(problem, cls, below) for problem in error.errors()]


def _line(problem: Mapping[str, object], cls: type[BaseModel], below: str) -> str:
    location, message = problem["loc"], problem["msg"]
    path = [str(part) for part in location] if isinstance(location, tuple) else []
    key = ".".join([*filter(None, [below]), *path])
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key; {meant(path[-1], _below(cls, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{key}: is missing; add it to the configuration file or to config=."
    if not path or isinstance(problem["input"], Mapping):  # a rule over keys, which it names
        return f"{key}: {message}" if key else str(message)
    return f"{key}: {message} (given: {problem['input']!r:.200})"


def meant(key: str, cls: type[BaseModel]) -> str:
    """What an unknown key is called: it was renamed, stands in a nested part, or is misspelt."""
    renamed: Mapping[str, str] = getattr(cls, "renamed", {})
    parts = {name: _nested(cls, name) for name in cls.model_fields}
    moved = [renamed[key]] if key in renamed else []
    moved += [f"{name}.{key}" for name, part in parts.items() if part and key in part.model_fields]
    return f"did you mean {' or '.join(moved)}?" if moved else suggest(key, list(cls.model_fields))


def _below(cls: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The class of a nested part of a configuration class."""
    for step in path:
        cls = _nested(cls, step) or cls
    return cls


def _nested(cls: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The class of the part under a key, which may be optional; None of a plain value."""
    annotation = cls.model_fields[name].annotation
    types = (annotation, *get_args(annotation))
    return next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
