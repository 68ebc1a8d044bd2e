"""CENET: parameter counts, padding, its equations against plain ones, encoders it refuses."""

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.models.cenet import CENET, CrossModalEnhancement, ShiftedText
from MMSA_ext.models.contract import Inputs, StepBatch
from MMSA_ext.registry import get_model
from MMSA_ext.training.fine_tuning import FineTuneTrainer
from tests.conftest import TINY_SHAPES, tiny_config

NAMES = ["cenet", "cenet_released"]


def build(encoder, name="cenet", **overrides) -> CENET:
    """A tiny model in evaluation mode, with weights so large that samples differ."""
    torch.manual_seed(0)
    args = resolve(name, "mosi", "", tiny_config(name, encoder, **TINY_SHAPES) | overrides)
    model = get_model(name).build(args).eval()
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.dim() > 1):
            parameter.mul_(10)
    return model


def architecture(kind="bert", **more) -> dict:
    small = {"model_type": kind, "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}
    return small | {"num_attention_heads": 2, "intermediate_size": 8} | more


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("data", "dims", "count"),
    [
        ("mosi", [768, 5, 20], 5_925_888),
        ("mosei", [768, 74, 35], 5_990_400),
        ("sims", [768, 33, 709], 6_476_544),
    ],
)
def test_parameters_are_as_many_as_in_mmsa(name, data, dims, count):
    shapes = {"feature_dims": dims, "text_encoder_config": architecture(hidden_size=768)}
    model = get_model(name).build(resolve(name, data, "", shapes))
    assert sum(p.numel() for p in model.text_encoder.enhancement.parameters()) == count
    assert sum(p.numel() for p in model.head.parameters()) == 591_361


@pytest.mark.parametrize("scale", [8.0, None])
def test_enhancement_is_attention_of_one_head_with_a_factor_and_a_linear_layer(scale):
    torch.manual_seed(0)
    part = CrossModalEnhancement({"audio": 5, "vision": 4}, 6, scale)
    hidden = torch.randn(2, 3, 6)
    frames = {"audio": torch.randn(2, 7, 5), "vision": torch.randn(2, 4, 4)}
    masks = {"audio": torch.arange(7) < torch.tensor([[7], [2]]), "vision": None}
    shift, read = part(hidden, frames, masks)
    for b in range(2):
        for i in range(3):
            seen = []
            for m, valid in (("audio", (7, 2)[b]), ("vision", 4)):
                attention = part.attention[m]
                rows = part.transforms[m](frames[m][b, :valid])
                logits = attention.key(rows) @ attention.query(hidden[b, i])
                weights = (logits * (scale or 6**-0.5)).softmax(dim=0)
                seen.append(weights @ attention.value(rows))
                torch.testing.assert_close(read[m][b, i], seen[-1])
            torch.testing.assert_close(shift[b, i], part.shift(torch.cat(seen)))


def test_hidden_states_are_shifted_between_the_first_two_layers(tiny_encoder, dataset):
    model = build(tiny_encoder)
    batch = dataset.batch(torch.arange(5))
    ids, mask, segments = batch["text"].long().unbind(dim=1)
    bert = model.text_encoder.encoder
    added = torch.zeros(5, 1, 1, mask.shape[1]).masked_fill(mask[:, None, None] == 0, -1e4)
    first, second = bert.encoder.layer
    hidden = first(bert.embeddings(input_ids=ids, token_type_ids=segments), added)
    shift, _ = model.text_encoder.enhancement(
        hidden,
        {m: batch[m] for m in ("audio", "vision")},
        {m: batch[f"{m}_mask"] for m in ("audio", "vision")},
    )
    read = second(hidden + shift, added)[:, 0]
    outputs = model(Inputs.of(batch))
    torch.testing.assert_close(outputs["Feature_t"], read, rtol=1e-4, atol=1e-5)
    fused = model.head.first[1](read).tanh()
    torch.testing.assert_close(outputs["Feature_f"], fused, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["M"], model.head.last[1](fused), rtol=1e-4, atol=1e-5)


def frames_of(batch, factor=1.0):
    frames = {m: batch[m] * factor for m in ("audio", "vision")}
    return frames, {m: batch[f"{m}_mask"] for m in frames}


def test_the_text_encoder_is_as_it_was_after_a_pass_and_after_an_error(tiny_encoder, dataset):
    model = build(tiny_encoder)
    batch = dataset.batch(torch.arange(2))
    hidden, mask, _ = model.text_encoder(batch["text"], *frames_of(batch))
    with pytest.raises(KeyError):
        model.text_encoder(batch["text"], {}, {})
    torch.testing.assert_close(
        model.text_encoder(batch["text"], *frames_of(batch))[0], hidden, rtol=0, atol=0
    )
    ids, _, segments = batch["text"].long().unbind(dim=1)
    alone = model.text_encoder.encoder(
        input_ids=ids, attention_mask=mask, token_type_ids=segments
    ).last_hidden_state
    assert not torch.allclose(alone, hidden, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("modality", ["audio", "vision"])
def test_only_the_released_form_sees_how_long_a_modality_may_be(
    tiny_encoder, dataset, name, modality
):
    lengths = [10, 12, 8]
    longer = [10, 16, 8] if modality == "audio" else [10, 12, 12]
    short, long = (build(tiny_encoder, name, seq_lens=n) for n in (lengths, longer))
    batch = dataset.batch(torch.arange(12))
    moved = (short(Inputs.of(batch))["M"] - long(Inputs.of(batch))["M"]).abs().max()
    assert (moved > 1e-4) == (name == "cenet_released")


DIMS = {"audio": 5, "vision": 4}


@pytest.mark.parametrize("kind", ["distilbert", "roberta", "electra"])
def test_other_encoders_of_the_same_structure_are_shifted_too(dataset, kind):
    described = architecture(kind, n_layers=2, dim=16, n_heads=2)
    encoder = ShiftedText("x", DIMS, architecture=described).eval()
    batch = dataset.batch(torch.arange(2))
    first, second = (encoder(batch["text"], *frames_of(batch, by))[0] for by in (1, 9))
    assert first.shape == (2, batch["text"].shape[2], 16)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("kind", "layers"), [("albert", 2), ("bert", 1), ("xlnet", 2)], ids=str)
def test_an_encoder_without_two_layers_of_its_own_is_refused(kind, layers):
    described = architecture(kind, num_hidden_layers=layers, n_layer=layers, n_head=2, d_model=16)
    with pytest.raises(TextEncoderError, match="between the first two layers of a BERT"):
        ShiftedText("x", DIMS, architecture=described)


def test_the_encoders_embeddings_are_trained_on_demand_alone(tiny_encoder):
    def trained(**more):
        model = build(tiny_encoder, **more)
        return {p.requires_grad for p in model.text_encoder.encoder.embeddings.parameters()}

    assert trained() == {False}
    assert trained(frozen_embeddings=False) == {True}


def test_new_layers_start_as_bert_did(tiny_encoder):
    args = resolve("cenet", "mosi", "", tiny_config("cenet", tiny_encoder, **TINY_SHAPES))
    model = get_model("cenet").build(args)
    for module in (*model.text_encoder.enhancement.modules(), *model.head.modules()):
        if isinstance(module, torch.nn.Linear):
            assert not module.bias.any()
            if module.weight.numel() > 100:
                assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(("key", "error"), [("l1", F.l1_loss), ("mse", F.mse_loss)])
def test_the_loss_is_the_error_alone(tiny_encoder, dataset, key, error):
    model = build(tiny_encoder, task_loss=key)
    samples = dataset.batch(torch.arange(6))
    out = model.training_step(StepBatch(samples, torch.tensor([1, 4]), None))
    torch.testing.assert_close(out.total, error(out.prediction, samples["labels"]["M"][[1, 4]]))


def test_all_of_the_enhancement_decays(tiny_encoder):
    args = resolve("cenet", "mosi", "", tiny_config("cenet", tiny_encoder, **TINY_SHAPES))
    model = get_model("cenet").build(args)
    args.device = "cpu"
    trainer = FineTuneTrainer(args)
    decay = {
        id(parameter): group["weight_decay"]
        for group in trainer.make_optimizer(model).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in decay
            continue
        spared = not name.startswith("text_encoder.enhancement.") and (
            "LayerNorm" in name or "bias" in name
        )
        assert decay[id(parameter)] == (0 if spared else args.weight_decay), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("data", "values"),
    [
        ("mosi", (1e-5, 1e-4, 3e-8, 64)),
        ("mosei", (1e-5, 1e-4, 1e-8, 64)),
        ("sims", (2e-6, 0, 2e-8, 32)),
        ("simsv2", (3e-5, 0, 3e-8, 64)),
    ],
)
def test_shipped_values_are_mmsas(name, data, values):
    args = resolve(name, data)
    assert (args.learning_rate, args.weight_decay, args.adam_epsilon, args.batch_size) == values
    assert (args.optimizer, args.schedule, args.max_grad_norm) == ("adam", "constant", 2)
    assert (args.early_stop, args.logit_scale, args.task_loss) == (8, 8, "l1")
    assert args.masked is (name == "cenet")
    assert args.feature_scaling == ("standardise" if name == "cenet" else "none")
