"""The fast path computes what the obvious way computes: predictions, losses, gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.plain import PlainDashFusion, take_weights
from MMSA_ext.config.resolve import resolve
from MMSA_ext.models.contract import Inputs, StepBatch
from MMSA_ext.models.dashfusion import DashFusion, DashFusionConfig
from tests.conftest import TINY_SHAPES, tiny_config
from tests.models.conftest import contrast_step, dataset  # noqa: F401 (a fixture)


def models(encoder, **overrides) -> tuple[DashFusion, PlainDashFusion]:
    """Both models with the same weights and no dropout, in training mode."""
    args = resolve(
        "dashfusion", "mosi", "", tiny_config("dashfusion", encoder, **TINY_SHAPES, **overrides)
    )
    config = DashFusionConfig.from_args(args)
    torch.manual_seed(0)
    model, plain = DashFusion(config), PlainDashFusion(config)
    take_weights(plain, model)
    for module in (*model.modules(), *plain.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train(), plain.train()


def run(model, batch: StepBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    output = model.training_step(batch)
    output.total.backward()
    return output.prediction.detach(), {k: v.detach() for k, v in output.losses.items()}


@pytest.mark.parametrize("with_contrast", [True, False])
def test_a_training_step_is_the_same(tiny_encoder, dataset, with_contrast):  # noqa: F811
    batch = contrast_step(dataset)
    batch = batch if with_contrast else replace(batch, contrast=None)
    model, plain = models(tiny_encoder)
    (prediction, losses), (expected, expected_losses) = run(model, batch), run(plain, batch)
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-6)
    assert losses["contrastive_loss"] > 0

    def compare(ours: nn.Module, theirs: nn.Module) -> None:
        expected = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(
                parameter.grad,
                expected[name].grad,
                rtol=1e-3,
                atol=1e-6,
                msg=lambda m, n=name: f"{n}: {m}",
            )

    compare(model.text_encoder.encoder, plain.text_encoder)
    compare(model.text_encoder.projector, plain.text_projector)
    compare(model.head, plain.head)
    for ours, theirs in ((model.audio_encoder, "audio"), (model.vision_encoder, "vision")):
        compare(ours.projection, plain.frames[theirs].projection)
        torch.testing.assert_close(
            ours.positions.grad, plain.frames[theirs].positions.grad, rtol=1e-3, atol=1e-6
        )


def test_prediction_and_contrast_features_are_the_same(tiny_encoder, dataset):  # noqa: F811
    model, plain = (m.eval() for m in models(tiny_encoder))
    given = Inputs.of(dataset.batch(torch.arange(12)))
    with torch.no_grad():
        torch.testing.assert_close(model(given)["M"], plain(given)["M"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model.contrast_features(given), plain.contrast_features(given), rtol=1e-4, atol=1e-5
        )


def test_other_readings_are_refused(tiny_encoder):
    with pytest.raises(ValueError, match="fusion"):
        models(tiny_encoder, fusion="concat")
