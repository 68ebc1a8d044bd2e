"""Text of samples inside pictures: transcripts of any language, ids with dollar signs."""

from __future__ import annotations

import math
import unicodedata

import pandas as pd


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar sign begins no formula."""
    return " ".join(text.split()).replace("$", r"\$")


def display_width(text: str) -> int:
    """Width in columns: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(text: str, width: int, lines: int | None = None) -> str:
    """Break text into lines of `plain` text, between words and between Chinese characters.

    A word that is longer than `width` columns has a line of its own; what is left out beyond so
    many `lines` shows as an ellipsis.
    """
    broken: list[str] = []
    line = ""
    for part in _breakable(" ".join(text.split())):
        if line and display_width((line + part).rstrip()) > width:
            broken.append(line.rstrip())
            line = part.lstrip()
        else:
            line += part
    broken.append(line.rstrip())
    if lines is not None and len(broken) > lines:
        broken = [*broken[: lines - 1], broken[lines - 1] + " …"]
    return "\n".join(plain(one) for one in broken)


def _breakable(text: str) -> list[str]:
    """Parts between which a line may end; each carries the space behind it."""
    parts: list[str] = []
    joinable = False
    for character in text:
        wide = display_width(character) == 2
        # Closing punctuation stays with what it closes.
        closing = wide and unicodedata.category(character) in {"Po", "Pe", "Pf"}
        if parts and (character == " " or closing or (joinable and not wide)):
            parts[-1] += character
        else:
            parts.append(character)
        joinable = character != " " and not wide
    return parts


def sample_heading(sample: pd.Series, more: str = "") -> str:
    """Text, id, label and prediction of a sample, and what else is said of it."""
    label = "unknown" if math.isnan(sample["label"]) else f"{sample['label']:.2f}"
    facts = f"{sample['id']}: label {label}, predicted {sample['prediction']:.2f}{more}"
    return f"{wrapped(str(sample['text']), 90, 2)}\n{wrapped(facts, 90)}"
