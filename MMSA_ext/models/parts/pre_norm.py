"""Pre-norm Transformer layers and the way of frames into them, shared by DBF and FDMER.

Padding never changes a result: padded positions are never read, and are zero on the way out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MMSA_ext.models.parts.attention import Activation, FeedForward, MultiHeadAttention
from MMSA_ext.models.parts.encoders import in_length_groups


@dataclass(frozen=True)
class LayerShape:
    """Shape of a pre-norm layer.

    Attributes:
        dim: Width d.
        heads: Attention heads, each d / heads wide.
        feed_forward_dim: Hidden width of the feed-forward network.
        dropout: On both residual branches and inside the feed-forward network; attention weights
            have none, which would be slow on a CPU.
        activation: Of the feed-forward network.
        length_groups: Groups of similar length computed apart, see `in_length_groups`.
    """

    dim: int
    heads: int
    feed_forward_dim: int
    dropout: float
    activation: Activation = "gelu"
    length_groups: int = 1


class PreNormLayer(nn.Module):
    """Self-attention and feed-forward network, each as x + f(LN(x))."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.length_groups = shape.length_groups
        self.attention_norm = nn.LayerNorm(shape.dim)
        self.attention = MultiHeadAttention(shape.dim, shape.heads)
        self.feed_forward_norm = nn.LayerNorm(shape.dim)
        self.feed_forward = FeedForward(
            shape.dim, shape.feed_forward_dim, shape.activation, shape.dropout
        )
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Update a sequence.

        Args:
            x: `(B, L, d)`.
            mask: `(B, L)` bool, True where valid.

        Returns:
            `(B, L, d)`, zero at padding.
        """
        updated = in_length_groups(self._update, x, mask, self.length_groups)
        updated = F.pad(updated, (0, 0, 0, x.shape[1] - updated.shape[1]))
        return updated * mask.unsqueeze(-1)

    def _update(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed, mask))
        updated: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return updated


class FrameEmbedding(nn.Module):
    """Frames to width d by a linear layer, plus learned positions.

    Args:
        feature_dim: Width of a frame.
        dim: Width d.
        max_length: Longest sequence in frames.
    """

    def __init__(self, feature_dim: int, dim: int, max_length: int) -> None:
        super().__init__()
        self.projection = nn.Linear(feature_dim, dim)
        self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed frames `(B, L, feature_dim)`: `(B, L, d)`.

        Raises:
            ValueError: If the sequence is longer than the position table.
        """
        length, longest = frames.shape[1], len(self.positions)
        if length > longest:
            raise ValueError(
                f"{length} frames, but the model was built for at most {longest}; cut the "
                "sequences or set seq_lens and retrain."
            )
        embedded: Tensor = self.projection(frames) + self.positions[:length]
        return embedded
