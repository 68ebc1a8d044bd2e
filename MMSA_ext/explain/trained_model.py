"""A checkpoint and samples of a feature file, ready to be looked into.

Every model is called as its own evaluation calls it: this package's models on this package's
batches, MMSA's models and their variants by MMSA's trainers. For the latter, the calls are recorded
while MMSA scores the samples, so that nothing about their arguments is repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from easydict import EasyDict
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from MMSA_ext import mmsa_bridge
from MMSA_ext.data.feature_set import FeatureSet
from MMSA_ext.errors import CheckpointError
from MMSA_ext.explain.samples import select_samples
from MMSA_ext.models.contract import Inputs, core_model
from MMSA_ext.runs.prediction import Scorer, eval_loaders
from MMSA_ext.training.transfer import to_device


@dataclass(frozen=True)
class Call:
    """One forward pass, as the model's evaluation makes it.

    Attributes:
        inputs: Positional arguments of the network; tensors whose first dimension are the samples,
            None, or tuples of these.
        start: Row of the first sample in `TrainedModel.samples`.
        count: Samples.
    """

    inputs: tuple[Any, ...]
    start: int
    count: int

    @property
    def rows(self) -> range:
        """Rows of the samples in `TrainedModel.samples`."""
        return range(self.start, self.start + self.count)

    def take(self, rows: Tensor) -> tuple[Any, ...]:
        """The inputs of the samples at `rows` (b,) int64 of this call; rows may repeat."""
        return tuple(_take(value, rows) for value in self.inputs)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and the samples it is asked about.

    Attributes:
        name: Registered name of the model.
        network: What is called; in evaluation mode.
        args: Complete configuration.
        calls: Forward passes that cover the samples, in order.
        samples: One row a sample, in file order: `split`, `id`, `label`
            (NaN where unknown), `prediction`, `text` (the transcript, empty where unknown),
            `audio_length`, `vision_length`.
        features: The whole feature file, as the model is given it.
    """

    name: str
    network: nn.Module
    args: EasyDict
    calls: tuple[Call, ...]
    samples: pd.DataFrame
    features: FeatureSet

    @property
    def core(self) -> nn.Module:
        """The model inside MMSA's wrapper."""
        core: nn.Module = getattr(self.network, "Model", self.network)
        return core


def prediction(outputs: Any, name: str) -> Tensor:
    """The prediction `(b,)` among a model's outputs.

    Raises:
        CheckpointError: If there is none under MMSA's key `M`.
    """
    if not isinstance(outputs, dict) or "M" not in outputs:
        raise CheckpointError(
            f"{name} returns its prediction in a form of its own, which explanations do not read; "
            "choose a model that returns MMSA's key 'M', such as self_mm, misa, mmim, dashfusion."
        )
    predicted: Tensor = outputs["M"].reshape(-1)
    return predicted


def load_trained(
    checkpoint_path: str | Path,
    feature_path: str | Path,
    *,
    ids: Sequence[str] | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    gpu_ids: Sequence[int | str] | int | str = (0,),
    overrides: dict[str, Any] | None = None,
    any_recipe: bool = False,
) -> TrainedModel:
    """Load a checkpoint and score samples of a feature file with it.

    Args:
        checkpoint_path: Checkpoint written by `MMSA_run`.
        feature_path: Feature file; labels are not needed.
        ids: Samples to look into, of any split; None takes those of `split`.
        split: See `samples.select_samples`, as for the next two.
        limit: At most so many samples of the split, drawn at random.
        seed: Seed of that draw.
        gpu_ids: As in `MMSA_run`.
        overrides: Configuration values to replace, such as `pretrained` where the text encoder of
            an MMSA model lies elsewhere on this machine.
        any_recipe: Whether features of another recipe than that of training will do.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, without configuration, or its weights
            do not fit its configuration.
        ConfigError: An override replaces nothing.
        FeatureFileError: The features are unsafe, inconsistent, do not fit the checkpoint, or lack
            a sample or split that is asked for.
    """
    scorer = Scorer(checkpoint_path, overrides, gpu_ids=gpu_ids, any_recipe=any_recipe)
    features = scorer.read(feature_path)
    return look_into(scorer, select_samples(features, ids, split, limit, seed), features)


def look_into(
    scorer: Scorer, chosen: FeatureSet, features: FeatureSet | None = None
) -> TrainedModel:
    """Score samples with a model that is loaded already.

    Args:
        scorer: The model.
        chosen: The samples, as `Scorer.read` or `Scorer.features` gives them.
        features: What they were chosen from; by default they are all there is.

    Raises:
        CheckpointError, FeatureFileError: As `Scorer.predict`.
    """
    score = _score_stock if scorer.is_stock else _score_own
    with mmsa_bridge.registered():
        network, calls, predictions = score(scorer, chosen)
    samples = _sample_table(chosen).assign(prediction=predictions)
    name, args = scorer.args.model_name, scorer.args
    return TrainedModel(name, network, args, calls, samples, features or chosen)


def _sample_table(features: FeatureSet) -> pd.DataFrame:
    tables = []
    for name, split in features.splits.items():
        unknown = np.full(len(split), np.nan)
        tables.append(
            pd.DataFrame(
                {
                    "split": name,
                    "id": split.ids,
                    "label": np.asarray(split.labels.get("M", unknown), dtype=np.float64),
                    "text": split.raw_text,
                    "audio_length": split.audio_lengths,
                    "vision_length": split.vision_lengths,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


Scored = tuple[nn.Module, tuple[Call, ...], NDArray[np.float64]]


@torch.no_grad()
def _score_own(scorer: Scorer, features: FeatureSet) -> Scored:
    args, model = scorer.args, core_model(scorer.model)
    calls: list[tuple[Any, ...]] = []
    predictions = []
    for loader in eval_loaders(features, model, args.eval_batch_size).values():
        for batch in loader:
            calls.append(Inputs.of(to_device(batch, args.device)))
            predictions.append(prediction(model(*calls[-1]), args.model_name))
    return model, _calls(calls), torch.cat(predictions).double().cpu().numpy()


def _score_stock(scorer: Scorer, features: FeatureSet) -> Scored:
    with mmsa_bridge.progress_bars(False), _recorded_calls() as (networks, calls):
        table = mmsa_bridge.predict_stock(scorer.args, scorer.state_dict, features)
    return networks[0].eval(), _calls(calls), table["prediction"].to_numpy(dtype=np.float64)


@contextmanager
def _recorded_calls() -> Iterator[tuple[list[nn.Module], list[tuple[Any, ...]]]]:
    """Record the arguments of every call of the first module that is called inside.

    That is the model: a trainer asks its criterion about what the model returned.
    """
    networks: list[nn.Module] = []
    calls: list[tuple[Any, ...]] = []

    def keep(module: nn.Module, given: tuple[Any, ...]) -> None:
        if not networks:
            networks.append(module)
        if module is networks[0]:
            calls.append(given)

    with register_module_forward_pre_hook(keep):
        yield networks, calls


def _calls(recorded: Sequence[tuple[Any, ...]]) -> tuple[Call, ...]:
    calls: list[Call] = []
    start = 0
    for given in recorded:
        calls.append(Call(given, start, len(_first_tensor(given))))
        start += calls[-1].count
    return tuple(calls)


def _first_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else _first_tensor(value[0])


def _take(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows.to(value.device)]
    if isinstance(value, tuple | list):
        return tuple(_take(part, rows) for part in value)
    return value
