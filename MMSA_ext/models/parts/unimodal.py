"""One modality: its encoder's sequence and vector, and a model that predicts from it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from MMSA_ext.models.contract import Inputs
from MMSA_ext.models.parts.encoders import FrameEncoder, PooledTextEncoder
from MMSA_ext.models.parts.two_stage import EncoderModel


@dataclass(frozen=True)
class Encoded:
    """What an encoder says of one modality.

    Attributes:
        vector: `(B, d)`.
        sequence: `(B, L, d)`, zero at padding.
        mask: `(B, L)` bool, True where valid.
    """

    vector: Tensor
    sequence: Tensor
    mask: Tensor


def encode_text(encoder: PooledTextEncoder, text: Tensor) -> Encoded:
    """Encode MMSA's tokens `(B, 3, L)`."""
    return Encoded(*encoder(text))


def encode_frames(encoder: FrameEncoder, frames: Tensor, mask: Tensor | None) -> Encoded:
    """Encode frames `(B, L, feature_dim)`; the vector is the mean over class token and frames."""
    encoded = encoder(frames, mask)
    return Encoded(encoded.mean(), *encoded.padded())


class MLP(nn.Sequential):
    """Linear layers of the given widths with GELU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.GELU()]
        super().__init__(*layers[:-1])


class UnimodalModel(EncoderModel):
    """Base of the models of one modality: the encoder's vector into a multilayer perceptron."""

    def __init__(self, encoder: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = MLP(widths)


class TextModel(UnimodalModel):
    """Text alone; its encoder is frozen at first, then all of it or its last layer is fine-tuned.

    Args:
        encoder: Encoder of the text.
        widths: Of the head, from the encoder's to 1.
        frozen_share: Share of the epochs, from the first, with a frozen encoder.
        last_layer_only: Fine-tune only the encoder's last layer.
    """

    encoder: PooledTextEncoder

    def __init__(
        self,
        encoder: PooledTextEncoder,
        widths: Sequence[int],
        *,
        frozen_share: float,
        last_layer_only: bool,
    ) -> None:
        super().__init__(encoder, widths)
        self.frozen_share = frozen_share
        tuned: nn.Module = encoder.last_layer() if last_layer_only else encoder
        self._tuned = list(tuned.parameters())
        encoder.requires_grad_(False)
        self._freeze(False)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Fine-tune the encoder once its share of frozen epochs is over."""
        self._freeze(epoch <= epochs * self.frozen_share)

    def _freeze(self, frozen: bool) -> None:
        for parameter in self._tuned:
            parameter.requires_grad_(not frozen)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict from text; the rest is not read."""
        vector = encode_text(self.encoder, inputs.text).vector
        return {"M": self.head(vector), "Feature_t": vector}


class AudioModel(UnimodalModel):
    """Audio alone."""

    encoder: FrameEncoder

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict from audio; the rest is not read."""
        vector = encode_frames(self.encoder, inputs.audio, inputs.audio_mask).vector
        return {"M": self.head(vector), "Feature_a": vector}


class VisionModel(UnimodalModel):
    """Vision alone."""

    encoder: FrameEncoder

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Predict from vision; the rest is not read."""
        vector = encode_frames(self.encoder, inputs.vision, inputs.vision_mask).vector
        return {"M": self.head(vector), "Feature_v": vector}
