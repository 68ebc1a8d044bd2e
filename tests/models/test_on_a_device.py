"""Models on a GPU that is pretended: one device in every operation, and no waiting in a step.

The trainer's own waits are not looked at here.
"""

import pickle
from collections import Counter

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import resolve
from MMSA_ext.data import synthetic
from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import make_loaders
from MMSA_ext.models.contract import Inputs, core_model
from MMSA_ext.registry import get_model, trains_in_mmsa
from MMSA_ext.training.steps import StepSampler
from MMSA_ext.training.trainer import predict
from MMSA_ext.training.transfer import to_device
from tests.conftest import make_feature_data
from tests.models.conftest import contrast_step, make_step
from tests.models.hosts.variants import VARIANTS, build, make_args, write_features
from tests.models.test_all_models import MODELS, OTHERS_ARE_SLOW, tiny_args
from tests.pretend_gpu import GPU, PretendGPU

# How often the host waits in a model's part of one training step, one evaluation of a batch and one
# refresh of the retrieval, by place. A model that is not named waits nowhere.
WAITS: dict[str, dict[str, int]] = {}
# The same of InfoEnh's variants, in what is of this package. torch's recurrent layers take the
# lengths of sequences from the host, and MMSA moves all of a batch to the device first.
HOST_WAITS: dict[str, dict[str, int]] = {}
# Operations of one step at real shape, views included, without the optimizer's.
MOST_OPERATIONS = {"dashfusion": 4000, "text_only": 1100}


def of_the_model(waits: Counter) -> dict[str, int]:
    outside = ("MMSA_ext/training/", "MMSA_ext/data/", "tests/")
    return {place: n for place, n in waits.items() if not place.startswith(outside)}


@pytest.mark.parametrize("name", OTHERS_ARE_SLOW)
def test_a_model_of_this_package(name, tmp_path, tiny_encoder):
    path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps(make_feature_data((12, 4, 4))))
    model = core_model(mmsa_bridge.build_model(tiny_args(name, "mosi", tiny_encoder, path)))
    loaders = make_loaders(read_features(path, "mosi"), 6, 6)
    sampler = StepSampler(loaders["train"].split, model.retrieval)
    gpu = PretendGPU()
    gpu.put(model)
    with gpu:
        model.adapt(loaders["train"].split)
        gpu.waits.clear()  # once a training
        sampler.refresh(model, GPU, 6)
        model.train()
        output = model.training_step(sampler.step(torch.arange(6), GPU))
        output.total.backward()
        torch.optim.AdamW(p for p in model.parameters() if p.requires_grad).step()
        predict(model, loaders["valid"], GPU)
    assert not gpu.mixes
    assert of_the_model(gpu.waits) == WAITS.get(name, {})
    assert output.total.isfinite()


@pytest.mark.parametrize("name", OTHERS_ARE_SLOW)
def test_a_device_computes_what_a_cpu_computes(tiny_model, dataset, name):
    """In one length group, projections side by side and a fixed number of iterations."""
    model = tiny_model(name)
    step = contrast_step(dataset) if model.retrieval else make_step(dataset, range(12))
    want = {n: x.clone() for n, x in model.training_step(step).losses.items()}
    model.training_step(step).total.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    gpu = PretendGPU()
    gpu.put(model)
    with gpu:
        output = model.training_step(to_device(step, GPU))
        output.total.backward()
        assert output.prediction.device == GPU
    torch.testing.assert_close(output.losses, want, rtol=1e-4, atol=1e-6)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS_ARE_SLOW)
def test_operations_do_not_grow_with_the_batch(tiny_model, dataset, name):
    model, counts = tiny_model(name), []
    gpu = PretendGPU()
    gpu.put(model)
    for samples in (3, 12):
        with gpu, torch.no_grad():
            given = to_device(dataset.batch(torch.arange(samples)), GPU)
            gpu.operations.clear()
            model(Inputs.of(given))
        counts.append(gpu.operations.total())
    assert counts[0] == counts[1] > 0


class FirstStepError(Exception):
    """The weights were changed once."""


QUICK = ("misa_infoenh", "tfn_infoenh")
SLOWER = [name for name in VARIANTS if name not in QUICK]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOWER)]
)
def test_a_variant_of_mmsas_models_in_its_loop(name, tmp_path, tiny_encoder):
    """Up to the first step of its optimizer, and one evaluation."""
    args = make_args(name, write_features(tmp_path / "mosi.pkl"), tiny_encoder)
    if "update_epochs" in args:
        args.update_epochs = 1
    model, loaders = build(args)
    args.device = GPU
    gpu = PretendGPU()
    gpu.put(model)
    with gpu, mmsa_bridge.progress_bars(False):
        trainer = mmsa_bridge.build_trainer(args)
        stop_at_the_first_step(trainer, model, loaders)
        model.train(False)
        trainer.do_test(model, loaders["valid"])
    assert not gpu.mixes
    ours = {place: n for place, n in gpu.waits.items() if place.startswith("MMSA_ext/")}
    assert ours == HOST_WAITS.get(name, {})
    assert gpu.waits  # those of MMSA


def stop_at_the_first_step(trainer, model, loaders):
    def stop(*_):
        raise FirstStepError

    handle = register_optimizer_step_post_hook(stop)
    try:
        with pytest.raises(FirstStepError):
            trainer.do_train(model, loaders)
    finally:
        handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST_OPERATIONS)
def test_operations_of_a_step_at_real_shape(name, tmp_path):
    """MiniLM on generated CH-SIMS, 16 anchors and what is retrieved for them."""
    path = synthetic.write(tmp_path / "sims.pkl", "sims", sizes=(160, 8, 8))
    values = {"pretrained": "minilm", "featurePath": str(path)}
    args = resolve(name, "sims", "", values)
    args = mmsa_bridge.complete_args(args, device=torch.device("cpu"), model_save_path=path)
    model = core_model(mmsa_bridge.build_model(args))
    split = make_loaders(read_features(path, "sims"), 16, 16)["train"].split
    sampler = StepSampler(split, model.retrieval)
    sampler.refresh(model, torch.device("cpu"), 32)
    step = sampler.step(torch.arange(16), torch.device("cpu"))
    gpu = PretendGPU()
    gpu.put(model.train())
    with gpu:
        given = to_device(step, GPU)
        gpu.operations.clear()
        model.training_step(given).total.backward()
    assert not gpu.mixes
    assert not of_the_model(gpu.waits)
    assert 0.8 * MOST_OPERATIONS[name] < gpu.operations.total() <= MOST_OPERATIONS[name]


def test_exceptions_are_of_models_that_exist():
    assert set(WAITS) <= set(MODELS)
    assert set(HOST_WAITS) <= set(VARIANTS)
    assert not any(map(trains_in_mmsa, MODELS))
    assert all(get_model(name).host for name in VARIANTS)
