"""The training loop: selection, patience, schedule, divergence, groups, MMSA's contract."""

from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch import nn

from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.data.predictions import Predictions
from MMSA_ext.data.retrieval import RetrievalConfig
from MMSA_ext.errors import TrainingDivergedError
from MMSA_ext.models.contract import core_model
from MMSA_ext.training.steps import StepSampler
from MMSA_ext.training.trainer import Trainer, parameter_groups, predict


def scripted(trainer, values, key="MAE"):
    """Let validation give `values`, epoch 0 first."""
    remaining = iter(values)
    trainer.score = lambda outputs: {"Loss": 0.0} | {key: next(remaining)}
    return trainer


@pytest.mark.parametrize(
    ("options", "losses", "chosen", "epochs"),
    [
        ({"early_stop": 2}, [9, 5, 4, 6, 6, 1], 2, 4),
        ({"early_stop": 8}, [9, 5, 4, 3], 3, 3),
        ({"early_stop": None}, [9, 5, 6, 6, 6, 4], 5, 5),
        ({"early_stop": 2, "warmup_ratio": 0.5}, [9, 5, 6, 6, 6, 6, 1], 1, 5),
        ({"first_selected_epoch": 2}, [9, 1, 5, 6], 2, 3),
        ({"first_selected_epoch": 2}, [9, 1], 1, 1),  # the only one there is
        ({"first_selected_epoch": 3, "early_stop": 0}, [9, 1, 5, 6, 2], 3, 3),
        ({"early_stop": 0}, [9, 5, 1], 1, 1),
        ({}, [9, 0.50002, 0.50004, 0.50001], 3, 3),
        ({"selection_digits": 4}, [9, 0.50001, 0.50004, 0.6], 2, 3),  # ties go to the later
        ({}, [9, float("nan"), 5, float("nan")], 2, 3),
        ({"KeyEval": "Corr"}, [0.1, 0.3, 0.9, 0.5], 2, 3),  # the larger the better
    ],
)
def test_selection_and_patience(setting, options, losses, chosen, epochs):
    args, model, loaders = setting(num_epochs=len(losses) - 1, **options)
    trainer = scripted(Trainer(args), losses, args.KeyEval)
    trainer.do_train(model, loaders)
    assert trainer.history.chosen_epoch == chosen
    assert trainer.history.epochs[-1]["epoch"] == epochs


def test_kept_weights_are_those_of_the_chosen_epoch(setting):
    args, model, loaders = setting(num_epochs=4)
    trainer = Trainer(args)
    trainer.do_train(model, loaders)
    best = min(trainer.history.epochs[1:], key=lambda entry: entry["valid"]["MAE"])
    assert trainer.history.chosen_epoch == best["epoch"]
    model.load_state_dict(torch.load(args.model_save_path, weights_only=True))
    assert trainer.do_test(model, loaders["valid"])["MAE"] == pytest.approx(best["valid"]["MAE"])


@pytest.mark.parametrize("values", [[1.0, 3.0, 2.0], [float("nan")] * 3], ids=str)
def test_never_better_than_the_start_is_finished_with_a_note(setting, values):
    args, model, loaders = setting(num_epochs=2)
    trainer = scripted(Trainer(args), values)
    trainer.do_train(model, loaders)
    assert trainer.history.chosen_epoch == (2 if values[2] == 2.0 else 1)
    assert args.model_save_path.exists()
    (note,) = trainer.history.notes
    assert note.startswith("not better than untrained: validation MAE ")


def test_that_is_diverged_if_it_must_be_better_and_leaves_no_weights(setting):
    args, model, loaders = setting(num_epochs=2, must_beat_untrained=True)
    args.model_save_path.write_bytes(b"another run's weights")
    trainer = scripted(Trainer(args), [1.0, 2.0, 3.0])
    with pytest.raises(TrainingDivergedError, match=r"untrained: .* MAE 2\.0000 .* 1\.0000 before"):
        trainer.do_train(model, loaders)
    assert not args.model_save_path.exists()
    assert len(trainer.history.epochs) == 3


def test_non_finite_loss_is_diverged_and_keeps_the_history(setting):
    args, model, loaders = setting(num_epochs=3)
    trainer = Trainer(args)
    step = core_model(model).training_step
    calls = []

    def poisoned(batch):
        calls.append(1)
        output = step(batch)
        if len(calls) > 4:
            output.losses["prediction_loss"] = output.losses["prediction_loss"] * float("nan")
        return output

    core_model(model).training_step = poisoned
    with pytest.raises(TrainingDivergedError, match="epoch 2"):
        trainer.do_train(model, loaders)
    assert [entry["epoch"] for entry in trainer.history.epochs] == [0, 1]
    assert not args.model_save_path.exists()


def test_non_finite_predictions_are_not_scored(setting):
    args, _, _ = setting()
    outputs = Predictions(["a", "b"], torch.tensor([1.0, float("nan")]), torch.ones(2), {})
    with pytest.raises(TrainingDivergedError, match="not finite"):
        Trainer(args).score(outputs)


def test_schedule_warms_up_and_decays_linearly_to_zero(setting):
    args, model, loaders = setting(num_epochs=4, warmup_ratio=0.5)
    trainer = Trainer(args)
    trainer.do_train(model, loaders)
    rates = [entry["learning_rate"] for entry in trainer.history.epochs[1:]]
    assert rates == pytest.approx([0.5e-3, 1e-3, 0.5e-3, 0.0])


@pytest.mark.parametrize(("epochs", "ratio"), [(1, 0.1), (1, 0.9), (3, 0.1), (2, 0.0)])
def test_a_short_run_is_a_short_schedule(setting, epochs, ratio):
    args, model, _ = setting(num_epochs=epochs, warmup_ratio=ratio)
    trainer = Trainer(args)
    optimizer = trainer.make_optimizer(core_model(model))
    schedule = trainer.make_schedule(optimizer, 10)
    rates = []
    for _ in range(10 * epochs):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == round(10 * epochs * ratio)
    assert schedule.get_last_lr()[0] == 0


def test_new_layers_have_their_own_rate(setting):
    args, model, _ = setting(new_layers_learning_rate=0.5)
    optimizer = Trainer(args).make_optimizer(core_model(model))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in core_model(model).named_parameters():
        pretrained = name.startswith("text_encoder.encoder.")
        assert rates[id(parameter)] == (1e-3 if pretrained else 0.5), name


def test_validation_loss_is_over_all_samples_whatever_the_batches(setting):
    args, model, loaders = setting()
    trainer = Trainer(args)
    whole = trainer.do_test(model, loaders["train"])["Loss"]
    again = trainer.do_test(model, type(loaders["train"])(loaders["train"].split, 5))["Loss"]
    assert whole == pytest.approx(again, rel=1e-5)


def test_mmsa_contract_of_do_test(setting, feature_data):
    args, model, loaders = setting("dashfusion")
    trainer = Trainer(args)
    results = trainer.do_test(model, loaders["valid"], mode="TEST", return_sample_results=True)
    assert list(results)[:9] == [
        "Has0_acc_2", "Has0_F1_score", "Non0_acc_2", "Non0_F1_score", "Mult_acc_5", "Mult_acc_7",
        "MAE", "Corr", "Loss",
    ]  # fmt: skip
    assert results["Ids"] == feature_data["valid"]["id"]
    assert len(results["SResults"]) == len(results["Labels"]) == 6
    assert results["Features"]["Feature_t"].shape == (6, 16)


def test_do_train_returns_epochs_when_asked_and_never_looks_at_test(setting):
    args, model, loaders = setting(num_epochs=2)
    without_test = {split: loaders[split] for split in ("train", "valid")}
    results = Trainer(args).do_train(model, without_test, return_epoch_results=True)
    assert len(results["train"]) == len(results["valid"]) == 2
    assert results["test"] == []
    assert {"Loss", "prediction_loss", "MAE"} <= set(results["train"][0])


def test_parameter_groups_spare_biases_and_norms():
    model = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    model["bert"] = nn.ModuleDict({"LayerNorm": nn.LayerNorm(2)})

    def spared(**options):
        group = parameter_groups(model, 0.1, **options)[1]
        names = {id(p): n for n, p in model.named_parameters()}
        assert group["weight_decay"] == 0
        return {names[id(p)] for p in group["params"]}

    biases = {"linear.bias", "norm.bias", "bert.LayerNorm.bias", "bert.LayerNorm.weight"}
    assert spared() == biases | {"norm.weight"}
    assert spared(decay_norms=True) == biases


def test_step_holds_each_distinct_sample_once_and_rows_point_at_the_drawn(setting):
    _, model, loaders = setting("dashfusion")
    sampler = StepSampler(loaders["train"].split, core_model(model).retrieval)
    sampler.refresh(core_model(model), torch.device("cpu"), 4)
    anchors = torch.tensor([7, 2, 9])
    torch.manual_seed(3)
    step = sampler.step(anchors, torch.device("cpu"))
    torch.manual_seed(3)
    drawn = sampler.index.draw(anchors)
    index = step.samples["index"]
    assert len(set(index.tolist())) == len(index)
    assert torch.equal(index[step.anchors], anchors)
    mask = drawn.positive_mask
    assert torch.equal(index[step.contrast.positives][mask], drawn.positives[mask])
    assert torch.equal(index[step.contrast.negatives], drawn.negatives)


def test_with_a_bank_a_step_encodes_the_anchors_only(setting):
    """Before the weights have moved, bank and encoding anew give the same loss."""
    losses, gradients = {}, {}
    still = {"embedding_dropout": 0.0, "encoder_dropout": 0.0}
    for retrieved in ("encoded", "bank"):
        _, model, loaders = setting("dashfusion", retrieved_features=retrieved, **still)
        core = core_model(model)
        sampler = StepSampler(loaders["train"].split, core.retrieval)
        sampler.refresh(core, torch.device("cpu"), 4)
        core.eval()  # the text encoder has dropout of its own
        torch.manual_seed(3)
        step = sampler.step(torch.tensor([7, 2, 9]), torch.device("cpu"))
        output = core.training_step(step)
        output.losses["contrastive_loss"].backward()
        losses[retrieved] = torch.stack(list(output.losses.values())).detach()
        gradients[retrieved] = core.head[0].weight, core.text_encoder.projector[0].weight.grad
    assert step.samples["index"].tolist() == [7, 2, 9]
    assert {name: len(x) for name, x in step.bank.items()} == dict.fromkeys(
        ("text", "audio", "vision", "multimodal"), len(loaders["train"].split)
    )
    assert not any(x.requires_grad for x in step.bank.values())
    torch.testing.assert_close(losses["bank"], losses["encoded"])
    assert not torch.allclose(gradients["bank"][1], gradients["encoded"][1])


def test_the_bank_is_renewed_with_the_similarity(setting):
    args, model, loaders = setting(
        "dashfusion", retrieved_features="bank", num_epochs=4, refresh_epochs=2
    )
    core = core_model(model)
    passes, seen = [], []
    features, training_step = core.contrast_features, core.training_step
    core.contrast_features = lambda given: passes.append(len(given.text)) or features(given)
    core.training_step = lambda step: seen.append(step.bank["text"]) or training_step(step)
    Trainer(args).do_train(model, loaders)
    assert sum(passes) == 2 * len(loaders["train"].split)
    steps = len(loaders["train"])
    epochs = [seen[epoch * steps] for epoch in range(4)]
    assert epochs[0] is epochs[1]
    assert epochs[2] is epochs[3]
    assert not torch.equal(epochs[1], epochs[2])


def test_evaluation_goes_by_length_and_answers_in_file_order(setting, monkeypatch):
    _, model, loaders = setting("dashfusion")
    core, loader = core_model(model), loaders["train"]
    batches, cut = [], FeatureSplit.batch
    monkeypatch.setattr(
        FeatureSplit, "batch", lambda self, rows: batches.append(rows.tolist()) or cut(self, rows)
    )
    found = predict(core, loader, torch.device("cpu"), features=True)
    assert list(chain.from_iterable(batches)) == loader.split.by_length().tolist()
    core.reads_padding = True
    batches.clear()
    in_order = predict(core, loader, torch.device("cpu"), features=True)
    assert list(chain.from_iterable(batches)) == list(range(len(loader.split)))
    assert found.ids == in_order.ids == loader.split.ids
    torch.testing.assert_close(found.prediction, in_order.prediction)
    torch.testing.assert_close(found.label, in_order.label, rtol=0, atol=0)
    torch.testing.assert_close(found.features, in_order.features)
    assert found.prediction.std() > 1e-4


def test_similarity_is_refreshed_at_the_stated_epochs(setting):
    _, model, loaders = setting()
    sampler = StepSampler(loaders["train"].split, RetrievalConfig(refresh_epochs=2))
    assert [epoch for epoch in range(1, 7) if sampler.is_stale(epoch)] == [1, 3, 5]
    without = StepSampler(loaders["train"].split, None)
    without.refresh(core_model(model), torch.device("cpu"), 4)
    assert without.index is None
    assert not without.is_stale(1)


def test_model_is_told_each_epoch_before_it_begins(setting):
    args, model, loaders = setting(num_epochs=3)
    core = core_model(model)
    told = []
    core.begin_epoch = lambda epoch, epochs: told.append(
        (epoch, epochs, len(trainer.history.epochs))
    )
    trainer = Trainer(args)
    trainer.do_train(model, loaders)
    assert told == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]


def test_diagnostics_are_kept_by_epoch_and_are_no_part_of_the_loss(setting):
    args, model, loaders = setting(num_epochs=1, batch_size=5)  # batches of 5, 5 and 2
    core = core_model(model)
    step = core.training_step
    seen = []

    def watched(batch):
        output = step(batch)
        seen.append(len(output.prediction))
        return replace(output, diagnostics={"size": torch.tensor(float(seen[-1]))})

    core.training_step = watched
    trainer = Trainer(args)
    trainer.do_train(model, loaders)
    trained = trainer.history.epochs[1]["train"]
    assert trained["size"] == pytest.approx((5 * 5 + 5 * 5 + 2 * 2) / 12)
    assert trained["Loss"] == pytest.approx(trained["prediction_loss"])


def test_notes_on_the_data_come_with_the_history(setting):
    args, model, loaders = setting(num_epochs=1)
    core_model(model).adapt = lambda train: [f"{len(train)} samples"]
    trainer = Trainer(args)
    trainer.do_train(model, loaders)
    assert trainer.history.notes == ["12 samples"]


def test_parameters_that_ask_for_no_gradient_are_not_optimized():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    kept = {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert kept == {id(p) for p in model[1].parameters()}
