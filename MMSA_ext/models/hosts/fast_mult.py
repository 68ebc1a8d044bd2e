"""The Transformer of MMSA's MulT, its attention in blocks and without what nobody reads."""

from __future__ import annotations

from contextlib import ExitStack
from functools import wraps
from importlib import import_module
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.parts.blockwise_attention import attend_in_blocks
from MMSA_ext.models.parts.dropout import dropout

_Layer: Any = import_module(
    "MMSA.models.subNets.transformers_encoder.transformer"
).TransformerEncoderLayer


class FastLayer(_Layer):  # type: ignore[misc]  # MMSA is untyped
    """MMSA's pre-norm layer; attention weights are neither held nor returned.

    Attributes:
        last_only: Whether the last position alone is computed, of a layer that reads itself.
    """

    last_only: bool = False
    self_attn: Any
    layer_norms: nn.ModuleList
    fc1: nn.Module
    fc2: nn.Module

    def forward(self, x: Tensor, x_k: Tensor | None = None, x_v: Tensor | None = None) -> Tensor:
        """Update a sequence from itself or another.

        Args:
            x: `(T, B, D)`.
            x_k: `(S, B, D)`, gives the keys; None is `x`.
            x_v: `(S, B, D)`, gives the values; None is `x`.

        Returns:
            `(T, B, D)`, or its last position `(1, B, D)`.
        """
        norm, expand_norm = self.layer_norms
        query = norm(x)
        key = query if x_k is None else norm(x_k)
        value = query if x_v is None else norm(x_v)
        # MMSA's mask; the last position reads everything.
        lead = abs(len(key) - len(query)) if self.attn_mask else None
        if self.last_only:
            x, query, lead = x[-1:], query[-1:], None
        x = x + self._dropped(self._attention(query, key, value, lead), self.res_dropout)
        hidden = self._dropped(F.relu(self.fc1(expand_norm(x))), self.relu_dropout)
        return x + self._dropped(self.fc2(hidden), self.res_dropout)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, lead: int | None) -> Tensor:
        """What MMSA's attention gives beside its weights, `(T, B, D)`."""
        module = self.self_attn

        def heads(x: Tensor) -> Tensor:
            return x.reshape(len(x), -1, module.head_dim).transpose(0, 1)

        read = attend_in_blocks(
            heads(module.in_proj_q(query) * module.scaling),
            heads(module.in_proj_k(key)),
            heads(module.in_proj_v(value)),
            lead=lead,
            dropout=module.attn_dropout if self.training else 0.0,
        )
        projected: Tensor = module.out_proj(read.transpose(0, 1).reshape(query.shape))
        return projected

    def _dropped(self, x: Tensor, p: float) -> Tensor:
        return dropout(x, p) if self.training else x


def read_last_position(undo: ExitStack) -> None:
    """Let MulT's three last Transformers compute the last position alone, which is all it reads."""
    model = import_module("MMSA.models.singleTask.MULT").MULT
    get_network = model.get_network

    @wraps(get_network)
    def get_network_of_last(self: Any, self_type: str = "l", layers: int = -1) -> Any:
        network = get_network(self, self_type, layers)
        network.layers[-1].last_only = self_type.endswith("_mem")
        return network

    mmsa_bridge.replace_attribute(undo, model, "get_network", get_network_of_last)
