"""DBF: what flows where, every switch, MI-Max, rates, masks and sizes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.contract import Inputs, StepBatch
from MMSA_ext.models.dbf import DBF, BottleneckLayer, DBFConfig, Streams
from MMSA_ext.models.losses import mi_max_loss
from MMSA_ext.models.parts.pre_norm import FrameEmbedding, LayerShape, PreNormLayer
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import get_model
from tests.conftest import TINY_SHAPES, tiny_config


def build(encoder, data="mosi", **overrides) -> DBF:
    torch.manual_seed(0)
    settings = tiny_config("dbf", encoder, **TINY_SHAPES) | {"task_loss": "l1"} | overrides
    model = get_model("dbf").build(resolve("dbf", data, "", settings))
    torch.manual_seed(1)
    return model.eval()


def make_step(dataset, rows=range(5)) -> StepBatch:
    batch = dataset.batch(torch.tensor(list(rows)))
    return StepBatch(batch, torch.arange(len(batch["id"])), None)


def outputs(model, batch):
    with torch.no_grad():
        return model(Inputs.of(batch))


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

    def test_all_modalities_reach_the_prediction(self, tiny_encoder, dataset):
        model = build(tiny_encoder)
        batch = dataset.batch(torch.arange(4))
        before = outputs(model, batch)["M"]
        for key in ("audio", "vision"):
            changed = outputs(model, batch | {key: batch[key] + 1})["M"]
            assert not torch.allclose(changed, before)

    def test_the_last_layer_updates_what_is_read(self, tiny_encoder):
        assert build(tiny_encoder).fusion[-1].updated == ("text",)
        assert build(tiny_encoder, centre="vision").fusion[-1].updated == ("vision",)
        assert build(tiny_encoder, mi_target="last").fusion[-1].updated == MODALITIES
        assert build(tiny_encoder, mi_target="last", mi_weight=0.0).fusion[-1].updated == ("text",)
        assert build(tiny_encoder, fusion_layers=3).fusion[1].updated == MODALITIES

    def test_features(self, tiny_encoder, dataset):
        model = build(tiny_encoder)
        result = outputs(model, dataset.batch(torch.arange(4)))
        assert {name: tuple(x.shape) for name, x in result.items()} == {
            "M": (4, 1), "Feature_t": (4, 16), "Feature_a": (4, 16),
            "Feature_v": (4, 16), "Feature_f": (4, 16),
        }  # fmt: skip
        torch.testing.assert_close(model.head(result["Feature_f"]), result["M"])


class TestPadding:
    @pytest.mark.parametrize("switch", [{}, {"readout": "mean", "mi_target": "raw"}])
    def test_it_never_changes_a_result(self, tiny_encoder, dataset, switch):
        model = build(tiny_encoder, **switch)
        short = int(np.argmin(dataset.audio_lengths / 12 + dataset.vision_lengths / 8))
        batch = dataset.batch(torch.tensor([short]))
        padded = dict(batch)
        for key, longest in (("audio", 12), ("vision", 8)):
            more = longest - batch[key].shape[1]
            assert more > 0
            padded[key] = F.pad(batch[key], (0, 0, 0, more), value=7.0)  # whatever stands there
            padded[f"{key}_mask"] = F.pad(batch[f"{key}_mask"], (0, more))
        padded["text"] = F.pad(batch["text"], (0, 1))
        for name, value in outputs(model, batch).items():
            torch.testing.assert_close(outputs(model, padded)[name], value, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("groups", [1, 3])
    def test_a_sample_is_the_same_in_any_batch(self, tiny_encoder, dataset, groups):
        model = build(tiny_encoder, length_groups=groups)
        together = outputs(model, dataset.batch(torch.arange(12)))
        for row in range(12):
            alone = outputs(model, dataset.batch(torch.tensor([row])))
            for name, value in alone.items():
                torch.testing.assert_close(together[name][row], value[0], rtol=1e-4, atol=1e-6)

    def test_a_sample_without_valid_frames_is_predicted(self, tiny_encoder, dataset):
        model = build(tiny_encoder)
        batch = dataset.batch(torch.arange(3))
        batch["audio_mask"] = torch.zeros_like(batch["audio_mask"])
        assert outputs(model, batch)["M"].isfinite().all()


class TestLosses:
    def test_task_loss_and_weighted_mi_max(self, tiny_encoder, dataset):
        model = build(tiny_encoder, mi_weight=0.25)
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

    def test_a_batch_of_one_has_the_task_loss_alone(self, tiny_encoder, dataset):
        got = build(tiny_encoder).training_step(make_step(dataset, [3]))
        assert set(got.losses) == {"prediction_loss"}

    @pytest.mark.parametrize(
        "switch",
        [{}, {"mi_target": "raw"}, {"mi_target": "last"}, {"shared_layers": True},
         {"mi_predictor": "linear"}, {"unimodal_layers": 0}, {"centre": "audio"},
         {"mi_weight": 0.0}, {"mi_detach": True}],
        ids=str,
    )  # fmt: skip
    def test_every_parameter_gets_a_gradient(self, tiny_encoder, dataset, switch):
        model = build(tiny_encoder, **switch)
        # An odd number: else a mean absolute error can leave the last bias without gradient.
        model.training_step(make_step(dataset)).total.backward()
        silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert {name for name in silent if not name.endswith("key.bias")} == set()

    def test_detached_targets_get_no_gradient_from_mi_max(self, tiny_encoder, dataset):
        def gradient(**switch):
            model = build(tiny_encoder, **switch)
            model.training_step(make_step(dataset)).losses["mi_max_loss"].backward()
            # Behind the fusion layers this projection still feeds the text stream, which Z reads.
            return model.text_projection.weight.grad

        assert not torch.allclose(gradient(), gradient(mi_detach=True))


# Switches and what of the model they change: the prediction, or the losses alone.
PREDICTION = [
    {"unimodal_layers": 0}, {"unimodal_layers": 2}, {"text_tokens": "first"}, {"readout": "mean"},
    {"centre": "vision"}, {"shared_layers": True}, {"fusion_layers": 3}, {"bottleneck_tokens": 4},
    {"activation": "relu"}, {"heads": 2}, {"feed_forward_dim": 16},
]  # fmt: skip
LOSS = [
    {"mi_target": "raw"}, {"mi_target": "last"}, {"mi_predictor": "linear"}, {"mi_symmetric": True},
    {"mi_double_exp": True}, {"mi_include_positive": False}, {"mi_weight": 0.5},
    {"mi_weight": 0.0}, {"task_loss": "mse"},
]  # fmt: skip


class TestSwitches:
    @pytest.mark.parametrize("switch", PREDICTION, ids=str)
    def test_prediction(self, tiny_encoder, dataset, switch):
        batch = dataset.batch(torch.arange(4))
        default = outputs(build(tiny_encoder), batch)["M"]
        assert not torch.allclose(outputs(build(tiny_encoder, **switch), batch)["M"], default)

    @pytest.mark.parametrize("switch", LOSS, ids=str)
    def test_loss(self, tiny_encoder, dataset, switch):
        step = make_step(dataset)
        default = build(tiny_encoder).training_step(step).losses
        got = build(tiny_encoder, **switch).training_step(step).losses
        changed = {n for n in default if n not in got or not torch.allclose(default[n], got[n])}
        assert changed

    def test_mi_weight_zero_builds_no_predictor(self, tiny_encoder):
        assert not hasattr(build(tiny_encoder, mi_weight=0.0), "mi_predictors")

    def test_the_first_token_alone_is_the_text(self, tiny_encoder, dataset):
        model = build(tiny_encoder, text_tokens="first")
        represented = model.represent(Inputs.of(dataset.batch(torch.arange(2))))
        hidden = model.text_encoder(dataset.batch(torch.arange(2))["text"])[1]
        first = model.text_projection(hidden[:, :1])
        stream = model.unimodal["text"][0](first, torch.ones(2, 1, dtype=torch.bool))
        torch.testing.assert_close(represented.entering["text"], stream[:, 0])

    @pytest.mark.parametrize(
        ("switch", "message"),
        [
            ({"heads": 3}, "dim is 16 and heads 3: dim must be a multiple of heads"),
            ({"fusion_layers": 1}, "fusion_layers.*greater than or equal to 2"),
            ({"swap_lr": True}, "swap_lr has nothing to exchange"),
            ({"mi_target": "first"}, "mi_target"),
            ({"alpha": 0.1}, "alpha"),
        ],
    )
    def test_wrong_values_are_refused(self, tiny_encoder, switch, message):
        with pytest.raises(ConfigError, match=message):
            build(tiny_encoder, **switch)

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

    def test_rates(self, tiny_encoder, tmp_path):
        assert self.rates(tiny_encoder, tmp_path) == ({2e-5}, {1e-4})

    def test_swapped_rates(self, tiny_encoder, tmp_path):
        assert self.rates(tiny_encoder, tmp_path, swap_lr=True) == ({1e-4}, {2e-5})

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
    """docs/dbf.md states these numbers."""

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
