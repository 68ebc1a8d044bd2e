"""What is wrong with a configuration, in sentences a user can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError

from MMSA_ext.errors import suggest


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
        return f"{key}: no such key; {suggest(path[-1], _fields_below(cls, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{key}: is missing; add it to the configuration file or to config=."
    if not path or isinstance(problem["input"], Mapping):  # a rule over keys, which it names
        return f"{key}: {message}" if key else str(message)
    return f"{key}: {message} (given: {problem['input']!r})"


def _fields_below(cls: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the keys in a nested part of a configuration class."""
    for step in path:
        annotation = cls.model_fields[step].annotation
        nested = [annotation, *get_args(annotation)]
        cls = next(t for t in nested if isinstance(t, type) and issubclass(t, BaseModel))
    return list(cls.model_fields)
