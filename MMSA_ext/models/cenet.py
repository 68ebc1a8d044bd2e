"""CENET: audio and vision shift the text inside a pretrained language model.

Wang et al., "Cross-modal Enhancement Network for Multimodal Sentiment Analysis", IEEE Transactions
on Multimedia 25, 2023. This is the version that MMSA has: continuous features and BERT, where the
authors have clusters of frames and SentiLARE. Two readings are registered: `cenet` masks padding,
`cenet_released` reads audio and vision at their full padded lengths, as MMSA does.
docs/models/systems.md lists what else differs from the paper.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from MMSA_ext.config.schema import FineTuneConfig, Scaling
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch, StepOutput
from MMSA_ext.models.parts.attention import MultiHeadAttention, masked_mean
from MMSA_ext.models.parts.dropout import Dropout
from MMSA_ext.models.parts.encoders import PretrainedText, padded_frames
from MMSA_ext.registry import FINE_TUNE_TRAINER, register_model


class CENETConfig(FineTuneConfig):
    """Configuration of CENET: MMSA's values, and readings.

    Attributes:
        logit_scale: Factor on the logits of the cross-modal attention; None is 1/sqrt(H) with H the
            width of the text encoder.
        head_dropout: Before each of the two layers of the head.
        task_loss: Mean absolute error (`l1`, MMSA's) or mean squared error (`mse`, the authors').
        frozen_embeddings: The text encoder's embeddings stay as pretrained.
        masked: Padding gets no attention. False pads audio and vision to the data set's full length
            and reads the padding, as MMSA does.
    """

    logit_scale: float | None = Field(8.0, gt=0)
    head_dropout: float = Field(0.1, ge=0, lt=1)
    task_loss: Literal["l1", "mse"] = "l1"
    frozen_embeddings: bool = True
    masked: bool = True

    num_epochs: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    early_stop: int | None = Field(8, ge=0)
    max_grad_norm: float | None = Field(2.0, gt=0)
    schedule: Literal["linear", "constant", "cosine"] = "constant"
    optimizer: Literal["adamw", "adam"] = "adam"

    @property
    def masks_padding(self) -> bool:
        """See `RunConfig`."""
        return self.masked


class CrossModalEnhancement(nn.Module):
    """What audio and vision say to each token: the shift of its hidden state (CE).

    Args:
        feature_dims: Modality to the width of its frames.
        dim: Width H of the hidden states.
        scale: Factor on the logits; None is 1/sqrt(H).
    """

    def __init__(self, feature_dims: dict[str, int], dim: int, scale: float | None) -> None:
        super().__init__()
        self.transforms = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))
                for m, width in feature_dims.items()
            }
        )
        self.attention = nn.ModuleDict(
            {
                m: MultiHeadAttention(dim, 1, output_projection=False, scale=scale)
                for m in feature_dims
            }
        )
        self.shift = nn.Linear(len(feature_dims) * dim, dim)

    def forward(
        self, hidden: Tensor, frames: dict[str, Tensor], masks: dict[str, Tensor | None]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Let the tokens read the frames.

        Args:
            hidden: `(B, L, H)`.
            frames: Modality to `(B, L_m, d_m)`.
            masks: Modality to `(B, L_m)`, True where valid; None if all are read.

        Returns:
            The shift `(B, L, H)`, and what was read of each modality, `(B, L, H)`.
        """
        read = {
            m: attention(hidden, self.transforms[m](frames[m]), masks[m])
            for m, attention in self.attention.items()
        }
        shift: Tensor = self.shift(torch.cat(list(read.values()), dim=-1))
        return shift, read


class ShiftedText(PretrainedText):
    """A pretrained text encoder whose hidden states are shifted behind its first layer.

    Args:
        pretrained: As in `PretrainedText`.
        random_init: As in `PretrainedText`.
        architecture: As in `PretrainedText`.
        feature_dims: As in `CrossModalEnhancement`.
        scale: As in `CrossModalEnhancement`.
        frozen_embeddings: The embeddings ask for no gradient.

    Raises:
        TextEncoderError: If the encoder has no embeddings and list of two or more layers.
    """

    def __init__(
        self,
        pretrained: str,
        feature_dims: dict[str, int],
        *,
        scale: float | None = None,
        random_init: bool = False,
        architecture: dict[str, Any] | None = None,
        frozen_embeddings: bool = True,
    ) -> None:
        super().__init__(pretrained, random_init=random_init, architecture=architecture)
        layers, embeddings = self.layers(), getattr(self.encoder, "embeddings", None)
        if layers is None or len(layers) < 2 or embeddings is None:
            raise TextEncoderError(
                f"Text encoder {pretrained!r}: CENET shifts hidden states between the first two "
                f"layers of a BERT, and {type(self.encoder).__name__} has no `embeddings`, or no "
                "list of two or more layers; choose an encoder like bert-base-uncased."
            )
        if frozen_embeddings:
            embeddings.requires_grad_(False)
        self.enhancement = CrossModalEnhancement(feature_dims, self.hidden_size, scale)

    def forward(
        self, text: Tensor, frames: dict[str, Tensor], masks: dict[str, Tensor | None]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Encode tokens.

        Args:
            text: `(B, 3, L)`, as for `TextEncoder`.
            frames: As for `CrossModalEnhancement`.
            masks: As for `CrossModalEnhancement`.

        Returns:
            The last hidden states `(B, L, H)`; their mask `(B, L)`; what tokens read of each
            modality, `(B, L, H)`.
        """
        layers = self.layers()
        assert layers is not None  # looked at in `__init__`
        read: dict[str, Tensor] = {}

        def shifted(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, *others = arguments
            shift, found = self.enhancement(hidden, frames, masks)
            read.update(found)
            return (hidden + shift, *others)

        hook = layers[1].register_forward_pre_hook(shifted)
        try:
            hidden, mask = self._hidden(text)
        finally:
            hook.remove()
        return hidden, mask, read


class Head(nn.Module):
    """Two layers, each behind dropout, with tanh between them."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(Dropout(dropout), nn.Linear(dim, dim), nn.Tanh())
        self.last = nn.Sequential(Dropout(dropout), nn.Linear(dim, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The vector `(B, H)` behind tanh and the prediction `(B, 1)` of `x` `(B, H)`."""
        vector = self.first(x)
        return vector, self.last(vector)


class CENET(MSAModel):
    """The text encoder, shifted by audio and vision, and a head on its first position."""

    def __init__(self, config: CENETConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = ShiftedText(
            config.pretrained,
            {"audio": config.feature_dims[1], "vision": config.feature_dims[2]},
            scale=config.logit_scale,
            random_init=config.random_init,
            architecture=config.text_encoder_config,
            frozen_embeddings=config.frozen_embeddings,
        )
        dim = self.text_encoder.hidden_size
        self.head = Head(dim, config.head_dropout)
        deviation = getattr(self.text_encoder.encoder.config, "initializer_range", 0.02)
        for module in (*self.text_encoder.enhancement.modules(), *self.head.modules()):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=deviation)
                nn.init.zeros_(module.bias)

    def own_groups(self) -> dict[str, dict[str, float]]:
        """All of the enhancement decays, biases too."""
        return {"text_encoder.enhancement": {"weight_decay": self.config.weight_decay}}

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict; see `MSAModel.forward`.

        `Feature_t` is the first position of the last hidden states, `Feature_a` and `Feature_v` are
        the means over tokens of what they read, `Feature_f` is the vector of the last layer.
        """
        frames = {"audio": inputs.audio, "vision": inputs.vision}
        masks = {"audio": inputs.audio_mask, "vision": inputs.vision_mask}
        if not self.config.masked:
            lengths = self.config.seq_lens[1:]
            frames = {
                m: padded_frames(frames[m], masks[m], length)
                for m, length in zip(frames, lengths, strict=True)
            }
            masks = dict.fromkeys(frames)
        hidden, mask, read = self.text_encoder(inputs.text, frames, masks)
        fused, prediction = self.head(hidden[:, 0])
        return {
            "M": prediction,
            "Feature_t": hidden[:, 0],
            "Feature_a": masked_mean(read["audio"], mask),
            "Feature_v": masked_mean(read["vision"], mask),
            "Feature_f": fused,
        }

    def training_step(self, step: StepBatch) -> StepOutput:
        """The error of the prediction, the only loss."""
        prediction = self(step.inputs)["M"][step.anchors]
        task_loss = F.l1_loss if self.config.task_loss == "l1" else F.mse_loss
        return StepOutput(prediction, {"prediction_loss": task_loss(prediction, step.labels)})


@register_model("cenet", config=CENETConfig, trainer=FINE_TUNE_TRAINER)
def build_cenet(args: Any) -> CENET:
    """CENET with padding masked."""
    return CENET(CENETConfig.from_args(args))


class ReleasedCENETConfig(CENETConfig):
    """MMSA's reading: padding is read, features are not scaled."""

    masked: bool = False
    feature_scaling: Scaling = "none"


@register_model("cenet_released", config=ReleasedCENETConfig, trainer=FINE_TUNE_TRAINER)
def build_released(args: Any) -> CENET:
    """CENET as MMSA computes it."""
    return CENET(ReleasedCENETConfig.from_args(args))
