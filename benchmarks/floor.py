"""The floor of a model's time: its floating-point operations at the rate of a matrix product.

Operations of a sample without padding are a polynomial of second degree in its three lengths
(linear layers and recurrent ones are linear in a length, attention takes products of two), so they
are counted on some samples and computed for all others. `step.py` uses this.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import measuring
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Lengths = Sequence[int]  # tokens of text, frames of audio and of vision
FITTED, TRIED = 12, 4  # samples that decide the polynomial, and those on which it is tried


@dataclass(frozen=True)
class Cost:
    """Operations of a sample by its lengths.

    Attributes:
        coefficients: Of `terms`.
        error: Largest relative error on samples that did not decide the coefficients.
    """

    coefficients: list[float]
    error: float

    def of(self, summed: Sequence[float]) -> float:
        """Operations of samples whose terms are summed up."""
        return sum(c * term for c, term in zip(self.coefficients, summed, strict=True))


def terms(lengths: Sequence[int]) -> list[float]:
    """The terms of a polynomial of second degree in the lengths of a sample."""
    variables = (1.0, *lengths)
    return [a * b for a, b in itertools.combinations_with_replacement(variables, 2)]


def summed_terms(samples: Sequence[Sequence[int]]) -> list[float]:
    """The terms of several samples, added up."""
    each = [terms(lengths) for lengths in samples]
    return [sum(column) for column in zip(*each, strict=True)]


def fitted_cost(
    lengths: Sequence[Lengths], work: Callable[[int], Callable[[], Any]], *, backward: bool
) -> Cost:
    """Fit the operations of a sample to its lengths.

    Args:
        lengths: Of every sample.
        work: From the number of a sample to the computation to be counted, which gives tensors by
            name.
        backward: Count the backward pass from the sum of these tensors too.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    chosen = [order[i] for i in np.linspace(0, len(order) - 1, FITTED + TRIED).astype(int)]
    counts = np.array([operations(work(i), backward=backward) for i in chosen], dtype=float)
    rows = np.array([terms(lengths[i]) for i in chosen], dtype=float)
    scale = rows.max(axis=0)
    tried = np.arange(len(chosen)) % (1 + FITTED // TRIED) == 1
    solution, *_ = np.linalg.lstsq(rows[~tried] / scale, counts[~tried], rcond=None)
    coefficients = solution / scale
    errors = np.abs(rows[tried] @ coefficients / counts[tried] - 1)
    return Cost(coefficients.tolist(), float(errors.max()))


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count floating-point operations of matrix products and convolutions."""
    # The counter knows no fused attention of a CPU nor recurrent layer; these fall into products.
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.mkldnn.flags(enabled=False),
        torch.backends.cudnn.flags(enabled=False),
        FlopCounterMode(display=False) as counter,
    ):
        yield counter


def operations(work: Callable[[], Any], *, backward: bool) -> int:
    """Floating-point operations of a computation."""
    with torch.set_grad_enabled(backward), counted() as counter:
        outputs = work()
        if backward:
            parts = [x.sum() for x in outputs.values() if isinstance(x, torch.Tensor)]
            sum(x for x in parts if x.requires_grad).backward()
    return counter.get_total_flops()


def product_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.rand(2, size, size, device=device, dtype=dtype)

    def product() -> None:
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * size**3 / measuring.median_seconds(product, repeats=5, warm_up=2)
