"""CSV files of utterances or texts."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from MMSA_ext.errors import FeatureFileError
from MMSA_ext.paths import shown

__all__ = ["read_table"]


def read_table(source: Path) -> pd.DataFrame:
    """A CSV, every cell as it stands there: no id loses its zeros, no text is a number or NaN.

    Args:
        source: `,`, `;` or tab between fields, UTF-8 with or without a byte order mark, quoted line
            ends.

    Raises:
        FeatureFileError: It is no table, or rows have more or fewer fields than the header.
    """
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = max(",;\t", key=first.count)
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(lines, [])]
            rows = [(lines.line_num, row) for row in lines if row]
    except UnicodeDecodeError as error:
        raise FeatureFileError(
            f"{shown(source)} is no text in UTF-8 (byte {error.start}). Save it as UTF-8."
        ) from None
    except (OSError, csv.Error) as error:
        raise FeatureFileError(f"{shown(source)} cannot be read as a table: {error}.") from None
    if twice := {name for name in names if names.count(name) > 1}:
        raise FeatureFileError(
            f"{shown(source)} has the column {min(twice)!r} twice. Rename one of them."
        )
    if wrong := [f"{number} ({len(row)})" for number, row in rows if len(row) != len(names)]:
        raise FeatureFileError(
            f"{shown(source)} has {len(names)} columns, but not in {len(wrong)} of its rows; lines "
            f"and their fields: {', '.join(wrong[:5])}. Put fields that hold the separator "
            f"{separator!r} or a line end in quotes, and write empty fields too."
        )
    if not rows:
        raise FeatureFileError(f"{shown(source)} has a header and no rows. Write one a sample.")
    return pd.DataFrame([row for _, row in rows], columns=names)
