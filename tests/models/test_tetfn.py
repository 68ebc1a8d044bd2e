"""TETFN: parameter counts, padding, its equations against plain ones, labels of a training."""

import math

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.loader import FeatureLoader
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.contract import Inputs, StepBatch
from MMSA_ext.models.tetfn import (
    TETFN,
    CrossmodalEncoder,
    FrameReader,
    StepConvolution,
    Steps,
    TETFNConfig,
    TextEnhanced,
    sinusoids,
    visible,
)
from MMSA_ext.registry import get_model
from MMSA_ext.training.fine_tuning import FineTuneTrainer
from tests.conftest import TINY_SHAPES, tiny_config

NAMES = ["tetfn", "tetfn_released"]


def tiny_args(encoder, name="tetfn", **overrides):
    return resolve(name, "mosi", "", tiny_config(name, encoder, **TINY_SHAPES) | overrides)


def build(encoder, name="tetfn", **overrides) -> TETFN:
    torch.manual_seed(0)
    return get_model(name).build(tiny_args(encoder, name, **overrides)).eval()


def shape(**overrides) -> TETFNConfig:
    """A tiny configuration for parts of the model."""
    tiny = TINY_SHAPES | {"dim": 8, "heads": 2}
    return TETFNConfig.from_args(resolve("tetfn", "mosi", "", tiny | overrides))


@pytest.mark.parametrize(
    ("name", "data", "lengths", "dims", "count"),
    [
        ("tetfn_released", "mosi", [50, 375, 500], [768, 5, 20], 1_254_224),
        ("tetfn_released", "mosei", [50, 500, 500], [768, 74, 35], 1_257_360),
        ("tetfn_released", "sims", [39, 400, 55], [768, 33, 709], 1_529_968),
        # The convolution of vision has a kernel of its own: 3 and 1 in the place of 1 and 5.
        ("tetfn", "mosi", [50, 375, 500], [768, 5, 20], 1_254_224 + 2 * 64 * 50),
        ("tetfn", "mosei", [50, 500, 500], [768, 74, 35], 1_257_360),
        ("tetfn", "sims", [39, 400, 55], [768, 33, 709], 1_529_968 - 4 * 64 * 50),
    ],
)
def test_parameters_without_the_text_encoder_are_as_many_as_in_mmsa(
    name, data, lengths, dims, count
):
    architecture = {"model_type": "bert", "vocab_size": 8, "hidden_size": 768}
    architecture |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    shapes = {"seq_lens": lengths, "feature_dims": dims, "text_encoder_config": architecture}
    model = get_model(name).build(resolve(name, data, "", shapes))
    own = [p for n, p in model.named_parameters() if not n.startswith("text_encoder.")]
    assert sum(p.numel() for p in own) == count


def test_heads_divide_the_width():
    with pytest.raises(ConfigError, match="dim must be a multiple of heads"):
        shape(dim=9)


@pytest.mark.parametrize(
    ("targets", "sources"), [([4, 4], [4, 4]), ([4, 2], [6, 3]), ([5, 1], [2, 4])]
)
def test_a_step_sees_up_to_its_own_position_and_the_difference_of_lengths(targets, sources):
    target = Steps(torch.zeros(2, max(targets), 1), torch.tensor(targets))
    source = Steps(torch.zeros(2, max(sources), 1), torch.tensor(sources))
    seen = visible(target, source)
    for b, (n, m) in enumerate(zip(targets, sources, strict=True)):
        for i in range(n):
            want = [j <= i + abs(n - m) and j < m for j in range(max(sources))]
            assert seen[b, i].tolist() == want


@pytest.mark.parametrize("dim", [6, 7])
def test_positions_are_half_sines_half_cosines_from_one(dim):
    found = sinusoids(4, dim)
    for row in range(4):
        rates = [10000 ** (-k / (dim // 2 - 1)) for k in range(dim // 2)]
        want = [math.sin((row + 1) * r) for r in rates] + [math.cos((row + 1) * r) for r in rates]
        want += [0.0] * (dim % 2)
        torch.testing.assert_close(found[row], torch.tensor(want))


def steps(lengths, dim=8):
    values = torch.randn(len(lengths), max(lengths), dim)
    return Steps(values, torch.tensor(lengths))


@torch.no_grad()
def plain_encoder(encoder: CrossmodalEncoder, target: Steps, source: Steps | None):
    """Sample by sample, step by step, head by head, each without the steps that are padding."""
    results = []
    for b, n in enumerate(target.lengths.tolist()):
        x = target.values[b, :n] * math.sqrt(target.values.shape[2])
        fixed = None
        if source is not None:
            m = int(source.lengths[b])
            fixed = source.values[b, :m] * math.sqrt(target.values.shape[2])
            if encoder.positions:
                fixed = fixed + sinusoids(*fixed.shape)
        if encoder.positions:
            x = x + sinusoids(*x.shape)
        for layer in encoder.layers:
            q = layer.attention.query(layer.attention_norm(x))
            read = layer.attention_norm(x if fixed is None else fixed)
            k, v = layer.attention.key(read), layer.attention.value(read)
            rows = []
            for i in range(n):
                seen = slice(0, i + abs(n - len(read)) + 1)
                parts = []
                for qi, kh, vh in zip(q[i].chunk(2), k.chunk(2, 1), v.chunk(2, 1), strict=True):
                    weights = (kh[seen] @ qi / qi.numel() ** 0.5).softmax(dim=0)
                    parts.append(weights @ vh[seen])
                rows.append(torch.cat(parts))
            x = x + layer.attention.output(torch.stack(rows))
            expand, _, _, contract = layer.feed_forward
            x = x + contract(expand(layer.feed_forward_norm(x)).relu())
        results.append(encoder.norm(x))
    return results


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("source", [[7, 2, 3], None], ids=str)
def test_an_encoder_is_causal_pre_norm_layers_on_a_source_that_stays(positions, source):
    torch.manual_seed(0)
    encoder = CrossmodalEncoder(8, shape(), positions=positions).eval()
    for layer in encoder.layers:
        torch.nn.init.normal_(layer.attention_norm.weight)
    target, read = steps([5, 3, 1]), None if source is None else steps(source)
    found = encoder(target, read)
    for b, want in enumerate(plain_encoder(encoder, target, read)):
        torch.testing.assert_close(found.values[b, : len(want)], want, rtol=1e-4, atol=1e-5)
    assert found.lengths is target.lengths


def test_text_enhanced_attention_filters_the_source_first():
    torch.manual_seed(0)
    part = TextEnhanced(shape()).eval()
    target, source, text = steps([5, 2]), steps([4, 4]), steps([3, 6])
    assert [len(e.layers) for e in (part.filter, part.read)] == [1, 2]
    filtered = plain_encoder(part.filter, source, text)
    padded = Steps(torch.nn.utils.rnn.pad_sequence(filtered, batch_first=True), source.lengths)
    found = part(target, source, text)
    for b, want in enumerate(plain_encoder(part.read, target, padded)):
        torch.testing.assert_close(found.values[b, : len(want)], want, rtol=1e-4, atol=1e-5)


def test_a_convolution_reads_whole_windows_of_valid_steps():
    torch.manual_seed(0)
    layer = StepConvolution(3, 4, 3)
    given = steps([6, 3, 2], 3)
    found = layer(given)
    assert found.lengths.tolist() == [4, 1, 1]
    weight = layer.convolution.weight  # (4, 3, kernel)
    for b, n in enumerate([6, 3, 2]):
        rows = F.pad(given.values[b, :n], (0, 0, 0, max(0, 3 - n)))
        for i in range(max(1, n - 2)):
            want = sum(weight[:, :, k] @ rows[i + k] for k in range(3))
            torch.testing.assert_close(found.values[b, i], want)


def test_frames_are_averaged_over_windows_of_valid_ones():
    reader = FrameReader("audio", shape(seq_lens=[5, 13, 8]))
    frames = torch.randn(2, 11, 5)
    mask = torch.arange(11) < torch.tensor([[11], [4]])
    found = reader._averaged(frames, mask)
    assert reader.window == 3
    assert found.lengths.tolist() == [4, 2]
    for b, windows in enumerate([[(0, 3), (3, 6), (6, 9), (9, 11)], [(0, 3), (3, 4)]]):
        for i, (first, end) in enumerate(windows):
            torch.testing.assert_close(found.values[b, i], frames[b, first:end].mean(dim=0))


def test_released_frames_are_as_many_as_tokens_the_last_one_repeated():
    """SIMS's vision: 55 frames, 39 tokens, so 78 frames in windows of 2."""
    reader = FrameReader("vision", shape(seq_lens=[39, 400, 55], masked=False))
    frames = torch.randn(1, 55, 4)
    found = reader._averaged(frames, None)
    repeated = torch.cat([frames, frames[:, -1:].expand(-1, 23, -1)], dim=1)
    want = [repeated[0, 2 * i : 2 * i + 2].mean(dim=0) for i in range(39)]
    torch.testing.assert_close(found.values[0], torch.stack(want))
    torch.testing.assert_close(found.values[0, -11:], frames[:, -1].expand(11, -1))
    assert found.lengths.tolist() == [39]
    cut = reader._averaged(frames[:, :20], torch.ones(1, 20, dtype=torch.bool))
    torch.testing.assert_close(cut.values[0, :10], found.values[0, :10])
    assert not cut.values[0, 10:].any()  # zeros up to the full length, then copies of a zero


def test_forward_is_fig_2(tiny_encoder, dataset):
    """What goes where: sources, order of concatenation, last valid step, maxima."""
    model = build(tiny_encoder)
    batch = dataset.batch(torch.arange(4))
    text = model._text(batch["text"])
    audio = model.audio_reader(batch["audio"], batch["audio_mask"])
    vision = model.vision_reader(batch["vision"], batch["vision_mask"])
    pairs = [
        (model.text_from_audio(text, audio), model.text_from_vision(text, vision)),
        (model.audio_from_text(audio, text), model.audio_from_vision(audio, vision, text)),
        (model.vision_from_text(vision, text), model.vision_from_audio(vision, audio, text)),
    ]
    outputs = model(Inputs.of(batch))
    for b in range(4):
        last, maxima = [], []
        for memory, own, (first, second) in zip(
            model.memories.values(), (text, audio, vision), pairs, strict=True
        ):
            n = int(own.lengths[b])
            both = torch.cat([first.values[b : b + 1, :n], second.values[b : b + 1, :n]], dim=-1)
            last.append(memory(Steps(both, torch.tensor([n]))).values[0, -1])
            maxima.append(own.values[b, :n].max(dim=0).values)
        vector, prediction = model.fusion(torch.cat(last))
        torch.testing.assert_close(outputs["M"][b], prediction, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs["Feature_f"][b], vector, rtol=1e-4, atol=1e-5)
        for head, x, letter in zip(model.heads.values(), maxima, "TAV", strict=True):
            vector, prediction = head(x)
            torch.testing.assert_close(outputs[letter][b], prediction, rtol=1e-4, atol=1e-5)
            feature = outputs[f"Feature_{letter.lower()}"][b]
            torch.testing.assert_close(feature, vector, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", [True, False])
def test_both_readings_agree_on_a_sample_of_full_length(tiny_encoder, average):
    shapes = {"seq_lens": [10, 20, 10], "average_frames": average, "text_kernel": 2}
    masked, released = (build(tiny_encoder, name, vision_kernel=3, **shapes) for name in NAMES)
    released.load_state_dict(masked.state_dict())
    text = torch.stack([torch.arange(5, 15), torch.ones(10), torch.zeros(10)])[None]
    frames = torch.randn(1, 20, 5), torch.randn(1, 10, 4)
    torch.testing.assert_close(released(text, *frames), masked(text, *frames))


@pytest.mark.parametrize("modality", ["text", "audio", "vision"])
@pytest.mark.parametrize("name", NAMES)
def test_only_the_released_form_sees_how_long_a_modality_may_be(
    tiny_encoder, dataset, name, modality
):
    lengths = {"text": 10, "audio": 12, "vision": 8}
    longer = list((lengths | {modality: lengths[modality] + 4}).values())
    short, long = (
        build(tiny_encoder, name, average_frames=False, seq_lens=n) for n in ([10, 12, 8], longer)
    )
    samples = dataset.batch(torch.arange(12))
    moved = (short(Inputs.of(samples))["M"] - long(Inputs.of(samples))["M"]).abs().max()
    assert (moved > 1e-4) == (name == "tetfn_released")


def step_of(dataset, rows=range(12)):
    rows = torch.tensor(list(rows))
    return StepBatch(dataset.batch(rows), torch.arange(len(rows)), None)


def test_the_losses_weigh_how_far_labels_moved(tiny_encoder, dataset):
    model = build(tiny_encoder)
    model.adapt(dataset)
    for letter, offset in (("T", 0.5), ("A", -1.0), ("V", 0.0)):
        model.labels.labels[letter] += offset
    rows = [3, 7, 1]
    with torch.no_grad():
        out = model.training_step(step_of(dataset, rows))
        outputs = model(Inputs.of(dataset.batch(torch.tensor(rows))))
    labels = [float(dataset.labels["M"][row]) for row in rows]
    plain = sum(abs(float(p) - y) for p, y in zip(outputs["M"], labels, strict=True)) / 3
    assert float(out.losses["prediction_loss"]) == pytest.approx(plain, rel=1e-4)
    for name, letter, offset in (("text", "T", 0.5), ("audio", "A", -1.0), ("vision", "V", 0.0)):
        errors = [abs(float(p) - y - offset) for p, y in zip(outputs[letter], labels, strict=True)]
        want = math.tanh(abs(offset)) * sum(errors) / 3
        assert float(out.losses[f"{name}_loss"]) == pytest.approx(want, rel=1e-4)
        assert float(out.diagnostics[f"{name}_label_moved"]) == pytest.approx(abs(offset))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_once_labels_have_moved(tiny_encoder, dataset, name):
    model = build(tiny_encoder, name).train()
    model.adapt(dataset)
    for epoch in (1, 2):
        model.begin_epoch(epoch, 2)
        model.training_step(step_of(dataset))
    model.training_step(step_of(dataset)).total.backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert {n for n in silent if not n.endswith("key.bias")} <= {
        n for n in silent if n.startswith("text_encoder.")
    }


def test_labels_of_a_batch_are_those_of_its_samples(tiny_encoder, dataset):
    model = build(tiny_encoder)
    model.adapt(dataset)
    model.begin_epoch(1, 9)
    model.training_step(step_of(dataset))
    before = {name: labels.clone() for name, labels in model.labels.labels.items()}
    model.begin_epoch(2, 9)
    model.training_step(step_of(dataset, [5, 2]))
    for letter in "TAV":
        moved = (model.labels.labels[letter] != before[letter]).nonzero().flatten().tolist()
        assert set(moved) == {2, 5}
    torch.testing.assert_close(model.labels.labels["M"], before["M"])


def test_a_training_does_not_see_the_labels_of_the_one_before(tiny_encoder, dataset, tmp_path):
    args = tiny_args(tiny_encoder)
    args.device, args.model_save_path = "cpu", tmp_path / "weights.pth"
    loaders = {name: FeatureLoader(dataset, 4, name == "train") for name in ("train", "valid")}
    model = build(tiny_encoder)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        model.load_state_dict(start)
        trainer = FineTuneTrainer(args)
        trainer.do_train(model, loaders)
        results.append((trainer.history.epochs, model.labels.labels))
        assert trainer.history.epochs[1]["train"]["text_label_moved"] == 0
        assert trainer.history.epochs[2]["train"]["text_loss"] >= 0
    (first, labels), (second, again) = results
    assert [e["train"] for e in first[1:]] == [e["train"] for e in second[1:]]
    for name, value in labels.items():
        assert torch.equal(value, again[name])
    assert not torch.equal(labels["A"], labels["M"])
    assert not any("labels" in name for name in start)  # no checkpoint holds them


def test_each_part_has_its_rate_and_decay(tiny_encoder):
    args = tiny_args(
        tiny_encoder, learning_rate=1e-5, new_layers_learning_rate=2e-5, audio_learning_rate=3e-5,
        vision_learning_rate=None, weight_decay=0.1, new_layers_weight_decay=0.2,
        audio_weight_decay=0.3, vision_weight_decay=0.4,
    )  # fmt: skip
    args.device = "cpu"
    model = get_model("tetfn").build(args)
    optimizer = FineTuneTrainer(args).make_optimizer(model)
    assert type(optimizer) is torch.optim.Adam
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    for name, parameter in model.named_parameters():
        if name.startswith("text_encoder."):
            spared = "LayerNorm" in name or name.endswith("bias")
            want = (1e-5, 0.0 if spared else 0.1)
        elif name.startswith("audio_reader.recurrent."):
            want = (3e-5, 0.3)
        elif name.startswith("vision_reader.recurrent."):
            want = (2e-5, 0.4)
        else:
            want = (2e-5, 0.2)
        assert found[id(parameter)] == want, name


def test_dropouts_are_where_they_are_said_to_be(tiny_encoder):
    rates = {"attention_dropout": 0.1, "text_audio_dropout": 0.2, "text_vision_dropout": 0.3}
    rates |= {"relu_dropout": 0.4, "embedding_dropout": 0.5, "residual_dropout": 0.6}
    rates |= {"fusion_head_dropout": 0.7, "vision_head_dropout": 0.8}
    model = build(tiny_encoder, **rates)
    for name, module in model.named_modules():
        if isinstance(module, CrossmodalEncoder):
            own = {"text_from_audio": 0.2, "text_from_vision": 0.3}.get(name, 0.1)
            assert module.dropout.p == 0.5
            for layer in module.layers:
                assert layer.attention.dropout == own, name
                assert (layer.feed_forward[2].p, layer.dropout.p) == (0.4, 0.6)
    assert (model.fusion.first[0].p, model.heads["vision"].first[0].p) == (0.7, 0.8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("data", "rates", "sizes"),
    [
        ("mosi", (3e-5, 5e-4, 3e-4, 3e-4), (16, 64, 64, 32, 32, 16)),
        ("mosei", (3e-5, 1e-3, 5e-3, 1e-4), (32, 32, 64, 64, 32, 16)),
        ("sims", (3e-5, 3e-3, 5e-4, 3e-3), (16, 64, 64, 64, 16, 32)),
    ],
)
def test_shipped_values_are_mmsas(name, data, rates, sizes):
    args = resolve(name, data)
    shipped = [f"{part}learning_rate" for part in ("", "audio_", "vision_", "new_layers_")]
    assert tuple(args[key] for key in shipped) == rates
    heads = [f"{part}_head" for part in ("fusion", "text", "audio", "vision")]
    assert tuple(args[key] for key in ("audio_hidden", "vision_hidden", *heads)) == sizes
    assert args.batch_size == 4 * (32 if data == "mosei" else 64)
    released = name == "tetfn_released"
    assert args.masked is not released
    assert args.label_limit == (1 if data == "sims" and not released else 3)
    assert (args.vision_kernel == args.audio_kernel) is (released or data == "mosei")
    assert args.feature_scaling == ("none" if released else "standardise")
