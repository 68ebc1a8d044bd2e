"""Fine-tuning: schedules, clipping, decay."""

import pytest
import torch

from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.contract import core_model
from MMSA_ext.training.fine_tuning import FineTuneTrainer, rate_factor

STEPS = 3  # of an epoch: 12 samples by 4


@pytest.fixture
def tuned(setting):
    def make(**more):
        args, model, loaders = setting("almt", **{"weight_decay": 0.1, "decay_all": False} | more)
        return FineTuneTrainer(args), core_model(model), loaders

    return make


def names(model, optimizer):
    """Parameter names by optimizer group."""
    by_id = {id(p): n for n, p in model.named_parameters()}
    return [{by_id[id(p)] for p in group["params"]} for group in optimizer.param_groups]


def test_cosine_has_the_rates_of_almts_released_schedule():
    epochs = [1, 2, 10, 21, 22, 50, 100, 150, 200]
    rates = [0, 5e-6, 4.5e-5, 1e-4, 1e-4, 9.4e-5, 6.0e-5, 1.9e-5, 3e-8]
    found = [1e-4 * rate_factor("cosine", epoch - 1, warmup=20, last=200) for epoch in epochs]
    assert found == pytest.approx(rates, rel=0.02)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0, 0.5, 1, 1, 0.8536, 0.5, 0.1464, 0]),
    ],
)
def test_factors_after_two_units_of_warm_up(schedule, factors):
    found = [rate_factor(schedule, done, warmup=2, last=6) for done in range(8)]
    assert found == pytest.approx(factors, abs=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine"])
def test_without_warm_up_training_begins_at_the_peak(schedule):
    assert rate_factor(schedule, 0, warmup=0, last=4) == 1


@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine"])
@pytest.mark.parametrize("unit", ["step", "epoch"])
def test_every_step_is_made_at_the_rate_of_the_schedule(tuned, schedule, unit):
    trainer, model, loaders = tuned(
        schedule=schedule, schedule_unit=unit, num_epochs=4, warmup_ratio=0.5,
        learning_rate=1e-4, new_layers_learning_rate=1e-3,
    )  # fmt: skip
    rates = []
    make_optimizer = trainer.make_optimizer

    def watched(model):
        optimizer = make_optimizer(model)
        optimizer.register_step_pre_hook(
            lambda *_: rates.append([group["lr"] for group in optimizer.param_groups])
        )
        return optimizer

    trainer.make_optimizer = watched
    trainer.do_train(model, loaders)
    units = STEPS if unit == "step" else 1
    for step, found in enumerate(rates):
        done = step if unit == "step" else step // STEPS
        factor = rate_factor(schedule, done, warmup=2 * units, last=4 * units)
        assert found == pytest.approx([1e-4 * factor, 1e-3 * factor] * 2)
    assert len(rates) == 4 * STEPS


def test_decay_all_spares_nothing(tuned):
    def decays(**more):
        trainer, model, _ = tuned(**more)
        optimizer = trainer.make_optimizer(model)
        return {
            name: group["weight_decay"]
            for group, members in zip(optimizer.param_groups, names(model, optimizer), strict=True)
            for name in members
        }

    spared = {name for name, decay in decays().items() if decay == 0}
    assert {"head.bias", "hyper_layers.0.hyper_norm.weight"} <= spared
    assert "head.weight" not in spared
    assert set(decays(decay_all=True).values()) == {0.1}
    assert set(decays(decay_all=True, new_layers_learning_rate=1e-5).values()) == {0.1}


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_adam_adds_the_decay_to_the_gradient(tuned, kind):
    """The first step of Adam is the rate times the sign of gradient and, coupled, decay."""
    trainer, model, _ = tuned(optimizer=kind, adam_epsilon=1e-12, decay_all=True)
    optimizer = trainer.make_optimizer(model)
    weight = model.head.weight
    weight.grad = torch.full_like(weight, 1e-3)
    before = weight.detach().clone()
    optimizer.step()
    rate, decay = 1e-3, 0.1
    if kind == "adam":
        want = before - rate * (weight.grad + decay * before).sign()
    else:
        want = before * (1 - rate * decay) - rate
    torch.testing.assert_close(weight.detach(), want)
    assert optimizer.param_groups[0]["eps"] == 1e-12


@pytest.mark.parametrize(("limit", "clipped"), [(0.01, True), (None, False)])
def test_gradients_are_clipped_together(tuned, limit, clipped):
    trainer, model, loaders = tuned(max_grad_norm=limit, num_epochs=1)
    norms = []
    prepare = trainer.prepare_gradients

    def watched(core):
        prepare(core)
        gradients = [p.grad.norm() for p in core.parameters() if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))

    trainer.prepare_gradients = watched
    trainer.do_train(model, loaders)
    assert len(norms) == STEPS
    assert all((norm < 0.0101) is clipped for norm in norms)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "cosinus"},
        {"schedule_unit": "batch"},
        {"new_layers_learning_rate": 0},
        {"max_grad_norm": -1},
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        resolve("almt", "mosi", "", wrong)
