"""A reconstruction of FDMER (Yang et al., ACM MM 2022) from its abstract; not the authors' model.

No text and no code of FDMER is openly available. Certain are the ideas that the abstract names: a
common and a private encoder for the modalities, a modality discriminator that trains both
adversarially, a consistency and a disparity constraint, and a cross-modal attention fusion that
learns adaptive weights. Every form and number below is a choice of this package, listed with its
alternatives in docs/models/systems.md.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from MMSA_ext.config.schema import FineTuneConfig
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch, StepOutput
from MMSA_ext.models.losses import (
    central_moment_discrepancy,
    cosine_consistency,
    difference_loss,
    hsic,
    modality_accuracy,
    modality_classification_loss,
    modality_pairs,
    reverse_gradient,
    similarity_consistency,
)
from MMSA_ext.models.optimal_transport import unit_vectors
from MMSA_ext.models.parts.attention import AddNorm, MultiHeadAttention, masked_mean
from MMSA_ext.models.parts.encoders import PooledTextEncoder
from MMSA_ext.models.parts.pre_norm import FrameEmbedding, LayerShape, PreNormLayer
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import FINE_TUNE_TRAINER, register_model

# Columns of `fusion_weights`.
VECTORS = tuple(f"{part}_{m}" for part in ("common", "private") for m in MODALITIES)
_UNBIASED_NEEDS = 4  # samples

Consistency = Literal["similarity", "cmd", "cosine"]
Disparity = Literal["hsic", "hsic_unbiased", "difference"]


class FDMERReconstructedConfig(FineTuneConfig):
    """Configuration of the reconstruction; all values are choices of this package.

    Attributes:
        dim: Width d of every modality's vectors.
        heads: Attention heads of the audio and vision encoders.
        feed_forward_dim: Hidden width of their feed-forward networks.
        encoder_layers: Their layers.
        dropout: In their layers, in the discriminator and in the head.
        part_norm: LayerNorm behind the common and the private encoders. It bounds the game with the
            discriminator: without it the reversed gradient rewards common parts of any length.
        consistency: L_cons of the common parts: agreement of the modalities' `similarity` matrices,
            central moment discrepancy (`cmd`, as in MISA), or 1 - `cosine` of a sample's parts.
        disparity: L_disp between private and common parts and between private parts: `hsic`, its
            unbiased estimate (`hsic_unbiased`; both times B - 1), or MISA's `difference` loss.
        consistency_weight: l_cons; 0 leaves the term out.
        disparity_weight: l_disp; 0 leaves the term out.
        adversarial_weight: l_adv; 0 leaves the discriminator out.
        fusion_attention: Self-attention over the six vectors.
        fusion_heads: Its heads.
        adaptive_weights: Softmax weights of the six vectors; without them all enter alike, as in
            MISA.
        length_groups: Groups of similar length that are computed apart to save padding; changes no
            result.
    """

    dim: int = Field(128, ge=1)
    heads: int = Field(8, ge=1)
    feed_forward_dim: int = Field(512, ge=1)
    encoder_layers: int = Field(1, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    part_norm: bool = True
    consistency: Consistency = "similarity"
    disparity: Disparity = "hsic"
    consistency_weight: float = Field(1.0, ge=0)
    disparity_weight: float = Field(1.0, ge=0)
    adversarial_weight: float = Field(0.1, ge=0)
    fusion_attention: bool = True
    fusion_heads: int = Field(4, ge=1)
    adaptive_weights: bool = True

    batch_size: int = Field(32, ge=1)
    new_layers_learning_rate: float | None = Field(1e-3, gt=0)
    max_grad_norm: float | None = Field(1.0, gt=0)
    length_groups: int = Field(3, ge=1)

    @property
    def masks_padding(self) -> bool:
        """See `RunConfig`."""
        return True

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key in ("heads", "fusion_heads"):
            if self.dim % getattr(self, key):
                raise ValueError(
                    f"dim is {self.dim} and {key} {getattr(self, key)}: dim must be a multiple of "
                    f"{key}"
                )
        return self


class FramePooling(nn.Module):
    """Frames to one vector: pre-norm Transformer layers, masked mean, LayerNorm.

    Args:
        feature_dim: Width of a frame.
        max_length: Longest sequence in frames.
        config: Shape.
    """

    def __init__(self, feature_dim: int, max_length: int, config: FDMERReconstructedConfig) -> None:
        super().__init__()
        shape = LayerShape(
            dim=config.dim,
            heads=config.heads,
            feed_forward_dim=config.feed_forward_dim,
            dropout=config.dropout,
            length_groups=config.length_groups,
        )
        self.embedding = FrameEmbedding(feature_dim, config.dim, max_length)
        self.layers = nn.ModuleList(PreNormLayer(shape) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """Encode frames `(B, L, feature_dim)` with mask `(B, L)` or None: `(B, d)`."""
        if mask is None:
            mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        x = self.embedding(frames)
        for layer in self.layers:
            x = layer(x, mask)
        pooled: Tensor = self.norm(masked_mean(x, mask))
        return pooled


class AdaptiveFusion(nn.Module):
    """Six vectors read each other, get a weight each, and are joined to one.

    score_i = q · tanh(W v_i + b), softmax over the six; the head reads the weighted vectors side by
    side.
    """

    def __init__(self, config: FDMERReconstructedConfig) -> None:
        super().__init__()
        dim, joined = config.dim, len(VECTORS) * config.dim
        if config.fusion_attention:
            self.attention = MultiHeadAttention(dim, config.fusion_heads)
            self.attention_norm = AddNorm(dim)
        if config.adaptive_weights:
            self.score = nn.Sequential(
                nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False)
            )
        self.config = config
        self.join = nn.Sequential(nn.Linear(joined, joined // 2), nn.ReLU())

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fuse.

        Args:
            vectors: `(B, 6, d)`, in the order of `VECTORS`.

        Returns:
            The fused vector `(B, 3d)`, and the weights `(B, 6)`, which sum to one; None without
            adaptive weights.
        """
        if self.config.fusion_attention:
            vectors = self.attention_norm(vectors, self.attention(vectors, vectors))
        weights = None
        if self.config.adaptive_weights:
            weights = self.score(vectors).squeeze(-1).softmax(dim=-1)
            vectors = vectors * weights.unsqueeze(-1)
        return self.join(vectors.flatten(1)), weights


class FDMERReconstructed(MSAModel):
    """Common and private parts of each modality, told apart by three losses, fused by weights."""

    def __init__(self, config: FDMERReconstructedConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.text_encoder = PooledTextEncoder(
            config.pretrained,
            pooling="mean",
            random_init=config.random_init,
            architecture=config.text_encoder_config,
            length_groups=config.length_groups,
        )
        self.text_projection = nn.Sequential(
            nn.Linear(self.text_encoder.hidden_size, dim), nn.LayerNorm(dim)
        )
        self.audio_encoder = FramePooling(config.feature_dims[1], config.seq_lens[1], config)
        self.vision_encoder = FramePooling(config.feature_dims[2], config.seq_lens[2], config)
        self.common = _part_encoder(config)
        self.private = nn.ModuleDict({m: _part_encoder(config) for m in MODALITIES})
        if config.adversarial_weight > 0:
            self.discriminator = nn.Sequential(
                nn.Linear(dim, dim),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(dim, len(MODALITIES)),
            )
        self.fusion = AdaptiveFusion(config)
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(len(VECTORS) * dim // 2, 1))

    def represent(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Common and private parts, each `(3, B, d)` in the order text, audio, vision."""
        modalities = {
            "text": self.text_projection(self.text_encoder(inputs.text)[0]),
            "audio": self.audio_encoder(inputs.audio, inputs.audio_mask),
            "vision": self.vision_encoder(inputs.vision, inputs.vision_mask),
        }
        common = self.common(torch.stack([modalities[m] for m in MODALITIES]))
        private = torch.stack([self.private[m](modalities[m]) for m in MODALITIES])
        return common, private

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict; see `MSAModel.forward`.

        Returns:
            `M`; `Feature_t`, `Feature_a`, `Feature_v`: common and private part side by side,
            `(B, 2d)`; `Feature_f`: the fused vector, `(B, 3d)`; with adaptive weights
            `fusion_weights`: `(B, 6)`, in the order of `VECTORS`, summing to one.
        """
        return self._outputs(*self.represent(inputs))

    def training_step(self, step: StepBatch) -> StepOutput:
        """Task loss, and the losses of the parts that this batch is large enough for."""
        common, private = (x[:, step.anchors] for x in self.represent(step.inputs))
        outputs = self._outputs(common, private)
        losses = {"prediction_loss": F.mse_loss(outputs["M"], step.labels)}
        diagnostics: dict[str, Tensor] = {}
        if "fusion_weights" in outputs:
            mean = outputs["fusion_weights"].detach().mean(dim=0)
            diagnostics |= {f"weight_{name}": mean[i] for i, name in enumerate(VECTORS)}
        if self.config.adversarial_weight > 0:
            seen = self.discriminator(reverse_gradient(common)), self.discriminator(private)
            losses["adversarial_loss"] = self.config.adversarial_weight * (
                modality_classification_loss(seen[0]) + modality_classification_loss(seen[1])
            )
            diagnostics["discriminator_accuracy_common"] = modality_accuracy(seen[0])
            diagnostics["discriminator_accuracy_private"] = modality_accuracy(seen[1])
        if len(step.anchors) > 1:
            losses |= self._subspace_losses(common, private)
            with torch.no_grad():
                diagnostics["hsic"] = _scaled_hsic(common, private).mean()
                diagnostics["spread_common"] = _spread(common)
                diagnostics["spread_private"] = _spread(private)
        return StepOutput(outputs["M"], losses, diagnostics)

    def _subspace_losses(self, common: Tensor, private: Tensor) -> dict[str, Tensor]:
        """Consistency of the common and disparity of all parts, weighted."""
        config = self.config
        losses = {}
        if config.consistency_weight > 0:
            losses["consistency_loss"] = config.consistency_weight * _consistency(
                config.consistency, common
            )
        enough = config.disparity != "hsic_unbiased" or common.shape[1] >= _UNBIASED_NEEDS
        if config.disparity_weight > 0 and enough:
            losses["disparity_loss"] = config.disparity_weight * _disparity(
                config.disparity, common, private
            )
        return losses

    def _outputs(self, common: Tensor, private: Tensor) -> dict[str, Tensor]:
        fused, weights = self.fusion(torch.cat([common, private]).transpose(0, 1))
        parts = torch.cat([common, private], dim=-1)
        outputs = {
            "M": self.head(fused),
            "Feature_t": parts[0],
            "Feature_a": parts[1],
            "Feature_v": parts[2],
            "Feature_f": fused,
        }
        return outputs if weights is None else outputs | {"fusion_weights": weights}


def _part_encoder(config: FDMERReconstructedConfig) -> nn.Sequential:
    """Encoder of a common or a private part."""
    dim = config.dim
    layers: list[nn.Module] = [nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)]
    return nn.Sequential(*layers, *([nn.LayerNorm(dim)] if config.part_norm else []))


def _consistency(kind: Consistency, common: Tensor) -> Tensor:
    """L_cons of the common parts `(3, B, d)`."""
    if kind == "similarity":
        return similarity_consistency(common)
    return central_moment_discrepancy(common) if kind == "cmd" else cosine_consistency(common)


def _disparity(kind: Disparity, common: Tensor, private: Tensor) -> Tensor:
    """L_disp: the sum over private and common parts, and over pairs of private ones."""
    if kind == "difference":
        return difference_loss(*_pairs_to_separate(common, private)).sum()
    return _scaled_hsic(common, private, unbiased=kind == "hsic_unbiased").sum()


def _scaled_hsic(common: Tensor, private: Tensor, *, unbiased: bool = False) -> Tensor:
    """HSIC x (B - 1) of the six pairs, `(6,)`: the floor of the biased estimate shrinks as 1/B."""
    pairs = _pairs_to_separate(common, private)
    return hsic(*pairs, unbiased=unbiased) * (common.shape[1] - 1)


def _pairs_to_separate(common: Tensor, private: Tensor) -> tuple[Tensor, Tensor]:
    """(P_m, C_m) of each modality, then (P_i, P_j) of each pair: two of `(6, B, d)`."""
    first, second = modality_pairs(private)
    return torch.cat([private, first]), torch.cat([common, second])


def _spread(parts: Tensor) -> Tensor:
    """1 - mean cosine between samples, mean over modalities: 0 where all samples look alike."""
    return 1 - unit_vectors(parts).mean(dim=1).square().sum(dim=-1).mean()


@register_model("fdmer_reconstructed", config=FDMERReconstructedConfig, trainer=FINE_TUNE_TRAINER)
def build_fdmer_reconstructed(args: Any) -> FDMERReconstructed:
    """The reconstruction of FDMER with the choices of docs/models/systems.md."""
    return FDMERReconstructed(FDMERReconstructedConfig.from_args(args))
