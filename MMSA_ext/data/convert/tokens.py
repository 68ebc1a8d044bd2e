"""Token ids from the transcripts of samples that come one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from MMSA_ext.data.encode_text import TextCoverage, coverage, text_recipe, tokenize
from MMSA_ext.text_encoders import load_tokenizer

if TYPE_CHECKING:
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.samples import Sample

__all__ = ["Tokens"]

_AT_ONCE = 512


class Tokens:
    """A tokenizer, and how it fills `text_bert`."""

    def __init__(self, pretrained: str, max_length: int, *, cut: bool) -> None:
        """Load the tokenizer.

        Args:
            pretrained: see `MMSA_ext.text_encoders.resolve`.
            max_length: most tokens of a sample, first and last special token included.
            cut: whether longer texts are cut, or a problem.

        Raises:
            TextEncoderError: it cannot be loaded.
        """
        self._tokenizer: Any = load_tokenizer(pretrained)
        self._pretrained, self._max_length, self._cut = pretrained, max_length, cut

    def fill(self, samples: Iterable[Sample], report: ConversionReport) -> Iterator[Sample]:
        """Samples with `text_bert` from `raw_text`, as `encode_text` makes it, without padding."""
        iterator = iter(samples)
        while some := list(islice(iterator, _AT_ONCE)):
            texts = [sample.raw_text for sample in some]
            found = coverage(self._tokenizer, texts, self._max_length, self._pretrained)
            if report.coverage is None:
                report.recipe["text"] = text_recipe(self._pretrained, self._max_length)
                if some[0].text is not None:  # which someone else made
                    report.recipe["text"]["fields"] = ["text_bert"]
            if found.cut and not self._cut:
                report.problem(
                    f"text is longer than --max-length text={self._max_length}",
                    f"{found.cut} samples, the longest has {found.needed} tokens",
                    "Allow so many, or cut by --too-long cut.",
                )
            report.coverage = found if report.coverage is None else _sum(report.coverage, found)
            for sample, tokens in zip(
                some, tokenize(self._tokenizer, texts, self._max_length), strict=True
            ):
                count = int(tokens[1].sum())
                if sample.text_bert is not None:
                    report.note(f"The source's token ids are replaced by {self._pretrained}'s.")
                report.arrived(sample.split, "text", count)
                yield replace(sample, text_bert=tokens[:, :count].astype(np.int64))


def _sum(one: TextCoverage, other: TextCoverage) -> TextCoverage:
    counts = ("samples", "cut", "words", "lost", "unknown")
    return replace(
        one,
        needed=max(one.needed, other.needed),
        **{key: getattr(one, key) + getattr(other, key) for key in counts},
    )
