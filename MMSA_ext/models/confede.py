"""ConFEDE: contrastive feature decomposition (Yang et al., ACL 2023), with or without InfoEnh.

Every modality's vector is split into a part that the modalities share ("similar") and one of its
own ("dissimilar"). One contrastive loss pulls together the similar parts of a sample's modalities
and of samples of one class, and pushes apart those of other classes and a sample's own dissimilar
parts. Encoders are trained alone first (`training.stage_one`). docs/models/systems.md lists the
readings of paper and released code beside this one.

Rows of a step: every anchor i comes with two positives and four negatives of retrieval,
(i,0), (i,1..2), (i,3..6). The step's batch holds every distinct sample once; features are computed
once a sample and gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from MMSA_ext.config.schema import RunConfig
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.data.retrieval import ClassRule, ContrastSets, RetrievalConfig, RetrievalMode
from MMSA_ext.models.contract import Inputs, StepBatch, StepOutput
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhHostConfig, InfoEnhOutput, VectorReadouts
from MMSA_ext.models.losses import PairLosses, nt_xent
from MMSA_ext.models.parts.attention import Activation
from MMSA_ext.models.parts.encoders import FrameEncoder, PooledTextEncoder, TextPooling
from MMSA_ext.models.parts.two_stage import EncoderRecipe, EncoderTask, TwoStageModel
from MMSA_ext.models.parts.unimodal import (
    MLP,
    AudioModel,
    Encoded,
    TextModel,
    VisionModel,
    encode_frames,
    encode_text,
)
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import TWO_STAGE_TRAINER, register_model
from MMSA_ext.text_encoders import identity as encoder_identity

# The file's label of one modality.
UNIMODAL_LABELS = {"text": "T", "audio": "A", "vision": "V"}


class TextRecipe(EncoderRecipe):
    """How the text encoder is trained alone.

    Attributes:
        frozen_share: Share of the epochs, from the first, in which the pre-trained encoder is
            frozen.
        finetuning: What is trained afterwards: `all` of it or its `last_layer`.
    """

    epochs: int = Field(200, ge=1)
    warmup_ratio: float = Field(0.025, ge=0, lt=1)
    optimizer: Literal["adamw", "adam_amsgrad"] = "adamw"
    decay_all: bool = True
    selected_after: float = Field(1 / 3, ge=0, lt=1)
    frozen_share: float = Field(1 / 3, ge=0, lt=1)
    finetuning: Literal["all", "last_layer"] = "all"


class StageOneConfig(BaseModel):
    """Stage one: a recipe for every encoder. Defaults are those of MOSI.

    Attributes:
        text, audio, vision: Recipes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: TextRecipe = TextRecipe()
    audio: EncoderRecipe = EncoderRecipe(warmup_ratio=0.1, selected_after=0.3)
    vision: EncoderRecipe = EncoderRecipe(selected_after=0.2)


class ConFEDEInfoEnhConfig(InfoEnhHostConfig):
    """InfoEnh inside ConFEDE; d of 256 makes E' 768 wide, as wide as BERT.

    Attributes:
        dissimilar_parts: What the dissimilar parts are made of: `enhanced`, what all projectors
            read (the paper to the letter); `filtered`, the features after the bottleneck, before
            the alignment, by readouts of their own. See docs/models/systems.md.
    """

    d: int = Field(256, ge=1)
    dissimilar_parts: Literal["enhanced", "filtered"] = "enhanced"

    @model_validator(mode="after")
    def _keeps_the_width(self) -> Self:
        if self.vector == "widen":
            raise ValueError(
                "ConFEDE keeps its widths: all of it starts from the same weights with and "
                "without InfoEnh, which wider projectors could not. Use vector='keep_dim', and "
                "hidden for a wider readout"
            )
        return self


class ConFEDEConfig(RunConfig):
    """Configuration of ConFEDE; released values that differ are named in brackets.

    Attributes:
        dim: Width of the audio and vision encoders; None is the text encoder's hidden size.
        heads: Their attention heads.
        audio_layers, vision_layers: Their layers.
        activation: Of their feed-forward networks.
        embedding_dropout: Dropout on the embedded frames.
        encoder_dropout: Dropout inside the audio and vision encoders.
        encoder_attention_dropout: Dropout on their attention weights [0.5]. Default 0: it forces a
            slow attention path and the paper does not ask for it.
        projector_dropout: Dropout on the similar and dissimilar parts.
        text_pooling: The text's vector: the encoder's own `pooler`, the `first` token, or the
            `mean`.
        freeze_text: Keep the text encoder as stage one left it.
        frozen_text_dropout: Dropout in the frozen text encoder while training, as released; off, a
            text's features are the same in every step.
        contrast_weight: Weight of the contrastive loss.
        mono_weight: Weight of the predictions from single parts.
        temperature: tau of the contrastive loss.
        contrast_reduction: See `PairLosses.reduce` [`mean`].
        unimodal_labels: What the dissimilar parts and stage one predict: `file`, the labels T, A
            and V where the feature file has them and the multimodal one where not, or `multimodal`.
        contrast_classes: Classes for retrieval: labels `exact` (SIMS) or `rounded` (MOSI, MOSEI),
            or between the `borders` of a data set of one's own.
        retrieval: `correct` [`rank_position`], see `RetrievalConfig`.
        candidates: Retrieved candidates of each kind.
        refresh_epochs: Epochs between two refreshes of the similarity.
        similar_window, dissimilar_window: Shares of the ranking searched by `rank_position`.
        length_groups: Groups of similar length in which sequences attend, to save padding; changes
            no result beyond rounding and the draws of dropout.
        stage_one: Recipes of stage one; None starts from untrained audio and vision encoders.
        infoenh: InfoEnh between encoders and projectors; None leaves it out.
    """

    num_epochs: int = Field(25, ge=1)
    warmup_ratio: float = Field(0.04, ge=0, lt=1)
    decay_norms: bool = True
    learning_rate: float = Field(1e-4, gt=0)

    dim: int | None = Field(None, ge=8)
    heads: int = Field(8, ge=1)
    audio_layers: int = Field(2, ge=1)
    vision_layers: int = Field(2, ge=1)
    activation: Activation = "gelu"
    embedding_dropout: float = Field(0.5, ge=0, lt=1)
    encoder_dropout: float = Field(0.5, ge=0, lt=1)
    encoder_attention_dropout: float = Field(0.0, ge=0, lt=1)
    projector_dropout: float = Field(0.5, ge=0, lt=1)
    text_pooling: TextPooling = "pooler"
    freeze_text: bool = True
    frozen_text_dropout: bool = True

    contrast_weight: float = Field(0.1, ge=0)
    mono_weight: float = Field(0.01, ge=0)
    temperature: float = Field(0.5, gt=0)
    contrast_reduction: Literal["mean_live", "sum", "mean"] = "mean_live"
    unimodal_labels: Literal["file", "multimodal"] = "multimodal"

    contrast_classes: ClassRule = "rounded"
    retrieval: RetrievalMode = "correct"
    candidates: int = Field(10, ge=1)
    refresh_epochs: int = Field(2, ge=1)
    similar_window: float = Field(1.0, gt=0, le=1)
    dissimilar_window: float = Field(1.0, gt=0, le=1)
    length_groups: int = Field(8, ge=1)

    stage_one: StageOneConfig | None = StageOneConfig()
    infoenh: ConFEDEInfoEnhConfig | None = None

    @property
    def masks_padding(self) -> bool:
        """See `RunConfig`."""
        return True

    def retrieval_config(self) -> RetrievalConfig:
        """How samples are retrieved."""
        return RetrievalConfig(
            classes=self.contrast_classes,
            borders=self.class_borders(self.contrast_classes),
            candidates=self.candidates,
            refresh_epochs=self.refresh_epochs,
            mode=self.retrieval,
            similar_window=self.similar_window,
            dissimilar_window=self.dissimilar_window,
        )

    def targets(self, modality: str) -> tuple[str, ...]:
        """Labels that stand for one modality's own sentiment; the first that the data has."""
        if self.unimodal_labels == "file":
            return (UNIMODAL_LABELS[modality], "M")
        return ("M",)


class Projector(nn.Sequential):
    """LayerNorm, Linear, tanh, dropout: from a modality's vector to one of its parts."""

    def __init__(self, width: int, part_width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, part_width), nn.Tanh(), nn.Dropout(dropout)
        )


@dataclass(frozen=True)
class Decomposition:
    """Encoded samples and the parts of their modalities.

    Attributes:
        vectors: What the projectors of the similar parts read, by modality: `(B, d_m)`.
        similar: Similar parts by modality, `(B, p)`.
        dissimilar: Dissimilar parts by modality, `(B, p)`.
        enhanced: InfoEnh's output; None without it.
    """

    vectors: dict[str, Tensor]
    similar: dict[str, Tensor]
    dissimilar: dict[str, Tensor]
    enhanced: InfoEnhOutput | None

    @property
    def parts(self) -> list[Tensor]:
        """All six parts: similar ones first, by modality."""
        return [*self.similar.values(), *self.dissimilar.values()]


class ConFEDE(TwoStageModel):
    """Encode, decompose, contrast, predict."""

    ranked_by = MODALITIES
    predicts = ("decoder", "mono_decoder")

    def __init__(self, config: ConFEDEConfig) -> None:
        super().__init__()
        self.config = config
        self.retrieval = config.retrieval_config()
        self.text_encoder = self._new_text_encoder()
        hidden = self.text_encoder.hidden_size
        self.dim = config.dim or hidden
        self.audio_encoder = self._new_frame_encoder("audio")
        self.vision_encoder = self._new_frame_encoder("vision")
        dims = {"text": hidden, "audio": self.dim, "vision": self.dim}
        part = self.dim // 2
        dropout = config.projector_dropout
        self.similar = nn.ModuleDict({m: Projector(dims[m], part, dropout) for m in MODALITIES})
        self.dissimilar = nn.ModuleDict({m: Projector(dims[m], part, dropout) for m in MODALITIES})
        self.decoder = MLP([6 * part, *_narrowing(self.dim)])
        self.mono_decoder = MLP(_narrowing(self.dim)[1:])  # begins at the width of a part
        self.text_encoder.requires_grad_(not config.freeze_text)
        # Last, so that everything above starts from the same weights with and without it.
        if config.infoenh is not None:
            self.infoenh = InfoEnh.from_config(dims, config.infoenh)
            self.readouts = VectorReadouts(self.infoenh.enhanced_dim, config.infoenh, dims)
            if config.infoenh.dissimilar_parts == "filtered":
                self.dissimilar_readouts = VectorReadouts(config.infoenh.d, config.infoenh, dims)

    def train(self, mode: bool = True) -> ConFEDE:
        """Switch training mode; a frozen text encoder follows `frozen_text_dropout`."""
        super().train(mode)
        if self.config.freeze_text and not self.config.frozen_text_dropout:
            self.text_encoder.eval()
        return self

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict; see `MSAModel.forward`."""
        return self._outputs(self.decompose(inputs))

    def encode(self, inputs: Inputs) -> dict[str, Encoded]:
        """Encode the modalities."""
        return {
            "text": encode_text(self.text_encoder, inputs.text),
            "audio": encode_frames(self.audio_encoder, inputs.audio, inputs.audio_mask),
            "vision": encode_frames(self.vision_encoder, inputs.vision, inputs.vision_mask),
        }

    def decompose(self, inputs: Inputs) -> Decomposition:
        """Encode, enhance and project."""
        encoded = self.encode(inputs)
        shared = own = encoders = {m: encoded[m].vector for m in MODALITIES}
        enhanced: InfoEnhOutput | None = None
        options = self.config.infoenh
        if options is not None:
            enhanced = self.infoenh(
                {m: encoded[m].sequence for m in MODALITIES},
                {m: encoded[m].mask for m in MODALITIES},
            )
            shared = own = self.readouts(enhanced.enhanced, enhanced.mask, encoders)
            if options.dissimilar_parts == "filtered":
                own = self.dissimilar_readouts(enhanced.filtered, enhanced.token_mask, encoders)
        return Decomposition(
            shared,
            {m: self.similar[m](shared[m]) for m in MODALITIES},
            {m: self.dissimilar[m](own[m]) for m in MODALITIES},
            enhanced,
        )

    def training_step(self, step: StepBatch) -> StepOutput:
        """Prediction, contrastive and mono losses, and InfoEnh's where there is one.

        Raises:
            ValueError: If the step holds no retrieved samples.
        """
        if step.contrast is None:
            raise ValueError("ConFEDE's losses read retrieved samples; the step holds none.")
        decomposed = self.decompose(step.inputs)
        outputs = self._outputs(decomposed)
        labels: dict[str, Tensor] = step.samples["labels"]
        rows, exists = _rows(step.anchors, step.contrast)
        times = torch.zeros_like(labels["M"]).index_add(
            0, rows.flatten(), exists.flatten().unsqueeze(1).to(labels["M"])
        )
        pairs = contrastive_pairs(
            decomposed, step.anchors, step.contrast, temperature=self.config.temperature
        )
        losses = {
            "prediction_loss": _mean_squared_error(outputs["M"], labels["M"], times),
            "contrastive_loss": self.config.contrast_weight
            * pairs.reduce(self.config.contrast_reduction),
            "mono_loss": self.config.mono_weight * self._mono_loss(decomposed, labels, times),
        }
        diagnostics: dict[str, Tensor] = {}
        if decomposed.enhanced is not None:
            enhanced = decomposed.enhanced
            information = self.infoenh.information_loss(enhanced, labels["M"], step.anchors)
            losses["infoenh_loss"] = information + enhanced.loss  # the latter: optional terms
            diagnostics = enhanced.diagnostics
        return StepOutput(outputs["M"][step.anchors], losses, diagnostics)

    def contrast_features(self, inputs: Inputs) -> dict[str, Tensor]:
        """The encoders' vectors, before InfoEnh and projection; all of them rank samples."""
        encoded = self.encode(inputs)
        return {m: encoded[m].vector for m in MODALITIES}

    def stage_one(self) -> list[EncoderTask]:
        """The three encoders, each with a head of its own; nothing without `stage_one`."""
        recipes = self.config.stage_one
        if recipes is None:
            return []
        text, audio, vision = recipes.text, recipes.audio, recipes.vision
        head = _narrowing(self.dim)
        return [
            EncoderTask(
                "text",
                self.text_encoder,
                lambda: TextModel(
                    self._new_text_encoder(),
                    _narrowing(self.text_encoder.hidden_size),
                    frozen_share=text.frozen_share,
                    last_layer_only=text.finetuning == "last_layer",
                ),
                text,
                self.config.targets("text"),
                self._text_identity(),
            ),
            EncoderTask(
                "audio",
                self.audio_encoder,
                lambda: AudioModel(self._new_frame_encoder("audio"), head),
                audio,
                self.config.targets("audio"),
                self._frame_options("audio"),
            ),
            EncoderTask(
                "vision",
                self.vision_encoder,
                lambda: VisionModel(self._new_frame_encoder("vision"), head),
                vision,
                self.config.targets("vision"),
                self._frame_options("vision"),
            ),
        ]

    def adapt(self, train: FeatureSplit) -> list[str]:
        """Which labels stand for the modalities' own, where the file is asked."""
        if self.config.unimodal_labels != "file":
            return []
        present = [label for label in UNIMODAL_LABELS.values() if label in train.labels]
        absent = [label for label in UNIMODAL_LABELS.values() if label not in train.labels]
        copied = [n for n in present if np.array_equal(train.labels[n], train.labels["M"])]
        notes = []
        if absent:
            notes.append(
                f"the feature file has no unimodal labels {', '.join(absent)}; the multimodal "
                "label stands for them"
            )
        if copied:
            notes.append(f"the unimodal labels {', '.join(copied)} equal the multimodal label")
        return notes

    def _outputs(self, decomposed: Decomposition) -> dict[str, Tensor]:
        fused = torch.cat(decomposed.parts, dim=-1)
        return {
            "M": self.decoder(fused),
            "Feature_t": decomposed.vectors["text"],
            "Feature_a": decomposed.vectors["audio"],
            "Feature_v": decomposed.vectors["vision"],
            "Feature_f": fused,
        }

    def _mono_loss(
        self, decomposed: Decomposition, labels: dict[str, Tensor], times: Tensor
    ) -> Tensor:
        """Predictions from single parts: similar ones of M, dissimilar ones of their modality's."""
        own = [
            labels[next(name for name in self.config.targets(m) if name in labels)]
            for m in MODALITIES
        ]
        targets = torch.stack([labels["M"]] * len(MODALITIES) + own)
        return _mean_squared_error(
            self.mono_decoder(torch.stack(decomposed.parts)), targets, times.expand_as(targets)
        )

    def _new_text_encoder(self) -> PooledTextEncoder:
        config = self.config
        return PooledTextEncoder(
            config.pretrained,
            pooling=config.text_pooling,
            random_init=config.random_init,
            architecture=config.text_encoder_config,
            length_groups=config.length_groups,
        )

    def _text_identity(self) -> dict[str, Any]:
        config = self.config
        source: Any = config.text_encoder_config or encoder_identity(config.pretrained)
        return {
            "source": source,
            "random_init": config.random_init,
            "pooling": config.text_pooling,
        }

    def _new_frame_encoder(self, modality: str) -> FrameEncoder:
        return FrameEncoder(**self._frame_options(modality))

    def _frame_options(self, modality: str) -> dict[str, Any]:
        """Arguments of the encoder of `audio` or `vision`, which identify it too."""
        config = self.config
        position = MODALITIES.index(modality)
        return {
            "feature_dim": config.feature_dims[position],
            "dim": self.dim,
            "max_length": config.seq_lens[position],
            "layers": config.audio_layers if modality == "audio" else config.vision_layers,
            "heads": config.heads,
            "feed_forward_dim": self.dim,
            "activation": config.activation,
            "embedding_dropout": config.embedding_dropout,
            "dropout": config.encoder_dropout,
            "attention_dropout": config.encoder_attention_dropout,
            "final_norm": True,
            "length_groups": config.length_groups,
        }


def contrastive_pairs(
    decomposed: Decomposition, anchors: Tensor, contrast: ContrastSets, *, temperature: float
) -> PairLosses:
    """The 20 positive pairs of every anchor, each against its anchor's negatives.

    With Ts_k the similar text part of the anchor's k-th row, and so on:

    - Ts_0 with Ts_1, Ts_2, Vs_0, As_0, against Ts_3 to Ts_6 and the dissimilar parts of row 0;
    - Vs_0 with Vs_1, Vs_2, against Vs_3 to Vs_6; As likewise;
    - Ts_k with Vs_k and As_k, against the dissimilar parts of row k, for k = 1 to 6.

    Args:
        decomposed: Of D distinct samples.
        anchors: `(B,)` int64, rows of the anchors.
        contrast: Rows of the retrieved samples.
        temperature: tau.

    Returns:
        Losses `(B, 20)`; pairs of samples that do not exist are not live.
    """
    similar = decomposed.similar
    text = similar["text"]
    # Of every distinct sample: its modalities' similar parts, and all its dissimilar ones.
    across = torch.stack([similar["vision"], similar["audio"]], dim=1)
    apart = torch.stack(list(decomposed.dissimilar.values()), dim=1)
    rows = torch.cat([contrast.positives, contrast.negatives], dim=1)
    exists = torch.cat([contrast.positive_mask, contrast.negative_mask], dim=1)

    # Not feature[rows]: its gradient adds repeated rows in a varying order.
    anchor_pairs = nt_xent(
        text[anchors],
        torch.cat([F.embedding(contrast.positives, text), across[anchors]], dim=1),
        torch.cat([F.embedding(contrast.negatives, text), apart[anchors]], dim=1),
        F.pad(contrast.positive_mask, (0, across.shape[1]), value=True),
        F.pad(contrast.negative_mask, (0, apart.shape[1]), value=True),
        temperature=temperature,
    )
    frame_pairs = [
        nt_xent(
            similar[m][anchors],
            F.embedding(contrast.positives, similar[m]),
            F.embedding(contrast.negatives, similar[m]),
            contrast.positive_mask,
            contrast.negative_mask,
            temperature=temperature,
        )
        for m in ("vision", "audio")
    ]
    # These pairs of a retrieved sample are the same for every anchor that it was drawn for.
    own = nt_xent(text, across, apart, temperature=temperature)
    retrieved = PairLosses(
        (F.embedding(rows, own.values) * exists.unsqueeze(-1)).flatten(1),
        exists.repeat_interleave(across.shape[1], dim=1),
    )
    return PairLosses.concatenate([anchor_pairs, *frame_pairs, retrieved])


def _narrowing(width: int) -> list[int]:
    """Widths of the released decoders: halved three times, then 1."""
    return [width, width // 2, width // 4, width // 8, 1]


def _rows(anchors: Tensor, contrast: ContrastSets) -> tuple[Tensor, Tensor]:
    """The 7 rows of every anchor `(B, 7)`, and which of them exist."""
    rows = torch.cat([anchors[:, None], contrast.positives, contrast.negatives], dim=1)
    exists = torch.cat([contrast.positive_mask, contrast.negative_mask], dim=1)
    return rows, F.pad(exists, (1, 0), value=True)


def _mean_squared_error(prediction: Tensor, target: Tensor, times: Tensor) -> Tensor:
    """Mean squared error in which every element counts as many times as said."""
    weight = times.to(prediction.dtype)
    return (weight * (prediction - target) ** 2).sum() / weight.sum()


@register_model("confede", config=ConFEDEConfig, trainer=TWO_STAGE_TRAINER)
def build_confede(args: Any) -> ConFEDE:
    """ConFEDE, with the decisions of docs/models/systems.md."""
    return ConFEDE(ConFEDEConfig.from_args(args))


class EnhancedConFEDEConfig(ConFEDEConfig):
    """ConFEDE with InfoEnh."""

    infoenh: ConFEDEInfoEnhConfig | None = ConFEDEInfoEnhConfig()


@register_model("confede_infoenh", config=EnhancedConFEDEConfig, trainer=TWO_STAGE_TRAINER)
def build_confede_infoenh(args: Any) -> ConFEDE:
    """ConFEDE with InfoEnh between its encoders and projectors."""
    return ConFEDE(EnhancedConFEDEConfig.from_args(args))
