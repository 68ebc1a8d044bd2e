"""The one map from MMSA's keys to the names that papers print."""

from MMSA_ext.reporting.metric_names import MMSA_METRICS, better, ordered_metrics, paper_name


def test_papers_names():
    assert list(map(paper_name, MMSA_METRICS)) == [
        *("Acc-2 (neg/non-neg)", "F1 (neg/non-neg)", "Acc-2 (neg/pos)", "F1 (neg/pos)"),
        *("Acc-2", "Acc-3", "Acc-5", "Acc-7", "F1", "MAE", "Corr", "Loss"),
    ]
    assert paper_name("Mult_acc_11") == "Acc-11"
    assert paper_name("my_own") == "my_own"


def test_the_loss_has_no_direction_and_may_be_left_out():
    assert [better(name) for name in ("MAE", "Corr", "Loss")] == ["lower", "higher", ""]
    assert ordered_metrics(["Loss", "Corr", "MAE", "Corr"]) == ["MAE", "Corr", "Loss"]
    assert ordered_metrics(["Loss", "Corr"], loss=False) == ["Corr"]
