"""What the trainer asks of a model of this package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MMSA_ext.data.feature_set import Batch, FeatureSplit
from MMSA_ext.data.retrieval import ContrastSets, RetrievalConfig


class Inputs(NamedTuple):
    """What a model reads of B samples.

    Attributes:
        text: `(B, 3, L)`, MMSA's token ids, mask and segment ids; zeros `(B, 3, 1)` where the model
            does not read it.
        audio: `(B, L_a, d_a)` float32; `(B, 1, 0)` where the model does not read it.
        vision: `(B, L_v, d_v)` float32; likewise.
        audio_mask: `(B, L_a)` bool, True where valid; None if all frames are.
        vision_mask: `(B, L_v)` bool; None if all frames are.
    """

    text: Tensor
    audio: Tensor
    vision: Tensor
    audio_mask: Tensor | None = None
    vision_mask: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch) -> Inputs:
        """Those of a batch of `FeatureSplit.batch`."""
        return cls(*(batch[name] for name in cls._fields))


@dataclass(frozen=True)
class StepBatch:
    """The samples of one training step, each distinct one once.

    Attributes:
        samples: Batch of the anchors and, without a bank, their retrieved samples.
        anchors: `(B,)` int64, rows of the anchors in `samples`.
        contrast: Retrieved samples as rows of `samples`, or of the bank if there is one; None for
            models without retrieval.
        bank: `contrast_features` of all training samples at the last refresh, each `(N, d)`; None
            if retrieved samples are encoded anew.
    """

    samples: Batch
    anchors: Tensor
    contrast: ContrastSets | None
    bank: dict[str, Tensor] | None = None

    @property
    def inputs(self) -> Inputs:
        """What the model reads of all samples."""
        return Inputs.of(self.samples)

    @property
    def labels(self) -> Tensor:
        """`(B, 1)`, multimodal labels of the anchors."""
        labels: Tensor = self.samples["labels"]["M"][self.anchors]
        return labels


@dataclass(frozen=True)
class StepOutput:
    """What a training step computed.

    Attributes:
        prediction: `(B, 1)`, predictions for the anchors.
        losses: Named scalar terms; the total loss is their sum.
        diagnostics: Named scalars worth seeing, detached; their means are kept by epoch.
    """

    prediction: Tensor
    losses: dict[str, Tensor]
    diagnostics: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """Sum of all terms."""
        return torch.stack(list(self.losses.values())).sum()


class MSAModel(nn.Module):
    """Base of this package's models.

    Attributes:
        retrieval: How samples are retrieved for the contrastive loss; None if there is none.
        ranked_by: The `contrast_features` by whose concatenation samples are retrieved.
        feature_bank: Whether retrieved samples are read from a bank instead of encoded anew.
        reads_padding: Whether a sample's prediction depends on how far its batch is padded.
        text_rows_read: How many positions of the text are read by their place, from the first; an
            exported graph needs texts with more, and pads them.
        predicts: Names of the parts that make predictions, which are computed in float32 whatever
            the precision of training.
    """

    retrieval: RetrievalConfig | None = None
    ranked_by: tuple[str, ...] = ()
    feature_bank: bool = False
    reads_padding: bool = False
    text_rows_read: int = 0
    predicts: tuple[str, ...] = ("head",)

    def __call__(self, *given: Any) -> Any:
        """`forward`; MMSA's wrapper, which knows no `Inputs`, passes what they hold one by one."""
        inputs = given[0] if isinstance(given[0], Inputs) else Inputs(*given)
        return super().__call__(inputs)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict.

        Returns:
            MMSA's outputs: `M` `(B, 1)` and `Feature_t`, `Feature_a`, `Feature_v`, `Feature_f`.
        """
        raise NotImplementedError

    def training_step(self, step: StepBatch) -> StepOutput:
        """Predictions and loss terms of one step; here the mean squared error alone."""
        prediction = self(step.inputs)["M"][step.anchors]
        return StepOutput(prediction, {"prediction_loss": F.mse_loss(prediction, step.labels)})

    def contrast_features(self, inputs: Inputs) -> dict[str, Tensor]:
        """What ranks samples for retrieval, and what a bank keeps of them: each `(B, d)`."""
        raise NotImplementedError

    def own_groups(self) -> dict[str, dict[str, float]]:
        """Parameters that are trained at a rate or a weight decay of their own; none here.

        Returns:
            Name of a part of the model to options of its optimizer group (`lr`, `weight_decay`),
            which hold for all of its parameters, biases and normalisation weights too.
        """
        return {}

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Prepare for training epoch `epoch`, from 1, of at most `epochs`; does nothing here.

        Parameters that the model unfreezes in a later epoch must ask for a gradient when the
        trainer makes its optimizer, before the first epoch.
        """

    def training_state(self) -> dict[str, Tensor]:
        """What training changes beside parameters and buffers, to be resumed; nothing here."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `training_state` gave; called after `adapt`."""

    def adapt(self, train: FeatureSplit) -> list[str]:
        """Look at the training split before training; nothing here.

        Returns:
            What a record should say about how this model reads this data.
        """
        return []

    def check(self, split: FeatureSplit, source: str) -> None:
        """Refuse data that the model cannot read, before any work is done.

        Raises:
            FeatureFileError: If the token ids do not suit the text encoder.
        """
        encoder = getattr(self, "text_encoder", None)
        if encoder is not None:
            encoder.check_tokens(split.tokens, source)


def core_model(model: nn.Module) -> MSAModel:
    """The model itself, out of MMSA's wrapper `AMIO` if it is in one."""
    core = getattr(model, "Model", model)
    if not isinstance(core, MSAModel):
        raise TypeError(f"{type(core).__name__} is no MSAModel; MMSA's own models train in MMSA's.")
    return core
