"""Realistic run records: shapes and values as a small sentiment run gives them."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from MMSA_ext.records.store import Environment, EpochRecord, RunIdentity, RunRecord, RunStore
from MMSA_ext.reporting.comparison import SystemRuns
from MMSA_ext.reporting.groups import select_groups

MakeRecord = Callable[..., RunRecord]
MakeSystem = Callable[..., SystemRuns]

FINGERPRINTS = {"mosi": "a3" * 32, "sims": "5d" * 32}
LABELS = np.random.default_rng(0).uniform(-3, 3, 40)
NOISE = {"good": 0.3, "bad": 1.5}


def make_environment(**changes: Any) -> Environment:
    return Environment(
        **{
            "device": "cpu",
            "cpu": "Intel(R) Xeon(R) Processor @ 2.20GHz",
            "threads": 2,
            "python": "3.11.9",
            "platform": "Linux x86_64",
            "versions": {"torch": "2.13.0", "MMSA": "2.2.1", "numpy": "2.4.6"},
            **changes,
        }
    )


def make_identity(**changes: Any) -> RunIdentity:
    dataset = changes.get("dataset", "mosi")
    return RunIdentity(
        **{
            "dataset": dataset,
            "dataset_fingerprint": FINGERPRINTS.get(dataset, "00" * 32),
            "model": "dashfusion",
            "configuration": {"learning_rate": 2e-5, "batch_size": 32, "fusion": {"p": 8}},
            "seed": 1111,
            "code_version": "0.1.0",
            **changes,
        }
    )


def make_history(
    epochs: int, seed: int = 0, *, contrastive: bool = True
) -> tuple[EpochRecord, ...]:
    """Curves that fall, overfit and wobble: the best validation loss lies before the end."""
    rng = np.random.default_rng(seed)
    history = []
    for epoch in range(1, epochs + 1):
        wobble = 0.015 * rng.standard_normal(4)
        fit = 0.25 + 1.05 * math.exp(-epoch / 5) + wobble[0]
        valid = 0.80 + 0.55 * math.exp(-epoch / 3) + 0.006 * max(0, epoch - 9) + wobble[1]
        train = {"Loss": fit, "prediction_loss": fit}
        if contrastive:
            train["contrastive_loss"] = 1.6 + 2.4 * math.exp(-epoch / 7) + 3 * wobble[2]
            train["Loss"] = fit + 0.1 * train["contrastive_loss"]
        correlation = 0.72 * (1 - math.exp(-epoch / 3)) + wobble[3]
        history.append(
            EpochRecord(
                epoch=epoch,
                train=train,
                valid={"Has0_acc_2": 0.5, "MAE": valid, "Corr": correlation, "Loss": valid},
                learning_rate=2e-5 * (1 - epoch / 60),
                seconds=11.5,
            )
        )
    return tuple(history)


def make_metrics(dataset: str, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    names = {
        "mosi": {
            "Has0_acc_2": 0.81,
            "Has0_F1_score": 0.81,
            "Non0_acc_2": 0.83,
            "Non0_F1_score": 0.83,
            "Mult_acc_5": 0.49,
            "Mult_acc_7": 0.43,
            "MAE": 0.78,
            "Corr": 0.77,
            "Loss": 0.78,
        },
        "sims": {
            "Mult_acc_2": 0.79,
            "Mult_acc_3": 0.65,
            "Mult_acc_5": 0.42,
            "F1_score": 0.79,
            "MAE": 0.42,
            "Corr": 0.60,
            "Loss": 0.42,
        },
    }[dataset]
    return {name: round(mean + 0.01 * rng.standard_normal(), 4) for name, mean in names.items()}


def make_finished(*, epochs: int = 20, contrastive: bool = True, **changes: Any) -> RunRecord:
    """A finished run; `identity` fields and record fields may both be changed by name."""
    fields = {name: changes.pop(name) for name in list(changes) if name in RunIdentity.model_fields}
    identity = make_identity(**fields)
    history = make_history(epochs, identity.seed + len(identity.model), contrastive=contrastive)
    best = (
        min(history, key=lambda entry: entry.valid["Loss"] or math.inf).epoch if history else None
    )
    scores = make_metrics(identity.dataset, identity.seed)
    return RunRecord(
        **{
            "identity": identity,
            "status": "finished",
            "metrics": {"valid": scores, "test": scores},
            "history": history,
            "chosen_epoch": best,
            "selection": "lowest validation Loss, patience 8",
            "environment": make_environment(),
            "timings": {"train": 230.5, "total": 250.25},
            "peak_memory_mb": 1875.5,
            "created": datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
            "checkpoint": "dashfusion-mosi-1111.pth",
            **changes,
        }
    )


def make_diverged(**changes: Any) -> RunRecord:
    """A run whose loss became NaN in its third epoch."""
    history = list(make_history(3, 7))
    history[-1] = EpochRecord(
        epoch=3,
        train={"Loss": math.nan, "prediction_loss": math.nan, "contrastive_loss": math.nan},
        valid={"Has0_acc_2": math.nan, "MAE": math.nan, "Corr": math.nan, "Loss": math.nan},
    )
    return make_finished(
        **{
            "status": "diverged",
            "reason": "the training loss became non-finite in epoch 3",
            "metrics": {},
            "history": tuple(history),
            "chosen_epoch": None,
            "checkpoint": None,
            **changes,
        }
    )


def luminance(color: str) -> float:
    """How light a colour is, from 0 to 1 (WCAG 2)."""
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in to_rgb(color)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


class Page(HTMLParser):
    """Checks that every element is closed where it was opened; gathers elements and text."""

    VOID = frozenset({"meta", "link", "img", "input", "wbr", "br"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def make_record() -> MakeRecord:
    """Make a finished record; any identity or record field by name."""
    return make_finished


@pytest.fixture
def make_diverged_record() -> MakeRecord:
    """Make a diverged record; any identity or record field by name."""
    return make_diverged


@pytest.fixture
def records() -> list[RunRecord]:
    """Two models on mosi over three seeds, one of them diverged once; one model on sims."""
    return [
        *(make_finished(seed=seed) for seed in (1111, 1112, 1113)),
        *(make_finished(model="text_only", seed=seed, contrastive=False) for seed in (1111, 1112)),
        make_diverged(model="text_only", seed=1113),
        make_finished(dataset="sims", seed=1111),
    ]


@pytest.fixture
def predictions() -> pd.DataFrame:
    """Twelve test samples, with ids that a careless CSV reader would turn into numbers or NaN."""
    rng = np.random.default_rng(0)
    ids = [
        "0001",
        "NA",
        "null",
        "a,b",
        'say "x"',
        "1e5",
        "video_1$_$0001",
        "ü",
        "-0",
        "",
        " x ",
        "T",
    ]
    return pd.DataFrame(
        {
            "split": ["test"] * 10 + ["valid"] * 2,
            "id": ids,
            "label": rng.uniform(-3, 3, 12),
            "prediction": rng.standard_normal(12).astype(np.float32).astype(np.float64),
        }
    )


@pytest.fixture
def make_system(make_record: MakeRecord) -> MakeSystem:
    """Make a row; `scores` has a value a seed for each metric; fields of row and runs by name."""

    def make(
        label: str, scores: dict[str, Any], seeds: tuple[int, ...] = (1, 2, 3), **changes: Any
    ) -> SystemRuns:
        names = ("published", "role", "remarks", "compared_with")
        own = {name: changes.pop(name) for name in names if name in changes}
        model = changes.pop("model", "self_mm")
        runs = tuple(
            make_record(
                model=model,
                seed=seed,
                metrics={"test": {name: values[i] for name, values in scores.items()}},
                epochs=1,
                **changes,
            )
            for i, seed in enumerate(seeds)
        )
        return SystemRuns(label, model, runs, seeds, **own)

    return make


def make_predictions(model: str, seed: int, labels: Any = LABELS) -> pd.DataFrame:
    """As far from the labels as `NOISE` says, in an order of its own: MMSA shuffles."""
    rng = np.random.default_rng(seed + len(model))
    order = rng.permutation(len(labels))
    values = labels + NOISE.get(model, 1.0) * rng.standard_normal(len(labels))
    ids = [f"video_{i:03}" for i in range(len(labels))]
    table = {"split": "test", "id": ids, "label": labels, "prediction": values}
    return pd.DataFrame(table).iloc[order]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Two models over three seeds, the third of `bad` diverged."""
    store = RunStore(tmp_path)
    scores = {"good": (0.30, 0.31, 0.33), "bad": (0.90, 0.95, 0.99)}
    for model, values in scores.items():
        for seed, value in enumerate(values, 1):
            if (model, seed) == ("bad", 3):
                store.write(make_diverged(model=model, seed=seed))
            else:
                metrics = {"test": {"MAE": value, "Corr": 0.5}}
                run = make_finished(model=model, seed=seed, metrics=metrics, epochs=1)
                store.write(run, make_predictions(model, seed))
    return store


@pytest.fixture
def groups(store: RunStore) -> list[SystemRuns]:
    """The two models of `store`, as rows."""
    return select_groups(store.records(), ["good", "bad"])
