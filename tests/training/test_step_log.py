"""What comes over from the device: every number, seldom, and a divergence with its step."""

import math

import pytest
import torch

from MMSA_ext.errors import TrainingDivergedError
from MMSA_ext.models.contract import core_model
from MMSA_ext.training.callbacks import Callback
from MMSA_ext.training.step_log import STEPS_A_COPY, StepLog
from MMSA_ext.training.trainer import Trainer
from tests.pretend_gpu import GPU, PretendGPU


class Steps(Callback):
    def __init__(self):
        self.losses = []

    def on_step(self, step):
        self.losses.append((step.step, step.loss))


@pytest.mark.parametrize("name", ["text_only", pytest.param("dashfusion", marks=pytest.mark.slow)])
def test_on_a_gpu_the_trainer_waits_once_in_ten_steps_and_changes_nothing(setting, name):
    """12 steps an epoch: one copy after ten, one of the rest, one of the predictions."""
    gpu, told = PretendGPU(), {}
    more = {"batch_size": 1, "num_epochs": 1, "length_groups": 1}
    more |= {"embedding_dropout": 0.0, "encoder_dropout": 0.0} if name == "dashfusion" else {}
    for device in ("cpu", GPU):
        args, model, loaders = setting(name, **more)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # a GPU draws other masks
        args.device, told[device] = device, Steps()
        if device == GPU:
            gpu.put(model)
            with gpu:
                Trainer(args, [told[device]]).do_train(model, loaders)
        else:
            Trainer(args, [told[device]]).do_train(model, loaders)
    assert not gpu.mixes
    waits = {place.rpartition("/")[2]: count for place, count in gpu.waits.items()}
    ours = {place: count for place, count in waits.items() if "step_log" in place}
    assert ours == {"step_log.py:StepLog._fetch": 2, "step_log.py:StepLog.finish": 1}
    assert waits["trainer.py:predict"] == 2  # before training, and after the epoch
    in_steps = ("Updates", "to_device", "_Parcel", "prefetched", "_train_epoch", "training_step")
    assert not [place for place in waits if any(word in place for word in in_steps)]
    assert [step for step, _ in told[GPU].losses] == list(range(1, 13))
    here, there = ([loss for _, loss in told[device].losses] for device in ("cpu", GPU))
    assert there == pytest.approx(here, rel=1e-4)


def test_numbers_come_in_order_and_are_means_over_samples():
    told = []
    log = StepLog(1, GPU, lambda *step: told.append(step))
    for step in range(12):
        values = {"Loss": torch.tensor(float(step))} | ({"x": torch.tensor(2)} if step else {})
        log.add(values, torch.full((2, 1), float(step)), 2)
        assert len(told) == (0 if step + 1 < STEPS_A_COPY else STEPS_A_COPY)
    means, predictions = log.finish()
    assert told == [(step + 1, float(step)) for step in range(12)]
    assert means == {"Loss": 5.5, "x": 2 * 11 / 12}
    assert predictions.tolist() == [float(step) for step in range(12) for _ in range(2)]


def test_a_divergence_is_named_with_its_step_and_never_kept(setting):
    args, model, loaders = setting(batch_size=1, num_epochs=2)
    args.device, gpu, core = GPU, PretendGPU(), core_model(model)
    step, calls = core.training_step, []

    def poisoned(batch):
        calls.append(1)
        output = step(batch)
        factor = math.nan if len(calls) == 15 else 1.0
        output.losses["prediction_loss"] = output.losses["prediction_loss"] * factor
        return output

    core.training_step = poisoned
    gpu.put(model)
    trainer = Trainer(args)
    with gpu, pytest.raises(TrainingDivergedError, match="is nan in epoch 2, step 3;"):
        trainer.do_train(model, loaders)
    assert not args.model_save_path.exists()
    assert [entry["epoch"] for entry in trainer.history.epochs] == [0, 1]
