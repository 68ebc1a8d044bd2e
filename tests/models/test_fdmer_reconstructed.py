"""The reconstruction of FDMER: parts, discriminator, losses, weights and size."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.contract import Inputs
from MMSA_ext.models.fdmer_reconstructed import VECTORS
from MMSA_ext.models.losses import (
    central_moment_discrepancy,
    cosine_consistency,
    difference_loss,
    hsic,
    similarity_consistency,
)
from MMSA_ext.registry import get_model
from tests.models.conftest import make_step, outputs

NAME = "fdmer_reconstructed"


@pytest.fixture
def build(tiny_model):
    return partial(tiny_model, NAME)


def test_its_name_and_paper_say_that_it_is_a_reconstruction():
    assert "reconstructed" in NAME
    assert get_model(NAME).paper.startswith("Reconstruction from the abstract, not the authors'")


def test_the_bare_name_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"no model 'fdmer': .* run fdmer_reconstructed"):
        resolve("fdmer", "mosi")


class TestParts:
    def test_one_common_and_three_private_encoders(self, build, dataset):
        model = build()
        common, private = model.represent(Inputs.of(dataset.batch(torch.arange(4))))
        assert common.shape == private.shape == (3, 4, 16)
        assert sorted(model.private) == ["audio", "text", "vision"]
        x = torch.randn(2, 16)
        parts = [model.private[m](x) for m in ("text", "audio", "vision")]
        assert not torch.allclose(parts[0], parts[1])
        # The same encoder for all: equal inputs have equal common parts.
        assert torch.equal(*model.common(torch.stack([x, x])))

    def test_features(self, build, dataset):
        model = build()
        batch = dataset.batch(torch.arange(4))
        result = outputs(model, batch)
        common, private = model.represent(Inputs.of(batch))
        for i, name in enumerate("tav"):
            torch.testing.assert_close(
                result[f"Feature_{name}"], torch.cat([common[i], private[i]], dim=-1)
            )
        assert result["Feature_f"].shape == (4, 48)
        torch.testing.assert_close(model.head(result["Feature_f"]), result["M"])

    def test_weights_sum_to_one(self, build, dataset):
        weights = outputs(build(), dataset.batch(torch.arange(5)))["fusion_weights"]
        assert weights.shape == (5, 6)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(5))
        assert (weights > 0).all()

    def test_weights_follow_their_vectors(self, build):
        """The weight of a vector scales its own block; without self-attention it is its own."""
        model = build(fusion_attention=False)
        vectors = torch.randn(2, 6, 16)
        fused, weights = model.fusion(vectors)
        scores = torch.tanh(model.fusion.score[0](vectors)) @ model.fusion.score[2].weight[0]
        torch.testing.assert_close(weights, scores.softmax(dim=-1))
        joined = torch.cat([weights[:, i, None] * vectors[:, i] for i in range(6)], dim=-1)
        torch.testing.assert_close(fused, model.fusion.join(joined))

    def test_order_of_the_weights(self, build, dataset):
        """Vectors of a modality are those that move with it."""
        model = build(fusion_attention=False)
        seen = []
        model.fusion.register_forward_hook(lambda module, args, result: seen.append(args[0]))
        batch = dataset.batch(torch.arange(3))
        outputs(model, batch)
        outputs(model, batch | {"vision": batch["vision"] + 1})
        moved = (seen[0] - seen[1]).abs().sum(dim=(0, 2)) > 0
        assert [name for name, m in zip(VECTORS, moved, strict=True) if m] == [
            "common_vision", "private_vision",
        ]  # fmt: skip
        assert VECTORS[:3] == ("common_text", "common_audio", "common_vision")


class TestDiscriminator:
    def gradient(self, model, dataset):
        model.training_step(make_step(dataset, range(6))).losses["adversarial_loss"].backward()
        return {name: p.grad for name, p in model.named_parameters()}

    def test_the_gradient_is_turned_for_the_common_encoder_alone(self, build, dataset):
        got = self.gradient(build(), dataset)
        model = build()
        common, private = model.represent(Inputs.of(dataset.batch(torch.arange(6))))
        label = torch.arange(3).repeat_interleave(6)
        plain = sum(
            F.cross_entropy(model.discriminator(x).flatten(0, 1), label) for x in (common, private)
        )
        (0.1 * plain).backward()
        for name, parameter in model.named_parameters():
            if name.startswith("common."):
                torch.testing.assert_close(got[name], -parameter.grad)
            elif name.startswith(("private.", "discriminator.")):
                torch.testing.assert_close(got[name], parameter.grad)

    def test_longer_parts_do_not_confuse_it(self, build, dataset):
        """With LayerNorm the length of the common encoder's output is no way out of the game."""

        def loss(scale, **switch):
            model = build(**switch)
            model.common[2].weight.data.mul_(scale)
            model.common[2].bias.data.mul_(scale)
            return model.training_step(make_step(dataset, range(6))).losses["adversarial_loss"]

        torch.testing.assert_close(loss(1e3), loss(1e4), rtol=1e-3, atol=0)
        assert loss(1e4, part_norm=False) > 5 * loss(1e3, part_norm=False)

    def test_prediction_needs_none(self, build, dataset):
        model = build()
        batch = dataset.batch(torch.arange(3))
        before = outputs(model, batch)["M"]
        torch.nn.init.zeros_(model.discriminator[0].weight)
        assert torch.equal(outputs(model, batch)["M"], before)


class TestLosses:
    def parts(self, model, dataset):
        return model.represent(Inputs.of(dataset.batch(torch.arange(6))))

    @pytest.mark.parametrize(
        ("consistency", "loss"),
        [("similarity", similarity_consistency), ("cmd", central_moment_discrepancy),
         ("cosine", cosine_consistency)],
    )  # fmt: skip
    def test_consistency(self, build, dataset, consistency, loss):
        model = build(consistency=consistency, consistency_weight=0.5)
        got = model.training_step(make_step(dataset, range(6))).losses["consistency_loss"]
        torch.testing.assert_close(got, 0.5 * loss(self.parts(model, dataset)[0]))

    @pytest.mark.parametrize("disparity", ["hsic", "hsic_unbiased", "difference"])
    def test_disparity(self, build, dataset, disparity):
        model = build(disparity=disparity, disparity_weight=0.5)
        got = model.training_step(make_step(dataset, range(6))).losses["disparity_loss"]
        C, P = self.parts(model, dataset)
        pairs = [(P[m], C[m]) for m in range(3)]
        pairs += [(P[i], P[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        if disparity == "difference":
            want = sum(difference_loss(u, v) for u, v in pairs)
        else:
            unbiased = disparity == "hsic_unbiased"
            want = 5 * sum(hsic(u, v, unbiased=unbiased) for u, v in pairs)
        torch.testing.assert_close(got, 0.5 * want)

    def test_the_task_loss_is_the_squared_error(self, build, dataset):
        step = make_step(dataset, range(6))
        got = build().training_step(step)
        want = (got.prediction - step.samples["labels"]["M"]).square().mean()
        torch.testing.assert_close(got.losses["prediction_loss"], want)

    def test_small_batches_drop_what_they_cannot_carry(self, build, dataset):
        model = build()
        alone = model.training_step(make_step(dataset, [2]))
        assert set(alone.losses) == {"prediction_loss", "adversarial_loss"}
        assert alone.total.isfinite()
        two = model.training_step(make_step(dataset, [2, 4]))
        assert set(two.losses) == set(alone.losses) | {"consistency_loss", "disparity_loss"}
        unbiased = build(disparity="hsic_unbiased")
        assert "disparity_loss" not in unbiased.training_step(make_step(dataset, range(3))).losses
        assert "disparity_loss" in unbiased.training_step(make_step(dataset, range(4))).losses

    def test_weights_of_zero_leave_terms_out(self, build, dataset):
        none = {"consistency_weight": 0.0, "disparity_weight": 0.0, "adversarial_weight": 0.0}
        model = build(**none)
        assert not hasattr(model, "discriminator")
        got = model.training_step(make_step(dataset, range(6)))
        assert set(got.losses) == {"prediction_loss"}
        assert "hsic" in got.diagnostics
        assert not any(name.startswith("discriminator") for name in got.diagnostics)

    def test_diagnostics(self, build, dataset):
        model = build()
        got = model.training_step(make_step(dataset, range(6))).diagnostics
        weights = [got[f"weight_{name}"] for name in VECTORS]
        assert sum(weights).item() == pytest.approx(1)
        C, P = self.parts(model, dataset)
        values = [hsic(u, v) for u, v in [*zip(P, C, strict=True), (P[0], P[1]), (P[0], P[2]),
                                          (P[1], P[2])]]  # fmt: skip
        assert got["hsic"].item() == pytest.approx(5 * torch.stack(values).mean().item())
        for part in ("common", "private"):
            assert 0 <= got[f"discriminator_accuracy_{part}"] <= 1
            assert 0 < got[f"spread_{part}"] < 1
        assert not any(value.requires_grad for value in got.values())

    def test_spread_is_zero_where_samples_look_alike(self, build, dataset):
        model = build(part_norm=False)
        torch.nn.init.zeros_(model.common[2].weight)
        got = model.training_step(make_step(dataset, range(6))).diagnostics
        assert got["spread_common"].item() == pytest.approx(0, abs=1e-6)

    def test_without_adaptive_weights_there_are_none_to_report(self, build, dataset):
        model = build(adaptive_weights=False)
        assert "fusion_weights" not in outputs(model, dataset.batch(torch.arange(2)))
        diagnostics = model.training_step(make_step(dataset, range(6))).diagnostics
        assert not any(name.startswith("weight_") for name in diagnostics)


def test_size(tiny_encoder):
    """docs/models/systems.md states this number."""
    model = get_model(NAME).build(resolve(NAME, "mosi", "", {"pretrained": str(tiny_encoder)}))
    encoder = sum(p.numel() for p in model.text_encoder.parameters())
    own = sum(p.numel() for p in model.parameters()) - encoder + (768 - 16) * 128
    assert own == 1_139_844
    assert own == pytest.approx(1.15e6, rel=0.02)  # by formula
