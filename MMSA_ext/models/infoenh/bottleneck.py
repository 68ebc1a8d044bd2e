"""Feature Information Bottleneck: top-k tokens of one modality, and gates on their features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MMSA_ext.models.infoenh.config import InfoEnhConfig
from MMSA_ext.models.optimal_transport import at_least_float32
from MMSA_ext.models.parts.attention import activation_module


@dataclass(frozen=True)
class PooledTokens:
    """One modality behind the bottleneck.

    Attributes:
        embedding: e, `(B, k, d)`.
        filtered: z, `(B, k, d)`.
        mask: `(B, k)` bool.
        selected: `(B, k)` int64, -1 where absent.
        mean_gate: Scalar with gradient, mean of g over existing rows; None without gates.
        kept_ratio: Detached scalar, share of open gates; None without gates.
    """

    embedding: Tensor
    filtered: Tensor
    mask: Tensor
    selected: Tensor
    mean_gate: Tensor | None = None
    kept_ratio: Tensor | None = None


class FeatureBottleneck(nn.Module):
    """FNN, top-k pooling and gate of one modality (InfoEnh section 4.1, eq. 1 to 3).

    Args:
        in_dim: Width of the modality's sequence.
        config: Options.
    """

    gate_values: Tensor

    def __init__(self, in_dim: int, config: InfoEnhConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Sequential(
            nn.Linear(in_dim, config.d), activation_module(config.activation)
        )
        if config.pool == "token_score":
            self.scorer = nn.Linear(config.d, 1)
        gate_width = config.d if config.gate == "element" else 1
        if config.bottleneck and config.gates == "learned":
            self.gate = nn.Linear(config.d, gate_width)
        elif config.bottleneck:
            self.register_buffer("gate_values", torch.rand(config.k, gate_width))

    def forward(self, sequence: Tensor, mask: Tensor) -> PooledTokens:
        """Pool and gate `(B, L, in_dim)` with mask `(B, L)`, one token valid at least."""
        e, kept, selected = self._pool(sequence, mask)
        if not self.config.bottleneck:
            return PooledTokens(e, e, kept, selected)
        g = self._gates(e)
        opened = g > self.config.gate_threshold
        m = g.masked_fill(~opened, 0.0)
        if self.config.straight_through:
            m = g + (m - g).detach()
        rows = kept.unsqueeze(-1)
        return PooledTokens(
            e, e * m, kept, selected, _mean_over(g, rows), _mean_over(opened, rows).detach()
        )

    def _pool(self, sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows `(B, k, d)`, which of them exist, and the positions they come from."""
        if self.config.pool == "kmax_per_channel":
            return _largest_per_channel(self.project(sequence), mask, self.config.k)
        with torch.no_grad():
            selected = _best_positions(self._ranking(sequence, mask), mask, self.config.k)
        # From here on with a gradient: nothing else reads the tokens that are not kept.
        kept = selected >= 0
        index = selected.clamp(min=0).unsqueeze(-1)
        rows = self.project(sequence.gather(1, index.expand(-1, -1, sequence.shape[-1])))
        if self.config.pool == "token_score":
            rows = rows * self.scorer(rows).sigmoid()
        return rows.masked_fill(~kept.unsqueeze(-1), 0.0), kept, selected

    def _ranking(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """What ranks the tokens, `(B, L)`; -inf where not valid."""
        tokens = self.project(sequence)
        values: Tensor
        if self.config.pool == "token_norm":
            values = torch.linalg.vector_norm(at_least_float32(tokens), dim=-1)
        else:
            values = self.scorer(tokens).squeeze(-1)
        return values.masked_fill(~mask, -torch.inf)

    def _gates(self, e: Tensor) -> Tensor:
        """The gates g of eq. 1: `(B, k, d)`, or `(B, k, 1)` for a gate per token."""
        if self.config.gates == "random":
            return self.gate_values.to(e.dtype).expand(e.shape[0], -1, -1)
        gates: Tensor = self.gate(e).sigmoid()
        return gates


def _best_positions(ranking: Tensor, mask: Tensor, k: int) -> Tensor:
    """Positions of the k valid tokens of highest rank, ascending.

    Args:
        ranking: `(B, L)`, -inf where not valid.
        mask: `(B, L)`.
        k: Positions to return.

    Returns:
        `(B, k)` int64, -1 where a sample has no further token.
    """
    length = ranking.shape[1]
    # A stable sort, unlike topk, prefers the earlier of two equal tokens whatever the padding.
    best = ranking.argsort(dim=1, descending=True, stable=True)[:, :k]
    position = best.masked_fill(~mask.gather(1, best), length).sort(dim=1).values
    position = F.pad(position, (0, k - position.shape[1]), value=length)
    return position.masked_fill(position == length, -1)


def _largest_per_channel(tokens: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest values of every channel over the valid tokens, largest first."""
    valid = tokens.masked_fill(~mask.unsqueeze(-1), -torch.inf)
    values = valid.topk(min(k, tokens.shape[1]), dim=1).values
    values = F.pad(values, (0, 0, 0, k - values.shape[1]))
    kept = torch.arange(k, device=mask.device) < mask.sum(dim=1, keepdim=True)
    selected = torch.full_like(kept, -1, dtype=torch.int64)
    return values.masked_fill(~kept.unsqueeze(-1), 0.0), kept, selected


def _mean_over(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of `(B, k, d)` over the rows that `(B, k, 1)` bool marks; float32 at least."""
    values = at_least_float32(values) if values.is_floating_point() else values.float()
    total: Tensor = (values * rows).sum() / (rows.sum() * values.shape[-1])
    return total
