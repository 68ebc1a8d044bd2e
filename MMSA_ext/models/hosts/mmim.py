"""InfoEnh in MMIM (Han et al., EMNLP 2021), in front of everything that reads its vectors.

MMIM reads one vector a modality: the text encoder's first token, and for audio and vision the final
states of a recurrent layer. They enter the fusion, the mutual-information bounds between modalities
and the contrastive coding of the fusion result alike, so that InfoEnh's vectors take their place
before any of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.hosts.common import EnhancedHost, HostVariantConfig, labelled
from MMSA_ext.models.hosts.vectors import given_outputs, recorded_outputs, unpacked
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhHostConfig, VectorReadouts
from MMSA_ext.registry import register_model

_MMIM: Any = mmsa_bridge.model_class("mmim")


class MMIMInfoEnhConfig(InfoEnhHostConfig):
    """InfoEnh inside MMIM."""

    @model_validator(mode="after")
    def _keeps_the_width(self) -> Self:
        if self.vector == "widen":
            raise ValueError(
                "MMIM keeps its width: its entropy takes the log-determinant of a covariance over "
                "a quarter of the vector's dimensions, estimated from about a batch of samples; "
                "with more dimensions than that allows it is NaN. Use vector='keep_dim'"
            )
        return self


class MMIMVariantConfig(HostVariantConfig):
    """Keys of `mmim_infoenh`.

    Attributes:
        infoenh: Options of InfoEnh; None is the host alone, MMSA's own class.
    """

    infoenh: MMIMInfoEnhConfig | None = MMIMInfoEnhConfig()


class MMIMInfoEnh(EnhancedHost, _MMIM):  # type: ignore[misc]  # MMSA is untyped
    """MMIM with InfoEnh.

    The loss of InfoEnh is part of the trainer's second stage alone, the one that reads labels; the
    first maximises a bound in which the prediction, through which the loss joins, does not occur.

    Args:
        config: MMSA's `args` of MMIM.
        options: Options of InfoEnh.
    """

    bertmodel: Any
    acoustic_enc: Any
    visual_enc: Any

    def __init__(self, config: Any, options: InfoEnhHostConfig) -> None:
        super().__init__(config)
        directions = 2 if config.bidirectional else 1
        width = self.bertmodel.model.config.hidden_size
        dims = {
            "text": width,
            "audio": directions * config.d_ah,
            "vision": directions * config.d_vh,
        }
        self.infoenh = InfoEnh.from_config(dims, options)
        own = {"text": width, "audio": config.d_aout, "vision": config.d_vout}
        self.infoenh_readouts = VectorReadouts(self.infoenh.enhanced_dim, options, own)

    def forward(
        self,
        text: Tensor,
        audio: tuple[Tensor, Any],
        vision: tuple[Tensor, Any],
        y: Tensor | None = None,
        mem: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """MMIM's forward on enhanced vectors.

        Args:
            text: `(B, 3, L)` ids, mask and segments.
            audio: `(B, L_a, d_a)` and the lengths `(B,)`.
            vision: `(B, L_v, d_v)` and the lengths `(B,)`.
            y: Labels `(B, 1)`, for the entropies; None in the first stage and in evaluation.
            mem: Vectors of past batches by pair of modalities; given with `y`.

        Returns:
            MMIM's: prediction `M` `(B, 1)`, the bounds `lld`, `nce` and `H`, and `Feature_*`.
        """
        recurrent = {"audio": self.acoustic_enc.rnn, "vision": self.visual_enc.rnn}
        lengths = text[:, 1].sum(dim=1).int().cpu() if self.aligned else None
        words = self.bertmodel(text)
        with recorded_outputs(recurrent) as recorded:
            own = {
                "text": words[:, 0],
                "audio": self.acoustic_enc(audio[0], audio[1] if lengths is None else lengths),
                "vision": self.visual_enc(vision[0], vision[1] if lengths is None else lengths),
            }
        sequences, masks = {"text": words}, {"text": text[:, 1] > 0}
        for modality, (packed, _) in recorded.items():
            sequences[modality], masks[modality] = unpacked(packed)
        enhanced = self.enhance(sequences, masks)
        vectors = self.infoenh_readouts(enhanced.enhanced, enhanced.mask, own)
        encoders = {
            "bertmodel": vectors["text"][:, None],  # MMIM reads the first token
            "acoustic_enc": vectors["audio"],
            "visual_enc": vectors["vision"],
        }
        with given_outputs(self, encoders):
            outputs = super().forward(text, audio, vision, y, mem)
        return outputs if y is None else self.attach(outputs, enhanced)


@register_model(
    "mmim_infoenh",
    config=MMIMVariantConfig,
    trainer=labelled(mmsa_bridge.trainer_class("mmim")),
    host="mmim",
)
def build_mmim(args: Any) -> nn.Module:
    """MMIM with InfoEnh; MMSA's own class where `infoenh` is None."""
    options = MMIMVariantConfig.from_args(args).infoenh
    model: nn.Module = _MMIM(args) if options is None else MMIMInfoEnh(args, options)
    return model
