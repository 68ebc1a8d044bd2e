"""The committed records give their numbers back: without the data sets' labels, and with them."""

from pathlib import Path

from MMSA_ext.data.features import fingerprint
from MMSA_ext.explain.verification import problems, verify_store
from MMSA_ext.records.store import RunStore

STORE = RunStore(Path(__file__).parents[1] / "results" / "runs")


def test_nothing_committed_is_damaged_or_differs():
    assert problems(verify_store(STORE)) == []


def test_metrics_come_back_with_the_labels(real_data):
    withheld = {
        record.identity.dataset_fingerprint
        for record in STORE.records()
        if record.predictions_sha256 is not None
    }
    files = [path for path in sorted(real_data.glob("*.pkl")) if fingerprint(path) in withheld]
    checks = list(verify_store(STORE, files))
    assert problems(checks) == []
    assert sum(check.compared for check in checks) > 0
