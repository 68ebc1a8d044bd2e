"""Mixed precision of a training step.

Matrix products run in a short format, by torch's autocast. Weights, the parts that predict, and
losses stay in float32, and so does all evaluation: a checkpoint predicts what its record says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from MMSA_ext.models.contract import MSAModel

PrecisionName = Literal["fp32", "bf16", "fp16"]
_SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """What a step is computed in.

    Args:
        name: The key `precision` of the configuration.
        device: Where.

    Attributes:
        scaler: Scales losses so that small gradients survive float16; does nothing otherwise.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if name not in get_args(PrecisionName):
            raise ValueError(f"no precision {name!r}")
        self._dtype, self._device = _SHORT.get(name), device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Around the forward pass and the losses of a step."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    @contextmanager
    def heads_in_float32(self, model: MSAModel) -> Iterator[None]:
        """Inside, the parts of a model that predict ignore autocast."""
        found = dict(model.named_modules())
        heads = [found[name] for name in model.predicts if name in found]
        if self._dtype is None:
            heads = []
        for head in heads:
            head.forward = _in_float32(head, self._device.type)
        try:
            yield
        finally:
            for head in heads:
                del head.forward


def _in_float32(module: nn.Module, device_type: str) -> Any:
    forward = module.forward

    @wraps(forward)
    def full(*given: Tensor) -> Any:
        with torch.autocast(device_type, enabled=False):
            return forward(*(x.float() for x in given))

    return full
