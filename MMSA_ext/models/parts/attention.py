"""Attention blocks in the papers' notation: MHCA, Multi-CA, Transformer layer.

Sequences are `(B, L, D)`; masks are boolean `(B, L)`, True where a position is valid. A masked
source position gets no attention, so a sample's output does not depend on its padding. A source may
be packed instead: rows `(R, D)`, and a `Packing` for the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MMSA_ext.models.eager import on_eager_cpu
from MMSA_ext.models.parts.blockwise_attention import attend_in_blocks
from MMSA_ext.models.parts.dropout import Dropout, dropout, relu_dropout
from MMSA_ext.models.parts.packing import Packing

Activation = Literal["relu", "gelu"]
ResidualStyle = Literal["post_norm", "branch_norm"]
_LONG = 128  # queries and keys; the weights of shorter sequences are as fast to work on whole


def activation_module(name: Activation) -> nn.Module:
    """The activation of a feed-forward network."""
    return nn.ReLU() if name == "relu" else nn.GELU()


def masked_mean(sequence: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the valid positions.

    Args:
        sequence: `(B, L, D)`.
        mask: `(B, L)`, True where valid; None takes every position.

    Returns:
        `(B, D)`; zero where a sample has no valid position.
    """
    if mask is None:
        return sequence.mean(dim=1)
    weight = mask.unsqueeze(-1).to(sequence.dtype)
    return (sequence * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads (DashFusion eq. 2 and 3).

    Args:
        dim: Width of target and source.
        heads: Number of heads.
        head_dim: Width of a head; `dim // heads` if None.
        bias: Whether the projections of query, key and value have a bias.
        output_projection: Whether a linear layer follows the heads.
        scale: Factor on the logits; `1 / sqrt(head_dim)` if None.
        dropout: Dropout on the attention weights.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int | None = None,
        *,
        bias: bool = True,
        output_projection: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        head_dim = head_dim or dim // heads
        inner = heads * head_dim
        if not output_projection and inner != dim:
            raise ValueError(f"heads x head_dim is {inner}: without output projection, not {dim}")
        self.heads, self.scale, self.dropout = heads, scale, dropout
        self.query = nn.Linear(dim, inner, bias=bias)
        self.key = nn.Linear(dim, inner, bias=bias)
        self.value = nn.Linear(dim, inner, bias=bias)
        self.output = nn.Linear(inner, dim) if output_projection else nn.Identity()

    def forward(
        self, target: Tensor, source: Tensor, source_mask: Tensor | Packing | None = None
    ) -> Tensor:
        """Let every target position read the source.

        Args:
            target: `(B, T, D)`, gives the queries; or the rows of a packed source.
            source: `(B, S, D)`, gives keys and values; or packed rows `(R, D)`.
            source_mask: `(B, S)`, True where valid; None if all are; or how the rows are packed;
                or `(B, T, S)`, for each target position what it may read.

        Returns:
            As `target`.
        """
        if source is target:
            query, key, value = project(target, self.query, self.key, self.value)
        else:
            query = self.query(target)
            key, value = project(source, self.key, self.value)
        return attend(
            query,
            key,
            value,
            source_mask,
            heads=self.heads,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
            output=self.output,
        )


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """What each of some linear layers makes of `x` `(..., D)`.

    On a CPU one after the other, which is as fast as it can be. Elsewhere by one matrix product
    with their weights side by side, for which the host starts fewer operations.
    """
    if x.device.type == "cpu":
        return tuple(layer(x) for layer in layers)
    linear = cast("tuple[nn.Linear, ...]", layers)
    weights: list[Tensor] = [layer.weight for layer in linear]
    biases: list[Tensor] = [layer.bias for layer in linear if layer.bias is not None]
    made = F.linear(x, torch.cat(weights), torch.cat(biases) if biases else None)
    return torch.split(made, [layer.out_features for layer in linear], dim=-1)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source_mask: Tensor | Packing | None,
    *,
    heads: int,
    scale: float | None = None,
    dropout: float = 0.0,
    output: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Multi-head attention on projected sequences `(B, T, inner)`, `(B, S, inner)`.

    A packed source is given as rows `(R, inner)`; the queries then are those of the same rows, or
    padded as ever. Each sample attends to itself.

    `output` maps what is read, position by position; block by block in a packed source, so that
    the backward pass needs no second copy of what was read.
    """
    if isinstance(source_mask, Packing):
        packing, packed_query = source_mask, query.dim() == 2
        queries = packing.split_rows(query) if packed_query else packing.split_samples(query)
        keys, values = packing.split_rows(key), packing.split_rows(value)
        mixed = [
            attend(q, k, v, block.mask, heads=heads, scale=scale, dropout=dropout, output=output)
            for block, q, k, v in zip(packing.blocks, queries, keys, values, strict=True)
        ]
        if packed_query:
            return packing.join_rows(mixed)
        return packing.join_samples(mixed)

    def split(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    mask = source_mask
    if mask is not None:  # (B, S) or (B, T, S) to (B, 1, 1 or T, S)
        mask = mask.view(mask.shape[0], 1, -1, mask.shape[-1])
    if dropout > 0 and on_eager_cpu(query.device):
        long = min(query.shape[1], key.shape[1]) > _LONG and (mask is None or mask.shape[2] == 1)
        with_dropout = _attend_in_blocks if long else _attend_with_dropout
        read = with_dropout(split(query), split(key), split(value), mask, scale, dropout)
    else:
        read = F.scaled_dot_product_attention(
            split(query), split(key), split(value), attn_mask=mask, dropout_p=dropout, scale=scale
        )
    joined = read.transpose(1, 2).flatten(-2)
    return joined if output is None else output(joined)


def _attend_with_dropout(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, p: float
) -> Tensor:
    """What `scaled_dot_product_attention` computes, with the cheaper dropout."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-1, -2)
    if mask is None:
        return dropout(logits.softmax(dim=-1), p) @ value
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(dim=-1)
    # Where nothing is valid nothing is read, as in `scaled_dot_product_attention`.
    return dropout(weights.masked_fill(~mask, 0.0), p) @ value


def _attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, p: float
) -> Tensor:
    """`_attend_with_dropout` for a mask of keys, `(B, 1, 1, S)`, and long sequences."""
    batch, heads, length, width = query.shape
    scale = width**-0.5 if scale is None else scale
    read = attend_in_blocks(
        (query * scale).flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        lead=None,
        dropout=p,
        mask=None if mask is None else mask.flatten(0, 2).repeat_interleave(heads, dim=0),
    )
    return read.view(batch, heads, length, -1)


class MultiSourceAttention(nn.Module):
    """Sum over source modalities of cross-modal attention (DashFusion eq. 4 and 8).

    Args:
        sources: Names of the source modalities.
        dim: Width of target and sources.
        heads: Number of heads.
        head_dim: Width of a head; `dim // heads` if None.
        shared_query: One query projection and one (or no) output projection for all sources, all
            inner projections without bias: the released form. By default each source has a complete
            multi-head attention of its own.
        output_projection: Whether linear layers follow the heads.
    """

    def __init__(
        self,
        sources: tuple[str, ...],
        dim: int,
        heads: int,
        head_dim: int | None = None,
        *,
        shared_query: bool = False,
        output_projection: bool = True,
    ) -> None:
        super().__init__()
        self.sources, self.heads, self.shared_query = sources, heads, shared_query
        inner = heads * (head_dim or dim // heads)
        if shared_query:
            self.query = nn.Linear(dim, inner, bias=False)
            self.keys = nn.ModuleDict({m: nn.Linear(dim, inner, bias=False) for m in sources})
            self.values = nn.ModuleDict({m: nn.Linear(dim, inner, bias=False) for m in sources})
            self.output = nn.Linear(inner, dim) if output_projection else nn.Identity()
        else:
            self.attention = nn.ModuleDict(
                {
                    m: MultiHeadAttention(dim, heads, head_dim, output_projection=output_projection)
                    for m in sources
                }
            )

    def forward(
        self,
        target: Tensor,
        sources: Mapping[str, Tensor],
        masks: Mapping[str, Tensor | Packing | None],
    ) -> Tensor:
        """Sum over sources `(B, S_m, D)` of the attention of `target` `(B, T, D)`: `(B, T, D)`.

        Sources may be packed, see `MultiHeadAttention`.
        """
        if not self.shared_query:
            return torch.stack(
                [self.attention[m](target, sources[m], masks[m]) for m in self.sources]
            ).sum(dim=0)
        query = self.query(target)
        read = []
        for m in self.sources:
            key, value = project(sources[m], self.keys[m], self.values[m])
            read.append(attend(query, key, value, masks[m], heads=self.heads))
        mixed: Tensor = self.output(torch.stack(read).sum(dim=0))
        return mixed


class AddNorm(nn.Module):
    """Residual and normalisation: LN(x + f(x)) as printed, or x + LN(f(x)) as released."""

    def __init__(self, dim: int, style: ResidualStyle = "post_norm", dropout: float = 0.0) -> None:
        super().__init__()
        self.style = style
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Join a branch `(B, L, D)` to its input `(B, L, D)`."""
        branch = self.dropout(branch)
        if self.style == "post_norm":
            normed: Tensor = self.norm(x + branch)
        else:
            normed = x + self.norm(branch)
        return normed


class FeedForward(nn.Sequential):
    """Two linear layers with an activation between them."""

    def __init__(
        self, dim: int, hidden: int, activation: Activation = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__(
            nn.Linear(dim, hidden),
            activation_module(activation),
            Dropout(dropout),
            nn.Linear(hidden, dim),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map `(..., dim)` to `(..., dim)`."""
        expand, activation, drop, contract = self
        hidden = expand(input)
        if self.training and isinstance(activation, nn.ReLU) and isinstance(drop, Dropout):
            hidden = relu_dropout(hidden, drop.p)
        else:
            hidden = drop(activation(hidden))
        output: Tensor = contract(hidden)
        return output


class TransformerLayer(nn.Module):
    """Attention, then feed-forward, each with residual and normalisation (DashFusion eq. 1, 9).

    With the source left out it is the self-attention layer of eq. 1; with a source it is the
    cross-modal update of eq. 9.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        feed_forward_dim: int,
        *,
        activation: Activation = "relu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        style: ResidualStyle = "post_norm",
        output_projection: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            dim,
            heads,
            output_projection=output_projection,
            scale=scale,
            dropout=attention_dropout,
        )
        self.attention_norm = AddNorm(dim, style, dropout)
        self.feed_forward = FeedForward(dim, feed_forward_dim, activation, dropout)
        self.feed_forward_norm = AddNorm(dim, style, dropout)

    def forward(
        self,
        x: Tensor,
        source: Tensor | None = None,
        source_mask: Tensor | Packing | None = None,
    ) -> Tensor:
        """Update `x` `(B, L, D)` from `source` `(B, S, D)`, or from itself if that is None.

        Rows `(R, D)` update themselves, with their packing for the mask.
        """
        source = x if source is None else source
        z = self.attention_norm(x, self.attention(x, source, source_mask))
        updated: Tensor = self.feed_forward_norm(z, self.feed_forward(z))
        return updated
