"""Every registered model on our trainer: a new model is tested by being registered.

Variants of MMSA's models are tested alike in `infoenh_hosts/`, MMSA's own in
`tests/mmsa_bridge/test_mmsa_models.py`. Tiny configurations are in `tests/conftest.py`.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from MMSA_ext import MMSA_run, mmsa_bridge, predict_file
from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import make_loaders
from MMSA_ext.explain.verification import verify_store
from MMSA_ext.models.contract import Inputs, core_model
from MMSA_ext.records.store import RunStore
from MMSA_ext.registry import get_model, list_models, trains_in_mmsa
from MMSA_ext.training.trainer import StepSampler
from tests.conftest import TINY_SHAPES, make_feature_data, tiny_config

MODELS = [name for name in list_models() if not trains_in_mmsa(name)]
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


@pytest.fixture(params=MODELS)
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
    for table in (FROZEN, SILENT, LEARNING):
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


def test_padding_changes_no_prediction(prepared, name):
    """Neither its length, as set by the longest sample of a batch, nor what stands in it."""
    if name in READS_PADDING:
        pytest.skip("computes what the released code does, padding included")
    _, model, loaders = prepared
    core = core_model(model).eval()
    dataset = loaders["train"].split
    with torch.no_grad():
        if name == "cenet":  # which starts as small as BERT did, so that samples hardly differ
            for weight in (p for p in core.parameters() if p.dim() > 1):
                weight.mul_(10)
        alone = torch.cat(
            [core(Inputs.of(dataset.batch(torch.tensor([i]))))["M"] for i in range(12)]
        )
        given = Inputs.of(dataset.batch(torch.arange(12)))
        together = core(given)["M"]
        text, audio, vision, audio_mask, vision_mask = given
        text = text.clone()
        text[:, 0].masked_fill_(text[:, 1] == 0, 7)
        audio, vision = (
            frames.masked_fill(~mask.unsqueeze(-1), 50.0)
            for frames, mask in ((audio, audio_mask), (vision, vision_mask))
        )
        other = core(Inputs(text, audio, vision, audio_mask, vision_mask))["M"]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other, together, atol=1e-5, rtol=1e-4)
    assert together.std() > 1e-4  # samples differ, so equality says something


def test_every_parameter_gets_a_gradient(prepared, name):
    _, model, loaders = prepared
    core = core_model(model)
    sampler = StepSampler(loaders["train"].split, core.retrieval)
    sampler.refresh(core, torch.device("cpu"), 4)
    core.train()
    core.training_step(sampler.step(torch.arange(6), torch.device("cpu"))).total.backward()
    trained = {n: p for n, p in core.named_parameters() if p.requires_grad}
    frozen = {n for n, p in core.named_parameters() if not p.requires_grad}
    assert [n for n in frozen if not n.startswith(FROZEN.get(name, "no exception"))] == []
    without = [n for n, p in trained.items() if p.grad is None]
    assert without == []
    # Rows of embedding tables that no token uses are not looked at here.
    silent = [n for n, p in trained.items() if not p.grad.abs().any()]
    excepted = (*SILENT_EVERYWHERE, *SILENT.get(name, ()))
    assert [n for n in silent if not n.endswith(excepted)] == []


def train(args, features, seed):
    mmsa_bridge.setup_seed(seed)
    loaders = make_loaders(features, args.batch_size, args.eval_batch_size)
    model = mmsa_bridge.build_model(args)
    trainer = get_model(args.model_name).trainer(args)
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


def test_learns_planted_data_better_than_the_mean(planted, name, tiny_encoder, tmp_path):
    more = {"num_epochs": 25, "learning_rate": 5e-3, "batch_size": 6}
    more |= LEARNING.get(name, {})
    args = tiny_args(name, "mosi", tiny_encoder, tmp_path / "run", **more)
    trainer, model, loaders = train(args, planted, 0)
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


def test_save_and_load_give_the_same_predictions(prepared, tmp_path):
    args, model, loaders = prepared
    torch.save(model.state_dict(), tmp_path / "w.pth")
    mmsa_bridge.setup_seed(1)
    other = mmsa_bridge.build_model(args)
    other.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))
    given = Inputs.of(loaders["test"].split.batch(torch.arange(6)))
    torch.testing.assert_close(
        core_model(other).eval()(given)["M"], core_model(model).eval()(given)["M"]
    )


@pytest.mark.parametrize("dataset", ["mosi", "sims"])
def test_one_epoch_its_record_and_its_checkpoint(
    name, dataset, tiny_encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr("MMSA_ext.runs.api.Run._draw", lambda self, results: ())  # takes longest
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


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_every_shipped_configuration_is_valid(name, dataset):
    args = resolve(name, dataset)
    assert args.model_name == name
    assert args.dataset_name == dataset
