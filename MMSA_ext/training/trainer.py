"""The one training loop of this package's models, with MMSA's trainer contract.

The whole schedule is trained, the epoch with the lowest validation MAE is kept, and the test split
is scored once, by the caller. Other rules are keys of `config.RunConfig`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from MMSA_ext.data.loader import FeatureLoader, as_feature_loader
from MMSA_ext.data.predictions import Predictions
from MMSA_ext.data.scaling import FeatureScaling
from MMSA_ext.errors import NOT_BETTER, TrainingDivergedError
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch, StepOutput, core_model
from MMSA_ext.models.parts.encoders import PretrainedText
from MMSA_ext.training.callbacks import Callback, EpochProgress, StepProgress, listeners
from MMSA_ext.training.compiling import compiled
from MMSA_ext.training.precision import Precision
from MMSA_ext.training.state import ResumePoint, Training, TrainingHistory
from MMSA_ext.training.step_log import StepLog
from MMSA_ext.training.steps import StepSampler, evaluation_order
from MMSA_ext.training.transfer import prefetched
from MMSA_ext.training.updates import Updates, shares
from MMSA_ext.training.weights_file import write_scratch

if TYPE_CHECKING:
    from MMSA_ext.config.schema import RunConfig

logger = logging.getLogger("MMSA")

MINIMISED = frozenset({"Loss", "MAE"})


class Trainer:
    """Trains and evaluates models of this package.

    Args:
        args: MMSA's configuration of the run; reads `device`, `model_save_path` and the
            keys of the model's configuration class.
        callbacks: Told of steps and epochs.

    Attributes:
        stage: See `StepProgress`.
        scaling: What the frames of MMSA's plain loaders are scaled by, from `do_train` on.
        resume: Where the state after each epoch is kept, and found; None keeps none.
    """

    stage: str | None = None
    scaling: FeatureScaling | None = None
    resume: ResumePoint | None = None

    def __init__(self, args: Any, callbacks: Sequence[Callback] = ()) -> None:
        from MMSA_ext import mmsa_bridge
        from MMSA_ext.registry import get_model

        self.args = args
        self.config = cast("RunConfig", get_model(args.model_name).config.from_args(args))
        self.device = torch.device(args.device)
        self.callbacks = callbacks
        self._on_step = listeners(callbacks, "on_step")
        self.history = TrainingHistory()
        self._metrics = mmsa_bridge.metrics(self.config.data_set)

    def do_train(
        self, model: nn.Module, dataloader: dict[str, Any], return_epoch_results: bool = False
    ) -> dict[str, list[dict[str, float]]] | None:
        """Train, keep the best epoch's weights at `args.model_save_path` (MMSA's contract).

        Args:
            model: MMSA's `AMIO` around a model of this package, or the model itself.
            dataloader: Loaders by split; of MMSA's plain ones the data are scaled as configured.
            return_epoch_results: Return the epochs' results in MMSA's form. The `test` list stays
                empty: the test split is not looked at during training.

        Returns:
            None, or training and validation results by epoch.

        Raises:
            TrainingDivergedError: If the loss is not finite, or the model is to beat its untrained
                self and does not; no weights are there then.
            WriteError: If the disk refuses the weights.
        """
        core = core_model(model)
        # MMSA's own runner hands over the bare file's configuration: the typed one has defaults.
        scales = self.config.feature_scaling == "standardise"
        if scales and not isinstance(dataloader["train"], FeatureLoader):
            self.scaling = FeatureScaling.of(dataloader["train"].dataset)
        train = self._loader(dataloader["train"], self.config.batch_size, shuffle=True)
        valid = self._loader(dataloader["valid"], self.config.eval_batch_size)
        destination = Path(self.args.model_save_path)
        destination.unlink(missing_ok=True)
        self.history = TrainingHistory(notes=core.adapt(train.split))
        try:
            self._fit(model, core, train, valid, destination)
        except TrainingDivergedError:
            destination.unlink(missing_ok=True)
            raise
        if not return_epoch_results:
            return None
        trained = [entry for entry in self.history.epochs if entry["epoch"] > 0]
        return {
            "train": [entry["train"] for entry in trained],
            "valid": [entry["valid"] for entry in trained],
            "test": [],
        }

    def do_test(
        self,
        model: nn.Module,
        dataloader: Any,
        mode: str = "VAL",
        return_sample_results: bool = False,
    ) -> dict[str, Any]:
        """Score a split with MMSA's metrics (MMSA's contract).

        Args:
            model: As in `do_train`.
            dataloader: Loader of the split; MMSA's plain ones are accepted.
            mode: Name of the split in the log.
            return_sample_results: Add `Ids`, `SResults`, `Labels` and `Features`.

        Returns:
            MMSA's metrics and `Loss`, the mean squared error over all samples.

        Raises:
            TrainingDivergedError: If a prediction is not finite.
        """
        core = core_model(model)
        loader = self._loader(dataloader, self.config.eval_batch_size)
        outputs = predict(core, loader, self.device, features=return_sample_results)
        results: dict[str, Any] = self.score(outputs)
        logger.info("%s-(%s) >> %s", mode, self.args.model_name, _format(results))
        if return_sample_results:
            results["Ids"] = outputs.ids
            results["SResults"] = outputs.prediction.tolist()
            results["Labels"] = outputs.label.unsqueeze(1).tolist()
            results["Features"] = {name: x.numpy() for name, x in outputs.features.items()}
        return results

    def score(self, outputs: Predictions) -> dict[str, float]:
        """MMSA's metrics of predictions, and `Loss`.

        Raises:
            TrainingDivergedError: If a prediction is not finite.
        """
        if not torch.isfinite(outputs.prediction).all():
            raise TrainingDivergedError("a prediction is not finite; lower learning_rate.")
        results = self._metrics(outputs.prediction, outputs.label)
        results["Loss"] = F.mse_loss(outputs.prediction, outputs.label).item()
        return results

    def make_optimizer(self, model: MSAModel) -> torch.optim.Optimizer:
        """AdamW of the parameters that ask for a gradient."""
        return torch.optim.AdamW(self.optimizer_groups(model), fused=True)

    def optimizer_groups(self, model: MSAModel) -> list[dict[str, Any]]:
        """Groups by weight decay and rate: new layers have their own, and what the model names."""
        groups, (rate, new) = self.decay_groups(model), self.config.rates
        groups = [{"lr": rate} | group for group in groups]
        if new is not None:
            groups = [part for group in groups for part in _by_rate(group, model, new)]
        return _set_apart(groups, model)

    def decay_groups(self, model: MSAModel) -> list[dict[str, Any]]:
        """Optimizer groups by weight decay."""
        return parameter_groups(
            model, self.config.weight_decay, decay_norms=self.config.decay_norms
        )

    def make_schedule(
        self, optimizer: torch.optim.Optimizer, steps_per_epoch: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Learning rate by step: linear warm-up, then linear decay to zero at the last step."""
        steps = self.config.num_epochs * steps_per_epoch
        schedule: torch.optim.lr_scheduler.LRScheduler = get_linear_schedule_with_warmup(
            optimizer, self.warm_up(steps), steps
        )
        return schedule

    def warm_up(self, units: int) -> int:
        """How many of all steps, or epochs, are warm-up; the last one never is."""
        return min(round(self.config.warmup_ratio * units), units - 1)

    def prepare_gradients(self, model: MSAModel) -> None:
        """Change the gradients before the optimizer reads them: clip the norm of all together."""
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)

    def _fit(
        self,
        model: nn.Module,
        core: MSAModel,
        train: FeatureLoader,
        valid: FeatureLoader,
        destination: Path,
    ) -> None:
        config = self.config
        precision = Precision(config.precision, self.device)
        optimizer = self.make_optimizer(core)
        updates = -(-len(train) // config.accumulate_steps)
        schedule = self.make_schedule(optimizer, updates)
        sampler = StepSampler(train.split, core.retrieval)
        now = Training(model, optimizer, schedule, sampler, precision.scaler, self.history)
        training_step = compiled(core.training_step, config.compile, self.device)
        if self.resume is None or not self.resume.restore(now, destination):
            start = self.score(predict(core, valid, self.device))
            self.history.epochs.append({"epoch": 0, "valid": start})
            self._tell_epoch()
        warm = -(-self.warm_up(config.num_epochs * updates) // updates)  # epochs
        while now.epoch < config.num_epochs and not self._is_out_of_patience(now.epoch, warm):
            epoch = now.epoch + 1
            began = time.perf_counter()
            core.begin_epoch(epoch, config.num_epochs)
            if sampler.is_stale(epoch):
                sampler.refresh(core, self.device, config.eval_batch_size)
            with precision.heads_in_float32(core):
                trained = self._train_epoch(core, train, now, precision, training_step)
            scores = self.score(predict(core, valid, self.device))
            self.history.epochs.append(
                {
                    "epoch": epoch,
                    "train": trained,
                    "valid": scores,
                    "learning_rate": schedule.get_last_lr()[0],
                    "seconds": time.perf_counter() - began,
                }
            )
            logger.info("TRAIN-(%s) [%d] >> %s", config.model_name, epoch, _format(trained))
            logger.info("VAL-(%s) [%d] >> %s", config.model_name, epoch, _format(scores))
            if self._is_selected(epoch, self._key(scores), now.best):
                now.best, self.history.chosen_epoch = self._key(scores), epoch
                write_scratch(
                    destination, {name: value.cpu() for name, value in model.state_dict().items()}
                )
            now.epoch = epoch
            if self.resume is not None:
                self.resume.save(now, destination)
            self._tell_epoch()
        start = self.history.epochs[0]["valid"]
        if not now.best < self._key(start):
            self._not_better(start)

    def _tell_epoch(self) -> None:
        """Tell the callbacks of the last epoch of the history."""
        state = EpochProgress.of(self.history.epochs[-1], self.stage)
        for callback in self.callbacks:
            callback.on_epoch(state)

    def _is_selected(self, epoch: int, key: float, best: float) -> bool:
        """Whether an epoch is kept in the place of the best one before it."""
        if epoch < min(self.config.first_selected_epoch, self.config.num_epochs):
            return False
        if self.history.chosen_epoch is None or key < best:
            return True
        return self.config.selection_digits is not None and key == best

    def _is_out_of_patience(self, epoch: int, warm: int) -> bool:
        """Whether so many epochs after the kept one, and after the `warm` ones, none was better."""
        chosen, patience = self.history.chosen_epoch, self.config.early_stop
        if chosen is None or patience is None:
            return False
        return epoch - max(chosen, warm) >= patience

    def _not_better(self, start: dict[str, float]) -> None:
        """Say so where the selected epoch is not better than the untrained model."""
        key, chosen = self.config.KeyEval, self.history.chosen_epoch
        scores = next(e["valid"] for e in self.history.epochs if e["epoch"] == chosen)
        found = (
            f"validation {key} {scores[key]:.4f} in the best epoch, {chosen}, and {start[key]:.4f} "
            "before training"
        )
        if self.config.must_beat_untrained:
            raise TrainingDivergedError(
                f"{NOT_BETTER}: {found}; lower learning_rate or train longer."
            )
        self.history.notes.append(f"{NOT_BETTER}: {found}")

    def _loader(self, loader: Any, batch_size: int, *, shuffle: bool = False) -> FeatureLoader:
        """Our loader as it is; the data of MMSA's plain ones are scaled by the training split."""
        return as_feature_loader(loader, batch_size, shuffle=shuffle, scaling=self.scaling)

    def _train_epoch(
        self,
        core: MSAModel,
        train: FeatureLoader,
        now: Training,
        precision: Precision,
        training_step: Callable[[StepBatch], StepOutput],
    ) -> dict[str, float]:
        """One pass over the training split; returns its mean losses and metrics."""
        core.train()
        log = StepLog(now.epoch + 1, self.device, partial(self._tell_step, now, len(train)))
        updates = Updates(
            now.optimizer, now.schedule, now.scaler, partial(self.prepare_gradients, core)
        )
        batches = list(train.indices())
        parts = shares([len(anchors) for anchors in batches], self.config.accumulate_steps)
        for step, (share, ends) in zip(now.sampler.steps(batches, self.device), parts, strict=True):
            with precision.autocast():
                output = training_step(step)
                loss = output.total
            updates.add(loss, share, ends=ends)
            values = {"Loss": loss, **output.losses, **output.diagnostics}
            log.add(values, output.prediction, len(step.anchors))
        means, predictions = log.finish()
        labels = torch.from_numpy(train.split.labels["M"])[torch.cat(batches)]
        return means | self._metrics(predictions, labels.float())

    def _tell_step(self, now: Training, steps: int, step: int, loss: float) -> None:
        """Tell the callbacks of a step, as soon as its loss is on the host."""
        if not self._on_step:
            return
        best = None if now.epoch == 0 or math.isinf(now.best) else self._shown(now.best)
        where = (now.epoch + 1, self.config.num_epochs, step, steps)
        state = StepProgress(*where, loss, best, self.stage)
        for on_step in self._on_step:
            on_step(state)

    def _key(self, scores: dict[str, float]) -> float:
        """`KeyEval` as a number to be minimised."""
        value = scores[self.config.KeyEval]
        if math.isnan(value):
            return math.inf
        if self.config.selection_digits is not None:
            value = round(value, self.config.selection_digits)
        return value if self.config.KeyEval in MINIMISED else -value

    def _shown(self, key: float) -> float:
        return key if self.config.KeyEval in MINIMISED else -key


@torch.no_grad()
def predict(
    model: MSAModel, loader: FeatureLoader, device: torch.device, *, features: bool = False
) -> Predictions:
    """Predict a split, in evaluation mode.

    Samples of similar length share a batch, unless the model reads padding; what is returned is in
    file order.

    Args:
        model: The model (not MMSA's wrapper).
        loader: Loader of the split.
        device: Where the model is.
        features: Collect MMSA's `Feature_*` outputs too.
    """
    model.eval()
    predicted: list[Tensor] = []
    collected: dict[str, list[Tensor]] = {}
    split, order = loader.split, evaluation_order(model, loader.split)
    cut = (partial(split.batch, indices) for indices in torch.split(order, loader.batch_size))
    for batch in prefetched(cut, device):
        outputs = model(Inputs.of(batch))
        predicted.append(outputs["M"].reshape(-1).float())
        if features:
            for name, value in outputs.items():
                if name.startswith("Feature_"):
                    collected.setdefault(name, []).append(value)
    back = torch.argsort(order)
    truth = split.labels.get("M")
    return Predictions(
        list(split.ids),
        torch.cat(predicted).cpu()[back],
        torch.full((len(split),), math.nan)
        if truth is None
        else torch.from_numpy(truth.astype(np.float32)),
        {name: torch.cat(parts).cpu()[back] for name, parts in collected.items()},
    )


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_norms: bool = False
) -> list[dict[str, Any]]:
    """Optimizer groups: weight decay for everything but biases and normalisation weights.

    Parameters that ask for no gradient are in none of them.

    Args:
        model: The model.
        weight_decay: Decay of the decaying group.
        decay_norms: Decay the model's own normalisation weights too, as the released code does,
            which spares only biases and names that contain `LayerNorm.weight` (the text encoder's).
    """
    norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    decaying: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = name.endswith("bias")
        is_norm = "LayerNorm.weight" in name or (name in norms and not decay_norms)
        (spared if is_bias or is_norm else decaying).append(parameter)
    return [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def undivided(model: nn.Module, weight_decay: float) -> dict[str, Any]:
    """One optimizer group of all parameters that ask for a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {"params": trained, "weight_decay": weight_decay}


def _by_rate(group: dict[str, Any], model: nn.Module, new: float) -> list[dict[str, Any]]:
    """An optimizer group in two: pretrained text encoders, and all else at the rate `new`."""
    pretrained = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, PretrainedText)
        for parameter in module.encoder.parameters()
    }
    encoders = [parameter for parameter in group["params"] if id(parameter) in pretrained]
    others = [parameter for parameter in group["params"] if id(parameter) not in pretrained]
    return [group | {"params": encoders}, group | {"params": others, "lr": new}]


def _set_apart(groups: list[dict[str, Any]], model: MSAModel) -> list[dict[str, Any]]:
    """Optimizer groups, and behind them those of the parts that the model names."""
    apart = []
    for part, options in model.own_groups().items():
        own = {id(parameter) for parameter in model.get_submodule(part).parameters()}
        taken = [p for group in groups for p in group["params"] if id(p) in own]
        groups = [g | {"params": [p for p in g["params"] if id(p) not in own]} for g in groups]
        apart.append(groups[0] | {"params": taken} | options)
    return groups + apart


def _format(results: dict[str, Any]) -> str:
    return "  ".join(f"{name}: {value:.4f}" for name, value in results.items())
