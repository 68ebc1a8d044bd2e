"""From InfoEnh's tokens to the vectors that a host reads: the options and the module of it.

The part of a host's integration that is the same for MMSA's models and for this package's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from MMSA_ext.models.infoenh.config import InfoEnhConfig
from MMSA_ext.models.parts.attention import masked_mean


class TokenReadout(nn.Module):
    """From enhanced tokens to one vector: Linear and GELU per token, then mean, then Linear.

    The nonlinearity has to come before the mean. With uniform masses the mean over rows of a
    transported sequence is the mean of the sequence itself, whatever the plan, so that a plain mean
    of E' does not see the transport at all.

    Args:
        in_dim: `InfoEnh.enhanced_dim`.
        hidden_dim: Width of the read tokens.
        out_dim: Width of the vector.
        normalise: LayerNorm on every token first. FNN, score and gates shrink the features about
            tenfold at the start, so that without it the vector hardly depends on the sample and a
            host begins near a constant prediction.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, *, normalise: bool = True
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim) if normalise else nn.Identity()
        self.token = nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.GELU())
        self.output = nn.Linear(hidden_dim, out_dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Read tokens `(B, k, in_dim)` with mask `(B, k)` into `(B, out_dim)`."""
        vector: Tensor = self.output(masked_mean(self.token(self.norm(tokens)), mask))
        return vector


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


class VectorReadouts(nn.Module):
    """Enhanced tokens of each modality to the vector that the host's fusion reads.

    Args:
        in_dim: Width of a token.
        options: `hidden`, `normalise`, `residual` and `vector` are read.
        widths: Width of the host's own vector, by modality.

    Attributes:
        widths: Width of the vector that comes out, by modality.
    """

    def __init__(self, in_dim: int, options: InfoEnhHostConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        widen = options.vector == "widen"
        hidden = options.readout_dim
        self.residual = options.residual
        self.widths = {m: hidden if widen else width for m, width in widths.items()}
        self.readouts = nn.ModuleDict(
            {
                m: TokenReadout(in_dim, hidden, width, normalise=options.normalise)
                for m, width in self.widths.items()
            }
        )

    def forward(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Read the tokens out.

        Args:
            tokens: `(B, k, in_dim)` by modality.
            masks: `(B, k)` bool by modality, True where valid.
            own: The host's own vectors `(B, width)` by modality.

        Returns:
            Vectors `(B, widths[m])` by modality, in the order of `widths`.
        """
        vectors = {m: read(tokens[m], masks[m]) for m, read in self.readouts.items()}
        return {m: v + own[m] for m, v in vectors.items()} if self.residual else vectors
