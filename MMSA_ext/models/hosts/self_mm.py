"""InfoEnh in Self-MM (Yu et al., AAAI 2021), in front of its fusion.

Self-MM reads one vector a modality: the text encoder's first token, and for audio and vision the
last state of a recurrent layer. InfoEnh reads the three sequences; its vectors enter the fusion.
The three unimodal heads, from which Self-MM makes its unimodal labels, read the filtered features:
the aligned ones hold the other modalities' content, and would be unimodal no longer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.hosts.common import EnhancedHost, HostVariantConfig, labelled
from MMSA_ext.models.hosts.vectors import recorded_outputs, replaced_inputs, unpacked
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhHostConfig, InfoEnhOutput, VectorReadouts
from MMSA_ext.registry import register_model

_SELF_MM: Any = mmsa_bridge.model_class("self_mm")
# Our names of the modalities to Self-MM's, in the order in which its fusion concatenates them.
_MODALITIES = {"text": "text", "audio": "audio", "vision": "video"}


class SelfMMInfoEnhConfig(InfoEnhHostConfig):
    """InfoEnh inside Self-MM.

    Attributes:
        unimodal_heads: What the three unimodal heads read: `filtered`, the features after the
            bottleneck, before the alignment; `enhanced`, what the fusion reads (the paper to the
            letter); `host`, Self-MM's own vectors.
    """

    unimodal_heads: Literal["filtered", "enhanced", "host"] = "filtered"


class SelfMMVariantConfig(HostVariantConfig):
    """Keys of `self_mm_infoenh`.

    Attributes:
        infoenh: Options of InfoEnh; None is the host alone, MMSA's own class.
    """

    infoenh: SelfMMInfoEnhConfig | None = SelfMMInfoEnhConfig()


@dataclass
class _Step:
    """One forward pass: what the encoders gave, and what InfoEnh made of it once they are through.

    Attributes:
        text_mask: `(B, L)` bool.
        recorded: Outputs of the encoders by modality.
        enhanced: What InfoEnh gave.
        heads: Vectors `(B, width)` that the unimodal heads read, by modality.
    """

    text_mask: Tensor
    recorded: dict[str, Any]
    enhanced: InfoEnhOutput | None = None
    heads: dict[str, Tensor] = field(default_factory=dict)

    def head(self, modality: str, own: Tensor) -> Tensor:
        """What a head reads in place of Self-MM's `own` vector."""
        return self.heads[modality]


class SelfMMInfoEnh(EnhancedHost, _SELF_MM):  # type: ignore[misc]  # MMSA is untyped
    """Self-MM with InfoEnh.

    Args:
        args: MMSA's `args` of Self-MM.
        options: Options of InfoEnh.
    """

    text_model: Any
    audio_model: Any
    video_model: Any
    post_fusion_dropout: nn.Module
    post_fusion_layer_1: nn.Linear

    def __init__(self, args: Any, options: SelfMMInfoEnhConfig) -> None:
        super().__init__(args)
        dims = {
            "text": self.text_model.model.config.hidden_size,
            "audio": self.audio_model.rnn.hidden_size,
            "vision": self.video_model.rnn.hidden_size,
        }
        self.infoenh = InfoEnh.from_config(dims, options)
        widths = (args.text_out, args.audio_out, args.video_out)
        self._own_widths = dict(zip(_MODALITIES, widths, strict=True))
        self._unimodal_heads = options.unimodal_heads
        self.infoenh_readouts = VectorReadouts(self.infoenh.enhanced_dim, options, self._own_widths)
        if options.unimodal_heads == "filtered":
            self.infoenh_heads = VectorReadouts(options.d, options, self._own_widths)
        if options.vector == "widen":
            self._widen(options)

    def _widen(self, options: SelfMMInfoEnhConfig) -> None:
        widths = self.infoenh_readouts.widths
        fused = self.post_fusion_layer_1.out_features
        self.post_fusion_layer_1 = nn.Linear(sum(widths.values()), fused)
        if options.unimodal_heads != "host":
            for modality, name in _MODALITIES.items():
                layer = f"post_{name}_layer_1"
                setattr(self, layer, nn.Linear(widths[modality], getattr(self, layer).out_features))

    def forward(
        self, text: Tensor, audio: tuple[Tensor, Any], video: tuple[Tensor, Any]
    ) -> dict[str, Tensor]:
        """Self-MM's forward, its fusion and heads on InfoEnh's vectors.

        Args:
            text: `(B, 3, L)` ids, mask and segments.
            audio: `(B, L_a, d_a)` and the lengths `(B,)`.
            video: `(B, L_v, d_v)` and the lengths `(B,)`.

        Returns:
            Self-MM's: predictions `M`, `T`, `A`, `V`, each `(B, 1)`, and `Feature_*`.
        """
        layers = {
            "text": self.text_model,
            "audio": self.audio_model.rnn,
            "vision": self.video_model.rnn,
        }
        with recorded_outputs(layers) as recorded:
            step = _Step(text[:, 1] > 0, recorded)
            replace = {self.post_fusion_dropout: partial(self._fusion_input, step)}
            for modality, name in _MODALITIES.items():
                replace[getattr(self, f"post_{name}_dropout")] = partial(step.head, modality)
            with replaced_inputs(replace):
                outputs = super().forward(text, audio, video)
        assert step.enhanced is not None  # the fusion comes before every head
        return self.attach(outputs, step.enhanced)

    def _fusion_input(self, step: _Step, own: Tensor) -> Tensor:
        """The enhanced vectors in a row, in place of Self-MM's own `(B, sum of their widths)`."""
        sequences, masks = {"text": step.recorded["text"]}, {"text": step.text_mask}
        for modality in ("audio", "vision"):
            sequences[modality], masks[modality] = unpacked(step.recorded[modality][0])
        step.enhanced = enhanced = self.enhance(sequences, masks)
        parts = torch.split(own, list(self._own_widths.values()), dim=-1)
        vectors = dict(zip(self._own_widths, parts, strict=True))
        fused = self.infoenh_readouts(enhanced.enhanced, enhanced.mask, vectors)
        if self._unimodal_heads == "filtered":
            step.heads = self.infoenh_heads(enhanced.filtered, enhanced.token_mask, vectors)
        else:
            step.heads = fused if self._unimodal_heads == "enhanced" else vectors
        return torch.cat([fused[modality] for modality in _MODALITIES], dim=-1)


@register_model(
    "self_mm_infoenh",
    config=SelfMMVariantConfig,
    trainer=labelled(mmsa_bridge.trainer_class("self_mm")),
    host="self_mm",
)
def build_self_mm(args: Any) -> nn.Module:
    """Self-MM with InfoEnh; MMSA's own class where `infoenh` is None."""
    options = SelfMMVariantConfig.from_args(args).infoenh
    model: nn.Module = _SELF_MM(args) if options is None else SelfMMInfoEnh(args, options)
    return model
