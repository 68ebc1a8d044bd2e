"""InfoEnh in front of all that reads MMIM's vectors, and MMIM's two stages of training."""

from functools import partial

import pytest
import torch

from tests.models.hosts.variants import (
    INFOENH,
    before_each_step,
    gradients_at_each_step,
    outputs,
    predict,
    train,
)

NAME = "mmim_infoenh"
STEPS = 2  # of each stage: 16 samples, 8 a batch


@pytest.fixture
def variant(made):
    return partial(made, NAME)


def test_every_reader_gets_the_enhanced_vectors(variant):
    model, args, batch = variant()
    core, seen = model.Model, {}
    core.fusion_prj.register_forward_pre_hook(lambda module, inputs: seen.update(fusion=inputs[0]))
    core.infoenh_readouts.register_forward_hook(lambda m, i, output: seen.update(vectors=output))
    given = outputs(model, args, batch)
    for key, modality in (("Feature_t", "text"), ("Feature_a", "audio"), ("Feature_v", "vision")):
        assert torch.equal(given[key], seen["vectors"][modality])
    parts = [seen["vectors"][modality] for modality in ("text", "audio", "vision")]
    assert torch.equal(seen["fusion"], torch.cat(parts, dim=1))


def test_the_encoders_run_once(variant):
    model, args, batch = variant()
    calls = []
    for name in ("bertmodel", "acoustic_enc", "visual_enc"):
        part = getattr(model.Model, name)
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    outputs(model, args, batch)
    assert sorted(calls) == ["acoustic_enc", "bertmodel", "visual_enc"]


class TestTwoStages:
    def test_the_first_gets_nothing_of_infoenhs_loss(self, args_of):
        """Its gradients do not depend on the weight of that loss; those of the second do."""
        seen = []
        for alpha in (0.0, 5.0):
            with gradients_at_each_step() as gradients:
                train(args_of(NAME, infoenh=INFOENH | {"alpha": alpha}), splits=("test",))
            seen.append(gradients)
        without, with_loss = seen
        assert len(without) == 2 * STEPS
        for a, b in zip(without[:STEPS], with_loss[:STEPS], strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True) if x is not None)
        first_of_second = zip(without[STEPS], with_loss[STEPS], strict=True)
        assert any(not torch.equal(x, y) for x, y in first_of_second if x is not None)

    def test_the_prediction_carries_the_loss_only_with_labels(self, variant):
        model, args, batch = variant()
        core = model.train().Model
        core.labels = batch["labels"]["M"].reshape(-1)
        assert "AuxiliaryLoss" in type(predict(model, args, batch)["M"].grad_fn).__name__
        first = predict(model, args, batch, y=None, mem=None)["M"]
        assert "AuxiliaryLoss" not in type(first.grad_fn).__name__

    def test_infoenh_is_trained_by_the_second(self, args_of):
        found = {}

        def look(optimizer):
            groups = [set(group["params"]) for group in optimizer.param_groups]
            found.setdefault(len(groups), groups)

        with before_each_step(look):
            run = train(args_of(NAME), splits=("test",))
        (first,), (_, main) = found[1], found[2]
        ours = {p for n, p in run.model.named_parameters() if "infoenh" in n}
        assert ours
        assert ours <= main
        assert not ours & first
