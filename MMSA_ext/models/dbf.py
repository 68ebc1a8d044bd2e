"""DBF: denoising bottleneck fusion with mutual-information maximisation (Wu et al., ACL 2023).

Three streams exchange information only through a few bottleneck vectors; the text stream of the
last layer predicts. MI-Max keeps in the fused vector what each modality said. The authors released
no code, and the paper leaves sixteen choices open: docs/models/systems.md lists each with its
default here and its configuration key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from MMSA_ext.config.schema import FineTuneConfig
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch, StepOutput
from MMSA_ext.models.losses import mi_max_loss
from MMSA_ext.models.parts.attention import Activation, masked_mean
from MMSA_ext.models.parts.encoders import PooledTextEncoder
from MMSA_ext.models.parts.pre_norm import FrameEmbedding, LayerShape, PreNormLayer
from MMSA_ext.names import MODALITIES, Modality
from MMSA_ext.registry import FINE_TUNE_TRAINER, register_model


class DBFConfig(FineTuneConfig):
    """Configuration of DBF; what the paper prints for MOSI is the default.

    Attributes:
        dim: Width d of all streams.
        heads: Attention heads.
        feed_forward_dim: Hidden width of the feed-forward networks.
        activation: Of the feed-forward networks.
        dropout: In the Transformer layers and before the last layer of the head.
        unimodal_layers: N, layers of each stream before the fusion.
        fusion_layers: M, layers with fusion bottlenecks; at least 2, or no stream would read what
            another one wrote.
        bottleneck_tokens: l_b, bottleneck vectors.
        text_tokens: What the text stream is made of: `all` rows of the text encoder's last hidden
            state, or the `first` alone, the [CLS] embedding.
        readout: Fused vector Z: the `first` row of the centre's stream, or the masked `mean`.
        centre: Stream that Z is read from; the paper's ablation centres audio and vision too.
        shared_layers: One Transformer layer for all modalities in each fusion layer, as eq. 4 could
            be read.
        mi_weight: alpha, weight of MI-Max; 0 leaves it out.
        mi_target: X_m of MI-Max: masked mean of the stream `entering` the fusion layers, of the
            `raw` features, or of the stream behind the `last` layer.
        mi_predictor: F: two layers with ReLU (`mlp`), or a `linear` one.
        mi_detach: Whether X_m gets no gradient from MI-Max.
        mi_symmetric, mi_double_exp, mi_include_positive: See `losses.mi_max_loss`.
        task_loss: Mean absolute error (`l1`) or mean squared error (`mse`) of the prediction.
        swap_lr: Exchange `learning_rate` and `new_layers_learning_rate`, which look exchanged in
            the paper's table for MOSI.
        length_groups: Groups of similar length that are computed apart to save padding; changes no
            result.
    """

    dim: int = Field(128, ge=1)
    heads: int = Field(8, ge=1)
    feed_forward_dim: int = Field(512, ge=1)
    activation: Activation = "gelu"
    dropout: float = Field(0.1, ge=0, lt=1)
    unimodal_layers: int = Field(1, ge=0)
    fusion_layers: int = Field(4, ge=2)
    bottleneck_tokens: int = Field(2, ge=1)
    text_tokens: Literal["all", "first"] = "all"
    readout: Literal["first", "mean"] = "first"
    centre: Modality = "text"
    shared_layers: bool = False

    mi_weight: float = Field(0.05, ge=0)
    mi_target: Literal["entering", "raw", "last"] = "entering"
    mi_predictor: Literal["mlp", "linear"] = "mlp"
    mi_detach: bool = False
    mi_symmetric: bool = False
    mi_double_exp: bool = False
    mi_include_positive: bool = True
    task_loss: Literal["l1", "mse"] = "l1"

    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    new_layers_learning_rate: float | None = Field(2e-5, gt=0)
    swap_lr: bool = False
    max_grad_norm: float | None = Field(1.0, gt=0)
    schedule: Literal["linear", "constant", "cosine"] = "constant"
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    early_stop: int | None = Field(10, ge=0)
    length_groups: int = Field(3, ge=1)

    @property
    def masks_padding(self) -> bool:
        """See `RunConfig`."""
        return True

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(
                f"dim is {self.dim} and heads {self.heads}: dim must be a multiple of heads"
            )
        if self.swap_lr and self.new_layers_learning_rate is None:
            raise ValueError("swap_lr has nothing to exchange: set new_layers_learning_rate")
        return self

    @property
    def rates(self) -> tuple[float, float | None]:
        """Peak learning rates of the pretrained encoder and of all else, exchanged or not."""
        encoder, new = super().rates
        return (new, encoder) if self.swap_lr and new is not None else (encoder, new)

    @property
    def all_streams_to_the_end(self) -> bool:
        """Whether the last layer updates every stream; else the centre's alone, which Z reads."""
        return self.mi_target == "last" and self.mi_weight > 0

    def layer_shape(self) -> LayerShape:
        """Shape of every Transformer layer."""
        return LayerShape(
            dim=self.dim,
            heads=self.heads,
            feed_forward_dim=self.feed_forward_dim,
            dropout=self.dropout,
            activation=self.activation,
            length_groups=self.length_groups,
        )


@dataclass(frozen=True)
class Streams:
    """The three streams and what joins them.

    Attributes:
        features: Modality to `(B, L_m, d)`; what stands at padding is never read.
        masks: Modality to `(B, L_m)` bool, True where valid.
        bottleneck: `(B, l_b, d)`.
    """

    features: dict[str, Tensor]
    masks: dict[str, Tensor]
    bottleneck: Tensor

    def means(self) -> dict[str, Tensor]:
        """Masked mean of each stream, `(B, d)`."""
        return {m: masked_mean(x, self.masks[m]) for m, x in self.features.items()}


class BottleneckLayer(nn.Module):
    """One layer with fusion bottlenecks (eq. 4 and 5).

    Every stream runs through a Transformer layer of its own together with the bottleneck; the
    bottleneck of the next layer is the mean of what the streams made of it.

    Args:
        shape: Shape of the Transformer layers.
        updated: Modalities whose streams are updated; the others stay.
        shared: One Transformer layer for all of them.
    """

    def __init__(self, shape: LayerShape, updated: tuple[str, ...], *, shared: bool) -> None:
        super().__init__()
        self.updated, self.shared = updated, shared
        names = ("shared",) if shared else updated
        self.layers = nn.ModuleDict({name: PreNormLayer(shape) for name in names})

    def forward(self, streams: Streams) -> Streams:
        """Update the streams and the bottleneck."""
        tokens = streams.bottleneck.shape[1]
        features = dict(streams.features)
        seen = []
        for m in self.updated:
            layer = self.layers["shared" if self.shared else m]
            rows = torch.cat([streams.bottleneck, streams.features[m]], dim=1)
            rows = layer(rows, F.pad(streams.masks[m], (tokens, 0), value=True))
            seen.append(rows[:, :tokens])
            features[m] = rows[:, tokens:]
        return Streams(features, streams.masks, torch.stack(seen).mean(dim=0))


@dataclass(frozen=True)
class Representation:
    """Vectors of a batch.

    Attributes:
        fused: Z, `(B, d)`.
        entering: Modality to the mean of its stream before the fusion, `(B, d)`.
        targets: Modality to X_m of MI-Max, `(B, d)` or as wide as the raw features.
    """

    fused: Tensor
    entering: dict[str, Tensor]
    targets: dict[str, Tensor]


class DBF(MSAModel):
    """The model of Fig. 2: unimodal layers, fusion bottlenecks, prediction from the text stream.

    Branches that nothing reads are not built: the last layer updates only the stream that Z is read
    from, unless MI-Max reads the others (`mi_target='last'`).
    """

    def __init__(self, config: DBFConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = PooledTextEncoder(
            config.pretrained,
            pooling="first",
            random_init=config.random_init,
            architecture=config.text_encoder_config,
            length_groups=config.length_groups,
        )
        widths = [self.text_encoder.hidden_size, *config.feature_dims[1:]]
        self.text_projection = nn.Linear(widths[0], config.dim)
        self.embeddings = nn.ModuleDict(
            {
                m: FrameEmbedding(config.feature_dims[i], config.dim, config.seq_lens[i])
                for i, m in enumerate(MODALITIES)
                if m != "text"
            }
        )
        shape = config.layer_shape()
        self.unimodal = nn.ModuleDict(
            {
                m: nn.ModuleList(PreNormLayer(shape) for _ in range(config.unimodal_layers))
                for m in MODALITIES
            }
        )
        self.bottleneck = nn.Parameter(torch.randn(config.bottleneck_tokens, config.dim) * 0.02)
        last = MODALITIES if config.all_streams_to_the_end else (config.centre,)
        self.fusion = nn.Sequential(
            *(
                BottleneckLayer(shape, updated, shared=config.shared_layers)
                for updated in [MODALITIES] * (config.fusion_layers - 1) + [last]
            )
        )
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Sequential(
            nn.Linear(config.dim, config.dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.dim, 1),
        )
        if config.mi_weight > 0:
            raw = config.mi_target == "raw"
            self.mi_predictors = nn.ModuleDict(
                {
                    m: _predictor(config, width if raw else config.dim)
                    for m, width in zip(MODALITIES, widths, strict=True)
                }
            )

    def represent(self, inputs: Inputs) -> Representation:
        """Encode and fuse."""
        _, hidden, text_mask = self.text_encoder(inputs.text)
        raw = {"text": hidden, "audio": inputs.audio, "vision": inputs.vision}
        masks = {
            "text": text_mask,
            "audio": _mask(inputs.audio, inputs.audio_mask),
            "vision": _mask(inputs.vision, inputs.vision_mask),
        }
        if self.config.text_tokens == "first":
            raw["text"], masks["text"] = hidden[:, :1], text_mask[:, :1]
        entering = Streams(
            self._encode(raw, masks), masks, self.bottleneck.expand(hidden.shape[0], -1, -1)
        )
        fused: Streams = self.fusion(entering)
        centre = self.norm(fused.features[self.config.centre])
        if self.config.readout == "first":
            readout = centre[:, 0]
        else:
            readout = masked_mean(centre, masks[self.config.centre])
        means = entering.means()
        if self.config.mi_target == "raw":
            targets = {m: masked_mean(x, masks[m]) for m, x in raw.items()}
        else:
            targets = means if self.config.mi_target == "entering" else fused.means()
        return Representation(readout, means, targets)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict; see `MSAModel.forward`. `Feature_f` is Z, the others enter the fusion."""
        return self._outputs(self.represent(inputs))

    def training_step(self, step: StepBatch) -> StepOutput:
        """Task loss and, for a batch of two or more, MI-Max."""
        represented = self.represent(step.inputs)
        prediction = self.head(represented.fused)[step.anchors]
        task_loss = F.l1_loss if self.config.task_loss == "l1" else F.mse_loss
        losses = {"prediction_loss": task_loss(prediction, step.labels)}
        diagnostics = {}
        if self.config.mi_weight > 0 and len(step.anchors) > 1:
            terms = self._mi_max(represented, step.anchors)
            losses["mi_max_loss"] = self.config.mi_weight * torch.stack(list(terms.values())).sum()
            diagnostics = {f"info_nce_{m}": value.detach() for m, value in terms.items()}
        return StepOutput(prediction, losses, diagnostics)

    def _encode(self, raw: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Streams that enter the fusion, `(B, L_m, d)` each."""
        features = {"text": self.text_projection(raw["text"])}
        features |= {m: embedding(raw[m]) for m, embedding in self.embeddings.items()}
        for m, layers in self.unimodal.items():
            for layer in cast("nn.ModuleList", layers):
                features[m] = layer(features[m], masks[m])
        return features

    def _mi_max(self, represented: Representation, anchors: Tensor) -> dict[str, Tensor]:
        """InfoNCE of each modality's X_m and F(Z), unweighted."""
        config = self.config
        fused = represented.fused[anchors]
        terms = {}
        for m, predictor in self.mi_predictors.items():
            target = represented.targets[m][anchors]
            terms[m] = mi_max_loss(
                predictor(fused),
                target.detach() if config.mi_detach else target,
                symmetric=config.mi_symmetric,
                double_exp=config.mi_double_exp,
                include_positive=config.mi_include_positive,
            )
        return terms

    def _outputs(self, represented: Representation) -> dict[str, Tensor]:
        return {
            "M": self.head(represented.fused),
            "Feature_t": represented.entering["text"],
            "Feature_a": represented.entering["audio"],
            "Feature_v": represented.entering["vision"],
            "Feature_f": represented.fused,
        }


def _predictor(config: DBFConfig, width: int) -> nn.Module:
    """F of one modality, from d to `width`."""
    if config.mi_predictor == "linear":
        return nn.Linear(config.dim, width)
    return nn.Sequential(nn.Linear(config.dim, config.dim), nn.ReLU(), nn.Linear(config.dim, width))


def _mask(frames: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        return mask
    return torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)


@register_model("dbf", config=DBFConfig, trainer=FINE_TUNE_TRAINER)
def build_dbf(args: Any) -> DBF:
    """DBF as printed, with the decisions of docs/models/systems.md."""
    return DBF(DBFConfig.from_args(args))
