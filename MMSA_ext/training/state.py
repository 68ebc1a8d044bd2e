"""The state of a training, and after each epoch on disk: a run that ends early goes on from there.

A training that goes on gives what one without a break gives, bit for bit: weights, optimizer,
schedule, retrieval, what a model keeps beside its weights, and every random stream are put back.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from MMSA_ext.data.retrieval import RetrievalIndex
from MMSA_ext.errors import CheckpointError, WriteError
from MMSA_ext.models.contract import core_model
from MMSA_ext.training.checkpoint import read_sealed, write_sealed
from MMSA_ext.training.steps import StepSampler
from MMSA_ext.training.weights_file import write_scratch

logger = logging.getLogger("MMSA")

# An epoch's state is not written while writing would take more than this share of the time.
_MOST_OF_THE_TIME = 0.2


@dataclass
class TrainingHistory:
    """What happened in training.

    Attributes:
        epochs: One entry an epoch: `epoch`, `train` and `valid` (name to number),
            `learning_rate`, `seconds`. Epoch 0 is the untrained model, validation only.
        chosen_epoch: Epoch whose weights were kept; None if training diverged.
        notes: Remarks on how the model was trained, for the run's record.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    chosen_epoch: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Training:
    """All that changes while a model trains.

    Attributes:
        model: The model, in MMSA's wrapper or not.
        optimizer: Its optimizer.
        schedule: The learning rate's schedule.
        sampler: Retrieval, as it was last refreshed.
        scaler: Of losses in float16; not enabled otherwise.
        history: The epochs so far.
        best: Key of the selected epoch, smaller is better; infinite before there is one.
        epoch: Epochs that are finished.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    sampler: StepSampler
    scaler: torch.amp.GradScaler
    history: TrainingHistory
    best: float = float("inf")
    epoch: int = 0


@dataclass
class ResumePoint:
    """Where the state of one training is kept.

    Attributes:
        path: The file.
        run: What decides the numbers: the run, and where it is computed. A state of another one is
            not taken.
    """

    path: Path
    run: str
    _saved: float = field(default=float("-inf"), init=False)
    _cost: float = field(default=0.0, init=False)
    _found: dict[str, Any] | None = field(default=None, init=False)

    def epochs(self) -> list[dict[str, Any]]:
        """The epochs that are not trained again, as in `TrainingHistory`; none without a state."""
        self._found = self._read()
        return self._found["history"]["epochs"] if self._found else []

    def save(self, training: Training, selected: Path) -> None:
        """Keep the state after an epoch; a disk that refuses costs the state, not the training.

        Args:
            training: The state.
            selected: File with the weights of the selected epoch; need not be there.
        """
        began = time.perf_counter()
        if self._cost > _MOST_OF_THE_TIME * (began - self._saved):
            return
        try:
            write_sealed(self.path, {"run": self.run, **_facts(training, selected)})
        except (WriteError, TypeError) as error:  # an own optimizer may hold what is no number
            logger.warning("The state is not kept (%s): stopped, this run starts over.", error)
        self._saved = time.perf_counter()
        self._cost = self._saved - began

    def restore(self, training: Training, selected: Path) -> bool:
        """Put a kept state back.

        Args:
            training: Of the same model, built anew; changed.
            selected: Where the weights of the selected epoch are to be.

        Returns:
            Whether there was one; if not, nothing was changed.
        """
        content, self._found = self._found or self._read(), None
        if content is None:
            return False
        _put_back(training, content, selected)
        logger.info("Going on after epoch %d, from %s.", training.epoch, self.path)
        return True

    def _read(self) -> dict[str, Any] | None:
        """The state, if there is one of this run."""
        if not self.path.is_file():
            return None
        try:
            content = read_sealed(self.path)
        except CheckpointError as error:
            logger.warning("%s The run starts over.", error)
            return None
        if content.get("run") != self.run:
            logger.info("%s is of another machine or library: the run starts over.", self.path)
            return None
        return content

    def remove(self) -> None:
        """Forget the state."""
        self.path.unlink(missing_ok=True)


def _facts(training: Training, selected: Path) -> dict[str, Any]:
    core, sampler, optimizer = core_model(training.model), training.sampler, training.optimizer
    tensors = {f"model.{name}": value for name, value in _held(training.model).items()}
    tensors |= {f"own.{name}": value for name, value in core.training_state().items()}
    if selected.is_file():
        best = torch.load(selected, map_location="cpu", weights_only=True, mmap=True)
        tensors |= {f"selected.{name}": value for name, value in best.items()}
    plain: dict[str, dict[str, Any]] = {}
    steps = optimizer.state_dict()
    for number, state in steps["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = value
            else:
                plain.setdefault(str(number), {})[name] = value
    if sampler.index is not None:
        tensors |= {f"index.{name}": value for name, value in vars(sampler.index).items()}
    tensors |= {f"bank.{name}": value for name, value in (sampler.bank or {}).items()}
    _, words, *numpy_state = np.random.get_state()
    tensors["random.torch"] = torch.get_rng_state()
    tensors["random.numpy"] = torch.from_numpy(np.asarray(words, np.int64))
    for number, state in enumerate(torch.cuda.get_rng_state_all() if _on_cuda(core) else ()):
        tensors[f"random.cuda.{number}"] = state
    schedule = training.schedule.state_dict()
    return {
        "epoch": training.epoch,
        "best": training.best,
        "history": vars(training.history),
        "optimizer": {"groups": steps["param_groups"], "plain": plain},
        "schedule": {key: value for key, value in schedule.items() if key != "lr_lambdas"},
        "scaler": training.scaler.state_dict(),
        "numpy": numpy_state,
        "python": random.getstate(),
        "state_dict": {name: value.detach().cpu() for name, value in tensors.items()},
    }


def _put_back(training: Training, content: dict[str, Any], selected: Path) -> None:
    tensors: dict[str, Tensor] = content["state_dict"]

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}

    core, sampler = core_model(training.model), training.sampler
    with torch.no_grad():
        for name, value in part("model.").items():
            _held(training.model)[name].copy_(value)
    core.load_training_state(part("own."))
    if best := part("selected."):
        write_scratch(selected, best)
    state: dict[int, dict[str, Any]] = {
        int(number): dict(values) for number, values in content["optimizer"]["plain"].items()
    }
    for name, value in part("optimizer.").items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    groups = content["optimizer"]["groups"]
    training.optimizer.load_state_dict({"state": state, "param_groups": groups})
    # A schedule's functions are code, and no state.
    training.schedule.load_state_dict({**training.schedule.state_dict(), **content["schedule"]})
    if training.scaler.is_enabled():
        training.scaler.load_state_dict(content["scaler"])
    device = next(core.parameters()).device
    if index := part("index."):
        sampler.index = RetrievalIndex(**index)
    if bank := part("bank."):
        sampler.bank = {name: value.to(device) for name, value in bank.items()}
    training.history.__dict__.update(content["history"])
    training.best, training.epoch = content["best"], content["epoch"]
    words = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, *content["numpy"]))
    version, numbers, gauss = content["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(tensors["random.torch"])
    if streams := part("random.cuda."):
        torch.cuda.set_rng_state_all([streams[str(number)] for number in range(len(streams))])


def _held(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that no checkpoint holds too."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _on_cuda(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cuda"
