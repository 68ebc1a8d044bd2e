"""Fusion mechanisms of DashFusion's Table V behind one interface.

Each takes the aligned multimodal sequence H and the unimodal sequences, and returns the vector that
the prediction head reads: `Concat`, `Concat&SA`, `CA`, `BF` and `HBF`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from MMSA_ext.models.parts.attention import (
    Activation,
    AddNorm,
    FeedForward,
    MultiSourceAttention,
    ResidualStyle,
    TransformerLayer,
    activation_module,
)
from MMSA_ext.names import MODALITIES

FusionName = Literal["hbf", "bf", "ca", "concat_sa", "concat"]


@dataclass(frozen=True)
class Sequences:
    """What fusion reads: H and the unimodal features, with masks.

    Attributes:
        H: `(B, T, d)`, the aligned multimodal sequence, or learned bottleneck tokens.
        H_mask: `(B, T)`, True where valid; None if every position is (or masks are off).
        features: Modality to `(B, L_m, d)`; audio and vision begin with their class token.
        masks: Modality to `(B, L_m)`, or None.
    """

    H: Tensor
    H_mask: Tensor | None
    features: dict[str, Tensor]
    masks: dict[str, Tensor | None]


@dataclass(frozen=True)
class FusionShape:
    """Shape and reading choices shared by all fusion mechanisms.

    Attributes:
        dim: Width d.
        heads: Attention heads.
        feed_forward_dim: Hidden width of the feed-forward networks.
        layers: Number L of fusion layers.
        bottleneck_tokens: p of the first layer.
        activation: Of the feed-forward networks.
        style: Where the residual is normalised (`post_norm` printed, `branch_norm` released).
        output_projection: Whether attention ends in a linear layer.
        scale: Factor on the logits inside HBF's Transformer layers; None is 1/sqrt(d_k).
        shared_query: Multi-CA with one query for all modalities (released).
    """

    dim: int
    heads: int
    feed_forward_dim: int
    layers: int
    bottleneck_tokens: int
    activation: Activation = "relu"
    style: ResidualStyle = "post_norm"
    output_projection: bool = True
    scale: float | None = None
    shared_query: bool = False

    def transformer_layer(self) -> TransformerLayer:
        """One layer in this shape."""
        return TransformerLayer(
            self.dim,
            self.heads,
            self.feed_forward_dim,
            activation=self.activation,
            style=self.style,
            output_projection=self.output_projection,
            scale=self.scale,
        )


def first_tokens(features: dict[str, Tensor], multimodal: Tensor) -> Tensor:
    """Concatenate the first tokens of T, A, V and the multimodal sequence: `(B, 4d)`."""
    return torch.cat([*(features[m][:, 0] for m in MODALITIES), multimodal[:, 0]], dim=-1)


class Fusion(nn.Module):
    """Base of the fusion mechanisms.

    Attributes:
        output_dim: Width of the fused vector.
    """

    output_dim: int

    def forward(self, sequences: Sequences) -> Tensor:
        """Fuse to `(B, output_dim)`."""
        raise NotImplementedError


class Concat(Fusion):
    """First tokens of H, X_t, X_a, X_v, concatenated."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.output_dim = 4 * shape.dim

    def forward(self, sequences: Sequences) -> Tensor:
        """Fuse to `(B, 4d)`."""
        return first_tokens(sequences.features, sequences.H)


class ConcatSelfAttention(Fusion):
    """Concat&SA: self-attention layers over [t; a; v]; reads the first tokens of each and of H."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.output_dim = 4 * shape.dim
        self.layers = nn.ModuleList(shape.transformer_layer() for _ in range(shape.layers))

    def forward(self, sequences: Sequences) -> Tensor:
        """Fuse to `(B, 4d)`."""
        lengths = [sequences.features[m].shape[1] for m in MODALITIES]
        x = torch.cat([sequences.features[m] for m in MODALITIES], dim=1)
        masks = [sequences.masks[m] for m in MODALITIES]
        mask = None if masks[0] is None else torch.cat([m for m in masks if m is not None], dim=1)
        for layer in self.layers:
            x = layer(x, source_mask=mask)
        updated = dict(zip(MODALITIES, torch.split(x, lengths, dim=1), strict=True))
        return first_tokens(updated, sequences.H)


class CrossAttentionFusion(Fusion):
    """CA: in each layer H reads audio, then vision; the head reads H[:, 0]."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.output_dim = shape.dim
        self.audio = nn.ModuleList(shape.transformer_layer() for _ in range(shape.layers))
        self.vision = nn.ModuleList(shape.transformer_layer() for _ in range(shape.layers))

    def forward(self, sequences: Sequences) -> Tensor:
        """Fuse to `(B, d)`."""
        H = sequences.H
        for read_audio, read_vision in zip(self.audio, self.vision, strict=True):
            H = read_audio(H, sequences.features["audio"], sequences.masks["audio"])
            H = read_vision(H, sequences.features["vision"], sequences.masks["vision"])
        return H[:, 0]


class BottleneckFusionLayer(nn.Module):
    """One layer of (hierarchical) bottleneck fusion: eq. 6 to 9.

    Args:
        shape: Shape and reading choices.
        tokens: Number of bottleneck tokens that this layer keeps.
    """

    def __init__(self, shape: FusionShape, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.redistribute = shape.transformer_layer()
        self.multi_ca = MultiSourceAttention(
            MODALITIES,
            shape.dim,
            shape.heads,
            shared_query=shape.shared_query,
            output_projection=shape.output_projection,
        )
        # Both readings normalise the sum here (eq. 7).
        self.multi_ca_norm = AddNorm(shape.dim)
        self.feed_forward = FeedForward(shape.dim, shape.feed_forward_dim, shape.activation)
        self.feed_forward_norm = AddNorm(shape.dim)
        self.update = nn.ModuleDict({m: shape.transformer_layer() for m in MODALITIES})

    def forward(self, sequences: Sequences) -> Sequences:
        """Compress H to `tokens` tokens and let the modalities read them."""
        mask = None if sequences.H_mask is None else sequences.H_mask[:, : self.tokens]
        B = self.redistribute(sequences.H, source_mask=sequences.H_mask)[:, : self.tokens]  # eq. 6
        read = self.multi_ca(B, sequences.features, sequences.masks)  # eq. 8
        H = self.multi_ca_norm(B, read)
        H = self.feed_forward_norm(H, self.feed_forward(H))  # eq. 7
        features = {m: self.update[m](sequences.features[m], H, mask) for m in MODALITIES}  # eq. 9
        return Sequences(H, mask, features, sequences.masks)


class BottleneckFusion(Fusion):
    """Bottleneck fusion over L layers; `hierarchical` halves the tokens from layer to layer."""

    def __init__(self, shape: FusionShape, *, hierarchical: bool) -> None:
        super().__init__()
        self.output_dim = 4 * shape.dim
        p = shape.bottleneck_tokens
        self.layers = nn.ModuleList(
            BottleneckFusionLayer(shape, max(1, p >> level) if hierarchical else p)
            for level in range(shape.layers)
        )

    def forward(self, sequences: Sequences) -> Tensor:
        """Fuse to `(B, 4d)`."""
        for layer in self.layers:
            sequences = layer(sequences)
        return first_tokens(sequences.features, sequences.H)


class PredictionHead(nn.Sequential):
    """The multilayer perceptron of section III-F: width to 2d, d and 1."""

    def __init__(self, width: int, dim: int, activation: Activation = "relu") -> None:
        super().__init__(
            nn.Linear(width, 2 * dim),
            activation_module(activation),
            nn.Linear(2 * dim, dim),
            activation_module(activation),
            nn.Linear(dim, 1),
        )


def build_fusion(name: FusionName, shape: FusionShape) -> Fusion:
    """Make a fusion mechanism of Table V by its name."""
    if name == "concat":
        return Concat(shape)
    if name == "concat_sa":
        return ConcatSelfAttention(shape)
    if name == "ca":
        return CrossAttentionFusion(shape)
    return BottleneckFusion(shape, hierarchical=name == "hbf")
