"""How samples are written: tokenised, checked, at most so long, as a feature file or as shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

from MMSA_ext.data.convert.checking import checked
from MMSA_ext.data.convert.feature_file import write_padded
from MMSA_ext.data.fit_lengths import TooLong, check_too_long
from MMSA_ext.errors import ConfigError
from MMSA_ext.names import MODALITIES
from MMSA_ext.paths import check_output, expand
from MMSA_ext.validation import whole_number

if TYPE_CHECKING:
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.recipes import Recipe
    from MMSA_ext.data.samples import Sample

__all__ = ["Incomplete", "Writing"]

Incomplete = Literal["error", "drop"]
_TOKENS = 50


@dataclass(frozen=True)
class Writing:
    """What `convert` is told of its output; arguments as there."""

    output: Path
    max_length: dict[str, int]
    too_long: TooLong
    incomplete: Incomplete
    pretrained: str | None
    shards: int | None

    @classmethod
    def of(
        cls,
        source: Path,
        output: str | os.PathLike[str],
        *,
        max_length: Mapping[str, int] | None,
        too_long: TooLong,
        incomplete: Incomplete,
        pretrained: str | None,
        shards: int | None,
    ) -> Self:
        """Check what was given.

        Raises:
            ConfigError: An option is not usable, or the output is the source.
        """
        target, lengths = Path(expand(output)), _lengths(max_length)
        check_too_long(too_long)
        if incomplete not in get_args(Incomplete):
            raise ConfigError(f"incomplete is {incomplete!r}; use 'error' or 'drop'.")
        if shards is not None:
            whole_number("shards", shards, 1)
        check_output(target, source)
        if shards is None and target.is_dir():
            raise ConfigError(f"{target} is a folder; name a file in it, or ask for --shards N.")
        return cls(target, lengths, too_long, incomplete, pretrained, shards)

    def write(self, samples: Iterable[Sample], report: ConversionReport, recipe: Recipe) -> None:
        """Write samples that come one by one.

        Args:
            samples: As they were read.
            report: Receives what is done, and is raised if there is a problem.
            recipe: What is known of who made them, beside what the reader says.

        Raises:
            FeatureFileError, TextEncoderError, WriteError: As `convert`.
        """
        if self.pretrained is not None:
            from MMSA_ext.data.convert.tokens import Tokens

            limit = self.max_length.get("text", _TOKENS)
            tokens = Tokens(self.pretrained, limit, cut=self.too_long != "error")
            samples = tokens.fill(samples, report)
        samples = checked(samples, report, self.max_length, self.too_long, self.incomplete)
        samples = chain(list(islice(samples, 1)), samples)  # by then its maker is known
        report.recipe |= recipe
        if self.shards is None:
            write_padded(samples, self.output, report.recipe)
        else:
            from MMSA_ext.data.shards import write_shards

            write_shards(samples, self.output, self.shards, report.recipe)
        report.output = self.output


def _lengths(given: Mapping[str, int] | None) -> dict[str, int]:
    for modality in given or ():
        if modality not in MODALITIES:
            raise ConfigError(f"max_length names {modality!r}; use one of {', '.join(MODALITIES)}.")
    return {
        modality: whole_number(f"max_length of {modality}", limit, 3 if modality == "text" else 1)
        for modality, limit in (given or {}).items()
    }
