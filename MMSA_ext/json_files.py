"""JSON that users write, read strictly: what `json` lets pass unseen is refused here.

A key that is given twice, NaN and infinities have no meaning in JSON; nested beyond any use, a text
only serves to overflow what reads it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from MMSA_ext.errors import ConfigError
from MMSA_ext.paths import shown, why_no_file

__all__ = ["check_depth", "json_or_text", "parse_json", "read_json"]

_DEEPEST = 100
_TOO_DEEP = f"is nested more than {_DEEPEST} deep; a configuration has three levels at most."
# Byte order marks; that of UTF-32 begins as UTF-16's does, so it comes first.
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file in UTF-8, with or without a byte order mark.

    Raises:
        ConfigError: If the file is missing, no file, in another encoding, or not valid.
    """
    path, name = Path(path), shown(path)
    if reason := why_no_file(path, "configuration file"):
        raise ConfigError(f"{name}: {reason}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}.") from None
    value = parse_json(_decoded(content, name), name)
    if not isinstance(value, dict):
        raise ConfigError(f'{name}: holds no JSON object; write {{"key": value, ...}}.')
    return value


def _decoded(content: bytes, name: str) -> str:
    reason = next((f"it is {kind}" for mark, kind in _MARKS if content.startswith(mark)), "")
    if not reason and b"\0" in content:
        reason = "it has NUL characters, as UTF-16 has"
    if not reason:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            reason = f"a character of line {line} is none there, perhaps Latin-1"
    raise ConfigError(f"{name}: not a text in UTF-8: {reason}; save it as UTF-8.")


def parse_json(text: str, where: str) -> Any:
    """The value that a JSON text says.

    Args:
        text: The text.
        where: What it is called in errors.

    Raises:
        ConfigError: If it is not valid, with the place.
    """
    try:
        return _parsed(text, where)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None


def json_or_text(text: str, where: str) -> Any:
    """The value that a text says in JSON, or if it is none the text itself.

    Raises:
        ConfigError: If it is JSON, but has no meaning.
    """
    try:
        return _parsed(text, where)
    except json.JSONDecodeError:
        return text


def _parsed(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(iter(Counter(key for key, _ in pairs) - Counter(found.keys())))
            raise ConfigError(f"{where}: the key {twice!r} is there twice; leave one out.")
        return found

    def no_number(word: str) -> NoReturn:
        raise ConfigError(f"{where}: {word} is no number in JSON; write a finite one, or null.")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=no_number)
    except (json.JSONDecodeError, ConfigError):
        raise
    except RecursionError:
        raise ConfigError(f"{where}: {_TOO_DEEP}") from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(f"{where}: not valid JSON: {error}.") from None
    check_depth(value, where)
    return value


def check_depth(value: object, where: str) -> None:
    """Refuse a value that is nested beyond any use, or holds itself.

    Raises:
        ConfigError: Naming `where` it stands.
    """
    level: Iterable[object] = [value]
    for _ in range(_DEEPEST):
        below = {id(inner): inner for outer in level for inner in _within(outer)}
        if not below:
            return
        level = below.values()
    raise ConfigError(f"{where}: {_TOO_DEEP}")


def _within(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
