"""What the hosts of InfoEnh share: labels, and the way its loss joins theirs.

The hosts train in MMSA's own trainers, which pass no labels to the model and know no further loss.
So the trainer that is registered for a variant, MMSA's made `labelled`, tells the model the labels
of each batch, whoever calls it: this package's runner, or MMSA's. The loss joins through the
prediction (`losses.attach_auxiliary_loss`). This holds for trainers that add up losses and call
`backward` once a batch, as all of MMSA's do; it would be wrong where a trainer scales its loss
(mixed precision, accumulation that divides).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.schema import VariantConfig
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhHostConfig, InfoEnhOutput
from MMSA_ext.models.losses import attach_auxiliary_loss


class HostVariantConfig(VariantConfig):
    """Keys of a host's variant.

    Attributes:
        infoenh: Options of InfoEnh; None is the host alone, MMSA's own class.
    """

    infoenh: InfoEnhHostConfig | None = InfoEnhHostConfig()


class EnhancedHost(nn.Module):
    """Mixin for a host's class: the labels of the batch, and the auxiliary loss.

    Attributes:
        infoenh: The module in front of the fusion.
        labels: `(B,)` float, labels of the training batch that is being worked on; None outside of
            training.
    """

    infoenh: InfoEnh
    labels: Tensor | None = None
    _batches: int = 0
    _sums: dict[str, Tensor]

    def enhance(self, sequences: dict[str, Tensor], masks: dict[str, Tensor]) -> InfoEnhOutput:
        """Run InfoEnh, with the batch's labels while training.

        Args:
            sequences: `(B, L_m, d_m)` by modality.
            masks: `(B, L_m)` bool by modality, True where valid.
        """
        labels = self.labels if self.training else None
        if labels is not None:
            labels = labels.to(next(iter(sequences.values())).device, non_blocking=True)
        enhanced: InfoEnhOutput = self.infoenh(sequences, masks, labels)
        return enhanced

    def attach(self, outputs: dict[str, Any], enhanced: InfoEnhOutput) -> dict[str, Any]:
        """Let the loss of InfoEnh join through the prediction `outputs["M"]`, while training."""
        if not self.training or self.labels is None or not torch.is_grad_enabled():
            return outputs
        self._add({**enhanced.diagnostics, "infoenh_loss": enhanced.loss.detach()})
        return {**outputs, "M": attach_auxiliary_loss(outputs["M"], enhanced.loss)}

    def learn_from(self, batch: Mapping[str, Any] | None) -> None:
        """Take the labels of the training batch that comes next; None where there is none."""
        self.labels = None if batch is None else batch["labels"]["M"].reshape(-1)

    def take_diagnostics(self) -> dict[str, float]:
        """Means of InfoEnh's diagnostics and loss over the training batches since the last call."""
        batches, self._batches = self._batches, 0
        if not batches:
            return {}
        return {name: float(total / batches) for name, total in self._sums.items()}

    def _add(self, seen: dict[str, Tensor]) -> None:
        # Sums, no list: MMSA's own loop never takes them.
        self._sums = {n: v + self._sums[n] for n, v in seen.items()} if self._batches else seen
        self._batches += 1


def enhanced_host(model: nn.Module) -> EnhancedHost | None:
    """The host inside MMSA's wrapper `AMIO`, if InfoEnh is in it."""
    core = getattr(model, "Model", model)
    return core if isinstance(core, EnhancedHost) else None


def publish_labels(model: nn.Module, loaders: Mapping[str, Any]) -> Mapping[str, Any]:
    """The loaders to train `model` with: a host with InfoEnh is told the labels of each batch.

    Args:
        model: Any model of MMSA's loop, as `mmsa_bridge.build_model` makes it.
        loaders: By split.

    Returns:
        The same loaders, the training one wrapped where the model is such a host.
    """
    host = enhanced_host(model)
    if host is None:
        return loaders
    return {**loaders, "train": mmsa_bridge.WatchedLoader(loaders["train"], host.learn_from)}


class _LabellingTrainer:
    """Goes in front of one of MMSA's trainers."""

    def do_train(
        self, model: nn.Module, dataloader: Mapping[str, Any], return_epoch_results: bool = False
    ) -> Any:
        loaders = publish_labels(model, dataloader)
        return super().do_train(model, loaders, return_epoch_results)  # type: ignore[misc]


def labelled(trainer: type) -> type:
    """A trainer of MMSA that tells a host of InfoEnh the labels of each training batch.

    Args:
        trainer: From `mmsa_bridge.trainer_class`.

    Returns:
        A subclass of the same name; any other model trains in it as in MMSA's.
    """
    # The module is MMSA's, so that the identity of a run holds the source of MMSA's trainer.
    return type(trainer.__name__, (_LabellingTrainer, trainer), {"__module__": trainer.__module__})
