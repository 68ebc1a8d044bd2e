"""Any common form of features into MMSA's layout."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, get_args

from MMSA_ext.config.schema import FrontPadding
from MMSA_ext.data.convert.checking import checked
from MMSA_ext.data.convert.feature_file import write_padded
from MMSA_ext.data.convert.forms import find_form, reader
from MMSA_ext.data.convert.options import Options
from MMSA_ext.data.convert.report import ConversionReport
from MMSA_ext.data.convert.source import Source
from MMSA_ext.data.fit_lengths import TooLong, check_too_long
from MMSA_ext.data.front_padding import check_choice
from MMSA_ext.data.recipes import Recipe, problems
from MMSA_ext.data.samples import Sample
from MMSA_ext.errors import ConfigError
from MMSA_ext.json_files import read_json
from MMSA_ext.names import MODALITIES
from MMSA_ext.paths import check_output, expand, expand_given
from MMSA_ext.validation import SEEDS, integer, no_seed, whole_number

__all__ = ["convert"]

PathLike = str | os.PathLike[str]
Incomplete = Literal["error", "drop"]
_TOKENS = 50


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
    path, target = Path(expand(source)), Path(expand(output))
    lengths = _lengths(max_length)
    own = _recipe(recipe)
    _check(path, target, too_long, incomplete, shards)
    check_choice(front_padding)
    options = Options(
        dict(columns or {}),
        _given(audio),
        _given(vision),
        group or None,
        None if seed is None else _seed(seed),
        None if shares is None else _shares(shares),
        front_padding,
    )
    given = Source(path)
    report = ConversionReport(path, form or find_form(given))
    read = reader(report.form, options)
    samples: Iterator[Sample] = read(given, options, report)
    if pretrained is not None:
        from MMSA_ext.data.convert.tokens import Tokens

        limit = lengths.get("text", _TOKENS)
        samples = Tokens(pretrained, limit, cut=too_long != "error").fill(samples, report)
    samples = checked(samples, report, lengths, too_long, incomplete)
    samples = chain(list(islice(samples, 1)), samples)  # by then the reader has said who made it
    report.recipe |= own
    if shards is None:
        write_padded(samples, target, report.recipe)
    else:
        from MMSA_ext.data.shards import write_shards

        write_shards(samples, target, shards, report.recipe)
    report.output = target
    return report


def _given(path: PathLike | None) -> Path | None:
    found = expand_given(path)
    return Path(found) if found else None


def _check(source: Path, target: Path, too_long: str, incomplete: str, shards: int | None) -> None:
    check_too_long(too_long)
    if incomplete not in get_args(Incomplete):
        raise ConfigError(f"incomplete is {incomplete!r}; use 'error' or 'drop'.")
    if shards is not None:
        whole_number("shards", shards, 1)
    check_output(target, source)
    if shards is None and target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file in it, or ask for --shards N.")


def _lengths(given: Mapping[str, int] | None) -> dict[str, int]:
    for modality in given or ():
        if modality not in MODALITIES:
            raise ConfigError(f"max_length names {modality!r}; use one of {', '.join(MODALITIES)}.")
    return {
        modality: whole_number(f"max_length of {modality}", limit, 3 if modality == "text" else 1)
        for modality, limit in (given or {}).items()
    }


def _seed(value: int) -> int:
    if (seed := integer(value)) is None or seed not in SEEDS:
        raise ConfigError(no_seed(value) + ".")
    return seed


def _shares(given: Sequence[float]) -> tuple[float, float, float]:
    shares = tuple(map(float, given))
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1):
        raise ConfigError(
            f"shares is {list(given)}; give those of train, valid and test, sum 1, such as "
            "0.7,0.1,0.2."
        )
    return shares


def _recipe(given: PathLike | Mapping[str, Any] | None) -> Recipe:
    if isinstance(given, str | os.PathLike):
        given = read_json(expand(given))
    found: Recipe = dict(given or {})
    if wrong := problems(found):
        raise ConfigError(f"recipe {' '.join(wrong)}")
    return found
