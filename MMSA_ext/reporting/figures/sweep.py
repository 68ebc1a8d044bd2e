"""A metric against a setting, such as DashFusion's number of bottleneck tokens (its Fig. 4)."""

import os
from collections.abc import Sequence
from pathlib import Path

from MMSA_ext.reporting.comparison import Comparison
from MMSA_ext.reporting.figures.lines import SweepPoint, lines_figure
from MMSA_ext.reporting.figures.style import FORMATS, cjk_fonts, save

__all__ = ["SweepPoint", "sweep_figure"]


def sweep_figure(
    points: Sequence[SweepPoint],
    comparison: Comparison,
    metrics: Sequence[str],
    path: str | os.PathLike[str],
    x_label: str,
    reference: str | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Draw metrics against a setting, one panel a metric, as DashFusion's Fig. 4 does.

    Means over seeds with the t-interval of the mean; intervals of several series stand beside each
    other, and one that leaves the panel ends in an arrow. Values that double have a logarithmic
    axis. Series whose rows are all controls are grey, with hollow markers.

    Args:
        points: Rows on the lines.
        comparison: From `reporting.comparison.compare`; it has those rows.
        metrics: Which of its metrics.
        path: Target without its ending; an ending that names one of `formats` is dropped.
        x_label: Name of the setting.
        reference: Row drawn as a horizontal line with its interval as a band; None for no line.
        formats: File formats, each one file.

    Returns:
        The files written.

    Raises:
        StoreError: There are no points or metrics, a row or metric is not in the comparison, a
            series has two rows at one place, nothing has been run, or matplotlib cannot write one
            of the formats.
    """
    with cjk_fonts():
        figure = lines_figure(points, comparison, metrics, x_label, reference, logarithmic=True)
        return save(figure, path, formats)
