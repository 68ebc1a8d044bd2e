"""Options of InfoEnh, checked."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from MMSA_ext.errors import ConfigError
from MMSA_ext.models.losses import FeatureSimilarity, NegativeRule
from MMSA_ext.models.parts.attention import Activation
from MMSA_ext.validation import explain

Pool = Literal["token_score", "token_norm", "kmax_per_channel"]


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


def checked_config(dims: dict[str, int], options: dict[str, Any]) -> InfoEnhConfig:
    """Options for modalities of these widths.

    Raises:
        ConfigError: With every problem of widths and options in one message.
    """
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
