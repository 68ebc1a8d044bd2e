"""Training on a device: its options, going on after a stop, and what others can load of it."""

import pytest
import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.contract import core_model
from MMSA_ext.registry import get_model
from MMSA_ext.runs.export import export_model
from MMSA_ext.training.callbacks import Callback
from MMSA_ext.training.checkpoint import save_checkpoint
from MMSA_ext.training.state import ResumePoint
from MMSA_ext.training.trainer import predict
from MMSA_ext.training.transfer import to_device
from tests.device.close import assert_close
from tests.models.untrained import untrained_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def train(setting):
    """Trains on a device; dropout, if there is to be none, draws no other masks than the CPU's."""

    def run(name, device, *, drops=True, resume=None, callbacks=(), **options):
        args, model, loaders = setting(name, num_epochs=3, **options)
        args.device = device
        for module in model.modules():
            if isinstance(module, nn.Dropout) and not drops:
                module.p = 0.0
        trainer = get_model(name).trainer(args, callbacks)
        trainer.resume = resume
        torch.manual_seed(3)
        trainer.do_train(model.to(device), loaders)
        return trainer, model, loaders

    return run


def losses(trainer):
    return torch.tensor([epoch["train"]["Loss"] for epoch in trainer.history.epochs[1:]])


OPTIONS = {
    "fp32": ({}, 1e-2),
    "bf16": ({"precision": "bf16"}, 0.1),
    "fp16": ({"precision": "fp16"}, 0.1),
    "accumulated": ({"accumulate_steps": 2}, 1e-2),
    "clipped": ({"max_grad_norm": 0.5}, 1e-2),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["dashfusion", "text_only"])
def test_options_train_as_on_the_cpu_in_float32(name, option, device, train):
    options, share = OPTIONS[option]
    exact = {k: v for k, v in options.items() if k != "precision"}
    expected, _, _ = train(name, CPU, drops=False, **exact)
    found, _, _ = train(name, device, drops=False, **options)
    assert_close({"losses": losses(found)}, {"losses": losses(expected)}, share)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param(True, marks=pytest.mark.slow)])
def test_a_compiled_step_trains_as_on_the_cpu(backend, device, train):
    """DashFusion's takes minutes to compile."""
    expected, _, _ = train("text_only", CPU, drops=False)
    found, _, _ = train("text_only", device, drops=False, compile=backend)
    assert_close({"losses": losses(found)}, {"losses": losses(expected)}, 1e-2)


class Stop(Callback):
    """Ends a training in its second epoch, as if the process had ended."""

    def on_step(self, state):
        if state.epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["dashfusion", "text_only"])
def test_a_stopped_training_goes_on(name, device, train, tmp_path, monkeypatch):
    """Dropout draws on: the device's random stream is put back too."""
    monkeypatch.setattr("MMSA_ext.training.state._MOST_OF_THE_TIME", float("inf"))
    whole, expected, _ = train(name, device)
    point = ResumePoint(tmp_path / "run.resume", "a")
    with pytest.raises(KeyboardInterrupt):
        train(name, device, resume=point, callbacks=[Stop()])
    assert point.path.exists()
    seen = Callback()
    epochs = []
    seen.on_step = lambda state: epochs.append(state.epoch)
    again, model, _ = train(name, device, resume=point, callbacks=[seen])
    assert min(epochs) == 2
    assert_close({"losses": losses(again)}, {"losses": losses(whole)})
    found = {n: p.cpu() for n, p in model.state_dict().items()}
    assert_close(found, {n: p.cpu() for n, p in expected.state_dict().items()}, 1e-2)


def test_weights_of_a_device_predict_the_same_on_the_cpu(device, train, setting):
    trainer, model, loaders = train("dashfusion", device)
    weights = torch.load(trainer.args.model_save_path, map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    expected = predict(core_model(model), loaders["test"], device)
    fresh = mmsa_bridge.build_model(setting("dashfusion")[0])
    fresh.load_state_dict(weights)
    found = predict(core_model(fresh), loaders["test"], CPU)
    assert_close({"": found.prediction}, {"": expected.prediction})


@pytest.mark.parametrize("name", ["dashfusion", "text_only"])
def test_an_exported_model_loads_there(name, device, tmp_path, tiny_encoder):
    """It is written on the CPU, and moved as torch moves a program."""
    checkpoint, _ = untrained_checkpoint(name, tmp_path, tiny_encoder)
    save_checkpoint(tmp_path / "model.pth", checkpoint)
    program = torch.export.load(export_model(tmp_path / "model.pth", tmp_path / "m.pt2").path)
    _, given = program.example_inputs
    expected = program.module()(**given)
    found = move_to_device_pass(program, device).module()(**to_device(given, device))
    assert found.device.type == device.type
    assert_close({"": found}, {"": expected})
