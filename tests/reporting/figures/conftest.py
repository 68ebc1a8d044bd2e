import pytest

from MMSA_ext.reporting.comparison import PublishedNumber, SystemRuns, compare


@pytest.fixture
def comparison(make_record, make_diverged_record):
    """Four systems over three seeds: a baseline, a control, one that diverged, one only printed."""
    printed = {"MAE": PublishedNumber(0.7, "†", "a paper, Table 1")}

    def system(label, model, shift, role="system", published=None, seeds=(1, 2, 3)):
        runs = [
            make_record(model=model, seed=seed, metrics=_shifted(seed, shift)) for seed in seeds
        ]
        if label == "TFN":
            runs[-1] = make_diverged_record(model=model, seed=seeds[-1])
        return SystemRuns(label, model, tuple(runs), seeds, published or {}, role)

    systems = [
        system("Text only", "text_only", 0.05, "control"),
        system("Self-MM", "self_mm", 0.0, published=printed),
        system("TFN", "tfn", 0.1),
        SystemRuns("MISA", "misa", (), (), printed),
    ]
    return compare(systems, ["MAE", "Mult_acc_7"], baseline="Self-MM", title="Four systems")


def _shifted(seed, shift):
    """Metrics of a seed that are known beforehand."""
    values = {"MAE": 0.8 + shift + 0.01 * seed, "Mult_acc_7": 0.4 - shift + 0.01 * seed}
    return {"valid": values, "test": values}
