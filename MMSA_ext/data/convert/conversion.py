"""Any common form of features into MMSA's layout."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from MMSA_ext.config.schema import FrontPadding
from MMSA_ext.data.convert.forms import find_form, reader
from MMSA_ext.data.convert.options import Options
from MMSA_ext.data.convert.report import ConversionReport
from MMSA_ext.data.convert.source import Source
from MMSA_ext.data.convert.writing import Incomplete, Writing
from MMSA_ext.data.fit_lengths import TooLong
from MMSA_ext.data.recipes import Recipe, problems
from MMSA_ext.errors import ConfigError
from MMSA_ext.json_files import read_json
from MMSA_ext.paths import expand

__all__ = ["convert"]

PathLike = str | os.PathLike[str]


def convert(
    source: PathLike,
    output: PathLike,
    *,
    form: str | None = None,
    columns: Mapping[str, str] | None = None,
    audio: PathLike | None = None,
    vision: PathLike | None = None,
    group: str | None = None,
    seed: int | None = None,
    shares: Sequence[float] | None = None,
    max_length: Mapping[str, int] | None = None,
    too_long: TooLong = "cut",
    incomplete: Incomplete = "error",
    front_padding: FrontPadding | None = None,
    pretrained: str | None = None,
    recipe: PathLike | Mapping[str, Mapping[str, Any]] | None = None,
    shards: int | None = None,
) -> ConversionReport:
    """Convert a source into a feature file, or into shards.

    Args:
        source: file or folder, see `docs/data.md`.
        output: file to write; with `shards` a folder.
        form: one of `forms.FORMS`; None recognises it by its content.
        columns: our name of a column (`id`, `text`, `label`, `label_T`, `split`, ...) -> the
            source's; an empty text leaves the column out.
        audio: beside a CSV, a folder, `.h5` or `.npz` file with a sequence for each id.
        vision: likewise; OpenFace's CSV too.
        group: column whose values are kept in one split each.
        seed: of the splits that are made where the source has none; 1111 by default.
        shares: of train, valid and test then; 0.7, 0.1 and 0.2 by default.
        max_length: `text` (tokens), `audio`, `vision` -> most steps.
        too_long: what happens to longer ones: `cut` keeps the first steps, `pool` averages frames
            to as many (tokens are cut), `error` refuses.
        incomplete: `drop` leaves out samples that lack what the source has of others.
        front_padding: as for `features.read_features`; MulT's is turned unless it is `keep`.
        pretrained: encoder whose tokenizer fills `text_bert` from the transcripts.
        recipe: who made the modalities, by modality with `name` and `version`; or its JSON file.
        shards: number of Parquet files to write instead of one feature file.

    Returns:
        What was done; print `report.render()`.

    Raises:
        FeatureFileError: the source cannot be used; all problems are named.
        ConfigError: an option is not usable.
        TextEncoderError: the tokenizer cannot be loaded.
        WriteError: the disk refuses.
    """
    path = Path(expand(source))
    own = _recipe(recipe)
    writing = Writing.of(
        path,
        output,
        max_length=max_length,
        too_long=too_long,
        incomplete=incomplete,
        pretrained=pretrained,
        shards=shards,
    )
    options = Options.of(
        columns,
        audio=audio,
        vision=vision,
        group=group,
        seed=seed,
        shares=shares,
        front_padding=front_padding,
    )
    given = Source(path)
    report = ConversionReport(path, form or find_form(given))
    read = reader(report.form, options)
    writing.write(read(given, options, report), report, own)
    return report


def _recipe(given: PathLike | Mapping[str, Any] | None) -> Recipe:
    if isinstance(given, str | os.PathLike):
        given = read_json(expand(given))
    found: Recipe = dict(given or {})
    if wrong := problems(found):
        raise ConfigError(f"recipe {' '.join(wrong)}")
    return found
