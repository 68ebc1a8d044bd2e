"""InfoEnh in front of MMSA's feature-level models.

These models read the features of the file, the frozen `text` features included, and return one
prediction. So InfoEnh stands before the whole model: it takes the three sequences, and the model is
built for what InfoEnh hands over, k rows a modality in place of the frames. Everything else, the
layers, the loss, the trainer and the batches, is MMSA's.

MMSA's trainers pass no lengths to these models. A frame is valid if any of its features is not
zero, as MMSA's files pad with zeros; where none is, InfoEnh counts the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from easydict import EasyDict
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.hosts.common import EnhancedHost, HostVariantConfig, labelled
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhHostConfig, InfoEnhOutput, VectorReadouts
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import register_model


class FeatureLevelConfig(HostVariantConfig):
    """Keys of a feature-level model's variant.

    With InfoEnh, `need_normalized` (MMSA's loader averages audio and vision over time) and
    `need_model_aligned` (MMSA averages audio and vision to the text's length) are False whatever
    the host's configuration says: InfoEnh takes the sequences as they are, and its k rows make the
    modalities equally long. `need_data_aligned` stays the host's: it says which file is read.
    With `infoenh=None` all of them are the host's.
    """

    def keys(self) -> dict[str, Any]:
        """The fields, and with InfoEnh what it decides of the host's."""
        own = super().keys()
        if self.infoenh is not None:
            own |= {"need_normalized": False, "need_model_aligned": False}
        return own

    def check(self, args: Mapping[str, Any]) -> None:
        """Refuse what InfoEnh in front of this host cannot read.

        Args:
            args: The complete configuration.

        Raises:
            ConfigError: If the host would be handed token ids or averaged frames.
        """
        if self.infoenh is None:
            return
        name = args["model_name"]
        if args.get("use_bert"):
            raise ConfigError(
                f"{name}: InfoEnh reads the file's `text` features, and use_bert hands over token "
                "ids; set use_bert to false."
            )
        wrong = [key for key in ("need_normalized", "need_model_aligned") if args.get(key)]
        if wrong:
            raise ConfigError(
                f"{name}: InfoEnh reads sequences as they are; set {' and '.join(wrong)} to false "
                "(MMSA_ext.MMSA_run does so by itself)."
            )


class SequenceConfig(FeatureLevelConfig):
    """Keys of the variant of a host that reads InfoEnh's rows themselves."""

    def check(self, args: Mapping[str, Any]) -> None:
        """Refuse what cannot be had with rows in place of frames.

        Args:
            args: The complete configuration.

        Raises:
            ConfigError: As all hosts of this file; if an option of a readout is given, which there
                is not; or if a kernel of the host is longer than the k rows.
        """
        super().check(args)
        if self.infoenh is not None:
            _check_sequence_options(args, self.infoenh)
            _check_kernels(args, self.infoenh)


def valid_frames(frames: Tensor) -> Tensor:
    """Which frames of zero-padded features are valid.

    Args:
        frames: `(B, L, d)`.

    Returns:
        `(B, L)` bool, True where any feature is not zero.
    """
    return frames.ne(0).any(-1)


class EnhancedFeatures(EnhancedHost):
    """A host of which InfoEnh enhances the input; subclasses say what the host is handed."""

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor) -> dict[str, Any]:
        """Enhance, then the host's own forward.

        Args:
            text: `(B, L_t, d_t)` features.
            audio: `(B, L_a, d_a)`, not averaged.
            vision: `(B, L_v, d_v)`, not averaged.

        Returns:
            The host's outputs; `M` is `(B, 1)`.
        """
        sequences = dict(zip(MODALITIES, (text, audio, vision), strict=True))
        masks = {name: valid_frames(frames) for name, frames in sequences.items()}
        enhanced = self.enhance(sequences, masks)
        outputs = super().forward(*self._handed_over(enhanced, sequences))
        return self.attach(outputs, enhanced)

    def _handed_over(
        self, enhanced: InfoEnhOutput, sequences: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Text, audio and vision, as the host reads them."""
        raise NotImplementedError


class EnhancedSequences(EnhancedFeatures):
    """A host that reads three sequences gets InfoEnh's k rows in their place.

    Its `feature_dims` are the width of an enhanced row, 3d, its sequence lengths k. Padded rows are
    zero, as the padded frames are that the host reads without InfoEnh.

    Args:
        args: MMSA's `args`, with the feature file's `feature_dims`.
        config: InfoEnh and its place.
    """

    def __init__(self, args: Any, config: InfoEnhHostConfig) -> None:
        infoenh = InfoEnh.from_config(_dims(args), config)
        widths = [infoenh.enhanced_dim] * 3
        super().__init__(_presented(args, widths, self._lengths(config.k)))
        self.infoenh = infoenh

    @staticmethod
    def _lengths(k: int) -> list[int] | int:
        return [k] * 3

    def _handed_over(
        self, enhanced: InfoEnhOutput, sequences: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        text, audio, vision = (enhanced.enhanced[name] for name in MODALITIES)
        return text, audio, vision


class EnhancedSteps(EnhancedSequences):
    """A host that walks through the three modalities in step gets InfoEnh's k rows as its steps.

    Without InfoEnh, MMSA first averages audio and vision to the text's length. Here step a combines
    row a of the three, the a-th kept frame of each modality in temporal order (with
    `pool=kmax_per_channel` the a-th largest values): the same order, not the same time. What
    belongs to a row in the other modalities stands in the row itself, where InfoEnh's transport has
    put it.

    Args:
        args: MMSA's `args`, with the feature file's `feature_dims`.
        config: InfoEnh and its place.
    """

    @staticmethod
    def _lengths(k: int) -> int:
        return k  # where MMSA aligns the modalities, it tells a model one number


class EnhancedVectors(EnhancedFeatures):
    """A host that reads the text's sequence and one averaged frame of audio and vision.

    The text's k enhanced rows take the place of its sequence. Audio and vision take InfoEnh before
    their averaging: a readout maps their k rows to the vector `(B, 1, w)` which the host
    reads in place of the averaged frame. The width w is that of a frame (`vector="keep_dim"`), so
    that the host's own layers stay as they are, or `hidden` (`"widen"`). With `residual` MMSA's
    average over all frames, padding included, is added to it.

    Args:
        args: MMSA's `args`, with the feature file's `feature_dims`.
        config: InfoEnh and its place.
    """

    def __init__(self, args: Any, config: InfoEnhHostConfig) -> None:
        dims = _dims(args)
        infoenh = InfoEnh.from_config(dims, config)
        frames = {name: dims[name] for name in MODALITIES[1:]}
        readouts = VectorReadouts(infoenh.enhanced_dim, config, frames)
        widths = [infoenh.enhanced_dim, *readouts.widths.values()]
        super().__init__(_presented(args, widths, [config.k, 1, 1]))
        # Last, so that LMF's and TFN's trainers, which group parameters by position, find the
        # host's own first.
        self.infoenh = infoenh
        self.infoenh_readouts = readouts

    def _handed_over(
        self, enhanced: InfoEnhOutput, sequences: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        averages = {name: sequences[name].mean(1) for name in MODALITIES[1:]}
        vectors = self.infoenh_readouts(enhanced.enhanced, enhanced.mask, averages)
        return enhanced.enhanced["text"], vectors["audio"][:, None], vectors["vision"][:, None]


# What InfoEnh hands over to each supported host.
HOSTS: dict[str, type[EnhancedSequences | EnhancedVectors]] = {
    "mult": EnhancedSequences,
    "tfn": EnhancedVectors,
    "lmf": EnhancedVectors,
    "lf_dnn": EnhancedVectors,
    "ef_lstm": EnhancedSteps,
    "mfn": EnhancedSteps,
}


def _config_class(host: str) -> type[FeatureLevelConfig]:
    return SequenceConfig if issubclass(HOSTS[host], EnhancedSequences) else FeatureLevelConfig


@cache
def enhanced_class(host: str) -> type[nn.Module]:
    """MMSA's class of a host, with InfoEnh in front of it.

    Args:
        host: A key of `HOSTS`.

    Returns:
        A subclass of MMSA's; it takes MMSA's `args` and an `InfoEnhHostConfig`.
    """
    base = mmsa_bridge.model_class(host)
    made: type[nn.Module] = type(f"{base.__name__}_InfoEnh", (HOSTS[host], base), {})
    return made


def build(host: str, args: Any) -> nn.Module:
    """Build the variant of a host; with `infoenh=None` the host itself, MMSA's own class.

    Args:
        host: A key of `HOSTS`.
        args: MMSA's `args` with every configuration key.

    Raises:
        ConfigError: If the configuration cannot be had with this host.
    """
    config = _config_class(host).from_args(args)
    config.check(args)  # again: MMSA's own MMSA_run checks nothing
    if config.infoenh is None:
        model: nn.Module = mmsa_bridge.model_class(host)(args)
        return model
    return enhanced_class(host)(args, config.infoenh)


for _host in HOSTS:
    register_model(
        f"{_host}_infoenh",
        config=_config_class(_host),
        trainer=labelled(mmsa_bridge.trainer_class(_host)),
        host=_host,
    )(partial(build, _host))


def _dims(args: Any) -> dict[str, int]:
    return dict(zip(MODALITIES, map(int, args.feature_dims), strict=True))


def _presented(args: Any, widths: list[int], lengths: list[int] | int) -> EasyDict:
    """What the host is told of its input, by modality."""
    return EasyDict({**args, "feature_dims": widths, "seq_lens": lengths})


def _check_sequence_options(args: Mapping[str, Any], config: InfoEnhHostConfig) -> None:
    unread = {"hidden": None, "normalise": True, "residual": False, "vector": "keep_dim"}
    given = [f"infoenh.{key}" for key, default in unread.items() if getattr(config, key) != default]
    if given:
        raise ConfigError(
            f"{args['model_name']} reads InfoEnh's rows themselves, no vector made of them: "
            f"{', '.join(given)} would have no effect; leave it out."
        )


def _check_kernels(args: Mapping[str, Any], config: InfoEnhHostConfig) -> None:
    """MulT convolves each sequence without padding, unless it has the model's width already."""
    repeated = config.alignment or config.without_alignment == "repeat"
    width = config.d * (len(MODALITIES) if repeated else 1)
    target = args.get("dst_feature_dim_nheads", [width])[0]
    keys = [f"conv1d_kernel_size_{letter}" for letter in "lav"]
    too_long = {key: args[key] for key in keys if target != width and args.get(key, 0) > config.k}
    if too_long:
        named = " and ".join(f"{key}={size}" for key, size in too_long.items())
        raise ConfigError(
            f"{args['model_name']}: {named} is longer than the {config.k} rows that InfoEnh hands "
            f"over; raise infoenh.k to {max(too_long.values())} or lower {' and '.join(too_long)}."
        )
