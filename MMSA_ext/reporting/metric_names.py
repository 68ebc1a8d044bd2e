"""Metrics as MMSA calls them and as papers write them: names, order, unit and direction.

What people read (tables, pictures, the report) has the papers' names; what programs read (records,
CSV files, options) has MMSA's keys.
"""

from collections.abc import Iterable
from typing import Final, Literal

# The order in which MMSA's trainers return their metrics, over its three data sets.
MMSA_METRICS: Final = (
    *("Has0_acc_2", "Has0_F1_score", "Non0_acc_2", "Non0_F1_score"),
    *("Mult_acc_2", "Mult_acc_3", "Mult_acc_5", "Mult_acc_7", "F1_score", "MAE", "Corr", "Loss"),
)
# The order in which papers print them.
PAPER_ORDER: Final = (
    *("Has0_acc_2", "Non0_acc_2", "Mult_acc_2", "Has0_F1_score", "Non0_F1_score", "F1_score"),
    *("Mult_acc_3", "Mult_acc_5", "Mult_acc_7", "MAE", "Corr"),
)
_PAPER_NAMES: Final = {
    "Has0_acc_2": "Acc-2 (neg/non-neg)",
    "Non0_acc_2": "Acc-2 (neg/pos)",
    "Has0_F1_score": "F1 (neg/non-neg)",
    "Non0_F1_score": "F1 (neg/pos)",
    "F1_score": "F1",
}
# Papers print these as they are, accuracies and F1 scores in percent.
PRINTED_PLAIN: Final = ("MAE", "Corr", "Loss")


def paper_name(metric: str) -> str:
    """How papers write a metric of MMSA's, such as "Acc-7" for `Mult_acc_7`; others as they are."""
    return _PAPER_NAMES.get(metric) or metric.replace("Mult_acc_", "Acc-")


def ordered_metrics(names: Iterable[str], *, loss: bool = True) -> list[str]:
    """Each metric once, in MMSA's order; others follow in the order they come.

    The loss may be left out: it is another quantity in each model.
    """
    return sorted((name for name in dict.fromkeys(names) if loss or name != "Loss"), key=_place)


def _place(metric: str) -> int:
    if metric not in MMSA_METRICS and metric.startswith("Mult_acc_"):
        metric = "Mult_acc_7"  # of labels in another range
    return MMSA_METRICS.index(metric) if metric in MMSA_METRICS else len(MMSA_METRICS)


def better(metric: str) -> Literal["", "lower", "higher"]:
    """Which values of a metric are the better ones; empty for the loss, which ranks no models."""
    if metric == "Loss":
        return ""
    return "lower" if metric == "MAE" else "higher"
