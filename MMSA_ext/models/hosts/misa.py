"""InfoEnh in MISA (Hazarika et al., ACM MM 2020), in front of its shared and private encoders.

MISA reads one vector a modality: the masked mean of the text encoder, and for audio and vision the
final states of two stacked recurrent layers. InfoEnh reads the text encoder's sequence and what the
second recurrent layers give at each frame, which MISA discards, and its vectors take the place of
MISA's at `shared_private`, the one point that all three pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.hosts.common import EnhancedHost, HostVariantConfig, labelled
from MMSA_ext.models.hosts.vectors import recorded_outputs, unpacked
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhHostConfig, InfoEnhOutput, VectorReadouts
from MMSA_ext.registry import register_model

_MISA: Any = mmsa_bridge.model_class("misa")


class MISAVariantConfig(HostVariantConfig):
    """Keys of `misa_infoenh`.

    Attributes:
        frame_lengths: How many frames of audio and vision are read. `text`, as MMSA does, takes the
            number of text tokens, also where frames and tokens are not aligned: the rest is never
            seen. `own` reads up to the last frame that is not zero.
    """

    frame_lengths: Literal["text", "own"] = "text"


class MISAOwnFrames(_MISA):  # type: ignore[misc]  # MMSA is untyped
    """MISA whose frames are read to their own end."""

    own_frames = True

    def extract_features(self, sequence: Tensor, lengths: Tensor, *layers: nn.Module) -> Any:
        """MISA's, with the lengths of `sequence` `(B, L, d)` in place of the text's `(B,)`."""
        if self.own_frames:
            lengths = frame_lengths(sequence)
        return super().extract_features(sequence, lengths, *layers)


def frame_lengths(sequence: Tensor) -> Tensor:
    """Frames up to the last one that is not zero, at least one: `(B, L, d)` to `(B,)` int64, CPU.

    At least one, because a sequence without frames cannot be packed.
    """
    positions = torch.arange(1, sequence.shape[1] + 1, device=sequence.device)
    nonzero = sequence.ne(0).any(dim=-1)
    return (nonzero * positions).amax(dim=1).clamp(min=1).cpu()


@dataclass
class _Step:
    """One forward pass: what MISA's layers gave so far, and what InfoEnh made of it."""

    text_mask: Tensor
    recorded: dict[str, Any]
    enhanced: InfoEnhOutput | None = None


class MISAInfoEnh(EnhancedHost, MISAOwnFrames):
    """MISA with InfoEnh.

    Args:
        config: MMSA's `args` of MISA.
        options: Options of InfoEnh.
        own_frames: Whether frames are read to their own end, and not to the text's.
    """

    bertmodel: Any
    arnn2: nn.Module
    vrnn2: nn.Module
    acoustic_size: int
    visual_size: int
    config: Any
    project_t: nn.Sequential
    project_a: nn.Sequential
    project_v: nn.Sequential

    def __init__(self, config: Any, options: InfoEnhHostConfig, *, own_frames: bool) -> None:
        super().__init__(config)
        self.own_frames = own_frames
        width = self.bertmodel.model.config.hidden_size
        dims = {"text": width, "audio": 2 * self.acoustic_size, "vision": 2 * self.visual_size}
        self.infoenh = InfoEnh.from_config(dims, options)
        own = {"text": width, "audio": 4 * self.acoustic_size, "vision": 4 * self.visual_size}
        self.infoenh_readouts = VectorReadouts(self.infoenh.enhanced_dim, options, own)
        if options.vector == "widen":
            for projection in (self.project_t, self.project_a, self.project_v):
                projection[0] = nn.Linear(options.readout_dim, self.config.hidden_size)

    def forward(self, text: Tensor, audio: Tensor, video: Tensor) -> dict[str, Tensor]:
        """MISA's forward on enhanced vectors.

        Args:
            text: `(B, 3, L)` ids, mask and segments.
            audio: `(B, L_a, d_a)`.
            video: `(B, L_v, d_v)`.

        Returns:
            `M`: predictions `(B, 1)`.
        """
        layers = {"text": self.bertmodel, "audio": self.arnn2, "vision": self.vrnn2}
        with recorded_outputs(layers) as recorded:
            self._step = step = _Step(text[:, 1] > 0, recorded)
            try:
                outputs = super().forward(text, audio, video)
            finally:
                del self._step
        assert step.enhanced is not None  # MISA always calls `shared_private`
        return self.attach(outputs, step.enhanced)

    def shared_private(self, utterance_t: Tensor, utterance_v: Tensor, utterance_a: Tensor) -> None:
        """MISA's, on enhanced vectors in place of its own `(B, width)`."""
        step = self._step
        audio, audio_mask = unpacked(step.recorded["audio"][0])
        vision, vision_mask = unpacked(step.recorded["vision"][0])
        step.enhanced = self.enhance(
            {"text": step.recorded["text"], "audio": audio, "vision": vision},
            {"text": step.text_mask, "audio": audio_mask, "vision": vision_mask},
        )
        own = {"text": utterance_t, "audio": utterance_a, "vision": utterance_v}
        vectors = self.infoenh_readouts(step.enhanced.enhanced, step.enhanced.mask, own)
        super().shared_private(vectors["text"], vectors["vision"], vectors["audio"])


@register_model(
    "misa_infoenh",
    config=MISAVariantConfig,
    trainer=labelled(mmsa_bridge.trainer_class("misa")),
    host="misa",
)
def build_misa(args: Any) -> nn.Module:
    """MISA with what the configuration adds to it; MMSA's own class where that is nothing."""
    config = MISAVariantConfig.from_args(args)
    own_frames = config.frame_lengths == "own"
    if config.infoenh is not None:
        return MISAInfoEnh(args, config.infoenh, own_frames=own_frames)
    model: nn.Module = (MISAOwnFrames if own_frames else _MISA)(args)
    return model
