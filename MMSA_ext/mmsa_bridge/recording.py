"""Watch MMSA's trainers from outside: predictions by sample, evaluations by epoch, divergence.

MMSA's trainers return no history and no predictions unless asked for them in a way that consumes
random numbers and so changes the run. A forward hook, a loader that tells which batch is on, and a
wrapped `do_test` see everything and change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle

from MMSA_ext.data.predictions import FUSED, Predictions
from MMSA_ext.errors import TrainingDivergedError

Metrics = dict[str, float]
MetricsFunction = Callable[[Tensor, Tensor], Metrics]


@dataclass(frozen=True)
class StockEpoch:
    """One epoch of a run.

    Attributes:
        epoch: Number of the epoch, from 1.
        train: MMSA's metrics of the predictions made while training (weights moving, dropout on).
        valid: What the trainer's `do_test` gave on the validation split, `Loss` included.
        seconds: Duration of training and validation.
    """

    epoch: int
    train: Metrics
    valid: Metrics
    seconds: float


class WatchedLoader:
    """A data loader that tells which batch is being worked on, and at its end that none is."""

    def __init__(self, loader: DataLoader[Any], tell: Callable[[Any | None], None]) -> None:
        self._loader = loader
        self._tell = tell

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)  # at once: making the iterator draws a random number

        def publish() -> Iterator[Any]:
            try:
                for batch in batches:
                    self._tell(batch)
                    yield batch
            finally:
                self._tell(None)

        return publish()

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class PredictionRecorder:
    """Joins what a model predicts with the samples it predicts for.

    Args:
        features: Whether MMSA's `Feature_f` is kept as well, of models that return it.

    Attributes:
        batch: The batch on which the model is working.
    """

    def __init__(self, *, features: bool = False) -> None:
        self.batch: Mapping[str, Any] | None = None
        self._features = features
        self._chunks: list[tuple[Mapping[str, Any], Tensor]] = []

    def watch(self, loader: DataLoader[Any]) -> WatchedLoader:
        """A loader whose batches are those that the model is working on."""

        def work_on(batch: Mapping[str, Any] | None) -> None:
            self.batch = batch

        return WatchedLoader(loader, work_on)

    def attach(self, model: nn.Module) -> RemovableHandle:
        """Record every forward pass of `model` from now on, until the handle is removed."""
        return model.register_forward_hook(self._record)

    def take(self) -> Predictions:
        """Predictions since the last call, the last one of each sample; possibly none."""
        samples = _by_sample(self._chunks)
        self._chunks = []
        return samples

    def check_finite(self, where: str) -> None:
        """Raise if a prediction since the last `take` is not a finite number.

        Raises:
            TrainingDivergedError: Saying `where`, and what to do.
        """
        if not all(bool(torch.isfinite(chunk).all()) for _, chunk in self._chunks):
            raise TrainingDivergedError(
                f"predictions became non-finite {where}; lower the learning rate, or look for "
                "extreme values with `mmsa-ext check-data`."
            )

    def _record(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.batch is not None:
            kept = {key: self.batch[key] for key in ("index", "id")}
            # Some trainers reshape the batch's labels in place; the numbers stay the same.
            kept["label"] = self.batch["labels"]["M"]
            if self._features and isinstance(output, Mapping) and FUSED in output:
                kept[FUSED] = output[FUSED].detach().reshape(len(kept["index"]), -1).float().cpu()
            self._chunks.append((kept, _prediction(output).detach().reshape(-1)))


def _prediction(output: Any) -> Tensor:
    """The prediction (B, 1) in a model's output, which MMSA keeps in three forms."""
    if isinstance(output, Mapping):
        prediction: Tensor = output["M"]
        return prediction
    if isinstance(output, Tensor):
        return output
    return next(part for part in output if isinstance(part, Tensor) and part.dim() == 2)


def _by_sample(chunks: list[tuple[Mapping[str, Any], Tensor]]) -> Predictions:
    if not chunks:
        return Predictions([], torch.empty(0), torch.empty(0))
    indices = np.concatenate([np.asarray(batch["index"]) for batch, _ in chunks])
    # The first occurrence in reversed order is the last prediction; `unique` sorts by index.
    _, last = np.unique(indices[::-1], return_index=True)
    order = len(indices) - 1 - last
    ids = [str(sample) for batch, _ in chunks for sample in _as_list(batch["id"])]
    labels = torch.cat([batch["label"].reshape(-1).float().cpu() for batch, _ in chunks])
    values = torch.cat([chunk for _, chunk in chunks]).float().cpu()
    features = {}
    if all(FUSED in batch for batch, _ in chunks):
        features[FUSED] = torch.cat([batch[FUSED] for batch, _ in chunks])[order]
    return Predictions([ids[i] for i in order], values[order], labels[order], features)


def _as_list(ids: Any) -> list[Any]:
    return ids.tolist() if isinstance(ids, Tensor) else list(ids)


class EvaluationRecorder:
    """Stands in for a trainer's `do_test` during training and keeps every epoch's results.

    Attributes:
        history: One record an epoch.
    """

    def __init__(
        self,
        do_test: Callable[..., dict[str, Any]],
        recorder: PredictionRecorder,
        metrics: MetricsFunction,
        on_epoch: Callable[[StockEpoch], None] | None = None,
    ) -> None:
        self.history: list[StockEpoch] = []
        self._do_test = do_test
        self._recorder = recorder
        self._metrics = metrics
        self._on_epoch = on_epoch
        self._started = time.perf_counter()

    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Evaluate as the trainer asked, and record it as the end of an epoch.

        Raises:
            TrainingDivergedError: If a prediction of the epoch is not a finite number.
        """
        self.check_finite()
        trained = self._recorder.take()
        results = self._do_test(*args, **options)
        self.check_finite()
        self._recorder.take()
        now = time.perf_counter()
        record = StockEpoch(
            epoch=len(self.history) + 1,
            train=self._score(trained) if trained.ids else {},
            valid={key: float(value) for key, value in results.items()},
            seconds=now - self._started,
        )
        self.history.append(record)
        self._started = now
        if self._on_epoch:
            self._on_epoch(record)
        return results

    def check_finite(self) -> None:
        """Raise if a prediction of the current epoch is not a finite number.

        Raises:
            TrainingDivergedError: With the epoch and what to do.
        """
        self._recorder.check_finite(f"in epoch {len(self.history) + 1}")

    def best_epoch(self, key_eval: str) -> int:
        """Epoch whose weights MMSA kept: the first that is best in `key_eval` by at least 1e-6.

        MMSA minimises `Loss`, starting from 1e8, and maximises any other metric, starting from 0.
        0 if no epoch was better than that start.
        """
        sign, best, chosen = (1.0, 1e8, 0) if key_eval == "Loss" else (-1.0, 0.0, 0)
        for record in self.history:
            value = sign * record.valid[key_eval]
            if value <= best - 1e-6:
                best, chosen = value, record.epoch
        return chosen

    def _score(self, samples: Predictions) -> Metrics:
        return self._metrics(samples.prediction, samples.label)
