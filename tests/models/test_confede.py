"""ConFEDE: pairs and losses against plain loops, frozen text, labels, InfoEnh on and off."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.models.confede import Decomposition, contrastive_pairs
from MMSA_ext.models.contract import Inputs, StepBatch
from MMSA_ext.names import MODALITIES
from tests.models.conftest import contrast_step, make_split, make_step

NAMES = ["confede", "confede_infoenh"]


@pytest.fixture(scope="module")
def dataset() -> FeatureSplit:
    split = make_split(dataset="sims")
    generator = np.random.default_rng(1)
    own = {n: generator.uniform(-1, 1, 12).astype(np.float32) for n in "TAV"}
    return replace(split, labels=split.labels | own)


@pytest.fixture
def build(tiny_model):
    return partial(tiny_model, "confede")


@pytest.fixture
def enhanced(tiny_model):
    return partial(tiny_model, "confede_infoenh")


def existing_rows(step: StepBatch, i: int) -> list[int | None]:
    """The seven rows of anchor i; None where retrieval found no sample."""
    c = step.contrast
    found = [*zip(c.positives[i], c.positive_mask[i], strict=True)]
    found += zip(c.negatives[i], c.negative_mask[i], strict=True)
    return [int(step.anchors[i]), *(int(row) if there else None for row, there in found)]


def plain_pairs(
    rows: list[int | None], similar: dict, dissimilar: dict, temperature: float
) -> list[float]:
    """The loss of every live pair of one anchor, read off the released index lists."""
    part = {
        (kind, m, k): parts[m][row]
        for kind, parts in (("s", similar), ("d", dissimilar))
        for m in MODALITIES
        for k, row in enumerate(rows)
        if row is not None
    }
    positive = [(("s", m, 0), ("s", m, k)) for m in MODALITIES for k in (1, 2)]
    positive += [(("s", "text", k), ("s", m, k)) for k in range(7) for m in ("vision", "audio")]
    negative = [(("s", m, 0), ("s", m, k)) for m in MODALITIES for k in (3, 4, 5, 6)]
    negative += [(("s", "text", k), ("d", m, k)) for k in range(7) for m in MODALITIES]
    assert (len(positive), len(negative)) == (20, 33)

    def logit(a, b):
        return float(F.cosine_similarity(part[a], part[b], dim=0)) / temperature

    losses = []
    for anchor, other in positive:
        against = [logit(a, b) for a, b in negative if a == anchor and a in part and b in part]
        if anchor in part and other in part and against:
            p = logit(anchor, other)
            losses.append(math.log(math.exp(p) + sum(map(math.exp, against))) - p)
    return losses


def test_pairs_are_those_of_the_released_lists(dataset):
    generator = torch.Generator().manual_seed(2)
    similar, dissimilar = (
        {m: torch.randn(12, 6, generator=generator) for m in MODALITIES} for _ in range(2)
    )
    step = contrast_step(dataset)
    decomposed = Decomposition({}, similar, dissimilar, None)
    pairs = contrastive_pairs(decomposed, step.anchors, step.contrast, temperature=0.5)
    assert pairs.values.shape == (5, 20)
    want = []
    for i in range(5):
        losses = plain_pairs(existing_rows(step, i), similar, dissimilar, 0.5)
        assert int(pairs.live[i].sum()) == len(losses)
        assert sorted(pairs.values[i][pairs.live[i]].tolist()) == pytest.approx(sorted(losses))
        want.append(sum(losses) / len(losses))
    assert not pairs.values[~pairs.live].any()
    assert float(pairs.reduce()) == pytest.approx(sum(want) / 5)
    assert float(pairs.reduce("mean")) == pytest.approx(float(pairs.values.sum()) / 20 / 5)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_weighted_sums_over_anchors_and_retrieved_samples(tiny_model, dataset, name):
    model = tiny_model(name, "sims")
    step = contrast_step(dataset)
    output = model.training_step(step)
    labels = step.samples["labels"]
    decomposed = model.decompose(step.inputs)
    prediction = model(step.inputs)["M"]
    rows = [row for i in range(5) for row in existing_rows(step, i) if row is not None]
    want = torch.stack([(prediction[r] - labels["M"][r]) ** 2 for r in rows]).mean()
    torch.testing.assert_close(output.losses["prediction_loss"], want)
    own = dict(zip(MODALITIES, "TAV", strict=True))
    mono = [
        (model.mono_decoder(parts[m][r]) - labels[own[m] if parts is dissimilar else "M"][r]) ** 2
        for dissimilar in [decomposed.dissimilar]
        for parts in (decomposed.similar, dissimilar)
        for m in MODALITIES
        for r in rows
    ]
    torch.testing.assert_close(output.losses["mono_loss"], 0.01 * torch.stack(mono).mean())
    pairs = contrastive_pairs(decomposed, step.anchors, step.contrast, temperature=0.5)
    torch.testing.assert_close(output.losses["contrastive_loss"], 0.1 * pairs.reduce())
    torch.testing.assert_close(output.prediction, prediction[step.anchors])
    assert ("infoenh_loss" in output.losses) == (name == "confede_infoenh")


@pytest.mark.parametrize("reduction", ["mean_live", "sum", "mean"])
def test_the_contrastive_loss_is_reduced_as_asked(build, dataset, reduction):
    step = contrast_step(dataset)
    model = build(contrast_reduction=reduction)
    pairs = contrastive_pairs(
        model.decompose(step.inputs), step.anchors, step.contrast, temperature=0.5
    )
    got = model.training_step(step).losses["contrastive_loss"]
    torch.testing.assert_close(got, 0.1 * pairs.reduce(reduction))


def test_a_step_without_retrieved_samples_is_refused(build, dataset):
    with pytest.raises(ValueError, match="retrieved samples"):
        build().training_step(make_step(dataset))


def test_parts_and_decoders_have_the_released_shapes(build):
    model = build()  # text 16 wide, audio and vision 32

    def widths(module):
        return [(m.in_features, m.out_features) for m in module.modules() if type(m) is nn.Linear]

    assert [type(m) for m in model.similar["audio"]] == [
        nn.LayerNorm, nn.Linear, nn.Tanh, nn.Dropout,
    ]  # fmt: skip
    assert widths(model.similar["text"]) == widths(model.dissimilar["text"]) == [(16, 16)]
    assert widths(model.similar["vision"]) == [(32, 16)]
    assert widths(model.decoder) == [(96, 32), (32, 16), (16, 8), (8, 4), (4, 1)]
    assert widths(model.mono_decoder) == [(16, 8), (8, 4), (4, 1)]
    assert build(dim=None, heads=2).dim == 16


@pytest.mark.parametrize("name", NAMES)
def test_text_that_is_not_frozen_gets_a_gradient(tiny_model, dataset, name):
    model = tiny_model(name, freeze_text=False, text_pooling="pooler").train()
    model.training_step(contrast_step(dataset)).total.backward()
    assert all(p.requires_grad for p in model.parameters())
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # With InfoEnh the text's vector is read by retrieval alone.
    pooler = "text_encoder.encoder.pooler.dense."
    unread = {pooler + "weight", pooler + "bias"} if name == "confede_infoenh" else set()
    assert {n for n in silent if not n.endswith("key.bias")} <= unread


def test_frozen_text_keeps_its_dropout_unless_told_not_to(build, dataset):
    batch = dataset.batch(torch.arange(4))
    for dropout in (True, False):
        model = build(frozen_text_dropout=dropout).train()
        first, second = (model.encode(Inputs.of(batch))["text"].vector for _ in range(2))
        assert torch.equal(first, second) != dropout
    unfrozen = build(freeze_text=False, frozen_text_dropout=False).train()
    assert unfrozen.text_encoder.training


def test_unimodal_labels_are_targets_of_the_dissimilar_parts_where_asked(build, dataset):
    step = contrast_step(dataset)
    without = StepBatch(
        step.samples | {"labels": {"M": step.samples["labels"]["M"]}}, step.anchors, step.contrast
    )
    losses = {}
    for kind in ("file", "multimodal"):
        model = build(data="sims", unimodal_labels=kind)
        losses[kind] = [model.training_step(s).losses["mono_loss"].item() for s in (step, without)]
    assert losses["file"][0] != losses["file"][1]
    assert losses["multimodal"][0] == losses["multimodal"][1] == losses["file"][1]


def test_the_record_says_which_labels_stood_for_the_modalities_own(build, dataset):
    def notes(labels, kind="file"):
        model = build(data="sims", unimodal_labels=kind)
        return model.adapt(replace(dataset, labels=labels))

    assert notes(dataset.labels) == []
    assert notes(dataset.labels, "multimodal") == []
    only = {"M": dataset.labels["M"]}
    assert "no unimodal labels T, A, V" in notes(only)[0]
    copied = only | {"T": only["M"].copy(), "A": dataset.labels["A"], "V": dataset.labels["V"]}
    assert notes(copied) == ["the unimodal labels T equal the multimodal label"]


def test_with_infoenh_everything_else_starts_from_the_hosts_weights(build, enhanced):
    host, variant = build(), enhanced()
    for key, value in host.state_dict().items():
        assert torch.equal(value, variant.state_dict()[key]), key
    added = set(variant.state_dict()) - set(host.state_dict())
    assert {key.split(".")[0] for key in added} == {"infoenh", "readouts"}


class TestDissimilarParts:
    """With InfoEnh: whether a part that is called unimodal sees the other modalities."""

    def build(self, enhanced, parts, **options):
        options = {"k": 3, "d": 8, "dissimilar_parts": parts} | options
        return enhanced(infoenh=options)

    @pytest.mark.parametrize("alignment", [True, False])
    @pytest.mark.parametrize("parts", ["enhanced", "filtered"])
    def test_shapes(self, enhanced, dataset, parts, alignment):
        model = self.build(enhanced, parts, alignment=alignment)
        decomposed = model.decompose(Inputs.of(dataset.batch(torch.arange(5))))
        assert [tuple(part.shape) for part in decomposed.parts] == [(5, 16)] * 6
        assert hasattr(model, "dissimilar_readouts") == (parts == "filtered")

    @pytest.mark.parametrize("parts", ["enhanced", "filtered"])
    def test_filtered_ones_do_not_see_other_modalities(self, enhanced, dataset, parts):
        model = self.build(enhanced, parts)
        batch = dataset.batch(torch.arange(5))
        before = model.decompose(Inputs.of(batch))
        after = model.decompose(Inputs.of(batch | {"vision": batch["vision"].flip(0) * 3}))
        same = {m: torch.equal(before.dissimilar[m], after.dissimilar[m]) for m in MODALITIES}
        unimodal = parts == "filtered"
        assert same == {"text": unimodal, "audio": unimodal, "vision": False}
        assert not torch.equal(before.similar["text"], after.similar["text"])

    def test_the_default_is_the_paper_to_the_letter(self, enhanced):
        assert enhanced().config.infoenh.dissimilar_parts == "enhanced"


def test_readouts_are_those_of_the_other_hosts(enhanced, dataset):
    options = {"k": 3, "d": 8}
    batch = Inputs.of(dataset.batch(torch.arange(4)))
    plain = enhanced(infoenh=options)
    added = enhanced(infoenh=options | {"residual": True})
    encoded = plain.encode(batch)
    vectors = [model.decompose(batch).vectors for model in (plain, added)]
    for m in MODALITIES:
        torch.testing.assert_close(vectors[1][m], vectors[0][m] + encoded[m].vector)
    options |= {"hidden": 5, "normalise": False}
    readout = enhanced(infoenh=options).readouts.readouts["text"]
    assert readout.token[0].out_features == 5
    assert isinstance(readout.norm, nn.Identity)


def test_the_prediction_changes_with_lambda_and_with_the_plan(enhanced, dataset):
    """In double precision: untrained decoders let little of anything through."""
    batch = dataset.batch(torch.arange(6))
    batch |= {m: batch[m].double() for m in ("audio", "vision")}

    def predictions(**change):
        options = {"k": 4, "d": 8, "tolerance": 1e-6} | change
        model = enhanced(infoenh=options).double()
        return model(Inputs.of(batch))["M"].detach()

    sharp = predictions(inverse_temperature=50.0)
    assert torch.equal(sharp, predictions(inverse_temperature=50.0))
    for change in ({"inverse_temperature": 1.0}, {"plan": "shuffled"}, {"plan": "uniform"}):
        assert (predictions(**change) - sharp).abs().max() > 1e-9, change


def test_information_loss_is_of_the_anchors_alone(enhanced, dataset):
    model = enhanced()
    step = contrast_step(dataset)
    want = model.training_step(step)
    labels = step.samples["labels"]
    others = torch.ones(12, dtype=torch.bool)
    others[step.anchors] = False
    changed = {"M": torch.where(others[:, None], -labels["M"], labels["M"])}
    again = model.training_step(
        StepBatch(step.samples | {"labels": changed}, step.anchors, step.contrast)
    )
    assert torch.equal(again.losses["infoenh_loss"], want.losses["infoenh_loss"])
    assert want.losses["infoenh_loss"].item() > 0
    assert {"kept_ratio_text", "transport_cost", "plan_entropy"} <= want.diagnostics.keys()
    assert all(not value.requires_grad for value in want.diagnostics.values())


def test_optional_terms_of_infoenh_join_the_loss(enhanced, dataset):
    options = {"k": 3, "d": 8}
    losses = [
        enhanced(infoenh=options | more)
        .training_step(contrast_step(dataset))
        .losses["infoenh_loss"]
        for more in ({}, {"sparsity_weight": 1.0})
    ]
    assert losses[1] > losses[0]


def test_retrieval_reads_the_encoders_vectors_before_infoenh(tiny_model, dataset):
    batch = dataset.batch(torch.arange(5))
    models = [tiny_model(name) for name in NAMES]
    features = [model.contrast_features(Inputs.of(batch)) for model in models]
    assert [features[0][m].shape for m in models[0].ranked_by] == [(5, 16), (5, 32), (5, 32)]
    torch.testing.assert_close(features[0], features[1])


@pytest.mark.parametrize("data", ["mosi", "mosei", "sims"])
@pytest.mark.parametrize("name", NAMES)
def test_shipped_hyper_parameters_are_the_released_ones(name, data):
    args = resolve(name, data)
    expected = {
        "mosi": (16, 25, 2, 2, "rounded", 2, 10, 1.0, "multimodal"),
        "mosei": (8, 6, 3, 3, "rounded", 2, 50, 0.1, "multimodal"),
        "sims": (32, 50, 1, 2, "exact", 10, 10, 0.5, "file"),
    }[data]
    assert (
        args.batch_size, args.num_epochs, args.vision_layers, args.audio_layers,
        args.contrast_classes, args.refresh_epochs, args.candidates, args.similar_window,
        args.unimodal_labels,
    ) == expected  # fmt: skip
    assert (args.learning_rate, args.weight_decay, args.decay_norms) == (1e-4, 1e-3, True)
    assert round(args.warmup_ratio * args.num_epochs, 2) == 1
    assert (args.contrast_weight, args.mono_weight, args.temperature) == (0.1, 0.01, 0.5)
    assert (args.KeyEval, args.early_stop, args.retrieval) == ("MAE", None, "correct")
    stages = {
        "mosi": ((200, 128, 1e-4, 5), (100, 128, 1e-4, 10), (100, 128, 1e-4, 5)),
        "mosei": ((150, 64, 1e-5, 5), (300, 128, 1e-4, 10), (300, 128, 1e-4, 10)),
        "sims": ((150, 64, 1e-5, 5), (300, 64, 1e-4, 10), (300, 64, 1e-4, 10)),
    }[data]
    for modality, stage in zip(MODALITIES, stages, strict=True):
        recipe = args.stage_one[modality]
        assert stage == (
            recipe.epochs, recipe.batch_size, recipe.learning_rate,
            round(recipe.warmup_ratio * recipe.epochs),
        )  # fmt: skip
    frames = "adamw" if data == "mosei" else "adam_amsgrad"
    assert [args.stage_one[m].optimizer for m in MODALITIES] == ["adamw", frames, frames]
    # Epochs after which the released code begins to keep: a third, and these.
    begins = {"mosi": (66, 30, 20), "mosei": (50, 5, 5), "sims": (50, 30, 50)}[data]
    recipes = [args.stage_one[m] for m in MODALITIES]
    assert tuple(int(r.epochs * r.selected_after) for r in recipes) == begins
    assert args.stage_one.text.finetuning == ("last_layer" if data == "sims" else "all")
    if name == "confede":
        assert args.infoenh is None
    else:
        assert args.infoenh.d == 256
