"""Recipes: who made the features of a file, modality by modality.

    {"text": {"name": "minilm", "version": "0.1.0", "max_length": 50},
     "audio": {"name": "opensmile", "version": "2.5.0", "feature_set": "eGeMAPSv02"}}

Two extractors may give frames of one width that mean different things, and a model then predicts
nonsense without an error. So a feature file says under its key `recipe` what made it, a folder of
shards in its metadata; a checkpoint says what it was trained on, and a scorer compares the two. A
modality without a recipe is of unknown make.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from MMSA_ext.errors import suggest
from MMSA_ext.names import MODALITIES

__all__ = ["UNKNOWN", "Recipe", "compared", "described", "problems"]

# modality -> `name`, `version` (empty where nobody knows it), parameters in JSON's types
Recipe = dict[str, dict[str, Any]]

UNKNOWN = "unknown"
# What changes how much of a sample there is, but not what a step of it means.
_MILD = ("version", "max_length")
_LARGEST = 1 << 14  # bytes of a modality's recipe, which every record and checkpoint carries
_DEEPEST = 8
_SHOWN = 300  # characters of a recipe in a message


def problems(recipe: object) -> list[str]:
    """What is wrong with a recipe from a file, a sentence each; nothing if it is a `Recipe`."""
    if type(recipe) is not dict:
        return [f"is a {type(recipe).__name__}; write a dict of one recipe a modality."]
    found = []
    for modality, made in recipe.items():
        if modality not in MODALITIES:
            close = suggest(str(modality)[:80], list(MODALITIES))
            found.append(f"{modality!r:.80} is no modality; {close}")
        elif type(made) is not dict:
            found.append(
                f"{modality} is a {type(made).__name__}; write {{'name': ..., 'version': ...}}."
            )
        elif not made.get("name") or not all(map(_is_text, map(made.get, ("name", "version")))):
            found.append(
                f"{modality} has no texts 'name' and 'version'; write both, the version may be ''."
            )
        elif not _is_json(made):
            found.append(
                f"{modality} has parameters that JSON cannot say, or too many; write numbers, "
                f"texts, lists and dicts, {_DEEPEST} deep and {_LARGEST} bytes at most."
            )
    return found


def _is_text(value: object) -> bool:
    return type(value) is str and value.isprintable()


def _is_json(value: dict[str, Any]) -> bool:
    """Whether JSON in UTF-8 gives a value back as it is, and it is of a size to be carried."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        small = len(text.encode()) <= _LARGEST
        return small and json.loads(text) == value and _depth(value) <= _DEEPEST
    except (TypeError, ValueError, RecursionError):
        return False


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def described(made: Mapping[str, Any] | None) -> str:
    """The recipe of one modality in a line, such as "minilm 0.1.0 (max_length 50)"."""
    if not made:
        return UNKNOWN
    more = ", ".join(f"{k} {v}" for k, v in made.items() if k not in ("name", "version"))
    text = f"{made['name']} {made['version']}".strip() + (f" ({more})" if more else "")
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def compared(
    trained: Recipe, found: Recipe, modalities: Iterable[str] = MODALITIES
) -> tuple[list[str], list[str]]:
    """Compare what a model is given with what it was trained on.

    Args:
        trained: Recipe of the training features. What is unknown of them cannot be compared.
        found: Recipe of the others.
        modalities: Those that are compared.

    Returns:
        A line a modality. First those of another make: another name, or another parameter, or one
        more or less. Then those that may be: of another version, cut at another `max_length`, or of
        unknown make.
    """
    other: list[str] = []
    doubtful: list[str] = []
    for modality in modalities:
        ours, theirs = trained.get(modality), found.get(modality)
        if ours is None or ours == theirs:
            continue
        line = f"{modality} is {described(theirs)}, in training it was {described(ours)}"
        alike = theirs is None or _essence(ours) == _essence(theirs)
        (doubtful if alike else other).append(line)
    return other, doubtful


def _essence(made: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in made.items() if key not in _MILD}
