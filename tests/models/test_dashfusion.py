"""DashFusion: ablations, losses, the released reading."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.models.contract import Inputs
from MMSA_ext.models.dashfusion_reading import Reading
from MMSA_ext.models.losses import nt_xent, nt_xent_in_batch
from MMSA_ext.names import MODALITIES
from tests.models.conftest import contrast_step


@pytest.fixture
def build(tiny_model):
    return partial(tiny_model, "dashfusion")


@pytest.fixture
def released(tiny_model):
    return partial(tiny_model, "dashfusion_released")


def test_the_released_reading_does_depend_on_text_padding(released, dataset):
    model = released()
    batch = dataset.batch(torch.tensor([4]))
    padded = dict(batch) | {"text": F.pad(batch["text"], (0, 4))}
    assert not torch.allclose(
        model(Inputs.of(batch))["M"], model(Inputs.of(padded))["M"], atol=1e-5
    )


def test_length_groups_change_no_released_result(released, dataset):
    whole, grouped = released(length_groups=1), released()
    grouped.load_state_dict(whole.state_dict())
    s = contrast_step(dataset)
    found = []
    for model in (whole, grouped):
        model.eval()  # no dropout
        out = model.training_step(s)
        gradients = torch.autograd.grad(
            sum(out.losses.values()), list(model.parameters()), allow_unused=True
        )
        found.append((out.prediction, out.losses, [g for g in gradients if g is not None]))
    assert grouped.audio_encoder.length_groups > 1
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_temporal_alignment_is_equation_4(build, dataset):
    model = build()
    represented = model.represent(Inputs.of(dataset.batch(torch.arange(4))))
    s = represented.sequences
    ca = model.temporal_alignment.cross_attention.attention
    want = s.features["text"]
    for m in ("audio", "vision"):
        want = want + ca[m](s.features["text"], s.features[m], s.masks[m])
    torch.testing.assert_close(s.H, want * s.masks["text"].unsqueeze(-1))
    torch.testing.assert_close(s.H_mask, s.masks["text"])


def test_losses_are_equations_10_to_12(build, dataset):
    model = build(supervised_contrast=False, contrast_weight=0.3)
    s = replace(contrast_step(dataset), contrast=None)
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


def test_prediction_in_training_equals_prediction_alone(build, dataset):
    model = build()
    s = contrast_step(dataset)
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
def test_ablations_have_the_pairs_that_table_4_names(build, dataset, switches, pairs):
    model = build(**switches)
    s = contrast_step(dataset)
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
def test_ablated_modules_are_not_constructed(build, switches, absent, present):
    names = [name for name, _ in build(**switches).named_parameters()]
    assert not any(name.startswith(absent) for name in names)
    assert any(name.startswith(present) for name in names)


def test_without_temporal_the_bottleneck_is_the_same_for_every_sample(build, dataset):
    model = build(temporal_alignment=False)
    H = model.represent(Inputs.of(dataset.batch(torch.arange(3)))).sequences.H
    assert H.shape == (3, 8, 16)
    torch.testing.assert_close(H[0], H[2])
    text = build(temporal_alignment=False, without_temporal="text")
    s = text.represent(Inputs.of(dataset.batch(torch.arange(3)))).sequences
    torch.testing.assert_close(s.H, s.features["text"])


def test_retrieval_is_asked_for_only_where_a_loss_reads_it(build):
    assert build().retrieval is not None
    assert build(supervised_contrast=False).retrieval is None
    assert build(contrast_weight=0).retrieval is None
    with_text = {"supervised_contrast": False, "reading.semantic_negatives": "retrieved_text"}
    assert build(**with_text).retrieval is not None


def test_released_pairs_and_their_mean_over_22(released, dataset):
    model = released()
    s = contrast_step(dataset)
    pooled = model.represent(s.inputs).globals
    parts = model._contrastive_pairs(pooled, s.anchors, s.contrast)
    values = torch.cat([part.values for part in parts], 1)
    assert values.shape == (5, 10)
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


def test_released_defaults_are_the_released_values(released):
    config = released().config
    assert config.encoder_dropout == config.reading.encoder_attention_dropout == 0.5
    assert config.reading.padding == "seen"
    assert config.reading.retrieval == "rank_position"
    assert config.reading.contrast_reduction == "mean_released"
    assert config.KeyEval == "MAE"
    assert config.early_stop is None


def test_released_frame_mask_is_by_rows_that_sum_to_zero(released, dataset):
    model = released()
    batch = dataset.batch(torch.tensor([0]))
    frames = torch.zeros(1, 3, 5)
    frames[0, 1] = 1.0
    everything = torch.ones(1, 3, dtype=torch.bool)
    encoded = model.encode(Inputs(batch["text"], frames, batch["vision"], everything, None))
    mask = encoded["audio"].packing.mask
    assert mask[0].tolist() == [True, True, True] + [False] * 10  # the class token in front


def test_a_reading_is_one_group_of_keys_and_any_mixture_can_be_had(build, released):
    mixed = {"reading": {"padding": "seen"}, "reading.retrieval": "rank_position"}
    model = build(**mixed)
    assert model.reads_padding
    assert model.retrieval.mode == "rank_position"
    assert model.config.reading == Reading(padding="seen", retrieval="rank_position")
    masked = released(**{"reading.padding": "masked"})
    assert not masked.reads_padding
    assert masked.config.reading.activation == "gelu"


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
def test_lambda_is_that_of_the_live_pairs(build, dataset, constant, semantic, supervised):
    """The weighted loss is lambda times the mean over the pairs of modalities that vary."""
    dataset = with_constant(dataset, *constant)
    model = build(contrast_weight=0.3)
    notes = model.adapt(dataset)
    assert [note.split()[0] for note in notes] == [m for m in MODALITIES if m in constant]
    assert all("pairs are left out of the contrastive loss" in note for note in notes)
    s = contrast_step(dataset)
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
    build, released, dataset
):
    for model, data in ((build(), dataset), (released(), with_constant(dataset, "vision"))):
        before = model.training_step(contrast_step(data)).losses["contrastive_loss"]
        assert model.adapt(data) == []
        after = model.training_step(contrast_step(data)).losses["contrastive_loss"]
        assert torch.equal(before, after)
    assert build(contrast_weight=0).adapt(with_constant(dataset, "vision")) == []


def test_the_layers_of_a_released_encoder_start_alike(build, released):
    for make, alike in ((build, False), (released, True)):
        first, second = make(encoder_layers=2).audio_encoder.layers
        assert torch.equal(first.attention.key.weight, second.attention.key.weight) == alike


@pytest.mark.parametrize("dataset_name", ["mosi", "mosei", "sims"])
def test_shipped_hyper_parameters_are_the_papers(dataset_name):
    args = resolve("dashfusion", dataset_name)
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
