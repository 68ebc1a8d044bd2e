"""DBF: what flows where, MI-Max, the text's first token, rates and sizes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import resolve
from MMSA_ext.models.contract import Inputs
from MMSA_ext.models.dbf import BottleneckLayer, DBFConfig, Streams
from MMSA_ext.models.losses import mi_max_loss
from MMSA_ext.models.parts.pre_norm import FrameEmbedding, LayerShape, PreNormLayer
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import get_model
from tests.conftest import TINY_SHAPES, tiny_config
from tests.models.conftest import make_step, outputs


@pytest.fixture
def build(tiny_model):
    return partial(tiny_model, "dbf", task_loss="l1")


class TestFlow:
    def test_modalities_meet_in_the_bottleneck_alone(self):
        """In one layer no stream reads another; the next bottleneck holds something of all."""
        torch.manual_seed(0)
        layer = BottleneckLayer(LayerShape(8, 2, 16, dropout=0.0), MODALITIES, shared=False)
        features = {m: torch.randn(2, 3, 8, requires_grad=True) for m in MODALITIES}
        masks = {m: torch.ones(2, 3, dtype=torch.bool) for m in MODALITIES}
        out = layer(Streams(features, masks, torch.randn(2, 2, 8)))
        for m in MODALITIES:
            reached = torch.autograd.grad(
                out.features[m].square().sum(), list(features.values()),
                allow_unused=True, retain_graph=True,
            )  # fmt: skip
            assert [g is not None for g in reached] == [name == m for name in MODALITIES]
        to_bottleneck = torch.autograd.grad(out.bottleneck.sum(), list(features.values()))
        assert all(g.any() for g in to_bottleneck)

    def test_the_next_bottleneck_is_the_mean_over_modalities(self):
        torch.manual_seed(0)
        layer = BottleneckLayer(LayerShape(8, 2, 16, dropout=0.0), MODALITIES, shared=False)
        features = {m: torch.randn(2, 3, 8) for m in MODALITIES}
        mask = torch.ones(2, 3, dtype=torch.bool)
        bottleneck = torch.randn(2, 2, 8)
        out = layer(Streams(features, dict.fromkeys(MODALITIES, mask), bottleneck))
        seen = [
            layer.layers[m](
                torch.cat([bottleneck, features[m]], 1), F.pad(mask, (2, 0), value=True)
            )
            for m in MODALITIES
        ]
        torch.testing.assert_close(out.bottleneck, sum(rows[:, :2] for rows in seen) / 3)
        for m, rows in zip(MODALITIES, seen, strict=True):
            torch.testing.assert_close(out.features[m], rows[:, 2:])

    def test_the_last_layer_updates_what_is_read(self, build):
        assert build().fusion[-1].updated == ("text",)
        assert build(centre="vision").fusion[-1].updated == ("vision",)
        assert build(mi_target="last").fusion[-1].updated == MODALITIES
        assert build(mi_target="last", mi_weight=0.0).fusion[-1].updated == ("text",)
        assert build(fusion_layers=3).fusion[1].updated == MODALITIES

    def test_the_head_reads_the_fused_features(self, build, dataset):
        model = build()
        result = outputs(model, dataset.batch(torch.arange(4)))
        torch.testing.assert_close(model.head(result["Feature_f"]), result["M"])


class TestLosses:
    def test_task_loss_and_weighted_mi_max(self, build, dataset):
        model = build(mi_weight=0.25)
        step = make_step(dataset)
        got = model.training_step(step)
        represented = model.represent(step.inputs)
        labels = step.samples["labels"]["M"]
        terms = {
            m: mi_max_loss(model.mi_predictors[m](represented.fused), represented.entering[m])
            for m in MODALITIES
        }
        torch.testing.assert_close(
            got.losses["prediction_loss"], (got.prediction - labels).abs().mean()
        )
        torch.testing.assert_close(got.losses["mi_max_loss"], 0.25 * sum(terms.values()))
        assert set(got.losses) == {"prediction_loss", "mi_max_loss"}
        for m in MODALITIES:
            assert got.diagnostics[f"info_nce_{m}"].item() == pytest.approx(terms[m].item())

    def test_a_batch_of_one_has_the_task_loss_alone(self, build, dataset):
        got = build().training_step(make_step(dataset, [3]))
        assert set(got.losses) == {"prediction_loss"}

    def test_detached_targets_get_no_gradient_from_mi_max(self, build, dataset):
        def gradient(**switch):
            model = build(**switch)
            model.training_step(make_step(dataset)).losses["mi_max_loss"].backward()
            # Behind the fusion layers this projection still feeds the text stream, which Z reads.
            return model.text_projection.weight.grad

        assert not torch.allclose(gradient(), gradient(mi_detach=True))


class TestSwitches:
    def test_mi_weight_zero_builds_no_predictor(self, build):
        assert not hasattr(build(mi_weight=0.0), "mi_predictors")

    def test_the_first_token_alone_is_the_text(self, build, dataset):
        model = build(text_tokens="first")
        represented = model.represent(Inputs.of(dataset.batch(torch.arange(2))))
        hidden = model.text_encoder(dataset.batch(torch.arange(2))["text"])[1]
        first = model.text_projection(hidden[:, :1])
        stream = model.unimodal["text"][0](first, torch.ones(2, 1, dtype=torch.bool))
        torch.testing.assert_close(represented.entering["text"], stream[:, 0])

    def test_too_many_frames_are_refused(self):
        with pytest.raises(ValueError, match="4 frames, but the model was built for at most 3"):
            FrameEmbedding(2, 8, 3)(torch.zeros(1, 4, 2))


class TestTraining:
    def rates(self, encoder, tmp_path, **overrides):
        settings = tiny_config("dbf", encoder, **TINY_SHAPES)
        settings |= {"learning_rate": 1e-4, "new_layers_learning_rate": 2e-5} | overrides
        args = mmsa_bridge.complete_args(
            resolve("dbf", "mosi", "", settings),
            device=torch.device("cpu"),
            model_save_path=str(tmp_path / "w"),
        )
        model = get_model("dbf").build(args)
        optimizer = get_model("dbf").trainer(args).make_optimizer(model)
        rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
        named = dict(model.named_parameters())
        return {
            rate[id(named["head.0.weight"])],
            rate[id(named["text_projection.weight"])],
        }, {rate[id(p)] for p in model.text_encoder.encoder.parameters()}

    @pytest.mark.parametrize(
        ("swapped", "rates"), [({}, ({2e-5}, {1e-4})), ({"swap_lr": True}, ({1e-4}, {2e-5}))]
    )
    def test_rates(self, tiny_encoder, tmp_path, swapped, rates):
        assert self.rates(tiny_encoder, tmp_path, **swapped) == rates

    def test_printed_values(self):
        for dataset, batch, tokens, alpha, new, backbone in (
            ("mosi", 32, 2, 0.05, 2e-5, 1e-4),
            ("mosei", 96, 4, 0.1, 2e-3, 5e-5),
            ("sims", 32, 2, 0.05, 1e-3, 5e-5),  # a choice: the paper has no SIMS
        ):
            args = resolve("dbf", dataset)
            got = args.batch_size, args.bottleneck_tokens, args.mi_weight
            assert got == (batch, tokens, alpha)
            assert (args.new_layers_learning_rate, args.learning_rate) == (new, backbone)
            assert (args.fusion_layers, args.dim, args.max_grad_norm) == (4, 128, 1.0)
            assert (args.schedule, args.warmup_ratio, args.num_epochs) == ("constant", 0.05, 100)
            assert (args.early_stop, args.KeyEval) == (10, "MAE")


def own_parameters(model) -> int:
    encoder = sum(p.numel() for p in model.text_encoder.parameters())
    return sum(p.numel() for p in model.parameters()) - encoder


class TestSize:
    """docs/models/systems.md states these numbers."""

    LAYER = 4 * (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128) + 4 * 128

    def build(self, encoder, **overrides):
        # Everything as shipped for MOSI but the text encoder, whose width is 16 here and 768 there.
        return get_model("dbf").build(
            resolve("dbf", "mosi", "", {"pretrained": str(encoder)} | overrides)
        )

    def with_bert(self, model) -> int:
        return own_parameters(model) + (768 - 16) * 128

    def test_parameters(self, tiny_encoder):
        assert sum(p.numel() for p in PreNormLayer(LayerShape(128, 8, 512, 0.1)).parameters()) == (
            self.LAYER
        )
        positions = (375 + 500) * 128
        full = self.with_bert(self.build(tiny_encoder, mi_target="last"))
        assert full == 3_304_193
        assert round((full - positions) / 1e6, 1) == 3.2  # by formula, without position tables
        # Two branches of the last layer have no reader.
        assert self.with_bert(self.build(tiny_encoder)) == full - 2 * self.LAYER == 2_907_649
        shared = self.with_bert(self.build(tiny_encoder, shared_layers=True))
        assert shared == 1_718_017
        assert round((shared - positions) / 1e6, 1) == 1.6

    def test_shipped_defaults_are_those_of_mosi(self):
        defaults = {name: field.default for name, field in DBFConfig.model_fields.items()}
        args = resolve("dbf", "mosi")
        same = ("learning_rate", "new_layers_learning_rate", "batch_size", "mi_weight", "schedule")
        assert {key: args[key] for key in same} == {key: defaults[key] for key in same}
