"""The text-only control: DashFusion's text encoder, projector and head, and nothing else.

It stands beside every DashFusion result: what audio, vision, alignment and fusion buy is the
difference to this row.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from MMSA_ext.config.schema import RunConfig
from MMSA_ext.models.contract import Inputs, MSAModel
from MMSA_ext.models.parts.attention import Activation, masked_mean
from MMSA_ext.models.parts.encoders import ProjectorKind, TextEncoder
from MMSA_ext.models.parts.fusion import PredictionHead
from MMSA_ext.registry import register_model


class TextOnlyConfig(RunConfig):
    """Configuration of the text-only control; the keys mean what they mean in DashFusion.

    Attributes:
        dim: Width d.
        activation: Of the head.
        text_projector: See `TextEncoder`.
        readout: What the head reads: the `first` token, which is what DashFusion's head reads of
            every sequence, or `first_and_mean`, the masked mean beside it.
        length_groups: See `DashFusionConfig`.
    """

    dim: int = Field(128, ge=1)
    activation: Activation = "relu"
    text_projector: ProjectorKind = "linear"
    readout: Literal["first", "first_and_mean"] = "first"
    length_groups: int = Field(8, ge=1)

    @property
    def reads(self) -> tuple[str, ...]:
        """See `RunConfig`."""
        return ("text",)

    @property
    def masks_padding(self) -> bool:
        """See `RunConfig`."""
        return True


class TextOnly(MSAModel):
    """The first token of the projected text, into the head."""

    def __init__(self, config: TextOnlyConfig) -> None:
        super().__init__()
        self.text_encoder = TextEncoder(
            config.dim,
            config.pretrained,
            projector=config.text_projector,
            random_init=config.random_init,
            architecture=config.text_encoder_config,
            length_groups=config.length_groups,
        )
        self.reads_mean = config.readout == "first_and_mean"
        width = 2 * config.dim if self.reads_mean else config.dim
        self.head = PredictionHead(width, config.dim, config.activation)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict from the text alone; the loss is the mean squared error (DashFusion eq. 10)."""
        features, mask = self.text_encoder(inputs.text)
        first = features[:, 0]
        mean = masked_mean(features, mask)
        read = torch.cat([first, mean], dim=-1) if self.reads_mean else first
        return {
            "M": self.head(read),
            "Feature_t": mean,
            "Feature_f": first,
        }


@register_model("text_only", config=TextOnlyConfig)
def build_text_only(args: Any) -> TextOnly:
    """The text-only control."""
    return TextOnly(TextOnlyConfig.from_args(args))
