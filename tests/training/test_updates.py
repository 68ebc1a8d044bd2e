"""Precision, accumulation, clipping and compilation of a training step."""

import pytest
import torch

from MMSA_ext.errors import ConfigError
from MMSA_ext.models.contract import Inputs, core_model
from MMSA_ext.training import compiling
from MMSA_ext.training.precision import Precision
from MMSA_ext.training.state import ResumePoint
from MMSA_ext.training.steps import StepSampler
from MMSA_ext.training.trainer import Trainer
from MMSA_ext.training.updates import Updates, shares

CPU = torch.device("cpu")


def test_shares_are_those_of_the_update_and_the_last_one_has_what_is_left():
    assert list(shares([4, 4, 4, 4, 2], 2)) == [(0.5, False), (0.5, True)] * 2 + [(1.0, True)]
    assert list(shares([4, 2], 3)) == [(4 / 6, False), (2 / 6, True)]
    assert list(shares([4, 4], 1)) == [(1.0, True)] * 2


def test_gradients_are_held_until_the_update_and_no_longer():
    layer = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(2, 3)).mean().backward()  # what was there before counts in no update
    read = []
    updates = Updates(
        optimizer,
        torch.optim.lr_scheduler.ConstantLR(optimizer),
        torch.amp.GradScaler("cpu", enabled=False),
        lambda: read.append(layer.weight.grad.clone()),
    )
    for ends in (False, True):
        updates.add(layer(torch.ones(2, 3)).mean(), 0.5, ends=ends)
        assert (layer.weight.grad is None) == ends
    torch.testing.assert_close(read, [torch.ones(1, 3)])


@pytest.mark.parametrize("samples", [12, 10])
def test_accumulated_gradients_are_those_of_the_whole_batch(setting, samples):
    """Of a mean over samples; the epoch's last update has one batch less, and one shorter."""
    trained = {}
    for batches in (1, 2):
        args, model, loaders = setting(batch_size=6 // batches, num_epochs=1)
        args.accumulate_steps = batches
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        train = type(loaders["train"])(
            loaders["train"].split.take(range(samples)), args.batch_size, shuffle=True
        )
        trainer = Trainer(args)
        trainer.do_train(model, {"train": train, "valid": loaders["valid"]})
        trained[batches] = trainer, dict(model.named_parameters())
    for name, value in trained[1][1].items():
        torch.testing.assert_close(trained[2][1][name], value, rtol=1e-4, atol=1e-5, msg=name)
    entries = [trainer.history.epochs[-1] for trainer, _ in trained.values()]
    assert entries[0]["learning_rate"] == entries[1]["learning_rate"] == 0  # it ran its length
    assert entries[0]["train"]["Loss"] == pytest.approx(entries[1]["train"]["Loss"], rel=1e-3)


@pytest.mark.parametrize("name", ["text_only", "dashfusion", "confede", "tetfn"])
def test_bf16_keeps_heads_and_losses_in_float32(setting, name):
    _, model, loaders = setting(name)
    core, precision = core_model(model), Precision("bf16", CPU)
    core.adapt(loaders["train"].split)
    sampler = StepSampler(loaders["train"].split, core.retrieval)
    sampler.refresh(core, CPU, 4)
    step = sampler.step(torch.arange(4), CPU)
    seen = []
    first = next(module for module in core.modules() if isinstance(module, torch.nn.Linear))
    first.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    with precision.heads_in_float32(core), precision.autocast():
        output = core.training_step(step)
    assert torch.bfloat16 in seen
    assert output.prediction.dtype == torch.float32
    assert {loss.dtype for loss in output.losses.values()} == {torch.float32}
    output.total.backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in core.parameters())
    with torch.no_grad():
        assert core(Inputs.of(step.samples))["M"].dtype == torch.float32


def test_fp16_goes_on_with_its_scale_where_it_was_stopped(setting, tmp_path, monkeypatch):
    monkeypatch.setattr("MMSA_ext.training.state._MOST_OF_THE_TIME", float("inf"))

    def trained(resume, stop=None):
        args, model, loaders = setting(precision="fp16", num_epochs=2)
        trainer = Trainer(args)
        trainer.resume = resume
        if stop:
            trainer._tell_epoch = stop
        trainer.do_train(model, loaders)
        return model.state_dict()

    def stop():
        if resume.path.exists():
            raise KeyboardInterrupt

    whole = trained(None)
    resume = ResumePoint(tmp_path / "run.resume", "here")
    with pytest.raises(KeyboardInterrupt):
        trained(resume, stop)
    scale = resume._read()["scaler"]
    assert (scale["scale"], scale["_growth_tracker"]) == (65536.0, 3)
    again = trained(ResumePoint(resume.path, "here"))
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.parametrize("name", ["text_only", pytest.param("dashfusion", marks=pytest.mark.slow)])
def test_a_compiled_step_is_one_graph_and_computes_the_same(setting, name):
    _, model, loaders = setting(name)
    core = core_model(model)
    sampler = StepSampler(loaders["train"].split, core.retrieval)
    sampler.refresh(core, CPU, 4)
    core.eval()
    torch._dynamo.reset()
    step = compiling.compiled(core.training_step, "eager", CPU)
    torch._dynamo.utils.counters.clear()
    for anchors in (torch.arange(4), torch.arange(3, 9)):
        batch = sampler.step(anchors, CPU)
        torch.testing.assert_close(
            step(batch).total, core.training_step(batch).total, rtol=1e-4, atol=1e-5
        )
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) == 0


def test_without_a_compiler_one_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler .* install one"):
        compiling.compiled(print, "inductor", CPU)
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="triton"):
        compiling.compiled(print, "inductor", torch.device("cuda"))
    assert compiling.compiled(print, "off", CPU) is print


def test_clipping_is_for_every_model(setting):
    args, model, loaders = setting(max_grad_norm=1e-3, num_epochs=1)
    trainer, norms = Trainer(args), []
    prepare = trainer.prepare_gradients

    def watched(core):
        prepare(core)
        grads = [p.grad.norm() for p in core.parameters() if p.grad is not None]
        norms.append(float(torch.stack(grads).norm()))

    trainer.prepare_gradients = watched
    trainer.do_train(model, loaders)
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3)
