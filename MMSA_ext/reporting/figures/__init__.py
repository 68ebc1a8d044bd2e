"""Figures from records, predictions and explanations; `save` writes one (docs/results.md)."""

from MMSA_ext.reporting.figures.comparison import comparison_figure
from MMSA_ext.reporting.figures.confusion import confusion_figure
from MMSA_ext.reporting.figures.curves import curves_overview, training_curves
from MMSA_ext.reporting.figures.lines import SweepPoint, robustness_figure, sweep_figure
from MMSA_ext.reporting.figures.style import save

__all__ = [
    "SweepPoint",
    "comparison_figure",
    "confusion_figure",
    "curves_overview",
    "robustness_figure",
    "save",
    "sweep_figure",
    "training_curves",
]
