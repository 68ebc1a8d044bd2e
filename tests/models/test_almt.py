"""ALMT: parameter counts, its equations against plain ones, the released form."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.config.resolve import resolve
from MMSA_ext.models.almt import ALMTConfig, ALMTLayer, HyperFusion, HyperModalityLayer
from MMSA_ext.models.contract import Inputs, StepBatch
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import get_model

NAMES = ["almt", "almt_released"]


@pytest.fixture
def build(tiny_model):
    return partial(tiny_model, "almt")


def shape(**overrides) -> ALMTConfig:
    """A tiny configuration for parts of the model, which read its widths alone."""
    tiny = {"dim": 16, "tokens": 4, "heads": 2, "head_dim": 3, "feed_forward_dim": 8}
    return ALMTConfig.from_args(resolve("almt", "mosi", "", tiny | overrides))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("data", "lengths", "dims", "count"),
    [
        ("mosi", [50, 375, 500], [768, 5, 20], 2_603_649),
        ("mosei", [50, 500, 500], [768, 74, 35], 3_223_041),
        ("sims", [39, 400, 55], [768, 33, 709], 3_232_897),
    ],
)
def test_parameters_without_the_text_encoder_are_as_many_as_released(
    name, data, lengths, dims, count
):
    architecture = {"model_type": "bert", "vocab_size": 8, "hidden_size": 768}
    architecture |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    shapes = {"seq_lens": lengths, "feature_dims": dims, "text_encoder_config": architecture}
    model = get_model(name).build(resolve(name, data, "", shapes))
    own = [p for n, p in model.named_parameters() if not n.startswith("text_encoder.")]
    assert sum(p.numel() for p in own) == count


@pytest.mark.parametrize("modality", ["text", "audio", "vision"])
def test_the_released_form_sees_padding_of_each_modality(tiny_model, dataset, modality):
    longer = [n + 4 * (m == modality) for n, m in zip((10, 12, 8), MODALITIES, strict=True)]
    short, long = (
        tiny_model("almt_released", seq_lens=lengths) for lengths in ([10, 12, 8], longer)
    )
    weights = short.state_dict()
    table = f"{modality}_embedding.positions"
    weights[table] = F.pad(weights[table], (0, 0, 0, 4))
    long.load_state_dict(weights)
    samples = dataset.batch(torch.tensor([0]))
    assert not torch.allclose(
        short(Inputs.of(samples))["M"], long(Inputs.of(samples))["M"], atol=1e-5
    )


def test_longer_sequences_than_the_position_table_are_refused(build, dataset):
    model = build()
    batch = dataset.batch(torch.tensor([0]))
    with pytest.raises(ValueError, match="at most 12"):
        model(batch["text"], torch.zeros(1, 13, 5), batch["vision"])


def test_heads_that_do_not_divide_the_width_may_have_one_of_their_own():
    assert shape(dim=15, hyper_head_dim=4).hyper_head_dim == 4


@torch.no_grad()
def plain_attention(query, key, value, heads, mask=None):
    """softmax(q k / sqrt(d_k)) v, head by head; masked keys get -inf."""
    parts = []
    for q, k, v in zip(
        query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True
    ):
        logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None], -torch.inf)
        parts.append(logits.softmax(dim=-1) @ v)
    return torch.cat(parts, dim=-1)


@torch.no_grad()
def plain_layer(layer: ALMTLayer, target, source, mask=None):
    query, key, value = (part(x) for part, x in (
        (layer.query, target), (layer.key, source), (layer.value, source)))  # fmt: skip
    target = target + layer.output(plain_attention(query, key, value, layer.heads, mask))
    return target + layer.feed_forward(target)


def test_a_layer_normalises_query_key_and_value_apart():
    torch.manual_seed(0)
    layer = ALMTLayer(shape())
    for part in (layer.query, layer.key, layer.value):
        torch.nn.init.normal_(part[0].weight)
        assert part[1].weight.shape == (6, 16)
        assert part[1].bias is None
    target, source = torch.randn(2, 4, 16), torch.randn(2, 7, 16)
    mask = torch.arange(7)[None] < torch.tensor([[7], [3]])
    want = plain_layer(layer, target, source, mask)
    torch.testing.assert_close(layer(target, source, mask), want)
    assert [type(m).__name__ for m in layer.feed_forward[1]] == [
        "Linear", "GELU", "Dropout", "Linear",
    ]  # fmt: skip
    assert layer.feed_forward[1][2].p == 0


def test_embedding_keeps_the_tokens_of_the_whole_sequence(build, dataset):
    """Only the tokens' rows of the last layer are computed: the same as if all were."""
    model = build(embedding_layers=2)
    embedding = model.audio_embedding
    torch.nn.init.normal_(embedding.tokens)
    batch = dataset.batch(torch.arange(5))
    frames, mask = batch["audio"], batch["audio_mask"]
    x = torch.cat([embedding.tokens.expand(5, -1, -1), embedding.projection(frames)], dim=1)
    x = x + embedding.positions[:, : x.shape[1]]
    for layer in embedding.layers:
        x = plain_layer(layer, x, x, torch.cat([torch.ones(5, 4, dtype=torch.bool), mask], 1))
    torch.testing.assert_close(embedding(frames, mask), x[:, :4], rtol=1e-4, atol=1e-5)


def test_scales_begin_with_the_positions_and_go_a_layer_deeper_each(build):
    scales = build().language_scales
    language = torch.randn(2, 4, 16)
    first, second, third = scales(language)
    torch.testing.assert_close(first, language + scales.positions)
    torch.testing.assert_close(second, plain_layer(scales.layers[0], first, first))
    torch.testing.assert_close(third, plain_layer(scales.layers[1], second, second))


@pytest.mark.parametrize("raw_residual", [False, True])
def test_hyper_modality_layer_is_equation_5(raw_residual):
    torch.manual_seed(0)
    layer = HyperModalityLayer(shape(heads=4, raw_residual=raw_residual))
    hyper, language, audio, vision = torch.randn(4, 2, 5, 16)
    read = 0
    query = layer.attention.query(layer.language_norm(language))
    for name, norm, source in (
        ("audio", layer.audio_norm, audio), ("vision", layer.vision_norm, vision)
    ):  # fmt: skip
        key = layer.attention.keys[name](norm(source))
        value = layer.attention.values[name](norm(source))
        read = read + plain_attention(query, key, value, 4)
    residual = hyper if raw_residual else layer.hyper_norm(hyper)
    torch.testing.assert_close(
        layer(hyper, language, audio, vision), residual + layer.attention.output(read)
    )
    assert layer.attention.query.weight.shape == (16, 16)
    assert layer.attention.query.bias is None
    assert layer.attention.output.bias is not None


def test_fusion_reads_the_first_row_which_no_row_of_language_can_change():
    torch.manual_seed(0)
    fusion = HyperFusion(shape(fusion_layers=3))
    torch.nn.init.normal_(fusion.token)
    token = fusion.token.expand(2, -1, -1)
    hyper = torch.randn(2, 4, 16)
    source = torch.cat([token, hyper], dim=1) + fusion.hyper_positions
    for language in torch.randn(2, 2, 4, 16):
        target = torch.cat([token, language], dim=1) + fusion.language_positions
        for layer in fusion.layers:
            target = plain_layer(layer, target, source)
        torch.testing.assert_close(fusion(hyper), target[:, 0])


def test_initial_values_of_what_is_learned(build):
    model = build(seq_lens=[50, 375, 500], dim=64)
    for modality in MODALITIES:
        embedding = getattr(model, f"{modality}_embedding")
        assert not embedding.tokens.any()
        assert float(embedding.positions.detach().std()) == pytest.approx(1, abs=0.1)
    assert (model.hyper == 1).all()
    assert not model.fusion.token.any()
    tables = [model.language_scales.positions, model.fusion.language_positions]
    tables.append(model.fusion.hyper_positions)
    assert all(float(table.detach().std()) == pytest.approx(1, abs=0.2) for table in tables)


def test_loss_is_the_mean_squared_error_alone(build, dataset):
    model = build()
    samples = dataset.batch(torch.arange(6))
    out = model.training_step(StepBatch(samples, torch.tensor([1, 4]), None))
    labels = samples["labels"]["M"][[1, 4]]
    torch.testing.assert_close(out.total, (out.prediction - labels).square().mean())
    assert list(out.losses) == ["prediction_loss"]


def test_the_idle_norm_is_trained_after_the_first_step(build, dataset):
    model = build().train()
    step = StepBatch(dataset.batch(torch.arange(12)), torch.arange(12), None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model.training_step(step).total.backward()
        optimizer.step()
    assert model.hyper_layers[0].hyper_norm.weight.grad.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("data", "layers"), [("mosi", 2), ("mosei", 4), ("sims", 4)])
def test_shipped_values_are_the_released_ones(name, data, layers):
    args = resolve(name, data)
    assert args.fusion_layers == layers
    assert args.masked is (name == "almt")
    assert (args.learning_rate, args.new_layers_learning_rate) == (1e-4, None)
    assert (args.weight_decay, args.decay_all, args.max_grad_norm) == (1e-4, True, None)
    assert (args.batch_size, args.num_epochs, args.early_stop) == (64, 200, None)
    assert (args.schedule, args.schedule_unit) == ("cosine", "epoch")
    assert args.warmup_ratio * args.num_epochs == pytest.approx(20)
    assert args.feature_scaling == ("standardise" if name == "almt" else "none")
