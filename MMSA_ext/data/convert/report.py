"""What a conversion found and did, in numbers and sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_layout import SINGLE
from MMSA_ext.data.feature_report import numbered, printable, text_table
from MMSA_ext.data.recipes import Recipe, described
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.names import SPLITS
from MMSA_ext.paths import shown

if TYPE_CHECKING:
    from MMSA_ext.data.encode_text import TextCoverage

__all__ = ["UNREADABLE", "ConversionReport", "Spread"]

# In the place of frames that cannot be read, once it has been said why.
UNREADABLE: NDArray[Any] = np.zeros((0, 0), np.float32)
_SHOWN = 5


@dataclass
class Spread:
    """Smallest, mean and largest of numbers that come one by one.

    Attributes:
        count: how many there were.
        total: their sum.
        low: the smallest.
        high: the largest.
    """

    count: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, value: float) -> None:
        """Take one more number."""
        self.count += 1
        self.total += value
        self.low, self.high = min(self.low, value), max(self.high, value)

    def __str__(self) -> str:
        """`smallest / mean / largest`."""
        if not self.count:
            return "-"
        return f"{self.low:g} / {self.total / self.count:.3g} / {self.high:g}"


@dataclass
class Steps:
    """Steps of one modality in one split.

    Attributes:
        before: a sample's steps in the source, padding included.
        after: those that are written.
        cut: samples that were longer than allowed.
        dropped: frames left out that are no padding: unsuccessful, or beyond the length allowed.
        not_numbers: NaN, and -inf in audio.
    """

    before: Spread = field(default_factory=Spread)
    after: Spread = field(default_factory=Spread)
    cut: int = 0
    dropped: int = 0
    not_numbers: int = 0


@dataclass
class ConversionReport:
    """What was read, what was done to it, and what is wrong with it.

    Attributes:
        source: what was converted.
        form: name of its form.
        output: file or folder written; None before.
        samples: split -> number of samples written.
        steps: (split, modality) -> lengths and losses.
        labels: (split, `M`, `T`, `A` or `V`) -> values.
        notes: what was renamed, which rule made the splits, what was left out.
        coverage: how much of the transcripts the tokenizer keeps; None where none was used.
        recipe: who made the modalities.
        expected: what each sample must have (`M`, `T`, `A`, `V`, `text_bert`, `text`, `audio`,
            `vision`) -> where it was looked for.
        transcripts: whether the source has any.
    """

    source: Path
    form: str
    output: Path | None = None
    samples: dict[str, int] = field(default_factory=dict)
    steps: dict[tuple[str, str], Steps] = field(default_factory=dict)
    labels: dict[tuple[str, str], Spread] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    coverage: TextCoverage | None = None
    recipe: Recipe = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)
    transcripts: bool = False
    _problems: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _counted: dict[str, list[str]] = field(default_factory=dict)

    def problem(self, what: str, place: str = "", mend: str = "") -> None:
        """File something that makes the source unusable; places of one kind are listed together.

        Args:
            what: what is wrong, a sentence's beginning.
            place: row, id or file.
            mend: what to do, a sentence.
        """
        self._problems.setdefault((what, mend), []).extend([place] * bool(place))

    def count(self, what: str, place: str) -> None:
        """Note something that is told by its number and its first places."""
        self._counted.setdefault(what, []).append(place)

    def note(self, text: str) -> None:
        """Note something, once."""
        if text not in self.notes:
            self.notes.append(text)

    def arrived(self, split: str, modality: str, steps: int, dropped: int = 0) -> None:
        """Note the steps that a sample has in the source, and how many the reader leaves out."""
        found = self.of(split, modality)
        found.before.add(steps)
        found.dropped += dropped

    def of(self, split: str, modality: str) -> Steps:
        """The steps of one modality in one split."""
        return self.steps.setdefault((split, modality), Steps())

    def labels_of(self, split: str, kind: str) -> Spread:
        """The values of one kind of label in one split."""
        return self.labels.setdefault((split, kind), Spread())

    @property
    def ok(self) -> bool:
        """Whether there is no problem so far."""
        return not self._problems

    def raise_problems(self) -> None:
        """Raise all problems as one error.

        Raises:
            FeatureFileError: There are problems.
        """
        if self.ok:
            return
        said = [
            f"{what}{_listed(places)}.{' ' * bool(mend)}{mend}"
            for (what, mend), places in self._problems.items()
        ]
        text = f"{shown(self.source)} (form {self.form}) cannot be converted:\n{numbered(said)}"
        raise FeatureFileError(printable(text))

    def render(self) -> str:
        """The whole report as plain text."""
        counted = [f"{what}{_listed(places)}." for what, places in self._counted.items()]
        missing = [name for name in SPLITS if name not in self.samples]
        if missing and self.labels and SINGLE not in self.samples:
            counted.append(
                f"There is no split {' and no '.join(missing)}; training needs all three. "
                "--column split= has others made."
            )
        if not self.labels:
            counted.append(
                "There are no labels: it can be scored and not trained on. --column label=NAME "
                "takes them from a column of another name."
            )
        notes = self.notes + counted + ([f"Text: {self.coverage}."] if self.coverage else [])
        made = [f"{key} by {described(own)}" for key, own in self.recipe.items()]
        sections = [
            f"Source   {shown(self.source)} (form {self.form})\nOutput   {self.output}\n"
            f"Recipe   {'; '.join(made) or 'unknown'}",
            self._step_table(),
        ]
        if self.labels:
            sections.append(self._label_table())
        if notes:
            sections.append(f"Notes\n{numbered(notes)}")
        sections.append(f"Next\n  {self.next_command()}")
        return printable("\n\n".join(sections) + "\n")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before training."""
        return self.coverage.warnings if self.coverage else ()

    def next_command(self) -> str:
        """The command that comes next."""
        if self.transcripts and not any(modality == "text" for _, modality in self.steps):
            return f"mmsa-ext encode-text {self.output} with_text.pkl --pretrained NAME"
        if not self.labels:
            return f"mmsa-ext predict CHECKPOINT {self.output}"
        return f"mmsa-ext run -m MODEL -d {self._dataset()} -f {self.output}"

    def _dataset(self) -> str:
        found = [spread for (_, kind), spread in self.labels.items() if kind == "M"]
        largest = max((max(-spread.low, spread.high) for spread in found), default=3)
        own = "NAME --dataset-file DEFINITION.json"  # docs/tutorial.md
        return "sims" if largest <= 1 else "mosi" if largest <= 3 else own

    def _step_table(self) -> str:
        columns = ("split", "samples", "modality", "steps in source", "written", "cut samples")
        rows: list[list[object]] = []
        for split, count in sorted(self.samples.items(), key=lambda item: _place(item[0])):
            own = {key: found for (name, key), found in self.steps.items() if name == split}
            for modality, found in sorted((own or {"none": Steps()}).items()):
                cut = "-" if modality == "text" and self.coverage else found.cut
                lengths = (str(found.before), str(found.after))
                rows.append(
                    [split, count, modality, *lengths, cut, found.dropped, found.not_numbers]
                )
        return text_table(dict.fromkeys((*columns, "dropped frames", "NaN"), ""), rows)

    def _label_table(self) -> str:
        rows = [
            [split, kind, spread.count, str(spread)]
            for (split, kind), spread in sorted(
                self.labels.items(), key=lambda item: _place(item[0][0])
            )
        ]
        columns = ("split", "label", "samples", "min / mean / max")
        return text_table(dict.fromkeys(columns, ""), rows)


def _place(split: str) -> int:
    """Where a split stands among the others."""
    return SPLITS.index(split) if split in SPLITS else -1


def _listed(places: list[str]) -> str:
    if not places:
        return ""
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return f" ({len(places)}): {', '.join(places[:_SHOWN])}{more}"
