"""Every model computes on a device what it computes on the CPU."""

import math
from copy import deepcopy

import pytest
import torch
from easydict import EasyDict

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.contract import core_model
from MMSA_ext.training.steps import StepSampler
from MMSA_ext.training.trainer import predict
from MMSA_ext.training.transfer import to_device
from tests.device.close import assert_close
from tests.models.conftest import contrast_step, make_step
from tests.models.hosts.variants import VARIANTS, build, make_args, write_features
from tests.models.test_all_models import MODELS

CPU = torch.device("cpu")


def step_of(model, step):
    output = model.training_step(step)
    output.total.backward()
    numbers = {"total": output.total, "prediction": output.prediction, **output.losses}
    return numbers, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_of_a_training_step(name, on_device, tiny_model, dataset):
    """Without dropout, whose masks are other ones on each device."""
    model = tiny_model(name)
    step = contrast_step(dataset) if model.retrieval else make_step(dataset, range(12))
    other = deepcopy(model)
    losses, gradients = step_of(model, step)
    with on_device as device:
        found = step_of(other.to(device), to_device(step, device))
        assert found[0]["total"].device.type == device.type
    assert_close(found[0], losses)
    assert_close(found[1], gradients, share=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_and_what_is_retrieved(name, on_device, setting):
    args, model, loaders = setting(name)
    model, split = core_model(model), loaders["train"].split
    model.adapt(split)
    other = deepcopy(model)
    expected, ranked = evaluated(model, CPU, loaders, args.eval_batch_size)
    with on_device as device:
        found, again = evaluated(other.to(device), device, loaders, args.eval_batch_size)
    assert found.ids == expected.ids
    assert_close({"": found.prediction}, {"": expected.prediction})
    assert_close(found.features, expected.features)
    assert (again is None) == (ranked is None) == (model.retrieval is None)
    for kind in ("same", "similar", "dissimilar") if ranked else ():
        # Of two that are as similar, either may be the last that is kept.
        equal = getattr(again, kind).cpu() == getattr(ranked, kind)
        assert equal.float().mean() > 0.9


def evaluated(model, device, loaders, batch_size):
    """Predictions of the validation split, and the index of the training split."""
    sampler = StepSampler(loaders["train"].split, model.retrieval)
    sampler.refresh(model, device, batch_size)
    return predict(model, loaders["valid"], device, features=True), sampler.index


def scores(args, model, loaders):
    trainer = mmsa_bridge.build_trainer(args)
    trainer.model = model  # MMIM's asks for it before it was handed one
    with mmsa_bridge.progress_bars(False):
        return trainer.do_test(model, loaders["valid"], mode="VAL")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_of_mmsas_models_in_its_trainer(name, on_device, tmp_path, tiny_encoder):
    args = make_args(name, write_features(tmp_path / "mosi.pkl"), tiny_encoder)
    model, loaders = build(args)
    expected = scores(args, model, loaders)
    with on_device as device:
        args.device = device
        found = scores(args, model.to(device), loaders)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_trains_in_mmsas_loop(name, device, tmp_path, tiny_encoder):
    args = make_args(name, write_features(tmp_path / "mosi.pkl"), tiny_encoder)
    args.device = device
    with mmsa_bridge.progress_bars(False):
        outcome = mmsa_bridge.train_and_test(EasyDict(args), seed=1)
    assert next(outcome.model.parameters()).device.type == device.type
    assert all(map(math.isfinite, outcome.metrics["test"].values()))
