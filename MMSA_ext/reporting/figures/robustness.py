"""What systems lose when frames and tokens are missing or noisy (docs/corruption.md)."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from MMSA_ext.reporting.comparison import Comparison
from MMSA_ext.reporting.figures.lines import SweepPoint, controls, lines_figure
from MMSA_ext.reporting.figures.style import FORMATS, cjk_fonts, save


def robustness_figure(
    points: Sequence[SweepPoint],
    comparison: Comparison,
    metrics: Sequence[str],
    path: str | os.PathLike[str],
    x_label: str,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Draw metrics against what is lost, one panel a metric and one line a system.

    As `sweep_figure`, on a linear axis. A control with a single row, such as the text-only model
    where only audio and vision are lost, holds for every rate: it is drawn as a horizontal line.

    Args:
        points: Rows on the lines; `x` is the rate of lost frames or the strength of noise.
        comparison: From `reporting.comparison.compare`; it has those rows.
        metrics: Which of its metrics.
        path: Target without its ending; an ending that names one of `formats` is dropped.
        x_label: Name of what is lost.
        formats: File formats, each one file.

    Returns:
        The files written.

    Raises:
        StoreError: As `sweep_figure`.
    """
    sizes = Counter(point.series for point in points)
    single = [series for series in controls(points, comparison) if sizes[series] == 1][:1]
    reference = next((point.row for point in points if point.series in single), None)
    curves = [point for point in points if point.series not in single]
    with cjk_fonts():
        figure = lines_figure(curves, comparison, metrics, x_label, reference, logarithmic=False)
        return save(figure, path, formats)
