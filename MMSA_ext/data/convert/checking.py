"""Samples one by one: checked, counted, and brought to the lengths that were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.convert.report import UNREADABLE
from MMSA_ext.data.fit_lengths import fitted
from MMSA_ext.names import MODALITIES

if TYPE_CHECKING:
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.samples import Sample

__all__ = ["checked"]


def checked(
    samples: Iterable[Sample],
    report: ConversionReport,
    max_length: Mapping[str, int],
    too_long: str,
    incomplete: str,
) -> Iterator[Sample]:
    """Check and count each sample; after the first problem they are checked, but not written.

    Frames become float32 (float16 stays); a sequence without a frame gets one of zeros; NaN stay,
    and the reader of the file treats them. Longer sequences are cut or pooled.

    Args:
        samples: from a reader.
        report: receives counts and problems.
        max_length: modality -> most steps.
        too_long: `cut`, `pool` or `error`, for longer ones.
        incomplete: `error`, or `drop` for samples that lack what others have.

    Yields:
        Samples to write.

    Raises:
        FeatureFileError: There are problems; all of them are named, after the last sample.
    """
    first_of: dict[str, str] = {}
    widths: dict[str, tuple[int, str]] = {}
    for sample in samples:
        place = f"id {sample.id!r}"
        lacking = _lacking(sample, report)
        if lacking and incomplete == "drop":
            report.count(f"Left out, without {lacking[0]}", place)
            continue
        for key in lacking:
            report.problem(
                f"{key} is missing ({report.expected[key]})",
                place,
                "Add it, remove the sample, or leave such samples out by --incomplete drop.",
            )
        if other := first_of.get(sample.id):
            report.problem(
                "id occurs more than once",
                f"{sample.id!r} in {' and '.join(dict.fromkeys((other, sample.split)))}",
                "Give every sample its own id.",
            )
        first_of.setdefault(sample.id, sample.split)
        if sample.text_bert is not None and not sample.text_bert.size:
            report.problem("text_bert has no token", place, "Make it by --pretrained NAME.")
        if not sample.raw_text.strip() and report.transcripts:
            report.count("Empty texts", place)
        arrays: dict[str, Any] = {
            key: _frames(key, array, sample, report, widths)
            for key in MODALITIES
            if (array := getattr(sample, key)) is not None
        }
        whole = replace(sample, **arrays)
        counted = _counted(_within(whole, report, max_length, too_long), report)
        if report.ok:
            yield counted
    if not report.samples:
        report.problem("it holds no sample to write")
    report.raise_problems()


def _lacking(sample: Sample, report: ConversionReport) -> list[str]:
    """What a sample should have and has not."""
    return [
        key
        for key in report.expected
        if (getattr(sample, key) is None if len(key) > 1 else key not in sample.labels)
    ]


def _frames(
    key: str,
    array: NDArray[Any],
    sample: Sample,
    report: ConversionReport,
    widths: dict[str, tuple[int, str]],
) -> NDArray[Any]:
    """Frames (L, d) as float32 or float16, at least one."""
    place = f"id {sample.id!r}"
    if array is UNREADABLE:
        return array
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        report.problem(
            f"{key} is not (frames, features) of numbers",
            f"{place} has {array.dtype} {array.shape}",
            "Store numbers in two dimensions.",
        )
        return UNREADABLE
    width, first = widths.setdefault(key, (array.shape[1], sample.id))
    if array.shape[1] != width:
        report.problem(
            f"{key} differs in its number of features from {width}, those of id {first!r}",
            f"{place} has {array.shape[1]}",
            "Extract all with one extractor.",
        )
    if not len(array):
        report.count(f"{key} without a frame gets one of zeros", place)
        return np.zeros((1, width), np.float32)
    if array.dtype != np.float16:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        unusable = ~np.isnan(array) & ~finite
        silent = np.isneginf(array) if key == "audio" else np.zeros_like(finite)
        if (unusable & ~silent).any():
            report.problem(
                f"{key} is infinite, or too large for float32",
                place,
                "Replace it by a finite value (only -inf in audio, the logarithm of silence, is "
                "read as 0).",
            )
        report.of(sample.split, key).not_numbers += int((~finite).sum())
    return array


def _within(
    sample: Sample, report: ConversionReport, max_length: Mapping[str, int], too_long: str
) -> Sample:
    changed: dict[str, Any] = {}
    for modality, limit in max_length.items():
        keys = ("text", "text_bert") if modality == "text" else (modality,)
        for key in keys:
            array = getattr(sample, key)
            steps = 0 if array is None else array.shape[1 if key == "text_bert" else 0]
            if steps <= limit:
                continue
            if too_long == "error":
                report.problem(
                    f"{modality} is longer than --max-length {modality}={limit}",
                    f"id {sample.id!r} has {steps}",
                    "--too-long cut keeps the first steps, --too-long pool averages frames.",
                )
                continue
            lengths = np.array([steps])
            pool = too_long == "pool"
            changed[key] = fitted(key, array[None], lengths, limit, pool=pool)[0]
            if key == "text" and sample.text_bert is not None:
                continue  # counted by its tokens
            counts = report.of(sample.split, modality)
            counts.cut += 1
            counts.dropped += 0 if pool and key != "text_bert" else steps - limit
    return replace(sample, **changed)


def _counted(sample: Sample, report: ConversionReport) -> Sample:
    report.samples[sample.split] = report.samples.get(sample.split, 0) + 1
    for key in MODALITIES:
        array = getattr(sample, key)
        if key == "text" and sample.text_bert is not None:
            report.of(sample.split, key).after.add(sample.text_bert.shape[1])
        elif array is not None:
            report.of(sample.split, key).after.add(len(array))
    for kind, value in sample.labels.items():
        if not np.isfinite(value):
            report.problem(f"label {kind} is infinite", f"id {sample.id!r}", "Write a finite one.")
        report.labels_of(sample.split, kind).add(value)
    return sample
