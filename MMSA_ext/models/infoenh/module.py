"""InfoEnh: Feature Information Bottleneck and Feature Information Alignment for any host model.

Between the modality encoders and the fusion of a model, InfoEnh keeps the k most informative tokens
of every modality, gates their features (section 4.1, eq. 1 to 6), and lets every modality see the
others through optimal transport (section 4.2, eq. 7 to 13, Algorithm 1). It knows no host:
sequences and masks go in, enhanced sequences and a loss come out. What the paper leaves open or
prints in a form that cannot be computed is an option of `InfoEnhConfig`; `docs/infoenh.md` lists
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from MMSA_ext.errors import ConfigError
from MMSA_ext.models.losses import FeatureSimilarity, NegativeRule, different_sentiment, info_nce
from MMSA_ext.models.optimal_transport import (
    at_least_float32,
    barycentric_map,
    cosine_cost,
    entropy,
    full_precision,
    push_forward,
    sinkhorn,
    transport_cost,
)
from MMSA_ext.models.parts.attention import Activation, activation_module, masked_mean
from MMSA_ext.validation import explain

Pool = Literal["token_score", "token_norm", "kmax_per_channel"]
Pair = tuple[str, str]


class InfoEnhConfig(BaseModel):
    """Options of InfoEnh; every default is the paper's text where it can be computed.

    Attributes:
        k: Tokens kept of every modality. The paper gives none; a shorter sample is padded and
            masked.
        d: Width of the kept tokens. The paper gives none.
        activation: Of the FNN in front of the pooling. GELU keeps the sign of features, so that
            cosine costs spread; behind a ReLU all cosines are positive.
        pool: What "top-k feature weights" ranks. `token_score`: a learned score per token, its
            sigmoid multiplied to the token so that the score learns; `token_norm`: the norm of the
            token; `kmax_per_channel`: the k largest values of every channel, whose rows are no
            longer tokens. Rows must be tokens for the transport to mean something.
        gate: A gate for every entry (`element`; m has the shape k x d in eq. 2) or for every token
            (`token`; the text says "gating vector").
        gates: `learned`, or `random`: gates drawn once from U(0, 1) and independent of the input,
            a control of what the selection by content buys.
        gate_threshold: Gates above it are open (0.5 in the paper).
        straight_through: Let the gradient pass closed gates. Off as printed: a closed gate gets no
            gradient of its own, but can reopen since w and b are shared over tokens.
        sparsity_weight: Weight of the mean gate, added to the loss. 0 as printed: then nothing but
            the task closes gates.
        bottleneck: False is "w/o FIB" (Table 2): pooled tokens pass ungated, and L_FIB is absent.
        alignment: False is "w/o FIA" (Table 2).
        without_alignment: What "w/o FIA" returns: the filtered features, k x d, or those repeated
            to the width of the aligned ones (`repeat`), a control of the capacity behind.
        alpha: Weight of the InfoNCE terms (eq. 6; 0.5 in the paper).
        temperature: tau of InfoNCE; the paper prints none.
        double_exp: Both exponentials of eq. 4 and eq. 5. Off: InfoNCE needs a score that is a
            log-ratio, and exp(cosine) spans [0.37, 2.72] only.
        feature_similarity: How eq. 4 reads for matrices; see `losses.info_nce`.
        include_positive: The positive is part of InfoNCE's denominator, without which it bounds no
            mutual information. Eq. 5 prints negatives only.
        negatives: When "their sentiment differs" for regression labels; see
            `losses.different_sentiment`.
        negative_distance: For `negatives="distance"`, in units of the label.
        transport: `barycentric_target`: E_{i->j} is the image of i's tokens inside modality j,
            which reduces the distance between modalities; `source_pushforward`: i's own features,
            moved to j's tokens, closest to eq. 12 as printed.
        cost_axis: Cost between tokens (k x k; "the length of the embeddings") or between feature
            columns (d x d; what C = 1 - E_i^T E_j gives where rows are tokens).
        scale_plan: Multiply by the inverse masses, so that transported rows are means and not
            1/k of them.
        inverse_temperature: lambda of eq. 10. The paper gives none; below about 10 the plan of
            cosine costs is all but uniform, and every token is sent to the mean.
        max_iterations: N of Algorithm 1.
        tolerance: delta of Algorithm 1, transposed; see `optimal_transport.sinkhorn`.
        plan: `sinkhorn`, or a control of what the transport buys: `uniform` (product of the
            masses) or `shuffled` (Sinkhorn's plan, its rows rotated by half their number).
        detach_plan: No gradient through the plan; off: that of the unrolled iteration.
        ot_loss_weight: Weight of the mean transport cost, added to the loss. 0 as printed, although
            the text says that the Wasserstein distance is minimised.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    k: int = Field(8, ge=1)
    d: int = Field(128, ge=1)
    activation: Activation = "gelu"
    pool: Pool = "token_score"
    gate: Literal["element", "token"] = "element"
    gates: Literal["learned", "random"] = "learned"
    gate_threshold: float = Field(0.5, ge=0, lt=1)
    straight_through: bool = False
    sparsity_weight: float = Field(0.0, ge=0)
    bottleneck: bool = True
    alignment: bool = True
    without_alignment: Literal["features", "repeat"] = "features"
    alpha: float = Field(0.5, ge=0)
    temperature: float = Field(1.0, gt=0)
    double_exp: bool = False
    feature_similarity: FeatureSimilarity = "flat"
    include_positive: bool = True
    negatives: NegativeRule = "polarity"
    negative_distance: float = Field(1.0, ge=0)
    transport: Literal["barycentric_target", "source_pushforward"] = "barycentric_target"
    cost_axis: Literal["token", "feature"] = "token"
    scale_plan: bool = True
    inverse_temperature: float = Field(50.0, gt=0)
    max_iterations: int = Field(100, ge=1)
    tolerance: float = Field(0.01, ge=0)
    plan: Literal["sinkhorn", "uniform", "shuffled"] = "sinkhorn"
    detach_plan: bool = False
    ot_loss_weight: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        """Refuse what would leave a run that is called a control or an ablation without effect."""
        gated = self.bottleneck and self.gates == "learned"
        idle = {
            "gates": not self.bottleneck and self.gates != "learned",
            "straight_through": not gated and self.straight_through,
            "sparsity_weight": not gated and self.sparsity_weight > 0,
            "without_alignment": self.alignment and self.without_alignment != "features",
            "plan": not self.alignment and self.plan != "sinkhorn",
            "transport": not self.alignment and self.transport != "barycentric_target",
            "cost_axis": not self.alignment and self.cost_axis != "token",
            "ot_loss_weight": not self.alignment and self.ot_loss_weight > 0,
        }
        needs = {
            "gates": "bottleneck=True",
            "straight_through": "bottleneck=True and gates='learned'",
            "sparsity_weight": "bottleneck=True and gates='learned'",
            "without_alignment": "alignment=False",
        }
        problems = [
            f"{name} needs {needs.get(name, 'alignment=True')}"
            for name, is_idle in idle.items()
            if is_idle
        ]
        if problems:
            raise ValueError(f"it would have no effect: {'; '.join(problems)}")
        return self


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
        self.config = _checked_config(self.dims, {"k": k, "d": d} | options)
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


class TokenReadout(nn.Module):
    """From enhanced tokens to one vector: Linear and GELU per token, then mean, then Linear.

    The nonlinearity has to come before the mean. With uniform masses the mean over rows of a
    transported sequence is the mean of the sequence itself, whatever the plan, so that a plain mean
    of E' does not see the transport at all.

    Args:
        in_dim: `InfoEnh.enhanced_dim`.
        hidden_dim: Width of the read tokens.
        out_dim: Width of the vector.
        normalise: LayerNorm on every token first. FNN, score and gates shrink the features about
            tenfold at the start, so that without it the vector hardly depends on the sample and a
            host begins near a constant prediction.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, *, normalise: bool = True
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim) if normalise else nn.Identity()
        self.token = nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.GELU())
        self.output = nn.Linear(hidden_dim, out_dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Read tokens `(B, k, in_dim)` with mask `(B, k)` into `(B, out_dim)`."""
        vector: Tensor = self.output(masked_mean(self.token(self.norm(tokens)), mask))
        return vector


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
            return self.gate_values.to(e.dtype).expand(len(e), -1, -1)
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


@dataclass(frozen=True)
class Alignment:
    """The modalities behind the alignment.

    Attributes:
        enhanced: E' by modality.
        mask: `(B, k)` by modality.
        plans: By ordered pair.
        cost: Scalar with gradient, mean transport cost over samples and pairs.
        diagnostics: See `InfoEnhOutput`.
    """

    enhanced: dict[str, Tensor]
    mask: dict[str, Tensor]
    plans: dict[Pair, Tensor]
    cost: Tensor
    diagnostics: dict[str, Tensor]


def align(
    filtered: Mapping[str, Tensor], mask: Mapping[str, Tensor], config: InfoEnhConfig
) -> Alignment:
    """Feature Information Alignment (InfoEnh section 4.2, eq. 7 to 13, Algorithm 1).

    All samples and all pairs of modalities are one batch of transport problems; the plan from j to
    i is the transpose of that from i to j.

    Args:
        filtered: z `(B, k, d)` by modality, two at least; zero in absent rows.
        mask: `(B, k)` bool by modality, existing rows first, one at least.
        config: Options.

    Returns:
        Enhanced sequences `(B, k, d x modalities)`. Where the rows of a transported sequence are
        tokens of the other modality (push-forward over tokens, barycentric map over features), a
        row exists if it exists in any modality.
    """
    by_feature = config.cost_axis == "feature"
    points = [at_least_float32(z.mT if by_feature else z) for z in filtered.values()]
    masses = [_uniform_mass(z, None if by_feature else mask[m]) for m, z in filtered.items()]
    pairs = list(itertools.combinations(range(len(points)), 2))
    first, second = zip(*pairs, strict=True)
    with full_precision(points[0]):
        x, y = torch.stack([points[i] for i in first]), torch.stack([points[j] for j in second])
        a, b = torch.stack([masses[i] for i in first]), torch.stack([masses[j] for j in second])
        cost = cosine_cost(x, y)
        plan, iterations = _plan(cost.detach() if config.detach_plan else cost, a, b, config)
        # One row for every point of x, and one for every point of y.
        of_x = barycentric_map(plan, y, a if config.scale_plan else None)
        of_y = push_forward(plan, x, b if config.scale_plan else None)
    if config.transport == "source_pushforward":
        forth, back = of_y, of_x
    else:
        forth, back = of_x, of_y
    if by_feature:
        forth, back = forth.mT, back.mT
    moved = dict(zip(pairs, forth, strict=True))
    moved |= {(j, i): z for (i, j), z in zip(pairs, back, strict=True)}
    mean_cost = transport_cost(plan, cost).mean()
    return Alignment(
        enhanced=_concatenate(filtered, moved),
        mask=_row_masks(mask, config),
        plans=_named_plans(list(filtered), pairs, plan),
        cost=mean_cost,
        diagnostics={
            "transport_cost": mean_cost.detach(),
            "plan_entropy": _normalised_entropy(plan.detach(), a, b),
            "iterations": iterations.to(plan.dtype).mean(),
        },
    )


def _uniform_mass(z: Tensor, mask: Tensor | None) -> Tensor:
    """1/n over the n existing rows `(B, k)`, or 1/d over the columns `(B, d)` without a mask."""
    if mask is None:
        return torch.full_like(z[:, 0], 1 / z.shape[-1], dtype=at_least_float32(z).dtype)
    weight = mask.to(at_least_float32(z).dtype)
    return weight / weight.sum(dim=-1, keepdim=True)


def _plan(cost: Tensor, a: Tensor, b: Tensor, config: InfoEnhConfig) -> tuple[Tensor, Tensor]:
    """Plans `(pairs, B, n, m)` and their iterations, or those of a control."""
    if config.plan == "uniform":
        return a.unsqueeze(-1) * b.unsqueeze(-2), torch.zeros_like(a[..., 0])
    solved = sinkhorn(
        cost,
        config.inverse_temperature,
        row_mass=a,
        column_mass=b,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
    )
    plan = solved.plan
    return _rotate_rows(plan, a) if config.plan == "shuffled" else plan, solved.iterations


def _rotate_rows(plan: Tensor, a: Tensor) -> Tensor:
    """Shift the n existing rows, which come first and have equal masses, by n // 2."""
    count = (a > 0).sum(dim=-1, keepdim=True)
    row = torch.arange(a.shape[-1], device=a.device).expand_as(a)
    source = torch.where(row < count, (row + count // 2) % count, row)
    return plan.gather(-2, source.unsqueeze(-1).expand_as(plan))


def _concatenate(
    filtered: Mapping[str, Tensor], moved: dict[tuple[int, int], Tensor]
) -> dict[str, Tensor]:
    """Eq. 13: every modality and what was transported from it to the others."""
    others = range(len(filtered))
    return {
        name: torch.cat([z, *(moved[i, j].to(z.dtype) for j in others if j != i)], dim=-1)
        for i, (name, z) in enumerate(filtered.items())
    }


def _row_masks(mask: Mapping[str, Tensor], config: InfoEnhConfig) -> dict[str, Tensor]:
    """Which rows of the enhanced sequences exist."""
    if (config.transport == "barycentric_target") == (config.cost_axis == "token"):
        return dict(mask)
    union = torch.stack(list(mask.values())).any(dim=0)
    return dict.fromkeys(mask, union)


def _named_plans(
    names: list[str], pairs: list[tuple[int, int]], plan: Tensor
) -> dict[Pair, Tensor]:
    plans = {(names[i], names[j]): p for (i, j), p in zip(pairs, plan, strict=True)}
    return plans | {(j, i): p.mT for (i, j), p in plans.items()}


def _normalised_entropy(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean entropy of the plans, each relative to the logarithm of its number of cells."""
    cells = (a > 0).sum(dim=-1) * (b > 0).sum(dim=-1)
    # A plan of a single cell has entropy 0 of at most 0; it counts as uniform.
    relative = torch.where(cells > 1, entropy(plan) / cells.clamp(min=2).log(), 1.0)
    return relative.mean()


def _zero(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=at_least_float32(like).dtype, device=like.device)


def _with_a_token(mask: Tensor) -> Tensor:
    """The mask, with the first token valid where none is."""
    empty = ~mask.any(dim=1, keepdim=True)
    return mask | (empty & (torch.arange(mask.shape[1], device=mask.device) == 0))


def _checked_config(dims: dict[str, int], options: dict[str, Any]) -> InfoEnhConfig:
    problems = _problems_of_dims(dims)
    config = None
    try:
        config = InfoEnhConfig.model_validate(options)
    except ValidationError as error:
        problems += explain(error, InfoEnhConfig)
    if options.get("alignment", True) and len(dims) == 1:
        problems.append("dims: alignment needs two modalities; add one or set alignment=False")
    if config is None or problems:
        raise ConfigError(f"InfoEnh has {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    return config


def _problems_of_dims(dims: dict[str, int]) -> list[str]:
    if not dims:
        return ["dims: is empty; name the modalities, for instance {'text': 768, 'audio': 74}"]
    problems = [
        f"dims: {name!r} has width {width!r}; give a positive integer"
        for name, width in dims.items()
        if not isinstance(width, int) or width < 1
    ]
    taken = nn.ModuleDict()
    return problems + [
        f"dims: {name!r} cannot name a modality; take a plain word such as 'text'"
        for name in dims
        if not isinstance(name, str) or not name or "." in name or hasattr(taken, name)
    ]


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
    batch = len(next(iter(sequences.values())))
    for name, width in dims.items():
        x, mask = sequences[name], masks[name]
        if x.dim() != 3 or x.shape[-1] != width or x.shape[1] < 1 or len(x) != batch:
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
