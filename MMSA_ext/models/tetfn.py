"""TETFN: text-enhanced Transformers between audio and vision, and generated unimodal labels.

Wang et al., "TETFN: A text enhanced transformer fusion network for multimodal sentiment analysis",
Pattern Recognition 136, 2023. The authors released no code; this is the version that MMSA has and
that its maintainers wrote from the paper. Two readings are registered: `tetfn` masks padding,
`tetfn_released` reads every modality at its full padded length, as MMSA does.
docs/models/systems.md lists what else differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from MMSA_ext.config.schema import FineTuneConfig, Scaling
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch, StepOutput
from MMSA_ext.models.parts.attention import FeedForward, MultiHeadAttention
from MMSA_ext.models.parts.dropout import Dropout
from MMSA_ext.models.parts.encoders import TextStates, padded_frames
from MMSA_ext.models.parts.unimodal_labels import UnimodalLabels
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import FINE_TUNE_TRAINER, register_model

# MMSA's names of predictions and labels.
LETTERS = {"text": "T", "audio": "A", "vision": "V"}


class TETFNConfig(FineTuneConfig):
    """Configuration of TETFN: MMSA's values for MOSI, and readings.

    Attributes:
        dim: Width d of all sequences.
        heads: Attention heads.
        text_kernel, audio_kernel, vision_kernel: Steps that the convolution to width d sees.
        audio_hidden, vision_hidden: Width of the recurrent layers.
        audio_head, vision_head, text_head, fusion_head: Hidden width of the prediction heads.
        audio_head_dropout, vision_head_dropout, text_head_dropout, fusion_head_dropout: Before
            their first layer.
        attention_dropout: On attention weights.
        text_audio_dropout, text_vision_dropout: The same, where text reads audio and vision.
        relu_dropout, embedding_dropout, residual_dropout: Inside the feed-forward networks, on
            what enters an encoder, and on its residual branches.
        average_frames: Average audio and vision over windows, so that they have about as many
            steps as text may have tokens. False reads them as they are.
        masked: Padding gets no attention. False pads every modality to the data set's full length
            and reads the padding, as MMSA does.
        label_limit: Generated labels are cut at plus and minus this.
        new_layers_weight_decay: Of all but text encoder and recurrent layers.
        audio_learning_rate, vision_learning_rate, audio_weight_decay, vision_weight_decay: Of the
            recurrent layers; a rate of None is that of the new layers.
    """

    dim: int = Field(50, ge=2)
    heads: int = Field(5, ge=1)
    text_kernel: int = Field(1, ge=1)
    audio_kernel: int = Field(1, ge=1)
    vision_kernel: int = Field(3, ge=1)
    audio_hidden: int = Field(16, ge=1)
    vision_hidden: int = Field(64, ge=1)
    fusion_head: int = Field(64, ge=1)
    text_head: int = Field(32, ge=1)
    audio_head: int = Field(32, ge=1)
    vision_head: int = Field(16, ge=1)
    fusion_head_dropout: float = Field(0.0, ge=0, lt=1)
    text_head_dropout: float = Field(0.0, ge=0, lt=1)
    audio_head_dropout: float = Field(0.0, ge=0, lt=1)
    vision_head_dropout: float = Field(0.0, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    text_audio_dropout: float = Field(0.0, ge=0, lt=1)
    text_vision_dropout: float = Field(0.1, ge=0, lt=1)
    relu_dropout: float = Field(0.0, ge=0, lt=1)
    embedding_dropout: float = Field(0.0, ge=0, lt=1)
    residual_dropout: float = Field(0.1, ge=0, lt=1)
    average_frames: bool = True
    masked: bool = True
    label_limit: float = Field(3.0, gt=0)

    num_epochs: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(3e-5, gt=0)
    new_layers_learning_rate: float | None = Field(3e-4, gt=0)
    audio_learning_rate: float | None = Field(5e-4, gt=0)
    vision_learning_rate: float | None = Field(3e-4, gt=0)
    weight_decay: float = Field(2.5e-4, ge=0)
    new_layers_weight_decay: float = Field(2.5e-3, ge=0)
    audio_weight_decay: float = Field(2.5e-3, ge=0)
    vision_weight_decay: float = Field(0.0, ge=0)
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    early_stop: int | None = Field(8, ge=0)
    schedule: Literal["linear", "constant", "cosine"] = "constant"
    optimizer: Literal["adamw", "adam"] = "adam"

    @property
    def masks_padding(self) -> bool:
        """See `RunConfig`."""
        return self.masked

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(
                f"dim is {self.dim} and heads {self.heads}: dim must be a multiple of heads"
            )
        return self

    def of(self, modality: str, key: str) -> Any:
        """The key of a modality, `audio_hidden` for instance."""
        return getattr(self, f"{modality}_{key}")


@dataclass(frozen=True)
class Steps:
    """Sequences of a batch.

    Attributes:
        values: `(B, L, d)`.
        lengths: `(B,)` int64, how many steps are read, from the first; at least 1.
    """

    values: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """`(B, L)`, True where a step is read."""
        positions = torch.arange(self.values.shape[1], device=self.lengths.device)
        return positions < self.lengths[:, None]

    def maximum(self) -> Tensor:
        """The largest value of each feature, `(B, d)`."""
        return self.values.masked_fill(~self.mask.unsqueeze(-1), -torch.inf).amax(dim=1)

    def last(self) -> Tensor:
        """The last step, `(B, d)`."""
        samples = torch.arange(self.lengths.shape[0], device=self.lengths.device)
        return self.values[samples, self.lengths - 1]


def visible(target: Steps, source: Steps) -> Tensor:
    """What each step of the target may read: the source up to its own position.

    Where lengths differ, by their difference further.

    Returns:
        `(B, T, S)` bool.
    """
    steps = torch.arange(target.values.shape[1], device=target.lengths.device)
    positions = torch.arange(source.values.shape[1], device=target.lengths.device)
    ahead = (source.lengths - target.lengths).abs()
    causal = positions <= steps[:, None] + ahead[:, None, None]
    return causal & source.mask[:, None]


def sinusoids(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Positions from 1, `(length, dim)`: half of them sines, half cosines."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / max(1, half - 1)))
    angles = torch.arange(1, length + 1, device=device).unsqueeze(1) * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))


class CrossmodalLayer(nn.Module):
    """Attention and feed-forward network, each on normalised inputs and added to the target.

    Args:
        dim: Width of target and source.
        config: Heads and dropouts.
        attention_dropout: On the attention weights.
    """

    def __init__(self, dim: int, config: TETFNConfig, attention_dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, config.heads, dropout=attention_dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, 4 * dim, "relu", config.relu_dropout)
        self.dropout = Dropout(config.residual_dropout)
        for module in (*self.attention.modules(), *self.feed_forward):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, target: Tensor, source: Tensor, seen: Tensor) -> Tensor:
        """Update `target` `(B, T, d)` from `source` `(B, S, d)`, of which `(B, T, S)` is seen."""
        query, read = self.attention_norm(target), self.attention_norm(source)
        target = target + self.dropout(self.attention(query, read, seen))
        updated: Tensor = target + self.dropout(self.feed_forward(self.feed_forward_norm(target)))
        return updated


class CrossmodalEncoder(nn.Module):
    """Layers in which a target reads a source that stays as it is, or itself.

    Args:
        dim: Width of target and source.
        config: Heads and dropouts.
        layers: Their number.
        attention_dropout: On attention weights; None is `config.attention_dropout`.
        positions: Whether positions are added to both.
    """

    def __init__(
        self,
        dim: int,
        config: TETFNConfig,
        *,
        layers: int = 2,
        attention_dropout: float | None = None,
        positions: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.positions = math.sqrt(dim), positions
        self.dropout = Dropout(config.embedding_dropout)
        if attention_dropout is None:
            attention_dropout = config.attention_dropout
        self.layers = nn.ModuleList(
            CrossmodalLayer(dim, config, attention_dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, target: Steps, source: Steps | None = None) -> Steps:
        """Update the target; without a source it reads itself."""
        seen = visible(target, source or target)
        x = self._embedded(target.values)
        read = None if source is None else self._embedded(source.values)
        for layer in self.layers:
            x = layer(x, x if read is None else read, seen)
        return Steps(self.norm(x), target.lengths)

    def _embedded(self, values: Tensor) -> Tensor:
        x = self.scale * values
        if self.positions:
            _, length, dim = values.shape
            x = x + sinusoids(length, dim, x.device).to(x)
        dropped: Tensor = self.dropout(x)
        return dropped


class TextEnhanced(nn.Module):
    """TET: the source first reads text, then the target reads what came of the source."""

    def __init__(self, config: TETFNConfig) -> None:
        super().__init__()
        self.filter = CrossmodalEncoder(config.dim, config, layers=1, positions=True)
        self.read = CrossmodalEncoder(config.dim, config, positions=True)

    def forward(self, target: Steps, source: Steps, text: Steps) -> Steps:
        """Update the target."""
        updated: Steps = self.read(target, self.filter(source, text))
        return updated


class FrameReader(nn.Module):
    """Audio or vision to width d: averaged over windows, a recurrent layer, a convolution.

    Args:
        modality: `audio` or `vision`.
        config: Widths.
    """

    def __init__(self, modality: str, config: TETFNConfig) -> None:
        super().__init__()
        position = MODALITIES.index(modality)
        tokens, self.full = config.seq_lens[0], config.seq_lens[position]
        self.masked = config.masked
        self.window = -(-self.full // tokens) if config.average_frames else 1
        # Averaged without masks there are as many steps as tokens.
        self.frames = self.window * tokens if config.average_frames else self.full
        hidden = config.of(modality, "hidden")
        self.recurrent = nn.LSTM(config.feature_dims[position], hidden, batch_first=True)
        self.convolution = StepConvolution(hidden, config.dim, config.of(modality, "kernel"))

    def forward(self, frames: Tensor, mask: Tensor | None) -> Steps:
        """Read frames `(B, L, feature_dim)` with the mask `(B, L)`; None if all are valid."""
        averaged = self._averaged(frames, mask)
        states, _ = self.recurrent(averaged.values)
        steps: Steps = self.convolution(Steps(states, averaged.lengths))
        return steps

    def _averaged(self, frames: Tensor, mask: Tensor | None) -> Steps:
        """Means over windows: of valid frames alone, or of zeros and copies of the last frame."""
        if self.masked:
            frames = padded_frames(frames, mask, 0)
        else:
            frames = padded_frames(frames, mask, self.full)
            mask = None
            copies = max(0, self.frames - frames.shape[1])
            frames = torch.cat([frames, frames[:, -1:].expand(-1, copies, -1)], dim=1)
        if mask is None:
            mask = torch.ones_like(frames[..., 0], dtype=torch.bool)
        batch, length, width = frames.shape
        missing = -length % self.window
        windows = F.pad(frames, (0, 0, 0, missing)).view(batch, -1, self.window, width)
        counts = F.pad(mask, (0, missing)).view(batch, -1, self.window).sum(dim=2)
        means = windows.sum(dim=2) / counts.clamp(min=1).unsqueeze(-1)
        return Steps(means, (counts > 0).sum(dim=1).clamp(min=1))


class StepConvolution(nn.Module):
    """A convolution over time to width d, without padding and bias.

    A sample with fewer steps than the kernel sees has one step, in which zeros stand for those that
    are missing.
    """

    def __init__(self, width: int, dim: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.convolution = nn.Conv1d(width, dim, kernel, bias=False)

    def forward(self, steps: Steps) -> Steps:
        """Steps of width `width` to steps of width d, `kernel - 1` fewer."""
        x = steps.values * steps.mask.unsqueeze(-1)
        x = F.pad(x, (0, 0, 0, max(0, self.kernel - x.shape[1])))
        values = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return Steps(values, (steps.lengths - self.kernel + 1).clamp(min=1))


class Head(nn.Module):
    """Three layers; the first one's output is the vector by which labels are generated."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(Dropout(dropout), nn.Linear(width, hidden), nn.ReLU())
        self.rest = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The vector `(B, hidden)` and the prediction `(B, 1)` of `x` `(B, width)`."""
        vector = self.first(x)
        return vector, self.rest(vector)


class TETFN(MSAModel):
    """Read the modalities, let each read the two others, fuse; predict from each alone too."""

    predicts = ("fusion", *(f"heads.{m}" for m in MODALITIES))

    def __init__(self, config: TETFNConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.text_encoder = TextStates(
            config.pretrained,
            random_init=config.random_init,
            architecture=config.text_encoder_config,
        )
        self.text_convolution = StepConvolution(
            self.text_encoder.hidden_size, dim, config.text_kernel
        )
        self.audio_reader = FrameReader("audio", config)
        self.vision_reader = FrameReader("vision", config)
        self.text_from_audio = CrossmodalEncoder(
            dim, config, attention_dropout=config.text_audio_dropout
        )
        self.text_from_vision = CrossmodalEncoder(
            dim, config, attention_dropout=config.text_vision_dropout
        )
        self.audio_from_text = CrossmodalEncoder(dim, config)
        self.audio_from_vision = TextEnhanced(config)
        self.vision_from_text = CrossmodalEncoder(dim, config)
        self.vision_from_audio = TextEnhanced(config)
        self.memories = nn.ModuleDict({m: CrossmodalEncoder(2 * dim, config) for m in MODALITIES})
        self.fusion = Head(6 * dim, config.fusion_head, config.fusion_head_dropout)
        self.heads = nn.ModuleDict(
            {m: Head(dim, config.of(m, "head"), config.of(m, "head_dropout")) for m in MODALITIES}
        )
        self.epoch = 1
        self.labels: UnimodalLabels | None = None

    def adapt(self, train: FeatureSplit) -> list[str]:
        """Begin a training: unimodal labels start as copies of the multimodal one."""
        labels = torch.from_numpy(train.labels["M"]).to(next(self.parameters()).device)
        self.labels = UnimodalLabels(labels, tuple(LETTERS.values()), self.config.label_limit)
        return []

    def training_state(self) -> dict[str, Tensor]:
        """The unimodal labels."""
        return {} if self.labels is None else self.labels.state()

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put the unimodal labels back."""
        if self.labels is not None:
            self.labels.load(state)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Labels move from epoch 2 on, and the less the later it is."""
        self.epoch = epoch

    def own_groups(self) -> dict[str, dict[str, float]]:
        """Rates and decays of all but the text encoder; biases and norms decay too."""
        config = self.config
        rate = config.new_layers_learning_rate or config.learning_rate
        groups = {
            f"{m}_reader.recurrent": {
                "lr": config.of(m, "learning_rate") or rate,
                "weight_decay": config.of(m, "weight_decay"),
            }
            for m in ("audio", "vision")
        }
        for name, _ in self.named_children():
            if name != "text_encoder":
                groups[name] = {"lr": rate, "weight_decay": config.new_layers_weight_decay}
        return groups

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict; see `MSAModel.forward`.

        Beside `M` there are the unimodal predictions `T`, `A` and `V`, `(B, 1)` each. `Feature_*`
        are the first layers of the heads.
        """
        t = self._text(inputs.text)
        a = self.audio_reader(inputs.audio, inputs.audio_mask)
        v = self.vision_reader(inputs.vision, inputs.vision_mask)
        enhanced = {
            "text": (self.text_from_audio(t, a), self.text_from_vision(t, v)),
            "audio": (self.audio_from_text(a, t), self.audio_from_vision(a, v, t)),
            "vision": (self.vision_from_text(v, t), self.vision_from_audio(v, a, t)),
        }
        last = []
        for m, (first, second) in enhanced.items():
            both = torch.cat([first.values, second.values], dim=-1)
            last.append(self.memories[m](Steps(both, first.lengths)).last())
        outputs = {}
        outputs["Feature_f"], outputs["M"] = self.fusion(torch.cat(last, dim=-1))
        for m, steps in (("text", t), ("audio", a), ("vision", v)):
            vector, prediction = self.heads[m](steps.maximum())
            outputs[f"Feature_{m[0]}"], outputs[LETTERS[m]] = vector, prediction
        return outputs

    def training_step(self, step: StepBatch) -> StepOutput:
        """Mean absolute errors: of M, and of T, A and V weighted by how far their labels moved."""
        outputs = {name: x[step.anchors] for name, x in self(step.inputs).items()}
        label = step.labels
        losses = {"prediction_loss": F.l1_loss(outputs["M"], label)}
        diagnostics = {}
        index = step.samples["index"][step.anchors]
        for m, letter in LETTERS.items():
            own = label if self.labels is None else self.labels.of(letter, index)
            moved = (own - label).abs()
            losses[f"{m}_loss"] = (moved.tanh() * (outputs[letter] - own).abs()).mean()
            diagnostics[f"{m}_label_moved"] = moved.mean()
        if self.labels is not None:
            vectors = {name: outputs[f"Feature_{name.lower()}"].detach() for name in "TAV"}
            self.labels.update(self.epoch, index, vectors | {"M": outputs["Feature_f"].detach()})
        return StepOutput(outputs["M"], losses, diagnostics)

    def _text(self, text: Tensor) -> Steps:
        if self.config.masked:
            hidden, mask = self.text_encoder(text)
            positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
            lengths = (mask * positions).amax(dim=1).clamp(min=1)
        else:
            hidden, mask = self.text_encoder(text, self.config.seq_lens[0])
            lengths = torch.full_like(mask[:, 0], mask.shape[1], dtype=torch.int64)
        steps: Steps = self.text_convolution(Steps(hidden, lengths))
        return steps


@register_model("tetfn", config=TETFNConfig, trainer=FINE_TUNE_TRAINER)
def build_tetfn(args: Any) -> TETFN:
    """TETFN with padding masked."""
    return TETFN(TETFNConfig.from_args(args))


class ReleasedTETFNConfig(TETFNConfig):
    """MMSA's reading: padding is read, features are not scaled."""

    masked: bool = False
    vision_kernel: int = Field(1, ge=1)  # MMSA gives vision the kernel of audio
    feature_scaling: Scaling = "none"


@register_model("tetfn_released", config=ReleasedTETFNConfig, trainer=FINE_TUNE_TRAINER)
def build_released(args: Any) -> TETFN:
    """TETFN as MMSA computes it."""
    return TETFN(ReleasedTETFNConfig.from_args(args))
