"""What the hosts of InfoEnh share: configuration, labels, and the way its loss joins theirs.

The hosts train in MMSA's own trainers, which pass no labels to the model and know no further loss.
So the training loader, wrapped, tells the model each batch's labels, and the loss joins through the
prediction (`losses.attach_auxiliary_loss`). This holds for trainers that add up losses and call
`backward` once a batch, as all of MMSA's do; it would be wrong where a trainer scales its loss
(mixed precision, accumulation that divides).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from MMSA_ext.config import VariantConfig
from MMSA_ext.losses import attach_auxiliary_loss
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhConfig, InfoEnhOutput

PAPER = (
    "InfoEnh: Towards Multimodal Sentiment Analysis via Information Bottleneck Filter and Optimal "
    "Transport Alignment (Xie et al.)"
)


class InfoEnhHostConfig(InfoEnhConfig):
    """InfoEnh inside a host.

    Attributes:
        hidden: Width h between the enhanced tokens and the host's vector; None is `d`.
        normalise: LayerNorm on the enhanced tokens before they are read, see `TokenReadout`.
        residual: Add the vector that the host itself computes.
        vector: `keep_dim` maps to the width that the host expects; `widen` makes the host's next
            linear layer read h instead.
    """

    hidden: int | None = Field(None, ge=1)
    normalise: bool = True
    residual: bool = False
    vector: Literal["keep_dim", "widen"] = "keep_dim"

    @model_validator(mode="after")
    def _widths_agree(self) -> Self:
        if self.residual and self.vector == "widen":
            raise ValueError(
                "residual adds the host's own vector, which vector='widen' gives another width; "
                "choose one of the two"
            )
        return self

    @property
    def readout_dim(self) -> int:
        """Width h of a token between its two linear layers."""
        return self.hidden or self.d


class HostVariantConfig(VariantConfig):
    """Keys of a host's variant.

    Attributes:
        infoenh: Options of InfoEnh; None is the host alone, MMSA's own class.
    """

    infoenh: InfoEnhHostConfig | None = InfoEnhHostConfig()


class EnhancedHost(nn.Module):
    """Mixin for a host's class: the labels of the batch, and the auxiliary loss.

    Attributes:
        infoenh: The module in front of the fusion.
        labels: `(B,)` float, labels of the training batch that is being worked on; None outside of
            training.
    """

    infoenh: InfoEnh
    labels: Tensor | None = None

    def enhance(self, sequences: dict[str, Tensor], masks: dict[str, Tensor]) -> InfoEnhOutput:
        """Run InfoEnh, with the batch's labels while training.

        Args:
            sequences: `(B, L_m, d_m)` by modality.
            masks: `(B, L_m)` bool by modality, True where valid.
        """
        labels = self.labels if self.training else None
        if labels is not None:
            labels = labels.to(next(iter(sequences.values())).device)
        enhanced: InfoEnhOutput = self.infoenh(sequences, masks, labels)
        return enhanced

    def attach(self, outputs: dict[str, Any], enhanced: InfoEnhOutput) -> dict[str, Any]:
        """Let the loss of InfoEnh join through the prediction `outputs["M"]`, while training."""
        if not self.training or self.labels is None or not torch.is_grad_enabled():
            return outputs
        seen = {**enhanced.diagnostics, "infoenh_loss": enhanced.loss.detach()}
        vars(self).setdefault("_seen", []).append(seen)
        return {**outputs, "M": attach_auxiliary_loss(outputs["M"], enhanced.loss)}

    def take_diagnostics(self) -> dict[str, float]:
        """Means of InfoEnh's diagnostics and loss over the training batches since the last call."""
        seen: list[dict[str, Tensor]] = vars(self).pop("_seen", [])
        if not seen:
            return {}
        return {name: float(torch.stack([d[name] for d in seen]).mean()) for name in seen[0]}


class LabelledLoader:
    """A loader of training batches that tells a host their labels; none are left at its end."""

    def __init__(self, loader: DataLoader[Any], host: EnhancedHost) -> None:
        self._loader = loader
        self._host = host

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)  # at once: making the iterator draws a random number

        def publish() -> Iterator[Any]:
            try:
                for batch in batches:
                    self._host.labels = batch["labels"]["M"].reshape(-1)
                    yield batch
            finally:
                self._host.labels = None

        return publish()

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def enhanced_host(model: nn.Module) -> EnhancedHost | None:
    """The host inside MMSA's wrapper `AMIO`, if InfoEnh is in it."""
    core = getattr(model, "Model", model)
    return core if isinstance(core, EnhancedHost) else None


def publish_labels(model: nn.Module, loaders: Mapping[str, Any]) -> Mapping[str, Any]:
    """The loaders to train `model` with: a host with InfoEnh is told the labels of each batch.

    Args:
        model: Any model of MMSA's loop, as `mmsa_bridge.build_model` makes it.
        loaders: By split.

    Returns:
        The same loaders, the training one wrapped where the model is such a host.
    """
    host = enhanced_host(model)
    if host is None:
        return loaders
    return {**loaders, "train": LabelledLoader(loaders["train"], host)}
