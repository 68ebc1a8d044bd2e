"""Figures from records, predictions and explanations, as PNG and PDF (docs/figures.md)."""

from MMSA_ext.reporting.figures.comparison import comparison_figure
from MMSA_ext.reporting.figures.confusion import confusion_figure
from MMSA_ext.reporting.figures.curves import curves_overview, training_curves
from MMSA_ext.reporting.figures.robustness import robustness_figure
from MMSA_ext.reporting.figures.sweep import SweepPoint, sweep_figure

__all__ = [
    "SweepPoint",
    "comparison_figure",
    "confusion_figure",
    "curves_overview",
    "robustness_figure",
    "sweep_figure",
    "training_curves",
]
