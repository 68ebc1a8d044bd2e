"""Attention with dropout on its weights that never holds the weights of whole sequences.

Where heads are narrow and sequences long, a CPU spends its time on moving weights through memory:
logits, softmax, dropout and product, there and back. Here some queries of some heads are worked on
at a time, few enough for the processor's cache, and the backward pass computes their weights again,
as FlashAttention (Dao et al., NeurIPS 2022) does on a GPU. Keys that a causal mask hides are left
out. PyTorch's own `scaled_dot_product_attention` does the same on a CPU only without dropout, and
is slower there where a head is narrower than 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_STEPS = 1 << 16  # as in `dropout`: a probability is a multiple of 1/65536
_QUERIES = 64  # of a block
_WEIGHTS = 1 << 17  # of a block, at most, unless a single head has more


def attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    lead: int | None,
    dropout: float,
    mask: Tensor | None = None,
) -> Tensor:
    """softmax(Q K^T) V, with dropout on the weights.

    Args:
        query: `(N, T, d)` float, scaled; N counts samples times heads.
        key: `(N, S, d)`.
        value: `(N, S, d)`.
        lead: Query i reads the keys up to i + `lead`, at least 0; None reads all.
        dropout: Probability with which a weight is dropped, on a CPU rounded to a multiple of
            1/65536; the others are scaled up.
        mask: `(N, S)`, True where a key may be read; None is everywhere.

    Returns:
        `(N, T, d)`; zero where no key may be read.
    """
    if mask is not None:  # of a query that may read nothing, the weights count nothing
        value = value.masked_fill(~mask.unsqueeze(-1), 0.0)
        mask = mask.unsqueeze(1)
    if query.device.type != "cpu":
        if lead is not None:
            seen = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool, device=query.device)
            mask = seen.tril_(lead) if mask is None else seen.tril_(lead) & mask
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=1.0
        )
    read: Tensor = _InBlocks.apply(query, key, value, lead, dropout, mask)  # type: ignore[no-untyped-call]
    return read


class _Block(NamedTuple):
    """Queries of some heads, and the keys that they may read."""

    heads: slice
    queries: slice
    keys: int
    bias: Tensor  # as (heads, queries, keys): 0, or far below where a query may not read a key

    def weights(self, query: Tensor, keys: Tensor) -> Tensor:
        """Softmax of the logits, of `query` `(N, T, d)` and `keys` `(N, d, S)`."""
        chosen = keys[self.heads, :, : self.keys]
        logits = torch.baddbmm(self.bias, query[self.heads, self.queries], chosen)
        return torch.softmax(logits, dim=-1, out=logits)


def _blocks(query: Tensor, keys: int, lead: int | None, mask: Tensor | None) -> Iterator[_Block]:
    heads, length = query.shape[:2]
    hidden = None
    if mask is not None:  # not -inf: a query may be left with no key
        hidden = query.new_zeros(mask.shape).masked_fill_(~mask, torch.finfo(query.dtype).min)
    for first in range(0, length, _QUERIES):
        queries = slice(first, min(first + _QUERIES, length))
        count = queries.stop - first
        seen = keys if lead is None else min(keys, queries.stop + lead)
        bias = query.new_zeros(1 if lead is None else count, seen)
        if lead is not None:
            bias.fill_(float("-inf")).triu_(first + lead + 1)
        together = max(1, _WEIGHTS // (count * seen))
        for head in range(0, heads, together):
            block = slice(head, head + together)
            added = bias if hidden is None else bias + hidden[block, :, :seen]
            yield _Block(block, queries, seen, added)


class _Masks:
    """Dropout masks of blocks, one after the other; of one seed always the same."""

    def __init__(self, dropout: float, seed: int) -> None:
        dropped = round(dropout * _STEPS)
        self.scale = _STEPS / (_STEPS - dropped) if dropped < _STEPS else 0.0
        self._below = float(dropped - _STEPS // 2 - 1)
        self._random = np.random.Generator(np.random.SFC64(seed)) if dropped else None

    def drop(self, weights: Tensor, *more: Tensor) -> None:
        """Zero the same elements of some tensors of one shape, in place."""
        if self._random is None:
            return
        words = self._random.integers(0, 1 << 64, size=-(-weights.numel() // 4), dtype=np.uint64)
        bits = torch.from_numpy(words.view(np.int16))[: weights.numel()].view(weights.shape)
        # Whole numbers: 1 where the bits are above the limit, else 0; faster than a comparison.
        keep = bits.to(weights.dtype).sub_(self._below).clamp_(0, 1)
        for tensor in (weights, *more):
            tensor.mul_(keep)


class _InBlocks(torch.autograd.Function):
    """`attend_in_blocks` on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lead: int | None,
        dropout: float,
        mask: Tensor | None,
    ) -> Tensor:
        ctx.lead, ctx.dropout, ctx.mask = lead, dropout, mask
        ctx.seed = int(torch.randint(torch.iinfo(torch.int64).max, ())) if dropout else 0
        masks = _Masks(dropout, ctx.seed)
        query = query.contiguous()
        keys, values = _upright(key), _upright(value)
        read = torch.empty_like(query)
        for block in _blocks(query, key.shape[1], lead, mask):
            weights = block.weights(query, keys)
            masks.drop(weights)
            values_read = values[block.heads, :, : block.keys].transpose(1, 2)
            read[block.heads, block.queries] = torch.bmm(weights, values_read)
        read.mul_(masks.scale)
        ctx.save_for_backward(query, keys, values, read)
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, keys, values, read = ctx.saved_tensors
        masks = _Masks(ctx.dropout, ctx.seed)
        # The sum over keys of weight times its gradient is that of output times its gradient.
        mean = (gradient * read).sum(dim=-1, keepdim=True)
        gradient = gradient * masks.scale
        queries, gradients = _upright(query), _upright(gradient)
        to_query = torch.empty_like(query)
        to_keys, to_values = torch.zeros_like(keys), torch.zeros_like(values)
        for block in _blocks(query, keys.shape[2], ctx.lead, ctx.mask):
            heads, rows, seen = block.heads, block.queries, slice(block.keys)
            weights = block.weights(query, keys)
            to_weights = torch.bmm(gradient[heads, rows], values[heads, :, seen])
            to_logits = weights.clone()
            masks.drop(weights, to_weights)
            to_values[heads, :, seen] += torch.bmm(gradients[heads, :, rows], weights)
            to_logits.mul_(to_weights.sub_(mean[heads, rows]))
            to_query[heads, rows] = torch.bmm(to_logits, keys[heads, :, seen].transpose(1, 2))
            to_keys[heads, :, seen] += torch.bmm(queries[heads, :, rows], to_logits)
        return to_query, to_keys.transpose(1, 2), to_values.transpose(1, 2), None, None, None


def _upright(x: Tensor) -> Tensor:
    """`(N, d, L)` of `(N, L, d)`, contiguous: products of narrow heads are faster with it."""
    return x.transpose(1, 2).contiguous()
