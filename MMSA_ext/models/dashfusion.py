"""DashFusion: dual-stream alignment with hierarchical bottleneck fusion (Wen et al.).

Two readings are registered. `dashfusion` follows the paper, with sound masks and correct retrieval;
`dashfusion_released` computes what the authors' code computes. Each difference is one configuration
key, documented at `Reading`; docs/models/dashfusion.md lists them side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from MMSA_ext.config.schema import RunConfig, Scaling
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.data.retrieval import ClassRule, ContrastSets, RetrievalConfig
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch, StepOutput
from MMSA_ext.models.dashfusion_reading import Reading, ReleasedReading
from MMSA_ext.models.losses import PairLosses, nt_xent, nt_xent_in_batch
from MMSA_ext.models.parts.attention import MultiSourceAttention
from MMSA_ext.models.parts.encoders import FrameEncoder, TextEncoder
from MMSA_ext.models.parts.fusion import (
    FusionName,
    FusionShape,
    PredictionHead,
    Sequences,
    build_fusion,
)
from MMSA_ext.models.parts.packing import Packing, Ragged
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import register_model


class DashFusionConfig(RunConfig):
    """Configuration of DashFusion: the paper's hyper-parameters, its ablations, and its reading.

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
        embedding_dropout: Dropout on the embedded frames.
        encoder_dropout: Dropout inside the audio and vision encoders; released: 0.5.
        contrast_classes: Classes for retrieval: labels `exact` (SIMS) or `rounded` (MOSI, MOSEI),
            or between the `borders` of a data set of one's own.
        candidates: Retrieved candidates of each kind.
        refresh_epochs: Epochs between two refreshes of the similarity.
        retrieved_features: `encoded`: retrieved samples are encoded in every step, with gradients.
            `bank`: their features are those of the last refresh, without gradients; a step then
            encodes the anchors only. docs/training.md says what that gains and costs.
        length_groups: Groups of similar length in which sequences attend, to save padding; changes
            no result beyond rounding and the draws of dropout.
        reading: Where paper and released code differ, see `Reading`.
    """

    renamed: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("masking", "frame_mask", "pad_frames"), "reading.padding"
    )

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

    embedding_dropout: float = Field(0.1, ge=0, lt=1)
    encoder_dropout: float = Field(0.1, ge=0, lt=1)
    contrast_classes: ClassRule = "rounded"
    candidates: int = Field(10, ge=1)
    refresh_epochs: int = Field(2, ge=1)
    retrieved_features: Literal["encoded", "bank"] = "encoded"
    length_groups: int = Field(8, ge=1)

    reading: Reading = Reading()

    @property
    def masks_padding(self) -> bool:
        """See `RunConfig`."""
        return self.reading.padding == "masked"

    @property
    def needs_retrieval(self) -> bool:
        """Whether any loss term reads retrieved samples."""
        if self.contrast_weight == 0:
            return False
        return self.supervised_contrast or (
            self.semantic_alignment and self.reading.semantic_negatives == "retrieved_text"
        )

    def retrieval_config(self) -> RetrievalConfig | None:
        """How samples are retrieved; None where no loss term needs them."""
        if not self.needs_retrieval:
            return None
        return RetrievalConfig(
            classes=self.contrast_classes,
            borders=self.class_borders(self.contrast_classes),
            candidates=self.candidates,
            refresh_epochs=self.refresh_epochs,
            mode=self.reading.retrieval,
            similar_window=self.reading.similar_window,
            dissimilar_window=self.reading.dissimilar_window,
        )

    def fusion_shape(self) -> FusionShape:
        """Shape of the fusion mechanism."""
        return FusionShape(
            dim=self.dim,
            heads=self.heads,
            feed_forward_dim=self.feed_forward_dim,
            layers=self.fusion_layers,
            bottleneck_tokens=self.bottleneck_tokens,
            activation=self.reading.activation,
            style=self.reading.fusion_style,
            output_projection=self.reading.fusion_output_projection,
            scale=self.dim**-0.5 if self.reading.fusion_scale == "model" else None,
            shared_query=self.reading.shared_query,
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

    def forward(self, sequences: Mapping[str, Ragged]) -> Ragged:
        """Align text, audio and vision: H, packed as the text is."""
        text = sequences["text"]
        X_t = text.padded()[0]
        rows = {m: x.rows for m, x in sequences.items()}
        packings = {m: x.packing for m, x in sequences.items()}
        return Ragged.of(X_t + self.cross_attention(X_t, rows, packings), text.packing)


@dataclass(frozen=True)
class Representation:
    """Encoded and aligned samples.

    Attributes:
        sequences: H and the unimodal sequences, as fusion reads them.
        globals: `text`, `audio`, `vision` and, with temporal alignment, `multimodal`: `(B, d)`.
    """

    sequences: Sequences
    globals: dict[str, Tensor]


class DashFusion(MSAModel):
    """The model of Fig. 2: encode, align in time and meaning, fuse by a bottleneck, predict.

    Attributes:
        contrasted: Of whose global features the contrastive loss makes pairs.
    """

    ranked_by = MODALITIES
    contrasted: tuple[str, ...] = (*MODALITIES, "multimodal")

    def __init__(self, config: DashFusionConfig) -> None:
        super().__init__()
        self.config, reading = config, config.reading
        self.retrieval = config.retrieval_config()
        self.feature_bank = config.retrieved_features == "bank"
        self.text_rows_read = config.bottleneck_tokens
        self.text_encoder = TextEncoder(
            config.dim,
            config.pretrained,
            projector=reading.text_projector,
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
                reading.alignment_head_dim,
                shared_query=reading.shared_query,
            )
        elif config.without_temporal == "learned":
            self.learned_bottleneck = nn.Parameter(
                torch.randn(1, config.bottleneck_tokens, config.dim) * 0.02
            )
        self.fusion = build_fusion(config.fusion, config.fusion_shape())
        self.head = PredictionHead(self.fusion.output_dim, config.dim, reading.activation)

    @staticmethod
    def _frame_encoder(config: DashFusionConfig, modality: int) -> FrameEncoder:
        return FrameEncoder(
            config.feature_dims[modality],
            config.dim,
            config.seq_lens[modality],
            layers=config.encoder_layers,
            heads=config.heads,
            feed_forward_dim=config.feed_forward_dim,
            activation=config.reading.activation,
            embedding_dropout=config.embedding_dropout,
            dropout=config.encoder_dropout,
            attention_dropout=config.reading.encoder_attention_dropout,
            final_norm=config.reading.encoder_final_norm,
            cloned_layers=config.reading.cloned_layers,
            length_groups=config.length_groups,
        )

    def represent(self, inputs: Inputs, fused: Tensor | None = None) -> Representation:
        """Encode the modalities, align them in time and pool them.

        Args:
            inputs: Of `B` samples, all of which the global features are of.
            fused: `(b,)` int64, the samples that fusion is to read; None is all.
        """
        encoded = self.encode(inputs)
        H = self.align(encoded)
        pooled = self.pool(encoded, H)
        return Representation(self.to_fuse(encoded, H, fused), pooled)

    def encode(self, inputs: Inputs) -> dict[str, Ragged]:
        """X_t, X_a and X_v (section III-B), width d; audio and vision begin with a class token."""
        words, words_mask = self.text_encoder(inputs.text)
        return {
            "text": Ragged.of(words, Packing.of(words_mask, 1)),
            "audio": self.audio_encoder(inputs.audio, inputs.audio_mask),
            "vision": self.vision_encoder(inputs.vision, inputs.vision_mask),
        }

    def align(self, encoded: Mapping[str, Ragged]) -> Ragged:
        """H (section III-C.1), or what stands for it without temporal alignment."""
        text = encoded["text"]
        if self.config.temporal_alignment:
            H: Ragged = self.temporal_alignment(encoded)
            return H
        if self.config.without_temporal == "text":
            return text
        return Ragged.whole(self.learned_bottleneck.expand(text.packing.order.shape[0], -1, -1))

    def pool(self, encoded: Mapping[str, Ragged], H: Ragged) -> dict[str, Tensor]:
        """Global features `(B, d)` of T, A, V and, with temporal alignment, H."""
        pooled = {m: x.mean() for m, x in encoded.items()}
        if self.config.temporal_alignment:
            by_mean = self.config.reading.multimodal_global == "mean"
            pooled["multimodal"] = H.mean() if by_mean else H.first()
        return pooled

    def to_fuse(
        self, encoded: Mapping[str, Ragged], H: Ragged, samples: Tensor | None
    ) -> Sequences:
        """H and the unimodal sequences of some samples `(b,)` int64, padded; None is all."""
        taken = {m: x.take(samples) for m, x in encoded.items()}
        features = {m: x for m, (x, _) in taken.items()}
        masks = {m: mask for m, (_, mask) in taken.items()}
        return Sequences(*H.take(samples), features, masks)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict; see `MSAModel.forward`."""
        return self._outputs(self.represent(inputs))

    def training_step(self, step: StepBatch) -> StepOutput:
        """Prediction loss of the anchors and, weighted, the contrastive loss (eq. 10 to 12)."""
        represented = self.represent(step.inputs, step.anchors)
        outputs = self._outputs(represented)
        losses = {"prediction_loss": F.mse_loss(outputs["M"], step.labels)}  # eq. 10
        pairs = self._contrastive_pairs(represented.globals, step.anchors, step.contrast, step.bank)
        if pairs:
            contrast = PairLosses.concatenate(pairs).reduce(self.config.reading.contrast_reduction)
            losses["contrastive_loss"] = self.config.contrast_weight * contrast  # eq. 12
        return StepOutput(outputs["M"], losses)

    def adapt(self, train: FeatureSplit) -> list[str]:
        """Leave out the pairs of constant modalities, which would weigh as much as live ones."""
        if self.config.reading.constant_pairs or self.config.contrast_weight == 0:
            return []
        constant = [m for m in MODALITIES if train.is_constant(m)]
        self.contrasted = tuple(m for m in DashFusion.contrasted if m not in constant)
        return [
            f"{m} is constant in the training split: its pairs are left out of the contrastive loss"
            for m in constant
        ]

    def contrast_features(self, inputs: Inputs) -> dict[str, Tensor]:
        """Global features of T, A, V and H; the unimodal ones rank samples."""
        return self.represent(inputs).globals

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
        partners = [m for m in ("vision", "audio") if m in self.contrasted]
        if config.semantic_alignment and "text" in self.contrasted and partners:
            others = torch.stack([pooled[m] for m in partners], dim=1)[anchors]
            text = pooled["text"][anchors]
            pairs.append(self._semantic_pairs(text, others, contrast, retrieved["text"]))
        names = [m for m in pooled if m in self.contrasted]
        if config.supervised_contrast and contrast is not None and names:
            features = torch.stack([pooled[m] for m in names], dim=1)[anchors]
            pairs.append(self._supervised_pairs(features, contrast, [retrieved[m] for m in names]))
        return pairs

    def _semantic_pairs(
        self, text: Tensor, partners: Tensor, contrast: ContrastSets | None, retrieved: Tensor
    ) -> PairLosses:
        """Text `(B, d)` of the anchors with their vision and audio `(B, M, d)`."""
        options = self._similarity_options()
        if contrast is None or self.config.reading.semantic_negatives == "batch":
            return nt_xent_in_batch(text, partners, **options)
        negatives = F.embedding(contrast.negatives, retrieved)
        return nt_xent(text, partners, negatives, negative_mask=contrast.negative_mask, **options)

    def _supervised_pairs(
        self, features: Tensor, contrast: ContrastSets, retrieved: list[Tensor]
    ) -> PairLosses:
        """Features of the anchors `(B, M, d)` with those retrieved, by modality `(N, d)`."""
        table = torch.cat(retrieved, dim=-1)

        def of(rows: Tensor) -> Tensor:  # (B, K) to (B, M, K, d)
            # Not table[rows]: its gradient adds repeated rows in a varying order.
            taken = F.embedding(rows, table)
            return taken.view(*rows.shape, len(retrieved), -1).transpose(1, 2)

        return nt_xent(
            features,
            of(contrast.positives),
            of(contrast.negatives),
            contrast.positive_mask,
            contrast.negative_mask,
            **self._similarity_options(),
        )

    def _similarity_options(self) -> dict[str, Any]:
        return {"temperature": self.config.temperature, "kind": self.config.reading.similarity}


class DashFusionSeeingPadding(DashFusion):
    """What the released code sees: to alignment and fusion, padding is content."""

    reads_padding = True

    def encode(self, inputs: Inputs) -> dict[str, Ragged]:
        """Frames padded to the data set's full lengths; those whose sum is 0 count as padding."""
        audio, vision = self._filled(inputs.audio, 1), self._filled(inputs.vision, 2)
        return super().encode(
            Inputs(inputs.text, audio, vision, _is_frame(audio), _is_frame(vision))
        )

    def align(self, encoded: Mapping[str, Ragged]) -> Ragged:
        """H of everything, padding too, at all positions of the text."""
        return super().align(_whole(encoded))

    def to_fuse(
        self, encoded: Mapping[str, Ragged], H: Ragged, samples: Tensor | None
    ) -> Sequences:
        """Sequences without masks."""
        return super().to_fuse(_whole(encoded), H, samples)

    def _filled(self, frames: Tensor, modality: int) -> Tensor:
        missing = max(0, self.config.seq_lens[modality] - frames.shape[1])
        return F.pad(frames, (0, 0, 0, missing))


def _is_frame(frames: Tensor) -> Tensor:
    mask = frames.sum(dim=-1) != 0
    mask[:, 0] = True
    return mask


def _whole(encoded: Mapping[str, Ragged]) -> dict[str, Ragged]:
    return {m: Ragged.whole(x.padded()[0]) for m, x in encoded.items()}


def of_reading(config: DashFusionConfig) -> DashFusion:
    """The model that sees what the configured reading sees."""
    model = DashFusionSeeingPadding if config.reading.padding == "seen" else DashFusion
    return model(config)


@register_model("dashfusion", config=DashFusionConfig)
def build_dashfusion(args: Any) -> DashFusion:
    """DashFusion as printed, with the decisions of docs/models/dashfusion.md."""
    return of_reading(DashFusionConfig.from_args(args))


class ReleasedDashFusionConfig(DashFusionConfig):
    """The released code's reading, and its training: evaluation too is in its `batch_size`."""

    encoder_dropout: float = Field(0.5, ge=0, lt=1)
    decay_norms: bool = True
    selection_digits: int | None = Field(4, ge=0)
    first_selected_epoch: int = Field(2, ge=1)
    feature_scaling: Scaling = "none"

    reading: ReleasedReading = ReleasedReading()

    @model_validator(mode="before")
    @classmethod
    def _evaluates_as_it_trains(cls, values: Any) -> Any:
        size = values.get("batch_size", cls.model_fields["batch_size"].default)
        return {"eval_batch_size": size} | values


@register_model("dashfusion_released", config=ReleasedDashFusionConfig)
def build_released(args: Any) -> DashFusion:
    """DashFusion as the authors' released code computes it."""
    return of_reading(ReleasedDashFusionConfig.from_args(args))
