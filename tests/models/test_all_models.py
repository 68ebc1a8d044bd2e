"""Every registered model on our trainer: a new model is tested by being registered.

Variants of MMSA's models are tested alike in `infoenh_hosts/`.
"""

import pytest
import torch

from MMSA_ext import mmsa_bridge
from MMSA_ext.config import resolve
from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import make_loaders
from MMSA_ext.models.contract import core_model, inputs
from MMSA_ext.registry import get_model, list_models, trains_in_mmsa
from MMSA_ext.training.trainer import StepSampler
from tests.conftest import TINY_SHAPES, make_feature_data, tiny_config

MODELS = [name for name in list_models() if not trains_in_mmsa(name)]
# Feature_a and Feature_v exist only where the model reads audio and vision.
READS_TEXT_ALONE = {"text_only"}


def tiny_args(model, dataset, encoder, path="x", **more):
    overrides = tiny_config(model, encoder, **TINY_SHAPES, **more) | {"featurePath": str(path)}
    args = resolve(model, dataset, "", overrides)
    return mmsa_bridge.complete_args(
        args, device=torch.device("cpu"), model_save_path=f"{path}.weights"
    )


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture(params=["mosi", "sims"])
def prepared(request, name, tmp_path, tiny_encoder):
    """A tiny model, its configuration and loaders, on each label protocol."""
    import pickle

    dataset = request.param
    path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps(make_feature_data(dataset=dataset)))
    args = tiny_args(name, dataset, tiny_encoder, path)
    mmsa_bridge.setup_seed(0)
    model = mmsa_bridge.build_model(args)
    return args, model, make_loaders(read_features(path, dataset), 4, 4)


def test_forward_on_ragged_batches(prepared, name):
    _, model, loaders = prepared
    core = core_model(model).eval()
    for rows in ([0], [3, 1], list(range(12))):
        batch = loaders["train"].dataset.batch(torch.tensor(rows))
        outputs = core.predict(batch)
        assert outputs["M"].shape == (len(rows), 1)
        assert torch.isfinite(outputs["M"]).all()
        expected = {"Feature_t", "Feature_f"}
        if name not in READS_TEXT_ALONE:
            expected |= {"Feature_a", "Feature_v"}
        assert expected <= set(outputs)
        assert all(value.shape[0] == len(rows) for value in outputs.values())
        torch.testing.assert_close(model(*inputs(batch))["M"], outputs["M"])


def test_every_parameter_gets_a_gradient(prepared, name):
    _, model, loaders = prepared
    core = core_model(model)
    sampler = StepSampler(loaders["train"].dataset, core.retrieval)
    sampler.refresh(core, torch.device("cpu"), 4)
    core.train()
    core.training_step(sampler.step(torch.arange(6), torch.device("cpu"))).total.backward()
    trained = {n: p for n, p in core.named_parameters() if p.requires_grad}
    frozen = {n for n, p in core.named_parameters() if not p.requires_grad}
    # ConFEDE keeps the text encoder as its first stage has left it.
    assert all(name.startswith("confede") and n.startswith("text_encoder.") for n in frozen)
    without = [n for n, p in trained.items() if p.grad is None]
    assert without == []
    silent = [n for n, p in trained.items() if not p.grad.abs().any()]
    # A key's bias shifts all logits of a query alike: its gradient is 0 in exact arithmetic. Rows
    # of embedding tables that no token uses are not looked at here.
    assert [n for n in silent if not n.endswith("key.bias")] == []


def train(args, features, seed):
    mmsa_bridge.setup_seed(seed)
    loaders = make_loaders(features, args.batch_size, args.eval_batch_size)
    model = mmsa_bridge.build_model(args)
    trainer = get_model(args.model_name).trainer(args)
    trainer.do_train(model, loaders)
    model.load_state_dict(torch.load(args.model_save_path, weights_only=True))
    return trainer, model, loaders


@pytest.fixture
def planted(tmp_path, tiny_encoder):
    """24 samples whose label is told by one word; all other words are the same."""
    import pickle

    import numpy as np

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
    more = {"num_epochs": 50, "learning_rate": 5e-3, "early_stop": None, "batch_size": 6}
    args = tiny_args(name, "mosi", tiny_encoder, tmp_path / "run", **more)
    trainer, model, loaders = train(args, planted, 0)
    mean_absolute_error_of_the_mean = 2.0
    assert trainer.do_test(model, loaders["test"])["MAE"] < 0.5 * mean_absolute_error_of_the_mean


def test_same_seed_same_weights_and_alone_or_after_another(planted, name, tiny_encoder, tmp_path):
    args = tiny_args(name, "mosi", tiny_encoder, tmp_path / "run", num_epochs=6)
    _, first, _ = train(args, planted, 5)
    train(args, planted, 6)
    _, again, _ = train(args, planted, 5)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    _, other, _ = train(args, planted, 6)
    assert any(not torch.equal(v, other.state_dict()[k]) for k, v in first.state_dict().items())


def test_save_and_load_give_the_same_predictions(prepared, tmp_path, name, tiny_encoder):
    args, model, loaders = prepared
    torch.save(model.state_dict(), tmp_path / "w.pth")
    mmsa_bridge.setup_seed(1)
    other = mmsa_bridge.build_model(args)
    other.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))
    batch = loaders["test"].dataset.batch(torch.arange(6))
    torch.testing.assert_close(
        core_model(other).eval().predict(batch)["M"], core_model(model).eval().predict(batch)["M"]
    )


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_every_shipped_configuration_is_valid(name, dataset):
    args = resolve(name, dataset)
    assert args.model_name == name
    assert args.dataset_name == dataset
