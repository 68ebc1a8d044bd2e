"""DashFusion: padding invariance, ablations, losses, the released reading."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from easydict import EasyDict

from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.data.retrieval import ContrastSets
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.contract import Inputs, StepBatch
from MMSA_ext.models.dashfusion import DashFusion
from MMSA_ext.models.dashfusion_reading import Reading
from MMSA_ext.models.losses import nt_xent, nt_xent_in_batch
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import get_model
from tests.conftest import TINY_SHAPES, tiny_config


def build(encoder, name="dashfusion", **overrides) -> DashFusion:
    torch.manual_seed(0)
    args = resolve(name, "mosi", "", tiny_config(name, encoder, **TINY_SHAPES, **overrides))
    model = get_model(name).build(args)
    torch.manual_seed(1)
    return model.eval()


def contrast(rows: int = 12) -> ContrastSets:
    generator = torch.Generator().manual_seed(0)
    return ContrastSets(
        torch.randint(0, rows, (4, 2), generator=generator),
        torch.tensor([[True, True], [True, False], [True, True], [False, False]]),
        torch.randint(0, rows, (4, 4), generator=generator),
        torch.tensor([[True] * 4, [True] * 4, [True, False, True, False], [True] * 4]),
    )


def step(dataset, with_contrast=True) -> StepBatch:
    samples = dataset.batch(torch.arange(12))
    return StepBatch(samples, torch.tensor([0, 3, 5, 7]), contrast() if with_contrast else None)


VARIANTS = [
    {},
    {"fusion": "bf"},
    {"fusion": "ca"},
    {"fusion": "concat_sa"},
    {"fusion": "concat"},
    {"temporal_alignment": False},
    {"temporal_alignment": False, "without_temporal": "text"},
    {"temporal_alignment": False, "semantic_alignment": False},
    {"reading": {"shared_query": True, "alignment_head_dim": 8}},
    {"bottleneck_tokens": 64},
    {"fusion_layers": 3, "reading": {"text_projector": "mlp", "activation": "gelu"}},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_sample_does_not_depend_on_its_batch_or_padding(tiny_encoder, dataset, variant):
    model = build(tiny_encoder, **variant)
    together = model(Inputs.of(dataset.batch(torch.arange(12))))
    for row in (0, 4, 9):
        alone = dataset.batch(torch.tensor([row]))
        single = model(Inputs.of(alone))
        for name, value in single.items():
            torch.testing.assert_close(value[0], together[name][row], rtol=1e-4, atol=1e-5)
        padded = dict(alone)
        padded["text"] = F.pad(alone["text"], (0, 10 - alone["text"].shape[2]))
        for name, longest in (("audio", 12), ("vision", 8)):
            extra = longest - alone[name].shape[1]
            padded[name] = F.pad(alone[name], (0, 0, 0, extra), value=7.0)
            padded[f"{name}_mask"] = F.pad(alone[f"{name}_mask"], (0, extra))
        torch.testing.assert_close(model(Inputs.of(padded))["M"], single["M"], rtol=1e-4, atol=1e-5)


def test_the_released_reading_does_depend_on_text_padding(tiny_encoder, dataset):
    model = build(tiny_encoder, "dashfusion_released")
    batch = dataset.batch(torch.tensor([4]))
    padded = dict(batch) | {"text": F.pad(batch["text"], (0, 4))}
    assert not torch.allclose(
        model(Inputs.of(batch))["M"], model(Inputs.of(padded))["M"], atol=1e-5
    )


def test_all_modalities_are_read(tiny_encoder, dataset):
    model = build(tiny_encoder)
    batch = dataset.batch(torch.arange(4))
    for name in ("text", "audio", "vision"):
        changed = dict(batch)
        changed[name] = batch[name].flip(0) if name == "text" else batch[name] + 1
        assert not torch.allclose(model(Inputs.of(batch))["M"], model(Inputs.of(changed))["M"])


def test_temporal_alignment_is_equation_4(tiny_encoder, dataset):
    model = build(tiny_encoder)
    represented = model.represent(Inputs.of(dataset.batch(torch.arange(4))))
    s = represented.sequences
    ca = model.temporal_alignment.cross_attention.attention
    want = s.features["text"]
    for m in ("audio", "vision"):
        want = want + ca[m](s.features["text"], s.features[m], s.masks[m])
    torch.testing.assert_close(s.H, want * s.masks["text"].unsqueeze(-1))
    torch.testing.assert_close(s.H_mask, s.masks["text"])


def test_losses_are_equations_10_to_12(tiny_encoder, dataset):
    model = build(tiny_encoder, supervised_contrast=False, contrast_weight=0.3)
    s = step(dataset, with_contrast=False)
    out = model.training_step(s)
    labels = s.samples["labels"]["M"][s.anchors]
    torch.testing.assert_close(
        out.losses["prediction_loss"], (out.prediction - labels).square().mean()
    )
    pooled = {k: v[s.anchors] for k, v in model.represent(s.inputs).globals.items()}
    want = sum(
        nt_xent_in_batch(pooled["text"], pooled[m], temperature=0.5).values
        for m in ("vision", "audio")
    )
    torch.testing.assert_close(out.losses["contrastive_loss"], 0.3 * want.mean() / 2)
    torch.testing.assert_close(out.total, sum(out.losses.values()))


def test_prediction_in_training_equals_prediction_alone(tiny_encoder, dataset):
    model = build(tiny_encoder)
    s = step(dataset)
    want = model(Inputs.of(dataset.batch(s.anchors)))["M"]
    torch.testing.assert_close(model.training_step(s).prediction, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("switches", "pairs"),
    [
        ({}, 2 + 2 * 4),
        ({"semantic_alignment": False}, 2 * 4),
        ({"supervised_contrast": False}, 2),
        ({"temporal_alignment": False}, 2 + 2 * 3),
        ({"temporal_alignment": False, "semantic_alignment": False}, 2 * 3),
        ({"semantic_alignment": False, "supervised_contrast": False}, 0),
        ({"contrast_weight": 0}, 0),
        ({"fusion": "concat"}, 2 + 2 * 4),
    ],
    ids=str,
)
def test_ablations_have_the_pairs_that_table_4_names(tiny_encoder, dataset, switches, pairs):
    model = build(tiny_encoder, **switches)
    s = step(dataset)
    pooled = model.represent(s.inputs).globals
    found = model._contrastive_pairs(pooled, s.anchors, s.contrast)
    assert sum(part.values.shape[1] for part in found) == pairs
    assert ("contrastive_loss" in model.training_step(s).losses) == (pairs > 0)


@pytest.mark.parametrize(
    ("switches", "absent", "present"),
    [
        ({"temporal_alignment": False}, "temporal_alignment", "learned_bottleneck"),
        (
            {"temporal_alignment": False, "without_temporal": "text"},
            "learned_bottleneck",
            "fusion",
        ),
        ({"fusion": "concat"}, "fusion.", "temporal_alignment"),
    ],
)
def test_ablated_modules_are_not_constructed(tiny_encoder, switches, absent, present):
    names = [name for name, _ in build(tiny_encoder, **switches).named_parameters()]
    assert not any(name.startswith(absent) for name in names)
    assert any(name.startswith(present) for name in names)


def test_without_temporal_the_bottleneck_is_the_same_for_every_sample(tiny_encoder, dataset):
    model = build(tiny_encoder, temporal_alignment=False)
    H = model.represent(Inputs.of(dataset.batch(torch.arange(3)))).sequences.H
    assert H.shape == (3, 8, 16)
    torch.testing.assert_close(H[0], H[2])
    text = build(tiny_encoder, temporal_alignment=False, without_temporal="text")
    s = text.represent(Inputs.of(dataset.batch(torch.arange(3)))).sequences
    torch.testing.assert_close(s.H, s.features["text"])


def test_retrieval_is_asked_for_only_where_a_loss_reads_it(tiny_encoder):
    assert build(tiny_encoder).retrieval is not None
    assert build(tiny_encoder, supervised_contrast=False).retrieval is None
    assert build(tiny_encoder, contrast_weight=0).retrieval is None
    with_text = {"supervised_contrast": False, "reading.semantic_negatives": "retrieved_text"}
    assert build(tiny_encoder, **with_text).retrieval is not None


def test_released_pairs_and_their_mean_over_22(tiny_encoder, dataset):
    model = build(tiny_encoder, "dashfusion_released")
    s = step(dataset)
    pooled = model.represent(s.inputs).globals
    parts = model._contrastive_pairs(pooled, s.anchors, s.contrast)
    values = torch.cat([part.values for part in parts], 1)
    assert values.shape == (4, 10)
    got = model.training_step(s).losses["contrastive_loss"]
    torch.testing.assert_close(got, 0.2 * values.sum(1).mean() / 22)
    # The two semantic pairs contrast a cross-modal positive with text negatives.
    rows = s.contrast.negatives
    text, vision = F.normalize(pooled["text"], dim=1), F.normalize(pooled["vision"], dim=1)
    i = 0
    positive = text[s.anchors[i]] @ vision[s.anchors[i]] / 0.5
    negative = torch.stack([text[s.anchors[i]] @ text[j] / 0.5 for j in rows[i]])
    want = -torch.log_softmax(torch.cat([positive[None], negative]), 0)[0]
    torch.testing.assert_close(parts[0].values[i, 0], want)


def test_released_defaults_are_the_released_values(tiny_encoder):
    config = build(tiny_encoder, "dashfusion_released").config
    assert config.encoder_dropout == config.reading.encoder_attention_dropout == 0.5
    assert config.reading.padding == "seen"
    assert config.reading.retrieval == "rank_position"
    assert config.reading.contrast_reduction == "mean_released"
    assert config.KeyEval == "MAE"
    assert config.early_stop is None


def test_released_frame_mask_is_by_rows_that_sum_to_zero(tiny_encoder, dataset):
    model = build(tiny_encoder, "dashfusion_released")
    batch = dataset.batch(torch.tensor([0]))
    frames = torch.zeros(1, 3, 5)
    frames[0, 1] = 1.0
    everything = torch.ones(1, 3, dtype=torch.bool)
    encoded = model.encode(Inputs(batch["text"], frames, batch["vision"], everything, None))
    mask = encoded["audio"].packing.mask
    assert mask[0].tolist() == [True, True, True] + [False] * 10  # the class token in front


def test_a_reading_is_one_group_of_keys_and_any_mixture_can_be_had(tiny_encoder, dataset):
    mixed = {"reading": {"padding": "seen"}, "reading.retrieval": "rank_position"}
    model = build(tiny_encoder, **mixed)
    assert model.reads_padding
    assert model.retrieval.mode == "rank_position"
    assert model.config.reading == Reading(padding="seen", retrieval="rank_position")
    released = build(tiny_encoder, "dashfusion_released", **{"reading.padding": "masked"})
    assert not released.reads_padding
    assert released.config.reading.activation == "gelu"


@pytest.mark.parametrize(
    ("flat", "meant"),
    [("retrieval", "retrieval"), ("activation", "activation"), ("masking", "padding")],
)
def test_a_key_that_moved_is_named_where_it_stands(flat, meant):
    with pytest.raises(ConfigError, match=f"{flat}: no such key; did you mean reading.{meant}?"):
        resolve("dashfusion", "mosi", "", {flat: "correct"})


def with_constant(dataset, *modalities) -> FeatureSplit:
    values = {m: np.ones_like(getattr(dataset, m)) for m in modalities if m != "text"}
    if "text" in modalities:
        values["text_bert"] = np.repeat(dataset.text_bert[:1], len(dataset), axis=0)
    return replace(dataset, **values)


@pytest.mark.parametrize(
    ("constant", "semantic", "supervised"),
    [
        (["vision"], ["audio"], ["text", "audio", "multimodal"]),
        (["audio", "vision"], [], ["text", "multimodal"]),
        (["text"], [], ["audio", "vision", "multimodal"]),
    ],
    ids=str,
)
def test_lambda_is_that_of_the_live_pairs(tiny_encoder, dataset, constant, semantic, supervised):
    """The weighted loss is lambda times the mean over the pairs of modalities that vary."""
    dataset = with_constant(dataset, *constant)
    model = build(tiny_encoder, contrast_weight=0.3)
    notes = model.adapt(dataset)
    assert [note.split()[0] for note in notes] == [m for m in MODALITIES if m in constant]
    assert all("pairs are left out of the contrastive loss" in note for note in notes)
    s = step(dataset)
    pooled = model.represent(s.inputs).globals
    own = {m: value[s.anchors] for m, value in pooled.items()}
    pairs = [nt_xent_in_batch(own["text"], own[m], temperature=0.5) for m in semantic]
    pairs += [
        nt_xent(
            own[m], pooled[m][s.contrast.positives], pooled[m][s.contrast.negatives],
            s.contrast.positive_mask, s.contrast.negative_mask, temperature=0.5,
        )
        for m in supervised
    ]  # fmt: skip
    live = torch.cat([part.live for part in pairs], 1)
    values = torch.cat([part.values for part in pairs], 1) * live
    want = (values.sum(1) / live.sum(1).clamp(min=1)).mean()
    torch.testing.assert_close(model.training_step(s).losses["contrastive_loss"], 0.3 * want)


def test_pairs_are_left_as_they_are_where_nothing_is_constant_or_they_are_the_released(
    tiny_encoder, dataset
):
    for name, data in (
        ("dashfusion", dataset),
        ("dashfusion_released", with_constant(dataset, "vision")),
    ):
        model = build(tiny_encoder, name)
        before = model.training_step(step(data)).losses["contrastive_loss"]
        assert model.adapt(data) == []
        after = model.training_step(step(data)).losses["contrastive_loss"]
        assert torch.equal(before, after)
    assert build(tiny_encoder, contrast_weight=0).adapt(with_constant(dataset, "vision")) == []


def test_the_layers_of_a_released_encoder_start_alike(tiny_encoder):
    for name, alike in (("dashfusion", False), ("dashfusion_released", True)):
        first, second = build(tiny_encoder, name, encoder_layers=2).audio_encoder.layers
        assert torch.equal(first.attention.key.weight, second.attention.key.weight) == alike


def test_mmsa_calls_it_without_masks(tiny_encoder, dataset):
    batch = dataset.batch(torch.tensor([0]))
    model = build(tiny_encoder)
    want = model(Inputs.of(batch))["M"]
    torch.testing.assert_close(model(batch["text"], batch["audio"], batch["vision"])["M"], want)


@pytest.mark.parametrize("dataset_name", ["mosi", "mosei", "sims"])
def test_shipped_hyper_parameters_are_the_papers(dataset_name):
    args: EasyDict = resolve("dashfusion", dataset_name)
    expected = {
        "mosi": (16, 5e-5, 100, 0.1, 2, 2, "rounded", "bert-base-uncased"),
        "mosei": (8, 2e-5, 25, 0.04, 4, 3, "rounded", "bert-base-uncased"),
        "sims": (16, 5e-5, 100, 0.1, 2, 2, "exact", "bert-base-chinese"),
    }[dataset_name]
    assert (
        args.batch_size,
        args.learning_rate,
        args.num_epochs,
        args.warmup_ratio,
        args.encoder_layers,
        args.fusion_layers,
        args.contrast_classes,
        args.pretrained,
    ) == expected
    assert (args.dim, args.heads, args.feed_forward_dim, args.bottleneck_tokens) == (128, 8, 256, 8)
    assert (args.contrast_weight, args.temperature, args.weight_decay) == (0.2, 0.5, 1e-3)
    assert (args.KeyEval, args.early_stop) == ("MAE", None)
    assert args.feature_scaling == "standardise"


@pytest.mark.parametrize(("dataset_name", "size"), [("mosi", 16), ("mosei", 8), ("sims", 16)])
def test_released_training_and_evaluation(dataset_name, size):
    args = resolve("dashfusion_released", dataset_name)
    assert (args.batch_size, args.eval_batch_size) == (size, size)
    assert (args.KeyEval, args.selection_digits, args.first_selected_epoch) == ("MAE", 4, 2)
    assert (args.early_stop, args.feature_scaling, args.decay_norms) == (None, "none", True)
    assert resolve("dashfusion_released", dataset_name, "", {"batch_size": 3}).eval_batch_size == 3
    given = {"batch_size": 3, "eval_batch_size": 5}
    assert resolve("dashfusion_released", dataset_name, "", given).eval_batch_size == 5


def test_gradients_are_the_same_every_time_with_two_threads(tiny_encoder, dataset):
    """Retrieved rows repeat; their gradients must be added in one order."""
    feature = torch.randn(448, 128, requires_grad=True)
    rows = torch.randint(0, 448, (64, 4))
    weights = torch.randn(64, 4, 128)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = [
            torch.autograd.grad((F.embedding(rows, feature) * weights).sum(), feature)[0]
            for _ in range(20)
        ]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])
