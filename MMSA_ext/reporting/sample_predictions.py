"""What several systems predict for the same samples, from the stored predictions."""

from collections.abc import Mapping, Sequence

import pandas as pd

from MMSA_ext.records.store import RunRecord, RunStore, StoreError
from MMSA_ext.reporting.statistics import StatisticsError


def by_sample(
    store: RunStore, systems: Mapping[str, Sequence[RunRecord]], split: str = "test"
) -> tuple[pd.Series, dict[str, pd.DataFrame]]:
    """Put the predictions of systems on one feature file beside each other.

    A system has a label and runs, at most one a seed. Runs whose predictions cannot be used are
    passed over, with a warning (`RunStore.usable_predictions`).

    Returns:
        Labels by sample id, sorted: MMSA's loaders shuffle. By system, predictions: a row a sample
        in the same order, a column a seed.

    Raises:
        StoreError: A system has no predictions that can be used.
        StatisticsError: A sample is in some runs only, or has other labels in them.
    """
    usable = store.usable_predictions([run for runs in systems.values() for run in runs], split)
    tables = {
        run.identity.digest: table[table["split"] == split].set_index("id").sort_index()
        for run, table in usable
    }
    labels = next(iter(tables.values()))["label"]
    for table in tables.values():
        if odd := sorted(set(labels.index) ^ set(table.index)):
            raise StatisticsError(
                f"{len(odd)} samples of the {split} split are in one run only, such as {odd[0]!r}; "
                "compare runs on the same feature file."
            )
        if not labels.equals(table["label"]):
            raise StatisticsError(f"the labels of the {split} split differ between runs.")
    values = {}
    for label, runs in systems.items():
        found = {
            run.identity.seed: tables[run.identity.digest]["prediction"]
            for run in runs
            if run.identity.digest in tables
        }
        if not found:
            raise StoreError(f"{label} has no run whose predictions can be used.")
        values[label] = pd.DataFrame(found)
    return labels, values
