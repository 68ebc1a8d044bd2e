"""What is wrong with a pickle, and how a message may show a piece of it."""

from types import FunctionType
from typing import Any

__all__ = ["DamagedError", "RefusedError", "TruncatedError", "kind_of", "shown"]

_LONGEST_SHOWN = 80


class TruncatedError(Exception):
    """The file ends before what it announces."""


class DamagedError(Exception):
    """Bytes that no program that writes pickles has written; the text says what they are."""


class RefusedError(Exception):
    """Content that a feature file may not have.

    Attributes:
        what: completes "the file ..."; starts with a verb.
        mend: a sentence.
    """

    REWRITE = (
        "Feature files may hold only plain numpy arrays, numbers, text, lists, tuples and dicts; "
        "rewrite it with MMSA_ext.data.features.write_features."
    )
    CONVERT = (
        "Feature files may hold only numpy arrays and builtin containers. If you trust the file, "
        "convert it where it was made: turn every tensor or table into a numpy array and save it "
        "with MMSA_ext.data.features.write_features."
    )

    def __init__(self, what: str, mend: str = REWRITE) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


def kind_of(value: Any) -> str:
    """What a value is, such as "a list": its content may be endless."""
    if isinstance(value, FunctionType):
        return "a function"
    name = type(value).__name__.strip("_")
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def shown(text: str) -> str:
    """A text of the file in quotes, its beginning if it is long."""
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")
