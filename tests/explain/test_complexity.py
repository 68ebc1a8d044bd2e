"""Multiply-adds against hand formulas and against numbers measured on the released modules."""

import re
from pathlib import Path

import pytest
import torch

import MMSA_ext  # noqa: F401  (registers the models)
from MMSA_ext import mmsa_files
from MMSA_ext.config.files import supported_datasets
from MMSA_ext.config.resolve import resolve, unread
from MMSA_ext.errors import ConfigError
from MMSA_ext.explain import complexity
from MMSA_ext.explain.complexity import (
    PAPER_TABLE_V,
    measure,
    measure_bottlenecks,
    measure_closest_reading,
    measure_fusions,
    report,
)
from MMSA_ext.mmsa_bridge import networks, outlines
from MMSA_ext.registry import get_model, host_of, list_models, trains_in_mmsa
from tests.conftest import TINY_SHAPES, tiny_config

T, A, V, D, FF = 39, 401, 56, 128, 256  # CH-SIMS; frames with their class token
OWN_MODELS = [name for name in list_models() if not trains_in_mmsa(name)]
DOCUMENT = Path(__file__).parents[2] / "docs" / "explain.md"
# Measured on the authors' modules with FlopCounterMode, in millions, printed to one decimal.
RELEASED = {"Concat": 0, "Concat&SA": 239.7, "Concat&SA, ff 512": 304.7, "BF": 126.5, "HBF": 124.8}
RELEASED_BOTTLENECKS = {4: 121.7, 8: 124.8, 16: 131.0, 32: 143.4, 64: 154.3}


def attention(target: int, source: int, *, output: bool = True) -> int:
    """Projections of query (and output), key and value, then QK^T and AV."""
    return (1 + output) * target * D * D + 2 * source * D * D + 2 * target * source * D


def layer(target: int, source: int | None = None) -> int:
    return attention(target, source or target) + 2 * target * D * FF


def millions(value: int) -> float:
    return value / 1e6


@pytest.fixture(scope="module")
def sims() -> complexity.Complexity:
    return measure("dashfusion", "sims", T)


def test_frame_encoders_are_projection_and_layers(sims):
    # The class token's place is projected too, as a frame of zeros.
    assert sims.module("audio_encoder").madds == A * 33 * D + 2 * layer(A)
    assert sims.module("vision_encoder").madds == V * 709 * D + 2 * layer(V)


def test_alignment_counts_both_attention_products(sims):
    assert sims.module("temporal_alignment").madds == attention(T, A) + attention(T, V)


def test_hbf_by_hand(sims):
    def level(bottleneck: int, tokens: int) -> int:
        multi_ca = sum(attention(tokens, source) for source in (T, A, V))
        updates = sum(layer(target, tokens) for target in (T, A, V))
        return layer(bottleneck) + multi_ca + 2 * tokens * D * FF + updates

    assert sims.module("fusion").madds == level(T, 8) + level(8, 4)


def test_head_and_text_encoder_by_hand(sims):
    assert sims.module("head").madds == 4 * D * 2 * D + 2 * D * D + D
    bert_layer = 4 * T * 768 * 768 + 2 * T * T * 768 + 2 * T * 768 * 3072
    assert sims.module("text_encoder").madds == 12 * bert_layer + T * 768 * D


def test_total_is_the_sum_of_the_modules(sims):
    assert sims.total.madds == sum(row.madds for row in sims.rows)
    assert sims.total.parameters == sum(row.parameters for row in sims.rows)
    assert [row.name for row in sims.rows] == [
        "text_encoder", "audio_encoder", "vision_encoder", "temporal_alignment", "fusion", "head",
    ]  # fmt: skip
    assert sims.module("no such module").madds == 0


def test_every_attention_of_the_text_encoder_is_counted(tiny_encoder):
    """The text encoder chooses its own attention kernel; a fused one would count as nothing."""
    short, long = (
        measure("text_only", "mosi", n, {"pretrained": str(tiny_encoder)}).module("text_encoder")
        for n in (10, 20)
    )
    quadratic = long.madds - 2 * short.madds
    assert quadratic == 2 * 2 * (20 * 20 - 2 * 10 * 10) * 16


def test_released_fusions_have_the_measured_cost():
    costs = {cost.name: cost for cost in measure_fusions("dashfusion_released", "sims", T)}
    for name, expected in RELEASED.items():
        assert millions(costs[name].fusion) == pytest.approx(expected, abs=0.06), name
        assert millions(costs[name].alignment) == pytest.approx(41.6, abs=0.06)
    # Two layers, each a cross-modal layer that reads audio and one that reads vision: 25.9 each.
    assert millions(costs["CA"].fusion) == pytest.approx(2 * 25.9, abs=0.11)


def test_released_bottlenecks_have_the_measured_cost():
    costs = measure_bottlenecks("dashfusion_released", "sims", T)
    assert [cost.name for cost in costs] == [f"p = {p}" for p in RELEASED_BOTTLENECKS]
    assert [millions(cost.fusion) for cost in costs] == pytest.approx(
        list(RELEASED_BOTTLENECKS.values()), abs=0.06
    )


@pytest.mark.parametrize(
    ("dataset", "overrides", "module", "expected"),
    [
        ("sims", {"seq_lens": [39, 399, 54]}, "fusion", 124.3),
        ("sims", {"reading.alignment_head_dim": 16}, "temporal_alignment", 20.8),
        ("mosi", {}, "fusion", 227.8),
        ("mosei", {}, "fusion", 379.8),
    ],
)
def test_released_variants_have_the_measured_cost(dataset, overrides, module, expected):
    cost = measure("dashfusion_released", dataset, None, overrides)
    assert millions(cost.module(module).madds) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("dataset", "expected"), [("sims", 104.9), ("mosi", 112.0), ("mosei", 113.2)]
)
def test_released_parameters(dataset, expected):
    """The authors' model holds modules beside ours that it never uses, so it is a little larger."""
    total = millions(measure("dashfusion_released", dataset).total.parameters)
    assert expected * 0.99 < total < expected < 120


def test_closest_reading_meets_all_printed_numbers_but_bf():
    costs = {cost.name: cost for cost in measure_closest_reading()}
    assert {cost.paper for cost in costs.values()} == set(PAPER_TABLE_V.values())
    for name in ("Concat&SA", "CA", "HBF"):
        assert millions(costs[name].aligned) == pytest.approx(costs[name].paper, rel=0.01), name
    assert millions(costs["BF"].aligned) == pytest.approx(146.8, abs=0.06)
    assert costs["Concat"].fusion == costs["Concat"].paper == 0


def test_printed_numbers_stand_only_beside_their_data_set():
    assert [cost.paper for cost in measure_fusions("dashfusion", "SIMS", T)] == [
        0, 324, 324, 73, 162, 145,
    ]  # fmt: skip
    assert {cost.paper for cost in measure_fusions("dashfusion", "mosi")} == {None}


@pytest.mark.parametrize("name", OWN_MODELS)
def test_parameters_are_those_of_the_model(name, tiny_encoder):
    overrides = tiny_config(name, tiny_encoder, **TINY_SHAPES)
    model = get_model(name).build(resolve(name, "mosi", "", overrides))
    cost = measure(name, "mosi", None, overrides)
    assert cost.total.parameters == sum(p.numel() for p in model.parameters())
    assert cost.module("text_encoder").madds > 0
    assert cost.lengths == (10, 12, 8)
    assert cost.text_encoder == str(tiny_encoder)


@pytest.mark.parametrize("name", OWN_MODELS)  # other data sets: in the document's table
def test_every_model_is_measured_without_its_encoder_files(name):
    cost = measure(name, "sims")
    args = resolve(name, "sims")
    assert cost.lengths == tuple(args.seq_lens)
    assert cost.text_encoder == args.pretrained
    inside = 6.5e6 if name.startswith("cenet") else 0  # its enhancement is inside of BERT
    assert 100e6 < cost.module("text_encoder").parameters < 111e6 + inside
    assert cost.module("outside modules").madds == 0


# What makes MMSA's models small, and convolutions no longer than the frames.
SMALL = {
    **{name: {"hidden_dims": [4, 4, 4], "text_out": 4} for name in ("mtfn", "tfn", "mlf_dnn")},
    "mlmf": {"hidden_dims": [4, 4, 4], "rank": 2},
    "mult": {"dst_feature_dim_nheads": [8, 2], "nlevels": 1, "conv1d_kernel_size_v": 1},
    "tfr_net": {"dst_feature_dim_nheads": [6, 2], "nlevels": 1, "fusion_gru_layers": 1},
}


@pytest.mark.parametrize("name", [*mmsa_files.models(), "self_mm_infoenh", "tfn_infoenh"])
def test_models_in_mmsas_loop_are_measured(name, tiny_encoder, monkeypatch):
    built = []
    build = networks.build_model
    monkeypatch.setattr(outlines, "build_model", lambda a: built.append(build(a)) or built[0])
    dataset = "sims" if "sims" in supported_datasets(name) else "mosi"
    state = torch.get_rng_state()
    small = {"feature_dims": [16, 5, 4], "seq_lens": [6, 9, 7]} | SMALL.get(host_of(name), {})
    if not unread(resolve(name, dataset), ["pretrained"]):
        small["pretrained"] = str(tiny_encoder)
    cost = measure(name, dataset, None, small)
    assert torch.equal(torch.get_rng_state(), state)
    assert cost.total.parameters == sum(p.numel() for p in built[0].parameters())
    assert cost.total.madds > 0
    assert all(row.madds >= 0 and row.parameters >= 0 for row in cost.rows)


def test_a_model_of_mmsa_is_measured_without_its_encoder_files():
    bert_layer = 4 * 20 * 768 * 768 + 2 * 20 * 20 * 768 + 2 * 20 * 768 * 3072
    text = report("self_mm", "mosi", 20)
    assert "20 text tokens (bert-base-uncased), 375 audio frames" in text.replace("\n", " ")
    with_pooler = 12 * bert_layer + 768 * 768  # which MMSA computes and does not use
    assert re.search(rf"text model +{millions(with_pooler):.2f} +109\.482", text)


def test_recurrent_and_plain_layers_of_mmsas_by_hand():
    """EF-LSTM: one LSTM over all features of a step, then two linear layers."""
    sizes = {"hidden_dims": 8, "num_layers": 2, "feature_dims": [16, 5, 4], "seq_lens": [6, 6, 6]}
    cost = measure("ef_lstm", "mosi", None, sizes)
    assert cost.lengths == (6, 6, 6)
    assert cost.text_encoder == "word vectors of 16"
    gates = 4 * 6 * (8 * (25 + 8) + 8 * (8 + 8))
    assert cost.module("lstm").madds == gates
    assert cost.total.madds == gates + 8 * 8 + 8


def test_parameters_outside_of_modules_are_counted():
    cost = measure("dashfusion", "sims", T, {"temporal_alignment": False})
    assert cost.module("temporal_alignment").parameters == 0
    assert cost.module("outside modules").parameters == 8 * D


def test_a_given_architecture_is_used():
    architecture = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1}
    architecture |= {"num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100}
    cost = measure("text_only", "mosi", 10, {"text_encoder_config": architecture})
    one_layer = 4 * 10 * 32 * 32 + 2 * 10 * 10 * 32 + 2 * 10 * 32 * 64
    assert cost.module("text_encoder").madds == one_layer + 10 * 32 * D
    assert cost.text_encoder == "bert of text_encoder_config"


def test_measuring_draws_nothing_and_repeats():
    state = torch.get_rng_state()
    first = measure("dashfusion", "sims", T)
    assert torch.equal(torch.get_rng_state(), state)
    assert measure("DashFusion", "SIMS", T) == first


@pytest.mark.parametrize(
    ("name", "text_length", "message"),
    [
        ("self_mm", 513, "text length 513: the text encoder has 512 positions"),
        ("dashfuson", 39, "unknown model 'dashfuson'; did you mean dashfusion"),
        ("dashfusion", 0, "text length 0: give at least one token"),
        ("dashfusion", 513, "text length 513: the text encoder has 512 positions"),
    ],
)
def test_unusable_requests_are_refused(name, text_length, message):
    with pytest.raises(ConfigError, match=message):
        measure(name, "sims", text_length)
    with pytest.raises(ConfigError, match=message):
        report(name, "sims", text_length)


@pytest.mark.parametrize("name", ["dashfusion", "dashfusion_released", "text_only"])
@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_the_documents_overview_is_current(name, dataset):
    cost = measure(name, dataset)
    total, text = cost.total, cost.module("text_encoder")
    columns = (
        f"{millions(total.madds):.0f}",
        f"{millions(total.madds - text.madds):.0f}",
        f"{millions(total.parameters):.1f}",
        f"{millions(total.parameters - text.parameters):.2f}",
    )
    assert f"| {' | '.join(columns)} |" in DOCUMENT.read_text(encoding="utf-8")


def test_the_report_of_another_data_set_compares_with_no_printed_number():
    text = report("dashfusion", "mosei")
    assert "50 text tokens" in text
    assert "Table V" in text
    assert "paper" not in text.split("Table V")[1]


def test_the_report_of_a_model_without_fusion_ends_with_its_modules():
    text = report("text_only", "mosi", 10)
    assert "text encoder" in text
    assert "Table V" not in text
