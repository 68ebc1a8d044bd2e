"""Every registered model on our trainer: a new model is tested by being registered.

Variants of MMSA's models are tested alike in `hosts/`, MMSA's own in
`tests/mmsa_bridge/test_mmsa_models.py`. Tiny configurations are in `tests/conftest.py`.
"""

import contextlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MMSA_ext import MMSA_run, mmsa_bridge, predict_file
from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import make_loaders
from MMSA_ext.datasets import SHIPPED
from MMSA_ext.errors import ConfigError
from MMSA_ext.explain.verification import verify_store
from MMSA_ext.models.contract import Inputs, core_model
from MMSA_ext.names import MODALITIES
from MMSA_ext.records.store import RunStore
from MMSA_ext.registry import get_model, list_models, trains_in_mmsa
from MMSA_ext.training.callbacks import Callback
from MMSA_ext.training.state import ResumePoint
from tests.conftest import TINY_SHAPES, make_feature_data, tiny_config
from tests.models.conftest import contrast_step, make_step, outputs, with_garbage

MODELS = [name for name in list_models() if not trains_in_mmsa(name)]
# What all models have in common is tested quickly on these, slowly on all.
QUICK = ("almt", "confede", "dashfusion", "text_only")
OTHERS_ARE_SLOW = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS
]
# Feature_a and Feature_v exist only where the model reads audio and vision.
READS_TEXT_ALONE = {"text_only"}
# They compute what the released code does, padding included.
READS_PADDING = {name for name in MODELS if name.endswith("_released")}
# Parameters that do not train, by the start of their names.
FROZEN = {
    # The text encoder stays as the first stage has left it.
    "confede": ("text_encoder.",),
    "confede_infoenh": ("text_encoder.",),
    "cenet": ("text_encoder.encoder.embeddings.",),
    "cenet_released": ("text_encoder.encoder.embeddings.",),
}
UNIMODAL_HEADS = tuple(
    f"heads.{modality}.{layer}.{kind}"
    for modality in ("text", "audio", "vision")
    for layer in ("first.1", "rest.0", "rest.2")
    for kind in ("weight", "bias")
)
# Parameters whose gradient is 0 at the first step, by the end of their names.
SILENT = {
    # The hyper-modality starts constant, and a LayerNorm makes 0 of what is constant.
    "almt": ("hyper_layers.0.hyper_norm.weight",),
    "almt_released": ("hyper_layers.0.hyper_norm.weight",),
}
# Unimodal labels start as copies of the multimodal one, and a loss weighs how far they moved.
SILENT |= dict.fromkeys(("tetfn", "tetfn_released"), UNIMODAL_HEADS)
# A key's bias shifts all logits of a query alike: its gradient is 0 in exact arithmetic.
SILENT_EVERYWHERE = ("key.bias",)
# What a model needs to learn the planted data beside the common values.
LEARNING = {
    "dashfusion_released": {"num_epochs": 50},  # dropout 0.5, also on attention weights
    "fdmer_reconstructed": {"num_epochs": 80, "learning_rate": 2e-3},
    "text_only": {"num_epochs": 50},
}
# Settings under which all that holds of a model must hold as well as under its defaults.
SWITCHES = {
    "almt": [{"raw_residual": True, "embedding_layers": 2, "scales": 2, "fusion_layers": 3}],
    "confede": [{"text_pooling": "pooler"}, {"text_pooling": "first"}],
    "dashfusion": [
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
    ],
    "dbf": [
        {"readout": "mean", "mi_target": "raw"},
        {"mi_target": "last"},
        {"shared_layers": True},
        {"mi_predictor": "linear"},
        {"unimodal_layers": 0},
        {"centre": "audio"},
        {"mi_weight": 0.0},
        {"mi_detach": True},
    ],
    "fdmer_reconstructed": [
        {"consistency": "cmd"},
        {"disparity": "difference"},
        {"fusion_attention": False},
        {"adaptive_weights": False},
        {"adversarial_weight": 0.0},
        {"encoder_layers": 2},
        {"part_norm": False},
    ],
    "tetfn": [{"average_frames": False}],
    "text_only": [{"readout": "first_and_mean"}],
}
SWITCHES |= {"almt_released": SWITCHES["almt"], "tetfn_released": SWITCHES["tetfn"]}
FILTERED = {"infoenh": {"k": 3, "d": 8, "dissimilar_parts": "filtered"}}
SWITCHES["confede_infoenh"] = [*SWITCHES["confede"], FILTERED]
# Keys of which each must change the prediction.
CHANGES_PREDICTION = {
    "almt": [
        {"masked": False}, {"raw_residual": True}, {"hyper_head_dim": 2}, {"head_dim": 4},
        {"tokens": 3}, {"scales": 2}, {"embedding_layers": 2}, {"fusion_layers": 1},
    ],
    "dbf": [
        {"unimodal_layers": 0}, {"unimodal_layers": 2}, {"text_tokens": "first"},
        {"readout": "mean"}, {"centre": "vision"}, {"shared_layers": True}, {"fusion_layers": 3},
        {"bottleneck_tokens": 4}, {"activation": "relu"}, {"heads": 2}, {"feed_forward_dim": 16},
    ],
    "fdmer_reconstructed": [
        {"fusion_attention": False}, {"adaptive_weights": False}, {"encoder_layers": 2},
        {"part_norm": False}, {"fusion_heads": 2}, {"heads": 2}, {"feed_forward_dim": 16},
    ],
    "tetfn": [
        {"masked": False}, {"average_frames": False}, {"heads": 2}, {"text_kernel": 2},
        {"audio_kernel": 1}, {"vision_kernel": 1},
    ],
}  # fmt: skip
# Keys of which each must change a loss.
CHANGES_LOSS = {
    "dbf": [
        {"mi_target": "raw"}, {"mi_target": "last"}, {"mi_predictor": "linear"},
        {"mi_symmetric": True}, {"mi_double_exp": True}, {"mi_include_positive": False},
        {"mi_weight": 0.5}, {"mi_weight": 0.0}, {"task_loss": "l1"},
    ],
}  # fmt: skip
REFUSED = [
    ("almt", {"dim": 15}, "set hyper_head_dim"),
    ("confede", {"contrast_reduction": "mean_released"}, "contrast_reduction"),
    ("confede_infoenh", {"infoenh": {"vector": "widen"}}, r"keeps its widths.*keep_dim"),
    ("dashfusion", {"retrieval": "correct"}, "no such key; did you mean reading.retrieval?"),
    ("dashfusion", {"activation": "correct"}, "no such key; did you mean reading.activation?"),
    ("dashfusion", {"masking": "correct"}, "no such key; did you mean reading.padding?"),
    ("dbf", {"heads": 3}, "dim is 16 and heads 3: dim must be a multiple of heads"),
    ("dbf", {"fusion_layers": 1}, "fusion_layers.*greater than or equal to 2"),
    ("dbf", {"swap_lr": True}, "swap_lr has nothing to exchange"),
    ("dbf", {"mi_target": "first"}, "mi_target"),
    ("dbf", {"alpha": 0.1}, "alpha"),
    ("fdmer_reconstructed", {"heads": 3}, "heads 3: dim must be a multiple of heads"),
    ("fdmer_reconstructed", {"fusion_heads": 5}, "fusion_heads 5: .* a multiple of fusion_heads"),
    ("fdmer_reconstructed", {"consistency": "l2"}, "consistency"),
    ("fdmer_reconstructed", {"l_adv": 0.1}, "l_adv"),
]
# The first stage of models trained in two stages, where nothing is to be learned.
SHORT = {"stage_one.text.epochs": 1}


def tiny_args(model, dataset, encoder, path="x", **more):
    overrides = tiny_config(model, encoder, **TINY_SHAPES, **more) | {"featurePath": str(path)}
    args = resolve(model, dataset, "", overrides)
    return mmsa_bridge.complete_args(
        args, device=torch.device("cpu"), model_save_path=f"{path}.weights"
    )


def short(name):
    """Overrides that leave out what is not looked at."""
    return SHORT if "stage_one" in tiny_config(name, "") else {}


def each(table):
    """Pairs of a model and one of its settings."""
    pairs = [(name, switch) for name, switches in table.items() for switch in switches]
    return pytest.mark.parametrize(("name", "switch"), pairs, ids=str)


WITH_GROUPS = [name for name in MODELS if "length_groups" in get_model(name).config.model_fields]
ALL = each({name: [{}, *SWITCHES.get(name, [])] for name in MODELS})


@pytest.fixture(params=OTHERS_ARE_SLOW)
def name(request):
    return request.param


@pytest.fixture(params=["mosi", "sims"])
def prepared(request, name, tmp_path, tiny_encoder):
    """A tiny model, its configuration and loaders, on each label protocol."""
    dataset = request.param
    path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps(make_feature_data(dataset=dataset)))
    args = tiny_args(name, dataset, tiny_encoder, path)
    mmsa_bridge.setup_seed(0)
    model = mmsa_bridge.build_model(args)
    return args, model, make_loaders(read_features(path, dataset), 4, 4)


def test_exceptions_are_of_models_that_exist():
    for table in (FROZEN, SILENT, LEARNING, SWITCHES, CHANGES_PREDICTION, CHANGES_LOSS):
        assert set(table) <= set(MODELS)
    assert set(MODELS) >= READS_TEXT_ALONE


def test_forward_on_ragged_batches(prepared, name):
    _, model, loaders = prepared
    core = core_model(model).eval()
    for rows in ([0], [3, 1], list(range(12))):
        batch = loaders["train"].split.batch(torch.tensor(rows))
        outputs = core(Inputs.of(batch))
        assert outputs["M"].shape == (len(rows), 1)
        assert torch.isfinite(outputs["M"]).all()
        expected = {"Feature_t", "Feature_f"}
        if name not in READS_TEXT_ALONE:
            expected |= {"Feature_a", "Feature_v"}
        assert expected <= set(outputs)
        assert all(value.shape[0] == len(rows) for value in outputs.values())
        torch.testing.assert_close(model(*Inputs.of(batch))["M"], outputs["M"])


def enlarge(model, name):
    """CENET starts as small as BERT did, so that samples hardly differ."""
    if name == "cenet":
        with torch.no_grad():
            for weight in (p for p in model.parameters() if p.dim() > 1):
                weight.mul_(10)


@ALL
def test_neither_batch_nor_padding_changes_a_result(tiny_model, dataset, name, switch):
    """Neither its length, as set by the longest sample of a batch, nor what stands in it."""
    if name in READS_PADDING:
        pytest.skip("computes what the released code does, padding included")
    model = tiny_model(name, **switch)
    enlarge(model, name)
    batch = dataset.batch(torch.arange(12))
    together = outputs(model, batch)
    for row in range(12):
        alone = outputs(model, dataset.batch(torch.tensor([row])))
        for key, value in alone.items():
            torch.testing.assert_close(value[0], together[key][row], rtol=1e-4, atol=1e-5)
    other = outputs(model, with_garbage(batch))
    torch.testing.assert_close(other, together, rtol=1e-4, atol=1e-5)
    assert together["M"].std() > 1e-4  # samples differ, so equality says something
    step = contrast_step(dataset) if model.retrieval else make_step(dataset)
    other_step = replace(step, samples=with_garbage(step.samples))
    losses, other_losses = (model.training_step(s).losses for s in (step, other_step))
    torch.testing.assert_close(other_losses, losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_masks_padding_says_so(name):
    """Then the batches of evaluation are no part of a run's name."""
    config = get_model(name).config.from_args(resolve(name, "mosi"))
    assert config.masks_padding == (name not in READS_PADDING)


@pytest.mark.parametrize(
    ("name", "switch"), [("almt", {}), ("cenet", {}), ("tetfn", {"vision_kernel": 3})], ids=str
)
def test_the_released_form_sees_padding_but_not_the_batch(tiny_model, dataset, name, switch):
    masked, released = tiny_model(name, **switch), tiny_model(f"{name}_released", **switch)
    enlarge(masked, name)
    released.load_state_dict(masked.state_dict())
    batch = dataset.batch(torch.arange(12))
    want, seen = outputs(masked, batch)["M"], outputs(released, batch)["M"]
    if name != "tetfn":  # whose readings cut frames to tokens in two ways, see `test_tetfn.py`
        torch.testing.assert_close(seen[0], want[0], rtol=1e-4, atol=1e-5)  # nothing is padded
    assert (seen[1:] - want[1:]).abs().min() > 1e-4
    garbage = {m: with_garbage(batch)[m] for m in ("audio", "vision")}
    torch.testing.assert_close(outputs(released, batch | garbage)["M"], seen)
    for row in range(12):
        alone = outputs(released, dataset.batch(torch.tensor([row])))["M"][0]
        torch.testing.assert_close(alone, seen[row], rtol=1e-4, atol=1e-5)


@ALL
def test_every_parameter_gets_a_gradient(tiny_model, dataset, name, switch):
    model = tiny_model(name, **switch).train()
    step = contrast_step(dataset) if model.retrieval else make_step(dataset)
    model.training_step(step).total.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert [n for n in frozen if not n.startswith(FROZEN.get(name, "no exception"))] == []
    assert bool(frozen) == (name in FROZEN)
    without = [n for n, p in trained.items() if p.grad is None]
    assert without == []
    # Rows of embedding tables that no token uses are not looked at here.
    silent = [n for n, p in trained.items() if not p.grad.abs().any()]
    excepted = (*SILENT_EVERYWHERE, *SILENT.get(name, ()))
    assert [n for n in silent if not n.endswith(excepted)] == []


@pytest.mark.parametrize("name", WITH_GROUPS)
def test_length_groups_change_nothing(tiny_model, dataset, name):
    batch = dataset.batch(torch.arange(12))
    one, three = (outputs(tiny_model(name, length_groups=n), batch) for n in (1, 3))
    torch.testing.assert_close(three, one, rtol=1e-4, atol=1e-6)


@ALL
def test_samples_without_valid_frames_are_predicted(tiny_model, dataset, name, switch):
    model = tiny_model(name, **switch)
    batch = dataset.batch(torch.arange(3))
    batch |= {f"{m}_mask": torch.zeros_like(batch[f"{m}_mask"]) for m in ("audio", "vision")}
    prediction = outputs(model, batch)["M"]
    assert prediction.isfinite().all()
    if name != "dashfusion_released":  # which knows padding by its zeros
        again = outputs(model, batch | {"audio": batch["audio"] + 5})["M"]
        torch.testing.assert_close(again, prediction)


def test_without_masks_all_frames_are_valid(tiny_model, dataset, name):
    model = tiny_model(name)
    batch = dataset.batch(torch.tensor([0]))
    without = model(batch["text"], batch["audio"], batch["vision"])["M"]
    torch.testing.assert_close(without, model(Inputs.of(batch))["M"])


def test_the_modalities_that_a_model_reads_change_its_prediction(tiny_model, dataset, name):
    model = tiny_model(name)
    batch = dataset.batch(torch.arange(4))
    before = outputs(model, batch)["M"]
    for m in MODALITIES:
        changed = batch[m].flip(0) if m == "text" else batch[m] + 1
        same = torch.equal(outputs(model, batch | {m: changed})["M"], before)
        assert same == (name in READS_TEXT_ALONE and m != "text"), m


@each(CHANGES_PREDICTION)
def test_a_key_that_changes_the_prediction(tiny_model, dataset, name, switch):
    batch = dataset.batch(torch.arange(4))
    default, changed = (outputs(tiny_model(name, **s), batch)["M"] for s in ({}, switch))
    assert not torch.allclose(changed, default, atol=1e-5)


@each(CHANGES_LOSS)
def test_a_key_that_changes_a_loss(tiny_model, dataset, name, switch):
    step = make_step(dataset)
    default, got = (tiny_model(name, **s).training_step(step).losses for s in ({}, switch))
    assert any(key not in got or not torch.allclose(default[key], got[key]) for key in default)


@pytest.mark.parametrize(("name", "wrong", "message"), REFUSED, ids=str)
def test_wrong_values_are_refused(name, wrong, message):
    with pytest.raises(ConfigError, match=message):
        resolve(name, "mosi", "", tiny_config(name, "", **TINY_SHAPES) | wrong)


def train(args, features, seed, *callbacks):
    mmsa_bridge.setup_seed(seed)
    loaders = make_loaders(features, args.batch_size, args.eval_batch_size)
    model = mmsa_bridge.build_model(args)
    trainer = get_model(args.model_name).trainer(args, callbacks)
    with contextlib.suppress(LearnedError):
        trainer.do_train(model, loaders)
    model.load_state_dict(torch.load(args.model_save_path, weights_only=True))
    return trainer, model, loaders


@pytest.fixture
def planted(tmp_path):
    """24 samples whose label is told by one word; all other words are the same."""
    data = make_feature_data()
    for split in data.values():
        positive = np.arange(len(split["id"])) % 2
        ids = split["text_bert"][:, 0]
        ids[ids >= 5] = 8
        ids[:, 1] = np.where(positive, 10, 20)
        split["regression_labels"] = np.where(positive, 2.0, -2.0).astype(np.float32)
    path = tmp_path / "planted.pkl"
    path.write_bytes(pickle.dumps(data))
    return read_features(path, "mosi")


class LearnedError(Exception):
    """There is nothing more to see."""


class UntilLearned(Callback):
    """Ends training once an epoch whose weights are kept is much better than the mean."""

    def __init__(self, kept):
        self.kept = Path(kept)

    def on_epoch(self, epoch):
        if epoch.stage is None and epoch.valid["MAE"] < 0.6 and self.kept.is_file():
            raise LearnedError


def test_learns_planted_data_better_than_the_mean(planted, name, tiny_encoder, tmp_path):
    more = {"num_epochs": 25, "learning_rate": 5e-3, "batch_size": 6}
    more |= LEARNING.get(name, {})
    args = tiny_args(name, "mosi", tiny_encoder, tmp_path / "run", **more)
    trainer, model, loaders = train(args, planted, 0, UntilLearned(args.model_save_path))
    mean_absolute_error_of_the_mean = 2.0
    assert trainer.do_test(model, loaders["test"])["MAE"] < 0.5 * mean_absolute_error_of_the_mean


def test_same_seed_same_weights_and_alone_or_after_another(planted, name, tiny_encoder, tmp_path):
    args = tiny_args(name, "mosi", tiny_encoder, tmp_path / "run", **short(name))
    _, first, _ = train(args, planted, 5)
    _, other, _ = train(args, planted, 6)
    _, again, _ = train(args, planted, 5)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert any(not torch.equal(v, other.state_dict()[k]) for k, v in first.state_dict().items())


class StoppedError(Exception):
    """As if the process had ended."""


def test_a_stopped_training_goes_on_bit_for_bit(planted, name, tiny_encoder, tmp_path, monkeypatch):
    """It is stopped where retrieval is not refreshed, and unimodal labels begin to move."""
    monkeypatch.setattr("MMSA_ext.training.state._MOST_OF_THE_TIME", float("inf"))
    options = {"num_epochs": 3, **short(name)}
    args = tiny_args(name, "mosi", tiny_encoder, tmp_path / "run", **options)
    whole, expected, _ = train(args, planted, 5)

    def training(resume, on_step):
        mmsa_bridge.setup_seed(5)
        loaders = make_loaders(planted, args.batch_size, args.eval_batch_size)
        model = mmsa_bridge.build_model(args)
        callback = Callback()
        callback.on_step = on_step
        trainer = get_model(name).trainer(args, [callback])
        trainer.resume = resume
        trainer.do_train(model, loaders)
        return trainer, model

    def stop(state):
        if state.stage is None and state.epoch == 2 and state.step == 2:
            raise StoppedError

    path = tmp_path / "run.resume"
    with pytest.raises(StoppedError):
        training(ResumePoint(path, "a"), stop)
    seen = []
    trainer, model = training(ResumePoint(path, "a"), seen.append)
    assert next(state.epoch for state in seen if state.stage is None) == 2
    model.load_state_dict(torch.load(args.model_save_path, weights_only=True))
    for key, value in expected.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    histories = [
        [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in done.history.epochs]
        for done in (whole, trainer)
    ]
    assert histories[0] == histories[1]
    assert whole.history.chosen_epoch == trainer.history.chosen_epoch


@pytest.mark.parametrize("dataset", ["mosi", "sims"])
def test_one_epoch_its_record_and_its_checkpoint(name, dataset, tiny_encoder, tmp_path):
    path: Path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps(make_feature_data(dataset=dataset)))
    results = MMSA_run(
        name,
        dataset,
        config=tiny_config(name, tiny_encoder, num_epochs=1, first_selected_epoch=1, **short(name)),
        seeds=[1],
        custom_feature=path,
        gpu_ids="cpu",
        verbose_level=0,
        **dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), tmp_path),
    )
    (seed,) = results.seeds
    assert not seed.diverged
    assert [epoch.epoch for epoch in seed.record.history][-1] == seed.record.chosen_epoch
    store = RunStore(tmp_path / "runs")
    (check,) = verify_store(store)
    assert check.status in ("equal", "rounded")
    again = predict_file(seed.checkpoint, path, gpu_ids="cpu")
    np.testing.assert_allclose(
        again["prediction"], store.predictions(seed.record)["prediction"], atol=1e-5
    )


@pytest.mark.parametrize("dataset", SHIPPED)
def test_every_shipped_configuration_is_valid(name, dataset):
    args = resolve(name, dataset)
    assert args.model_name == name
    assert args.dataset_name == dataset
