"""ALMT: a hyper-modality learned from audio and vision under the guidance of language.

Zhang et al., "Learning Language-guided Adaptive Hyper-modality Representation for Multimodal
Sentiment Analysis", EMNLP 2023. Two readings are registered: `almt` masks padding,
`almt_released` reads every modality at its full padded length, as the released code does. Where the
paper and the released code differ in anything else, both follow the code; docs/models/systems.md
lists it.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from MMSA_ext.config.schema import FineTuneConfig, Scaling
from MMSA_ext.models.contract import Inputs, MSAModel
from MMSA_ext.models.parts.attention import FeedForward, MultiSourceAttention, attend
from MMSA_ext.models.parts.encoders import TextStates, padded_frames
from MMSA_ext.registry import FINE_TUNE_TRAINER, register_model


class ALMTConfig(FineTuneConfig):
    """Configuration of ALMT: the released values, and readings.

    Attributes:
        dim: Width d of all sequences.
        tokens: T, learned tokens that a modality is read into.
        heads: Attention heads.
        head_dim: Width of a head in the modality embedding, the language scales and the fusion.
        hyper_head_dim: Width of a head in the hyper-modality learning; None is d / heads, 16 as
            released.
        feed_forward_dim: Hidden width of the feed-forward networks.
        embedding_layers: Layers of each modality's embedding.
        scales: Language scales, and with them layers of the hyper-modality learning.
        fusion_layers: Layers of the fusion.
        masked: Padding gets no attention. False pads every modality to the data set's full length
            and reads the padding, as the released code does.
        raw_residual: The residual of eq. 5 is H_hyper itself, as printed. False takes its
            LayerNorm, as the released code does.
        length_groups: Groups of similar length in which texts are encoded apart to save padding;
            changes no result. Not used where padding is read.
    """

    dim: int = Field(128, ge=1)
    tokens: int = Field(8, ge=1)
    heads: int = Field(8, ge=1)
    head_dim: int = Field(64, ge=1)
    hyper_head_dim: int | None = Field(None, ge=1)
    feed_forward_dim: int = Field(128, ge=1)
    embedding_layers: int = Field(1, ge=1)
    scales: int = Field(3, ge=1)
    fusion_layers: int = Field(2, ge=1)
    masked: bool = True
    raw_residual: bool = False
    length_groups: int = Field(3, ge=1)

    num_epochs: int = Field(200, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["linear", "constant", "cosine"] = "cosine"
    schedule_unit: Literal["step", "epoch"] = "epoch"
    decay_all: bool = True

    @property
    def masks_padding(self) -> bool:
        """See `RunConfig`."""
        return self.masked

    @model_validator(mode="after")
    def _hyper_heads_have_a_width(self) -> Self:
        if self.hyper_head_dim is None and self.dim % self.heads:
            raise ValueError(
                f"dim is {self.dim} and heads {self.heads}: set hyper_head_dim, or make dim a "
                "multiple of heads"
            )
        return self


class ALMTLayer(nn.Module):
    """Attention, then feed-forward, each on normalised inputs and added to the target.

    Query, key and value have a LayerNorm each; their projections have no bias.
    """

    def __init__(self, config: ALMTConfig) -> None:
        super().__init__()
        dim, inner = config.dim, config.heads * config.head_dim
        self.heads = config.heads
        self.query = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner, bias=False))
        self.key = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner, bias=False))
        self.value = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner, bias=False))
        self.output = nn.Linear(inner, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), FeedForward(dim, config.feed_forward_dim, "gelu")
        )

    def forward(self, target: Tensor, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Update `target` `(B, T, d)` from `source` `(B, S, d)`; mask `(B, S)`, True is valid."""
        read = attend(
            self.query(target),
            self.key(source),
            self.value(source),
            source_mask,
            heads=self.heads,
        )
        target = target + self.output(read)
        updated: Tensor = target + self.feed_forward(target)
        return updated


class ModalityEmbedding(nn.Module):
    """H_m^1: a modality read into a few learned tokens, whatever its length.

    Args:
        feature_dim: Width of the modality's features.
        max_length: Longest sequence; the position table has `tokens` rows more.
        config: Widths and layers.
    """

    def __init__(self, feature_dim: int, max_length: int, config: ALMTConfig) -> None:
        super().__init__()
        self.max_length = max_length
        self.projection = nn.Linear(feature_dim, config.dim)
        self.tokens = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.positions = nn.Parameter(torch.randn(1, config.tokens + max_length, config.dim))
        self.layers = nn.ModuleList(ALMTLayer(config) for _ in range(config.embedding_layers))

    def forward(self, sequence: Tensor, mask: Tensor | None) -> Tensor:
        """Read a modality.

        Args:
            sequence: `(B, L, feature_dim)`.
            mask: `(B, L)`, True where valid; None if all positions are read.

        Returns:
            `(B, tokens, d)`.

        Raises:
            ValueError: If the sequence is longer than the position table.
        """
        if sequence.shape[1] > self.max_length:
            raise ValueError(
                f"a sequence of {sequence.shape[1]} steps, but the model was built for at most "
                f"{self.max_length}; cut the sequences or set seq_lens and retrain."
            )
        tokens = self.tokens.expand(sequence.shape[0], -1, -1)
        count = tokens.shape[1]
        x = torch.cat([tokens, self.projection(sequence)], dim=1)
        x = x + self.positions[:, : x.shape[1]]
        if mask is not None:
            mask = F.pad(mask, (count, 0), value=True)
        for layer in self.layers[:-1]:
            x = layer(x, x, mask)
        # Only the tokens are kept, so the last layer need not update the other rows.
        embedded: Tensor = self.layers[-1](x[:, :count], x, mask)
        return embedded


class LanguageScales(nn.Module):
    """[H_l^1, ..., H_l^n]: language at several scales, each a layer deeper.

    The first one already holds the position table.
    """

    def __init__(self, config: ALMTConfig) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, config.tokens, config.dim))
        self.layers = nn.ModuleList(ALMTLayer(config) for _ in range(config.scales - 1))

    def forward(self, language: Tensor) -> list[Tensor]:
        """The scales of `language` `(B, tokens, d)`, each of its shape."""
        scales = [language + self.positions]
        for layer in self.layers:
            scales.append(layer(scales[-1], scales[-1]))
        return scales


class HyperModalityLayer(nn.Module):
    """One step of the adaptive hyper-modality learning (AHL, eq. 5).

    Language asks, audio and vision answer; the two answers are added, projected, and added to the
    hyper-modality.
    """

    def __init__(self, config: ALMTConfig) -> None:
        super().__init__()
        self.language_norm = nn.LayerNorm(config.dim)
        self.audio_norm = nn.LayerNorm(config.dim)
        self.vision_norm = nn.LayerNorm(config.dim)
        self.hyper_norm = nn.Identity() if config.raw_residual else nn.LayerNorm(config.dim)
        self.attention = MultiSourceAttention(
            ("audio", "vision"), config.dim, config.heads, config.hyper_head_dim, shared_query=True
        )

    def forward(self, hyper: Tensor, language: Tensor, audio: Tensor, vision: Tensor) -> Tensor:
        """H_hyper^j from H_hyper^(j-1), H_l^j, H_a^1 and H_v^1, all `(B, tokens, d)`."""
        read = self.attention(
            self.language_norm(language),
            {"audio": self.audio_norm(audio), "vision": self.vision_norm(vision)},
            {"audio": None, "vision": None},
        )
        updated: Tensor = self.hyper_norm(hyper) + read
        return updated


class HyperFusion(nn.Module):
    """The fusion: a token at the head of language reads the hyper-modality.

    The token is one parameter for both sides; each side has a position table of its own. The
    prediction reads the token's row alone, and no row of the language side reads another one, so
    the rows of H_l behind the token cannot change it: they are not computed. Their positions are
    kept, as released.
    """

    def __init__(self, config: ALMTConfig) -> None:
        super().__init__()
        length = config.tokens + 1
        self.token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.language_positions = nn.Parameter(torch.randn(1, length, config.dim))
        self.hyper_positions = nn.Parameter(torch.randn(1, length, config.dim))
        self.layers = nn.ModuleList(ALMTLayer(config) for _ in range(config.fusion_layers))

    def forward(self, hyper: Tensor) -> Tensor:
        """The fused vector `(B, d)` of H_hyper `(B, tokens, d)`."""
        token = self.token.expand(hyper.shape[0], -1, -1)
        target = token + self.language_positions[:, :1]
        source = torch.cat([token, hyper], dim=1) + self.hyper_positions
        for layer in self.layers:
            target = layer(target, source)
        return target[:, 0]


class ALMT(MSAModel):
    """Embed each modality in a few tokens, learn the hyper-modality, fuse, predict."""

    def __init__(self, config: ALMTConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = TextStates(
            config.pretrained,
            random_init=config.random_init,
            architecture=config.text_encoder_config,
            length_groups=config.length_groups if config.masked else 1,
        )
        widths = [self.text_encoder.hidden_size, *config.feature_dims[1:]]
        self.text_embedding, self.audio_embedding, self.vision_embedding = (
            ModalityEmbedding(width, length, config)
            for width, length in zip(widths, config.seq_lens, strict=True)
        )
        self.language_scales = LanguageScales(config)
        self.hyper = nn.Parameter(torch.ones(1, config.tokens, config.dim))
        self.hyper_layers = nn.ModuleList(HyperModalityLayer(config) for _ in range(config.scales))
        self.fusion = HyperFusion(config)
        self.head = nn.Linear(config.dim, 1)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict; `Feature_t`, `Feature_a` and `Feature_v` are the means of H_m^1 over tokens."""
        language = self.text_embedding(*self._text(inputs.text))
        audio = self.audio_embedding(*self._frames(inputs.audio, inputs.audio_mask, 1))
        vision = self.vision_embedding(*self._frames(inputs.vision, inputs.vision_mask, 2))
        hyper = self.hyper
        for layer, scale in zip(self.hyper_layers, self.language_scales(language), strict=True):
            hyper = layer(hyper, scale, audio, vision)
        fused = self.fusion(hyper)
        return {
            "M": self.head(fused),
            "Feature_t": language.mean(dim=1),
            "Feature_a": audio.mean(dim=1),
            "Feature_v": vision.mean(dim=1),
            "Feature_f": fused,
        }

    def _text(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states of the text and the mask of those to read."""
        if not self.config.masked:
            return self.text_encoder(text, self.config.seq_lens[0])[0], None
        hidden, mask = self.text_encoder(text)
        return hidden, mask

    def _frames(
        self, frames: Tensor, mask: Tensor | None, modality: int
    ) -> tuple[Tensor, Tensor | None]:
        """Frames and the mask of those to read; without masks, zeros up to the full length."""
        if self.config.masked:
            return frames, mask
        return padded_frames(frames, mask, self.config.seq_lens[modality]), None


@register_model("almt", config=ALMTConfig, trainer=FINE_TUNE_TRAINER)
def build_almt(args: Any) -> ALMT:
    """ALMT with padding masked."""
    return ALMT(ALMTConfig.from_args(args))


class ReleasedALMTConfig(ALMTConfig):
    """The released code's reading: padding is read, features are not scaled."""

    masked: bool = False
    feature_scaling: Scaling = "none"


@register_model("almt_released", config=ReleasedALMTConfig, trainer=FINE_TUNE_TRAINER)
def build_released(args: Any) -> ALMT:
    """ALMT as the released code computes it."""
    return ALMT(ReleasedALMTConfig.from_args(args))
