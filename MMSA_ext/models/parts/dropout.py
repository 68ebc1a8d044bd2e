"""Dropout whose mask is cheap to draw on a CPU.

PyTorch draws a CPU mask number by number from one generator, which takes longer than the matrix
products of a narrow layer. Here a mask takes 16 random bits an element from a fast generator that
is seeded by torch's: `torch.manual_seed` decides it, though to other masks than PyTorch's. Other
devices, and compiled steps, use PyTorch's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MMSA_ext.models.eager import on_eager_cpu

_STEPS = 1 << 16  # a probability is a multiple of 1/65536; the scale is that of the multiple


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with `dropout` in training."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements of a float tensor of any shape."""
        return dropout(input, self.p) if self.training else input


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability `p` and scale the others by 1 / (1 - p).

    Args:
        x: Any shape, float.
        p: Probability in [0, 1], on a CPU rounded to a multiple of 1/65536.

    Returns:
        As `x`; `x` itself where `p` is 0.
    """
    if p == 0:
        return x
    dropped = round(p * _STEPS)
    if not on_eager_cpu(x.device) or dropped == _STEPS:
        return F.dropout(x, p)
    keep = _random_bits(x) >= dropped - _STEPS // 2
    kept: Tensor = _Masked.apply(x, keep, _STEPS / (_STEPS - dropped))  # type: ignore[no-untyped-call]
    return kept


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """`dropout` of max(x, 0), which keeps nothing for the backward pass but its result.

    Arguments as for `dropout`.
    """
    dropped = round(p * _STEPS)
    if not on_eager_cpu(x.device) or dropped in (0, _STEPS):
        return dropout(x.relu(), p)
    keep = _random_bits(x) >= dropped - _STEPS // 2
    kept: Tensor = _MaskedRelu.apply(x, keep, _STEPS / (_STEPS - dropped))  # type: ignore[no-untyped-call]
    return kept


def replace_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of every `torch.nn.Dropout` inside a model."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))


def _random_bits(x: Tensor) -> Tensor:
    """Uniform int16 numbers of the shape of `x`."""
    seed = int(torch.randint(torch.iinfo(torch.int64).max, ()))
    words = np.random.Generator(np.random.SFC64(seed)).integers(
        0, 1 << 64, size=-(-x.numel() // 4), dtype=np.uint64
    )
    return torch.from_numpy(words.view(np.int16))[: x.numel()].view(x.shape)


class _Masked(torch.autograd.Function):
    """x * keep * scale; keeps a byte an element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return keep.to(x.dtype).mul_(scale).mul_(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return keep.to(gradient.dtype).mul_(ctx.scale).mul_(gradient), None, None


class _MaskedRelu(torch.autograd.Function):
    """max(x, 0) * keep * scale; where it is positive, x was positive and kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        result = keep.to(x.dtype).mul_(scale).mul_(x.relu())
        ctx.save_for_backward(result)
        ctx.scale = scale
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (result,) = ctx.saved_tensors
        passed = (result > 0).to(gradient.dtype).mul_(ctx.scale)
        return passed.mul_(gradient), None, None
