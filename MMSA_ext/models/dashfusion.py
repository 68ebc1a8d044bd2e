"""DashFusion: dual-stream alignment with hierarchical bottleneck fusion (Wen et al.).

Two readings are registered. `dashfusion` follows the paper, with sound masks and correct retrieval;
`dashfusion_released` computes what the authors' code computes. Each difference is one configuration
key, documented at `DashFusionConfig`; docs/deviations.md lists them side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from MMSA_ext.config import RunConfig
from MMSA_ext.data.loader import Batch
from MMSA_ext.data.retrieval import ClassRule, ContrastSets, RetrievalConfig, RetrievalMode
from MMSA_ext.losses import PairLosses, Reduction, Similarity, nt_xent, nt_xent_in_batch
from MMSA_ext.models.attention import (
    Activation,
    MultiSourceAttention,
    ResidualStyle,
    masked_mean,
)
from MMSA_ext.models.contract import MSAModel, StepBatch, StepOutput, inputs
from MMSA_ext.models.encoders import FrameEncoder, Projector, TextEncoder
from MMSA_ext.models.fusion import (
    MODALITIES,
    FusionName,
    FusionShape,
    PredictionHead,
    Sequences,
    build_fusion,
)
from MMSA_ext.models.packing import Packing, Ragged
from MMSA_ext.registry import register_model
from MMSA_ext.training.trainer import Trainer

PAPER = (
    "DashFusion: Dual-stream Alignment with Hierarchical Bottleneck Fusion for Multimodal "
    "Sentiment Analysis (Wen et al.)"
)


class DashFusionConfig(RunConfig):
    """Configuration of DashFusion: the paper's hyper-parameters, its ablations, and readings.

    Where paper and released code differ, the default is the paper's, and the released value is
    named in brackets.

    Attributes:
        dim: Width d of all sequences (section IV-D).
        heads: Attention heads.
        feed_forward_dim: Hidden width of feed-forward networks.
        encoder_layers: Layers of the audio and of the vision encoder.
        fusion_layers: L, layers of the fusion.
        bottleneck_tokens: p, bottleneck tokens of the first fusion layer (Fig. 4).
        contrast_weight: lambda of eq. 12.
        temperature: tau of eq. 5.
        temporal_alignment: Table IV; False replaces H by what `without_temporal` says.
        semantic_alignment: Table IV; False drops the text-vision and text-audio pairs.
        supervised_contrast: Table IV; False drops the pairs with retrieved samples.
        fusion: Table V; `concat` is Table IV's row without HBF too.
        without_temporal: What stands for H without temporal alignment: `learned` bottleneck tokens
            (as the paper says for its ablation) or `text`, H = X_t.
        activation: ReLU as printed [GELU].
        text_projector: `linear` [`mlp`], see `TextEncoder`.
        embedding_dropout: Dropout on the embedded frames.
        encoder_dropout: Dropout inside the audio and vision encoders [0.5].
        encoder_attention_dropout: Dropout on their attention weights [0.5]. Default 0: it forces a
            slow attention path and the paper does not ask for it.
        encoder_final_norm: LayerNorm after the audio and vision encoders [True].
        alignment_head_dim: Width of an alignment head; None is d / heads [32].
        shared_query: Alignment and Multi-CA with one query (and one or no output) projection for
            all source modalities, without biases [True].
        fusion_style: `post_norm`, LN(x + f(x)) [`branch_norm`, x + LN(f(x))].
        fusion_output_projection: Whether attention inside the fusion ends in a linear layer
            [False].
        fusion_scale: `head` scales logits by 1/sqrt(d_k) [`model`: 1/sqrt(d)].
        masking: `full` masks every attention [`encoders`: alignment and fusion see padding].
        frame_mask: Valid frames by their `lengths` [`nonzero`: rows whose sum is not 0].
        pad_frames: Pad audio and vision to the data set's full length, which matters only where
            padding is seen [True].
        multimodal_global: Global feature of H: `mean` over tokens [`first` token].
        similarity: Of the contrastive loss; cosine, the paper writes a dot product.
        semantic_negatives: Negatives of semantic alignment: the other anchors of the `batch`, in
            the positive's modality [`retrieved_text`: text of the retrieved negatives].
        contrast_reduction: See `PairLosses.reduce` [`mean_released`].
        contrast_classes: Classes for retrieval: labels `exact` (SIMS) or `rounded` (MOSI, MOSEI).
        retrieval: `correct` or [`rank_position`], see `RetrievalConfig`.
        candidates: Retrieved candidates of each kind.
        refresh_epochs: Epochs between two refreshes of the similarity.
        retrieved_features: `encoded`: retrieved samples are encoded in every step, with gradients.
            `bank`: their features are those of the last refresh, without gradients; a step then
            encodes the anchors only. docs/speed.md says what that gains and costs.
        similar_window, dissimilar_window: Shares of the ranking searched by `rank_position`.
        length_groups: Groups of similar length in which sequences attend, to save padding; changes
            no result beyond rounding and the draws of dropout.
    """

    dim: int = Field(128, ge=1)
    heads: int = Field(8, ge=1)
    feed_forward_dim: int = Field(256, ge=1)
    encoder_layers: int = Field(2, ge=1)
    fusion_layers: int = Field(2, ge=1)
    bottleneck_tokens: int = Field(8, ge=1)
    contrast_weight: float = Field(0.2, ge=0)
    temperature: float = Field(0.5, gt=0)

    temporal_alignment: bool = True
    semantic_alignment: bool = True
    supervised_contrast: bool = True
    fusion: FusionName = "hbf"
    without_temporal: Literal["learned", "text"] = "learned"

    activation: Activation = "relu"
    text_projector: Projector = "linear"
    embedding_dropout: float = Field(0.1, ge=0, lt=1)
    encoder_dropout: float = Field(0.1, ge=0, lt=1)
    encoder_attention_dropout: float = Field(0.0, ge=0, lt=1)
    encoder_final_norm: bool = False
    alignment_head_dim: int | None = Field(None, ge=1)
    shared_query: bool = False
    fusion_style: ResidualStyle = "post_norm"
    fusion_output_projection: bool = True
    fusion_scale: Literal["head", "model"] = "head"
    masking: Literal["full", "encoders"] = "full"
    frame_mask: Literal["lengths", "nonzero"] = "lengths"
    pad_frames: bool = False
    multimodal_global: Literal["mean", "first"] = "mean"
    similarity: Similarity = "cosine"
    semantic_negatives: Literal["batch", "retrieved_text"] = "batch"
    contrast_reduction: Reduction = "mean_live"
    contrast_classes: ClassRule = "rounded"
    retrieval: RetrievalMode = "correct"
    candidates: int = Field(10, ge=1)
    refresh_epochs: int = Field(2, ge=1)
    retrieved_features: Literal["encoded", "bank"] = "encoded"
    similar_window: float = Field(1.0, gt=0, le=1)
    dissimilar_window: float = Field(1.0, gt=0, le=1)
    length_groups: int = Field(8, ge=1)

    @property
    def needs_retrieval(self) -> bool:
        """Whether any loss term reads retrieved samples."""
        if self.contrast_weight == 0:
            return False
        return self.supervised_contrast or (
            self.semantic_alignment and self.semantic_negatives == "retrieved_text"
        )

    def retrieval_config(self) -> RetrievalConfig | None:
        """How samples are retrieved; None where no loss term needs them."""
        if not self.needs_retrieval:
            return None
        return RetrievalConfig(
            classes=self.contrast_classes,
            candidates=self.candidates,
            refresh_epochs=self.refresh_epochs,
            mode=self.retrieval,
            similar_window=self.similar_window,
            dissimilar_window=self.dissimilar_window,
        )

    def fusion_shape(self) -> FusionShape:
        """Shape of the fusion mechanism."""
        return FusionShape(
            dim=self.dim,
            heads=self.heads,
            feed_forward_dim=self.feed_forward_dim,
            layers=self.fusion_layers,
            bottleneck_tokens=self.bottleneck_tokens,
            activation=self.activation,
            style=self.fusion_style,
            output_projection=self.fusion_output_projection,
            scale=self.dim**-0.5 if self.fusion_scale == "model" else None,
            shared_query=self.shared_query,
        )


class TemporalAlignment(nn.Module):
    """H = X_t + CA(X_t, X_a) + CA(X_t, X_v) (eq. 4): audio and vision on the text's time axis."""

    def __init__(
        self, dim: int, heads: int, head_dim: int | None = None, *, shared_query: bool = False
    ) -> None:
        super().__init__()
        self.cross_attention = MultiSourceAttention(
            ("audio", "vision"), dim, heads, head_dim, shared_query=shared_query
        )

    def forward(
        self, features: dict[str, Tensor], masks: Mapping[str, Tensor | Packing | None]
    ) -> Tensor:
        """Align `(B, L_m, d)` features, or packed rows `(R_m, d)` of frames: H `(B, L_t, d)`."""
        aligned: Tensor = features["text"] + self.cross_attention(features["text"], features, masks)
        return aligned


@dataclass(frozen=True)
class Representation:
    """Encoded and aligned samples.

    Attributes:
        sequences: H and the unimodal sequences, with the masks that fusion sees.
        globals: `text`, `audio`, `vision` and, with temporal alignment, `multimodal`: `(B, d)`.
    """

    sequences: Sequences
    globals: dict[str, Tensor]


class DashFusion(MSAModel):
    """The model of Fig. 2: encode, align in time and meaning, fuse by a bottleneck, predict."""

    ranked_by = MODALITIES

    def __init__(self, config: DashFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.retrieval = config.retrieval_config()
        self.feature_bank = config.retrieved_features == "bank"
        self.reads_padding = config.masking != "full"
        self.text_encoder = TextEncoder(
            config.dim,
            config.pretrained,
            projector=config.text_projector,
            random_init=config.random_init,
            architecture=config.text_encoder_config,
            length_groups=config.length_groups,
        )
        self.audio_encoder = self._frame_encoder(config, 1)
        self.vision_encoder = self._frame_encoder(config, 2)
        if config.temporal_alignment:
            self.temporal_alignment = TemporalAlignment(
                config.dim,
                config.heads,
                config.alignment_head_dim,
                shared_query=config.shared_query,
            )
        elif config.without_temporal == "learned":
            self.learned_bottleneck = nn.Parameter(
                torch.randn(1, config.bottleneck_tokens, config.dim) * 0.02
            )
        self.fusion = build_fusion(config.fusion, config.fusion_shape())
        self.head = PredictionHead(self.fusion.output_dim, config.dim, config.activation)

    @staticmethod
    def _frame_encoder(config: DashFusionConfig, modality: int) -> FrameEncoder:
        return FrameEncoder(
            config.feature_dims[modality],
            config.dim,
            config.seq_lens[modality],
            layers=config.encoder_layers,
            heads=config.heads,
            feed_forward_dim=config.feed_forward_dim,
            activation=config.activation,
            embedding_dropout=config.embedding_dropout,
            dropout=config.encoder_dropout,
            attention_dropout=config.encoder_attention_dropout,
            final_norm=config.encoder_final_norm,
            length_groups=config.length_groups,
        )

    def represent(
        self,
        text: Tensor,
        audio: Tensor,
        vision: Tensor,
        audio_mask: Tensor | None = None,
        vision_mask: Tensor | None = None,
        fused: Tensor | None = None,
    ) -> Representation:
        """Encode the modalities and align them in time.

        Arguments are those of `forward`, and `fused`, `(b,)` int64: the samples whose sequences are
        wanted; None is all. Global features are always those of all.
        """
        words, words_mask = self.text_encoder(text)
        frames: dict[str, Ragged] = {
            "audio": self.audio_encoder(*self._frames(audio, audio_mask, 1)),
            "vision": self.vision_encoder(*self._frames(vision, vision_mask, 2)),
        }
        pooled = {"text": masked_mean(words, words_mask)} | {m: x.mean() for m, x in frames.items()}
        full = self.config.masking == "full"
        if self.config.temporal_alignment:
            H = self._align(words, frames, full=full)
            pooled["multimodal"] = (
                masked_mean(H, words_mask) if self.config.multimodal_global == "mean" else H[:, 0]
            )
            H_mask = words_mask if full else None
        elif self.config.without_temporal == "text":
            H, H_mask = words, words_mask if full else None
        else:
            H, H_mask = self.learned_bottleneck.expand(len(text), -1, -1), None

        def take(x: Tensor) -> Tensor:
            return x if fused is None else x.index_select(0, fused)

        features, masks = {"text": take(words)}, {"text": take(words_mask)}
        for m, x in frames.items():
            features[m], masks[m] = x.padded() if fused is None else x.take(fused, trim=full)
        seen = {m: masks[m] if full else None for m in MODALITIES}
        H_mask = None if H_mask is None else take(H_mask)
        return Representation(Sequences(take(H), H_mask, features, seen), pooled)

    def _align(self, words: Tensor, frames: dict[str, Ragged], *, full: bool) -> Tensor:
        """H `(B, L_t, d)`; padding of frames is not even there, unless alignment sees it."""
        sources: dict[str, Tensor] = {"text": words}
        masks: dict[str, Packing | None] = {}
        for m, x in frames.items():
            sources[m], masks[m] = (x.rows, x.packing) if full else (x.padded()[0], None)
        aligned: Tensor = self.temporal_alignment(sources, masks)
        return aligned

    def forward(
        self,
        text: Tensor,
        audio: Tensor,
        vision: Tensor,
        audio_mask: Tensor | None = None,
        vision_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Predict; see `MSAModel.forward`."""
        represented = self.represent(text, audio, vision, audio_mask, vision_mask)
        return self._outputs(represented)

    def training_step(self, step: StepBatch) -> StepOutput:
        """Prediction loss of the anchors and, weighted, the contrastive loss (eq. 10 to 12)."""
        text, audio, vision, audio_mask, vision_mask = inputs(step.samples)
        represented = self.represent(text, audio, vision, audio_mask, vision_mask, step.anchors)
        outputs = self._outputs(represented)
        labels = step.samples["labels"]["M"][step.anchors]
        losses = {"prediction_loss": F.mse_loss(outputs["M"], labels)}  # eq. 10
        pairs = self._contrastive_pairs(represented.globals, step.anchors, step.contrast, step.bank)
        if pairs:
            contrast = PairLosses.concatenate(pairs).reduce(self.config.contrast_reduction)
            losses["contrastive_loss"] = self.config.contrast_weight * contrast  # eq. 12
        return StepOutput(outputs["M"], losses)

    def contrast_features(self, batch: Batch) -> dict[str, Tensor]:
        """Global features of T, A, V and H; the unimodal ones rank samples."""
        return self.represent(*inputs(batch)).globals

    def _outputs(self, represented: Representation) -> dict[str, Tensor]:
        fused = self.fusion(represented.sequences)
        return {
            "M": self.head(fused),
            "Feature_t": represented.globals["text"],
            "Feature_a": represented.globals["audio"],
            "Feature_v": represented.globals["vision"],
            "Feature_f": fused,
        }

    def _contrastive_pairs(
        self,
        pooled: dict[str, Tensor],
        anchors: Tensor,
        contrast: ContrastSets | None,
        bank: dict[str, Tensor] | None = None,
    ) -> list[PairLosses]:
        """Pairs of semantic alignment and supervised contrastive learning (III-C and III-D)."""
        config, retrieved = self.config, bank or pooled
        if config.contrast_weight == 0:
            return []
        pairs: list[PairLosses] = []
        options: dict[str, Any] = {"temperature": config.temperature, "kind": config.similarity}
        if config.semantic_alignment:
            text = pooled["text"][anchors]
            for partner in ("vision", "audio"):
                other = pooled[partner][anchors]
                if contrast is not None and config.semantic_negatives == "retrieved_text":
                    negatives = F.embedding(contrast.negatives, retrieved["text"])
                    pairs.append(
                        nt_xent(
                            text,
                            other[:, None],
                            negatives,
                            negative_mask=contrast.negative_mask,
                            **options,
                        )
                    )
                else:
                    pairs.append(nt_xent_in_batch(text, other, **options))
        if config.supervised_contrast and contrast is not None:
            pairs += [
                nt_xent(
                    feature[anchors],
                    # Not feature[rows]: its gradient adds repeated rows in a varying order.
                    F.embedding(contrast.positives, retrieved[name]),
                    F.embedding(contrast.negatives, retrieved[name]),
                    contrast.positive_mask,
                    contrast.negative_mask,
                    **options,
                )
                for name, feature in pooled.items()
            ]
        return pairs

    def _frames(self, frames: Tensor, mask: Tensor | None, modality: int) -> tuple[Tensor, Tensor]:
        """Frames and the mask of valid ones, by the configured rule."""
        if self.config.pad_frames:
            missing = max(0, self.config.seq_lens[modality] - frames.shape[1])
            frames = F.pad(frames, (0, 0, 0, missing))
            mask = F.pad(mask, (0, missing)) if mask is not None else None
        if self.config.frame_mask == "nonzero":
            mask = frames.sum(dim=-1) != 0
            mask[:, 0] = True
        elif mask is None:
            mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        return frames, mask


@register_model("dashfusion", config=DashFusionConfig, trainer=Trainer, paper=PAPER)
def build_dashfusion(args: Any) -> DashFusion:
    """DashFusion as printed, with the decisions of docs/deviations.md."""
    return DashFusion(DashFusionConfig.from_args(args))


class ReleasedDashFusionConfig(DashFusionConfig):
    """The released code's reading: every bracketed value of `DashFusionConfig` as the default."""

    activation: Activation = "gelu"
    text_projector: Projector = "mlp"
    encoder_dropout: float = Field(0.5, ge=0, lt=1)
    encoder_attention_dropout: float = Field(0.5, ge=0, lt=1)
    encoder_final_norm: bool = True
    alignment_head_dim: int | None = Field(32, ge=1)
    shared_query: bool = True
    fusion_style: ResidualStyle = "branch_norm"
    fusion_output_projection: bool = False
    fusion_scale: Literal["head", "model"] = "model"
    masking: Literal["full", "encoders"] = "encoders"
    frame_mask: Literal["lengths", "nonzero"] = "nonzero"
    pad_frames: bool = True
    multimodal_global: Literal["mean", "first"] = "first"
    semantic_negatives: Literal["batch", "retrieved_text"] = "retrieved_text"
    contrast_reduction: Reduction = "mean_released"
    retrieval: RetrievalMode = "rank_position"
    decay_norms: bool = True
    KeyEval: str = "MAE"
    early_stop: int | None = Field(None, ge=0)
    first_selected_epoch: int = Field(2, ge=1)
    length_groups: int = Field(1, ge=1)


@register_model(
    "dashfusion_released", config=ReleasedDashFusionConfig, trainer=Trainer, paper=PAPER
)
def build_released(args: Any) -> DashFusion:
    """DashFusion as the authors' released code computes it."""
    return DashFusion(ReleasedDashFusionConfig.from_args(args))
