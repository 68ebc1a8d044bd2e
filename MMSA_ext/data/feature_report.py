"""What was found in a feature file: problems, warnings, notes and a summary to read."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.recipes import Recipe, described
from MMSA_ext.datasets import Dataset
from MMSA_ext.names import FRAMES, MODALITIES

__all__ = ["FeatureReport", "LabelSummary", "LengthSummary", "SplitSummary"]


@dataclass(frozen=True)
class LengthSummary:
    """Distribution of sequence lengths, in time steps.

    Attributes:
        minimum: shortest.
        p5: 5th percentile.
        median: 50th percentile.
        p95: 95th percentile.
        maximum: longest.
        padded_to: time dimension of the array.
    """

    minimum: int
    p5: float
    median: float
    p95: float
    maximum: int
    padded_to: int

    @classmethod
    def of(cls, lengths: NDArray[np.int64], padded_to: int) -> "LengthSummary":
        """Summarise lengths of shape (n,), n at least 1."""
        p5, median, p95 = np.percentile(lengths, [5, 50, 95]).tolist()
        return cls(int(lengths.min()), p5, median, p95, int(lengths.max()), padded_to)


@dataclass(frozen=True)
class LabelSummary:
    """Distribution of one kind of label, in the data set's own scale.

    Attributes:
        mean: mean.
        std: population standard deviation.
        minimum: smallest.
        maximum: largest.
        negative: samples below the neutral label.
        neutral: samples at it.
        positive: samples above it.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    negative: int
    neutral: int
    positive: int

    @classmethod
    def of(cls, labels: NDArray[np.float32], neutral: float = 0.0) -> "LabelSummary":
        """Summarise the finite labels of shape (n,); at least one must be finite."""
        exact = labels[np.isfinite(labels)].astype(np.float64)
        return cls(
            float(exact.mean()),
            float(exact.std()),
            float(exact.min()),
            float(exact.max()),
            int((exact < neutral).sum()),
            int((exact == neutral).sum()),
            int((exact > neutral).sum()),
        )


@dataclass(frozen=True)
class ScaleSummary:
    """Scales of one modality's features: root mean squares over the training split's frames.

    Attributes:
        features: number of features.
        zero: how many of them are zero everywhere.
        smallest: of the others; 0 where there are none, like the next two.
        median: of the others.
        largest: of the others.
    """

    features: int
    zero: int
    smallest: float
    median: float
    largest: float

    @classmethod
    def of(cls, scales: NDArray[np.float64]) -> "ScaleSummary":
        """Summarise scales of shape (d,)."""
        used = scales[scales > 0] if (scales > 0).any() else np.zeros(1)
        found = (float(used.min()), float(np.median(used)), float(used.max()))
        return cls(len(scales), int((scales == 0).sum()), *found)


@dataclass(frozen=True)
class SplitSummary:
    """One split in numbers.

    Attributes:
        samples: number of samples.
        arrays: key -> (shape, dtype name).
        lengths: `text` (tokens), `audio` and `vision` (frames).
        labels: `M`, and `T`, `A`, `V` where present.
    """

    samples: int
    arrays: dict[str, tuple[tuple[int, ...], str]]
    lengths: dict[str, LengthSummary]
    labels: dict[str, LabelSummary]


@dataclass
class FeatureReport:
    """Findings about a feature file.

    Attributes:
        path: the file.
        dataset: data set whose label range was checked, or None.
        fingerprint: SHA-256 over the files' bytes.
        size: bytes of the file.
        problems: what makes the file unusable; one sentence each, naming split, key and index.
        warnings: what was repaired or may surprise.
        notes: what is worth knowing.
        summary: split -> numbers, for every split whose arrays fit together.
        scales: `audio`, `vision` -> scales of the training split's features.
        recipe: who made each modality, as far as the files say it.
    """

    path: Path
    dataset: Dataset | None = None
    fingerprint: str = ""
    size: int = 0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    summary: dict[str, SplitSummary] = field(default_factory=dict)
    scales: dict[str, ScaleSummary] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the file can be used."""
        return not self.problems

    def error_message(self) -> str:
        """All problems as one message."""
        count = _count(len(self.problems), "problem")
        return printable(f"Feature file {self.path} has {count}:\n" + numbered(self.problems))

    def render(self) -> str:
        """The whole report as plain text."""
        verdict = "usable" if self.ok else "NOT usable"
        findings = ", ".join(
            (
                _count(len(self.problems), "problem"),
                _count(len(self.warnings), "warning"),
                _count(len(self.notes), "note"),
            )
        )
        sections = [
            f"Feature file  {self.path}\n"
            f"Size          {self.size / 2**20:.1f} MiB, sha256 {self.fingerprint[:16]}\n"
            f"Label range   {f'of {self.dataset.name}' if self.dataset else 'not checked'}\n"
            f"Made by       {self._makers()}\n"
            f"Result        {verdict}: {findings}"
        ]
        if self.summary:
            sections += [self._shape_table(), self._length_table()]
        if self.scales:
            sections.append(self._scale_table())
        if any(split.labels for split in self.summary.values()):
            sections.append(self._label_table())
        for title, items in (
            ("Problems", self.problems),
            ("Warnings", self.warnings),
            ("Notes", self.notes),
        ):
            if items:
                sections.append(f"{title}\n{numbered(items)}")
        return printable("\n\n".join(sections) + "\n")

    def _makers(self) -> str:
        makers = [f"{m}: {described(self.recipe.get(m))}" for m in MODALITIES]
        return f"\n{'':14}".join(makers) if self.recipe else "unknown, the file has no recipe"

    def _shape_table(self) -> str:
        keys = sorted({*FRAMES, *(key for split in self.summary.values() for key in split.arrays)})
        rows = [
            [name, split.samples, *(_array_text(split.arrays.get(key)) for key in keys)]
            for name, split in self.summary.items()
        ]
        return text_table(dict.fromkeys(["split", "samples", *keys], ""), rows)

    def _length_table(self) -> str:
        columns = {"split": "", "length": "", "min": "", "5%": ".0f", "50%": ".0f", "95%": ".0f"}
        rows = [
            [name, modality, *astuple(item)]
            for name, split in self.summary.items()
            for modality, item in split.lengths.items()
        ]
        return text_table(columns | {"max": "", "padded to": ""}, rows)

    def _scale_table(self) -> str:
        forms = dict.fromkeys(["smallest", "median", "largest"], ".3g")
        rows = [
            [key, *astuple(item), f"{item.largest / item.smallest:.3g}" if item.smallest else "-"]
            for key, item in self.scales.items()
        ]
        return text_table(
            {"scale": "", "features": "", "zero": "", **forms, "largest/smallest": ""}, rows
        )

    def _label_table(self) -> str:
        columns = {"split": "", "label": "", "mean": ".3f", "std": ".3f", "min": "g", "max": "g"}
        rows = [
            [name, kind, *astuple(item)]
            for name, split in self.summary.items()
            for kind, item in split.labels.items()
        ]
        return text_table(columns | {"negative": "", "neutral": "", "positive": ""}, rows)


def _array_text(entry: tuple[tuple[int, ...], str] | None) -> str:
    if entry is None:
        return "absent"
    shape, dtype = entry
    return f"{'x'.join(map(str, shape))} {dtype}"


def printable(text: str) -> str:
    """Text with an escape for half a surrogate pair, which no terminal and no file takes."""
    return text.encode(errors="backslashreplace").decode()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def numbered(items: Sequence[str]) -> str:
    return "\n".join(f"  {number}. {item}" for number, item in enumerate(items, 1))


def text_table(columns: dict[str, str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a header; `columns` is from header to the format of its cells."""
    cells = [
        [format(cell, form) for cell, form in zip(row, columns.values(), strict=True)]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join(map(str.rstrip, padded))
