"""What values keys of MMSA's models take, as far as the values that MMSA ships tell it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from MMSA_ext import mmsa_files

# Shipped as whole numbers, but weights of a loss or a scale, which may be any number.
_ANY_NUMBER = ("beta_shift", "lda_mmd", "weight_sim_loss", "weight_gen_loss")
# Of the whole numbers, those of which there may be none.
_FROM_ZERO = ("early_stop", "patience", "when", "nlevels", "missing_seed")
_NOT_NEGATIVE = {"learning", "lr", "decay"}
_PROBABILITIES = {"drop", "dropout", "dropouts"}


@cache
def shipped_values(model_name: str) -> Mapping[str, list[Any]]:
    """The values that MMSA's files have for a key of one of its models, on any data set.

    Returns:
        By key, nested ones joined by a dot; of a search space the choices.
    """
    found: dict[str, list[Any]] = {}
    for dataset in mmsa_files.datasets().values():
        for form in dataset.values() if isinstance(dataset, Mapping) else ():
            _collect(found, form)
    regression, tune = mmsa_files.section(model_name), _tune_section(model_name)
    for section in (regression, tune):
        for part in (section.get("commonParams", {}), *section.get("datasetParams", {}).values()):
            _collect(found, part)
    for key, choices in leaves(tune.get("debugParams", {})):
        if key != "d_paras":
            found.setdefault(key, []).extend(choices if isinstance(choices, list) else [choices])
    return found


def _tune_section(model_name: str) -> dict[str, Any]:
    try:
        return mmsa_files.section(model_name, "tune")
    except ValueError:  # MMSA has no search space for it
        return {}


def _collect(found: dict[str, list[Any]], values: Mapping[str, Any]) -> None:
    for key, value in leaves(values):
        found.setdefault(key, []).append(value)


def leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries, with their keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def misfit(key: str, value: Any, shipped: list[Any]) -> str:
    """What to give in place of a value that cannot be meant; empty where nothing speaks against it.

    Args:
        key: The key, nested ones joined by a dot.
        value: What was given.
        shipped: What MMSA's files have for it.
    """
    kinds = {_kind(known) for known in shipped}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind == "truth":
        return "" if isinstance(value, bool) else "give true or false"
    if kind == "text":
        return "" if isinstance(value, str) else "give a text"
    if kind == "number":
        return _number_misfit(key, value, shipped)
    if kind == "list":
        return _list_misfit(key, value, shipped)
    return ""


def _kind(value: object) -> str | None:
    kinds = ((bool, "truth"), (str, "text"), (int | float, "number"), (list, "list"))
    return next((kind for type_, kind in kinds if isinstance(value, type_)), None)


def _list_misfit(key: str, value: Any, shipped: list[list[Any]]) -> str:
    lengths = {len(known) for known in shipped}
    if not isinstance(value, list | tuple) or len(value) not in lengths:
        return f"give a list of {' or '.join(map(str, sorted(lengths)))} values, as {shipped[0]}"
    known = [item for row in shipped for item in row]
    return next(filter(None, (misfit(key, item, known) for item in value)), "")


def _number_misfit(key: str, value: Any, shipped: list[Any]) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool) or not _is_finite(value):
        return "give a number"
    name, parts = key.rpartition(".")[2], set(re.split(r"[._]", key))
    whole = all(isinstance(known, int) for known in shipped) and name not in _ANY_NUMBER
    if whole and not isinstance(value, int):
        return "give a whole number"
    least = (0 if name in _FROM_ZERO else 1) if whole else 0
    if value < least and (whole or parts & (_NOT_NEGATIVE | _PROBABILITIES)):
        return f"give {least} or more"
    return "give a share from 0 to 1" if value > 1 and parts & _PROBABILITIES else ""


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        return False
