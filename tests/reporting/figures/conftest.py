import warnings
from dataclasses import replace

import pytest

from MMSA_ext.reporting.comparison import PublishedNumber, SystemRuns, compare


@pytest.fixture
def strict():
    """A warning of matplotlib, such as a missing letter or a layout that collapsed, is a failure.

    A machine without any Chinese font is let off: there is nothing to draw the letters with.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Glyph.*missing")
        yield


@pytest.fixture
def comparison(make_system, make_diverged_record):
    """Four systems over three seeds: a baseline, a control, one that diverged, one only printed."""
    printed = {"MAE": PublishedNumber(0.7, "†", "a paper, Table 1")}

    def system(label, shift, **row):
        mae, accuracy = ([start + 0.01 * seed for seed in (1, 2, 3)] for start in (
            0.8 + shift, 0.4 - shift
        ))  # fmt: skip
        return make_system(label, {"MAE": mae, "Mult_acc_7": accuracy}, **row)

    tfn = system("TFN", 0.1, model="tfn")
    systems = [
        system("Text only", 0.05, model="text_only", role="control"),
        system("Self-MM", 0.0, published=printed),
        replace(tfn, records=(*tfn.records[:2], make_diverged_record(model="tfn", seed=3))),
        SystemRuns("MISA", "misa", (), (), printed),
    ]
    return compare(systems, ["MAE", "Mult_acc_7"], baseline="Self-MM", title="Four systems")
