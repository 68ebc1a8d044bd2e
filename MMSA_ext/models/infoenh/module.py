"""InfoEnh: Feature Information Bottleneck and Feature Information Alignment for any host model.

Between the modality encoders and the fusion of a model, InfoEnh keeps the k most informative tokens
of every modality, gates their features (section 4.1, eq. 1 to 6), and lets every modality see the
others through optimal transport (section 4.2, eq. 7 to 13, Algorithm 1). It knows no host:
sequences and masks go in, enhanced sequences and a loss come out. What the paper leaves open or
prints in a form that cannot be computed is an option of `InfoEnhConfig`; `docs/models/infoenh.md`
lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from MMSA_ext.models.infoenh.alignment import Alignment, Pair, align
from MMSA_ext.models.infoenh.bottleneck import FeatureBottleneck, PooledTokens
from MMSA_ext.models.infoenh.config import InfoEnhConfig, checked_config
from MMSA_ext.models.losses import different_sentiment, info_nce
from MMSA_ext.models.optimal_transport import at_least_float32


@dataclass(frozen=True)
class InfoEnhOutput:
    """What InfoEnh returns; each dict by modality, in the order of `dims`.

    Attributes:
        enhanced: E'_m of eq. 13, `(B, k, enhanced_dim)`.
        mask: `(B, k)` bool, True at the rows of `enhanced` that hold something.
        embeddings: e, the pooled tokens `(B, k, d)`, zero beyond a sample's tokens.
        filtered: z of eq. 3, `(B, k, d)`.
        token_mask: `(B, k)` bool, True at the rows of `embeddings` and `filtered` that exist.
        selected: `(B, k)` int64, positions of the kept tokens in their sequence, ascending; -1 in
            rows that do not exist and where rows are not tokens.
        plans: For every ordered pair (i, j) the plan `(B, k, k)` from i (rows) to j (columns),
            `(B, d, d)` for `cost_axis="feature"`; empty without alignment.
        loss: Scalar: L_FIB (0 without labels) plus the optional terms.
        diagnostics: Detached scalars. `kept_ratio_{m}`: share of open gates; `transport_cost`,
            `plan_entropy` (1 is uniform, by the logarithm of the number of cells), `iterations`:
            means over samples and pairs. Only of the parts that are there.
    """

    enhanced: dict[str, Tensor]
    mask: dict[str, Tensor]
    embeddings: dict[str, Tensor]
    filtered: dict[str, Tensor]
    token_mask: dict[str, Tensor]
    selected: dict[str, Tensor]
    plans: dict[Pair, Tensor]
    loss: Tensor
    diagnostics: dict[str, Tensor]


class InfoEnh(nn.Module):
    """Feature Information Bottleneck, then Feature Information Alignment.

    Works for any number of modalities: the aligned width is d times their number.

    Args:
        dims: Width of every modality's sequence; the order of the names is that of all outputs.
        k: Tokens kept of every modality.
        d: Width of the kept tokens.
        **options: Further fields of `InfoEnhConfig`.

    Raises:
        ConfigError: With every problem of the options in one message.
    """

    def __init__(self, dims: Mapping[str, int], k: int = 8, d: int = 128, **options: Any) -> None:
        super().__init__()
        self.dims = dict(dims)
        self.config = checked_config(self.dims, {"k": k, "d": d} | options)
        self.bottlenecks = nn.ModuleDict(
            {name: FeatureBottleneck(width, self.config) for name, width in self.dims.items()}
        )

    @classmethod
    def from_config(cls, dims: Mapping[str, int], config: InfoEnhConfig) -> Self:
        """Build from a configuration; further fields of a subclass of it are left out."""
        return cls(dims, **{key: getattr(config, key) for key in InfoEnhConfig.model_fields})

    @property
    def enhanced_dim(self) -> int:
        """Width of the enhanced sequences."""
        widened = self.config.alignment or self.config.without_alignment == "repeat"
        return self.config.d * (len(self.dims) if widened else 1)

    def forward(
        self,
        sequences: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        labels: Tensor | None = None,
    ) -> InfoEnhOutput:
        """Enhance the sequences of a batch.

        Args:
            sequences: `(B, L_m, dims[m])` by modality; padding must be finite.
            masks: `(B, L_m)` bool, True where valid. Of a sample without any valid token the first
                token counts as valid, so that every modality has a mass to transport.
            labels: `(B,)` or `(B, 1)`, regression labels for L_FIB; None leaves it out.

        Raises:
            ValueError: If sequences, masks or labels do not fit `dims` or each other.
        """
        _check_inputs(self.dims, sequences, masks, labels)
        pooled = {
            name: part(sequences[name], _with_a_token(masks[name]))
            for name, part in self.bottlenecks.items()
        }
        filtered = {name: tokens.filtered for name, tokens in pooled.items()}
        token_mask = {name: tokens.mask for name, tokens in pooled.items()}
        diagnostics = {
            f"kept_ratio_{name}": tokens.kept_ratio
            for name, tokens in pooled.items()
            if tokens.kept_ratio is not None
        }
        aligned = self._align(filtered, token_mask)
        output = InfoEnhOutput(
            enhanced=aligned.enhanced,
            mask=aligned.mask,
            embeddings={name: tokens.embedding for name, tokens in pooled.items()},
            filtered=filtered,
            token_mask=token_mask,
            selected={name: tokens.selected for name, tokens in pooled.items()},
            plans=aligned.plans,
            loss=self._optional_loss(pooled, aligned),
            diagnostics=diagnostics | aligned.diagnostics,
        )
        if labels is None:
            return output
        return replace(output, loss=output.loss + self.information_loss(output, labels))

    def information_loss(
        self, output: InfoEnhOutput, labels: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """L_FIB of eq. 6, optionally over some samples of the batch only.

        Args:
            output: Of `forward`.
            labels: `(B,)` or `(B, 1)`, of every sample of the output.
            rows: Indices or bool mask of the samples that are anchors and negatives; None is all.

        Returns:
            Scalar, float32 at least; 0 with `bottleneck=False` or where no sample has a negative.
        """
        e, z, mask = (
            torch.stack(list(part.values()))
            for part in (output.embeddings, output.filtered, output.token_mask)
        )
        if not self.config.bottleneck:
            return _zero(e)
        labels = labels.reshape(-1)
        if rows is not None:
            e, z, mask, labels = e[:, rows], z[:, rows], mask[:, rows], labels[rows]
        terms = info_nce(
            e,
            z,
            different_sentiment(labels, self.config.negatives, self.config.negative_distance),
            mask=mask,
            temperature=self.config.temperature,
            feature_similarity=self.config.feature_similarity,
            double_exp=self.config.double_exp,
            include_positive=self.config.include_positive,
        )
        return self.config.alpha * terms.sum()

    def _align(self, filtered: dict[str, Tensor], mask: dict[str, Tensor]) -> Alignment:
        if self.config.alignment:
            return align(filtered, mask, self.config)
        copies = len(self.dims) if self.config.without_alignment == "repeat" else 1
        repeated = {name: z.repeat(1, 1, copies) for name, z in filtered.items()}
        zero = _zero(next(iter(filtered.values())))
        return Alignment(repeated, mask, {}, zero, {})

    def _optional_loss(self, pooled: dict[str, PooledTokens], aligned: Alignment) -> Tensor:
        loss = _zero(aligned.cost)
        if self.config.sparsity_weight:
            gates = [tokens.mean_gate for tokens in pooled.values() if tokens.mean_gate is not None]
            loss = loss + self.config.sparsity_weight * torch.stack(gates).mean()
        if self.config.ot_loss_weight:
            loss = loss + self.config.ot_loss_weight * aligned.cost
        return loss


def _zero(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=at_least_float32(like).dtype, device=like.device)


def _with_a_token(mask: Tensor) -> Tensor:
    """The mask, with the first token valid where none is."""
    empty = ~mask.any(dim=1, keepdim=True)
    return mask | (empty & (torch.arange(mask.shape[1], device=mask.device) == 0))


def _check_inputs(
    dims: dict[str, int],
    sequences: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    labels: Tensor | None,
) -> None:
    for what, given in (("sequences", sequences), ("masks", masks)):
        if set(given) != set(dims):
            raise ValueError(
                f"{what} has the modalities {sorted(given)}; InfoEnh was built for {sorted(dims)}."
            )
    problems = []
    batch = next(iter(sequences.values())).shape[0]
    for name, width in dims.items():
        x, mask = sequences[name], masks[name]
        if x.dim() != 3 or x.shape[-1] != width or x.shape[1] < 1 or x.shape[0] != batch:
            problems.append(
                f"sequences[{name!r}] has shape {tuple(x.shape)}; expected ({batch}, L, {width}) "
                "with L >= 1"
            )
        if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
            problems.append(
                f"masks[{name!r}] is {mask.dtype} of shape {tuple(mask.shape)}; expected "
                f"torch.bool of shape {tuple(x.shape[:2])}"
            )
    if labels is not None and labels.shape not in {(batch,), (batch, 1)}:
        problems.append(
            f"labels has shape {tuple(labels.shape)}; expected ({batch},) or ({batch}, 1)"
        )
    if problems:
        raise ValueError("; ".join(problems) + ".")
