"""What a model trained in two stages says of its encoders: how each is trained alone first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from MMSA_ext.models.contract import MSAModel


class EncoderRecipe(BaseModel):
    """How one encoder is trained alone.

    Attributes:
        epochs: Epochs; all are trained, and the one with the lowest validation MAE is kept.
        batch_size: Samples per step.
        learning_rate: Peak rate, after linear warm-up; linear decay to zero follows.
        warmup_ratio: Share of all steps with warm-up.
        optimizer: `adamw` (decoupled decay, sparing biases and what `decay_norms` says of norms) or
            `adam_amsgrad` (AMSGrad, decay in the gradient of every parameter).
        weight_decay: Weight decay.
        decay_all: Whether `adamw` spares nothing.
        selected_after: Share of the epochs, from the first, that are never kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    optimizer: Literal["adamw", "adam_amsgrad"] = "adam_amsgrad"
    weight_decay: float = Field(1e-3, ge=0)
    decay_all: bool = False
    selected_after: float = Field(0.0, ge=0, lt=1)


class EncoderModel(MSAModel):
    """A model of one modality: an encoder and whatever predicts from it.

    Attributes:
        encoder: The encoder; alone what stage two takes over.
    """

    encoder: nn.Module


@dataclass(frozen=True)
class EncoderTask:
    """One encoder to be trained alone.

    Attributes:
        modality: `text`, `audio` or `vision`.
        encoder: The encoder in the model of stage two; it gets the trained weights.
        build: Makes a fresh encoder of the same kind, with a head.
        recipe: How it is trained.
        targets: Names of the label to predict, the first that the data has.
        identity: What else decides the trained weights: plain JSON.
    """

    modality: str
    encoder: nn.Module
    build: Callable[[], EncoderModel]
    recipe: EncoderRecipe
    targets: tuple[str, ...]
    identity: dict[str, Any]


class TwoStageModel(MSAModel):
    """A model whose encoders are trained alone first."""

    def stage_one(self) -> list[EncoderTask]:
        """What is trained in stage one; empty to skip it."""
        raise NotImplementedError
