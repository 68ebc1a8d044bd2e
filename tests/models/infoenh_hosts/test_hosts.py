"""Every variant of MMSA's models: one is tested by being registered."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from MMSA_ext import mmsa_bridge
from MMSA_ext.config import resolve
from MMSA_ext.data.features import read_features
from MMSA_ext.models.infoenh_hosts.common import EnhancedHost, enhanced_host, publish_labels
from MMSA_ext.registry import get_model
from tests.models.infoenh_hosts.variants import (
    INFOENH,
    VARIANTS,
    build,
    gradients_at_each_step,
    loss_added_by_trainer,
    make_args,
    predict,
    train,
    whole_batch,
    write_features,
)

# MMSA's optimizers sort parameters by these substrings of their names.
TAKEN = (
    "bert", "mi", "text_model", "audio_model", "video_model",
    "text_subnet", "audio_subnet", "video_subnet",
)  # fmt: skip
# Parameters of the host that it has but never uses itself.
UNUSED_BY_HOST = {
    "misa": ("bertmodel.model.pooler", "sp_discriminator", "tlayer_norm"),
    "self_mm": ("text_model.model.pooler",),
    "mmim": ("bertmodel.model.pooler", "mi_tv.entropy_prj", "mi_ta.entropy_prj"),
    "tfn": ("output_range", "output_shift"),
}
# Those whose only use was to make the vector that InfoEnh's takes the place of.
REPLACED = {
    "self_mm": ("audio_model.linear_1", "video_model.linear_1"),
    "mmim": ("acoustic_enc.linear_1", "visual_enc.linear_1"),
}

# At least three, from which on Self-MM's unimodal heads learn. Not many more: accuracies of few
# samples soon stay the same.
THREE_EPOCHS = {"early_stop": 2, "KeyEval": "Has0_acc_2"}


@pytest.fixture(params=VARIANTS)
def name(request):
    return request.param


@pytest.fixture
def host(name):
    return get_model(name).host


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("variants") / "mosi.pkl")


@pytest.fixture
def args_of(path, tiny_encoder):
    return lambda model, **config: make_args(model, path, tiny_encoder, **config)


@pytest.fixture
def prepared(name, args_of):
    args = args_of(name)
    model, loaders = build(args)
    return args, model, whole_batch(loaders)


def losses(outputs, batch):
    return (outputs["M"].reshape(-1) - batch["labels"]["M"].reshape(-1)).abs().mean()


def test_the_three_hosts_of_the_paper_are_there():
    assert {"misa_infoenh", "self_mm_infoenh", "mmim_infoenh"} <= set(VARIANTS)


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_configured_as_the_host_on_every_data_set(name, host, dataset):
    variant, plain = resolve(name, dataset), resolve(host, dataset)
    added = set(get_model(name).config.model_fields)
    decided = {"need_normalized", "need_model_aligned"}  # by the feature-level variants
    assert set(variant) - set(plain) <= added | decided
    shared = set(plain) - added - decided - {"model_name"}
    assert {key: variant[key] for key in shared} == {key: plain[key] for key in shared}


def test_forward_gives_the_hosts_outputs(name, host, args_of, prepared):
    args, model, batch = prepared
    plain_args = args_of(host)
    plain, loaders = build(plain_args)
    plain.eval()
    model.eval()
    for rows in ([0], [3, 1], list(range(16))):
        some = _rows(batch, rows)
        outputs = predict(model, args, some)
        assert torch.isfinite(outputs["M"]).all()
        expected = predict(plain, plain_args, _rows(whole_batch(loaders), rows))
        assert list(outputs) == list(expected)
        assert outputs["M"].shape == expected["M"].shape


def _rows(batch, rows):
    return {
        key: value[rows] if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
        if key != "labels"
    } | {"labels": {key: value[rows] for key, value in batch["labels"].items()}}


def test_the_loss_joins_as_in_the_sum(prepared, monkeypatch):
    args, model, batch = prepared
    host = enhanced_host(model)
    labels = batch["labels"]["M"].reshape(-1)

    def gradients(summed):
        torch.manual_seed(3)
        model.train().zero_grad()
        host.labels = labels
        added = []
        with monkeypatch.context() as patch:
            if summed:
                patch.setattr(
                    EnhancedHost, "attach", lambda self, out, e: added.append(e.loss) or out
                )
            loss = losses(predict(model, args, batch), batch)
            sum([loss, *added]).backward()
        host.labels = None
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    attached, summed = gradients(False), gradients(True)
    assert attached.keys() == summed.keys()
    for parameter, gradient in summed.items():
        torch.testing.assert_close(attached[parameter], gradient, msg=parameter)
    gates = [n for n in attached if "infoenh" in n]
    assert any(attached[n].abs().any() for n in gates)


def test_the_loss_joins_in_the_real_trainer(name, args_of, monkeypatch):
    """Accumulation and clipping included; alpha is large, so that the loss shows."""
    args = args_of(name, infoenh=INFOENH | {"alpha": 5.0})
    with gradients_at_each_step() as attached:
        train(args, also_predict=())
    loss_added_by_trainer(monkeypatch, name)
    with gradients_at_each_step() as summed:
        train(args, also_predict=())
    with monkeypatch.context() as patch:
        patch.setattr(EnhancedHost, "attach", lambda self, outputs, enhanced: outputs)
        with gradients_at_each_step() as without:
            train(args, also_predict=())
    assert len(attached) == len(summed) >= 2
    for ours, theirs in zip(attached, summed, strict=True):
        assert _largest_difference(ours, theirs) < 1e-5
    assert max(map(_largest_difference, attached, without)) > 1e-3


def _largest_difference(first, second):
    assert [g is None for g in first] == [g is None for g in second]
    return max(
        float((a - b).abs().max()) for a, b in zip(first, second, strict=True) if a is not None
    )


def initialised(state):
    """Without MulT's `_float_tensor`, which holds whatever was in memory and is never read."""
    return [key for key in state if not key.endswith("_float_tensor")]


class TestWithoutInfoEnh:
    def test_it_is_the_host(self, name, host, args_of):
        off, _ = build(args_of(name, infoenh=None))
        plain, _ = build(args_of(host))
        assert type(off.Model) is type(plain.Model)
        assert enhanced_host(off) is None
        state, expected = off.state_dict(), plain.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in initialised(state))

    def test_it_trains_as_the_host_bit_for_bit(self, name, host, args_of):
        off = train(args_of(name, infoenh=None, **THREE_EPOCHS))
        plain = train(args_of(host, **THREE_EPOCHS))
        assert len(plain.history) >= 3
        assert off.metrics == plain.metrics
        assert off.best_epoch == plain.best_epoch
        state, expected = off.model.state_dict(), plain.model.state_dict()
        assert all(torch.equal(state[key], expected[key]) for key in initialised(expected))
        for split, samples in plain.predictions.items():
            np.testing.assert_array_equal(off.predictions[split].predictions, samples.predictions)


def outputs_with(args_of, name, **infoenh):
    args = args_of(name, infoenh=INFOENH | infoenh)
    model, loaders = build(args)
    with torch.no_grad():
        return predict(model.eval(), args, whole_batch(loaders))["M"]


class TestTheTransportMatters:
    def test_the_prediction_changes_with_lambda(self, name, args_of):
        sharp, blurred = (outputs_with(args_of, name, inverse_temperature=x) for x in (50.0, 1.0))
        assert (sharp - blurred).abs().max() > 1e-3 * sharp.std()

    def test_the_gradient_reaches_the_cost(self, name, args_of):
        """Gates get another gradient where the plan's is cut."""
        seen = []
        for detached in (False, True):
            args = args_of(name, infoenh=INFOENH | {"detach_plan": detached})
            model, loaders = build(args)
            batch = whole_batch(loaders)
            torch.manual_seed(0)
            losses(predict(model.train(), args, batch), batch).backward()
            seen.append({n: p.grad for n, p in enhanced_host(model).infoenh.named_parameters()})
        through, cut = seen
        moved = [n for n in cut if cut[n] is not None and not torch.equal(through[n], cut[n])]
        assert moved

    @pytest.mark.parametrize(
        "control",
        [{"plan": "uniform"}, {"plan": "shuffled"}, {"gates": "random"}],
        ids=["uniform plan", "shuffled plan", "random gates"],
    )
    def test_controls_run_and_differ(self, name, args_of, control):
        proper = outputs_with(args_of, name)
        difference = outputs_with(args_of, name, **control) - proper
        assert difference.abs().max() > 1e-3 * proper.std()
        run = train(args_of(name, infoenh=INFOENH | control), also_predict=())
        assert np.isfinite(run.metrics["test"]["Loss"])

    @pytest.mark.parametrize(
        "ablation",
        [
            {"alignment": False},
            {"bottleneck": False},
            {"alignment": False, "without_alignment": "repeat"},
        ],
        ids=["w/o FIA", "w/o FIB", "repeated"],
    )
    def test_ablations_train(self, name, args_of, ablation):
        run = train(args_of(name, infoenh=INFOENH | ablation), also_predict=())
        assert np.isfinite(run.metrics["test"]["Loss"])


def test_every_parameter_gets_a_gradient_and_infoenh_moves(name, host, args_of):
    """In the host's own trainer, whose losses read more than the prediction."""
    started, reached = {}, set()

    def wrap_loaders(model, loaders):
        parameters = dict(enhanced_host(model).named_parameters())

        def look(optimizer, *_):
            for key, parameter in parameters.items():
                # Some trainers first initialise the parameters anew.
                started.setdefault(key, parameter.detach().clone())
                if parameter.grad is not None and parameter.grad.any():
                    reached.add(key)

        handles.append(register_optimizer_step_pre_hook(look))
        return publish_labels(model, loaders)

    handles = []
    with mmsa_bridge.progress_bars(False):
        run = mmsa_bridge.train_and_test(
            args_of(name, **THREE_EPOCHS), seed=1, wrap_loaders=wrap_loaders, also_predict=()
        )
    handles.pop().remove()
    excepted = UNUSED_BY_HOST.get(host, ()) + REPLACED.get(host, ())
    silent = [key for key in started.keys() - reached if not key.endswith("key.bias")]
    assert sorted(key for key in silent if not key.startswith(excepted)) == []
    after = dict(enhanced_host(run.model).named_parameters())
    added = [key for key in started if key.startswith(("infoenh", "readouts"))]
    # Self-MM's unimodal heads have no loss in its first epoch; a bias of zero stays zero then.
    unmoved = [key for key in added if torch.equal(started[key], after[key])]
    assert [key for key in unmoved if started[key].any()] == []


def test_parameters_are_named_so_that_mmsas_optimizers_take_them(prepared, args_of, host):
    _, model, _ = prepared
    plain, _ = build(args_of(host))
    added = {n for n, _ in model.named_parameters()} - {n for n, _ in plain.named_parameters()}
    assert added
    assert [n for n in added if any(word in n for word in TAKEN)] == []


def test_the_seed_decides_everything(name, args_of):
    first, again, other = (train(args_of(name), seed=seed) for seed in (1, 1, 2))
    assert first.metrics == again.metrics
    a, b, c = (run.predictions["test"].predictions for run in (first, again, other))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_saved_weights_give_the_same_predictions(name, args_of, path):
    args = args_of(name)
    run = train(args)
    features = read_features(path, "mosi")
    args.seq_lens = [10, 12, 12]
    table = mmsa_bridge.predict_stock(args, run.model.state_dict(), features)
    for split, samples in run.predictions.items():
        part = table[table.split == split]
        assert part.id.tolist() == samples.ids
        np.testing.assert_allclose(part.prediction, samples.predictions, atol=1e-6)


def test_labels_are_there_in_training_alone(name, args_of):
    """While training those of the batch; none in evaluation, and none afterwards."""
    seen = []

    def wrap_loaders(model, loaders):
        core = enhanced_host(model)

        def look(module, inputs):
            seen.append((module.training, core.labels, len(inputs[0]), torch.is_grad_enabled()))

        model.register_forward_pre_hook(look)
        return publish_labels(model, loaders)

    args = args_of(name)
    with mmsa_bridge.progress_bars(False):
        run = mmsa_bridge.train_and_test(args, seed=1, wrap_loaders=wrap_loaders)
    assert {training for training, *_ in seen} == {True, False}
    for training, labels, size, gradients in seen:
        assert gradients is training
        assert (labels is not None and len(labels) == size) if training else labels is None
    assert enhanced_host(run.model).labels is None


def test_nothing_is_left_on_the_modules_after_a_forward(prepared):
    args, model, batch = prepared
    predict(model.eval(), args, batch)
    hooks = [n for n, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []
    graphs = [
        n
        for n, module in model.named_modules()
        if isinstance(module, nn.Module) and {"_step", "acoustic_enc"} & vars(module).keys()
    ]
    assert graphs == []


def test_learns_planted_data(name, tmp_path, tiny_encoder):
    """In a plain loop: MMSA's trainers have no cap on epochs and learning rates for large data."""
    args = make_args(name, write_features(tmp_path / "mosi.pkl", planted=True), tiny_encoder)
    model, loaders = build(args)
    batch, unseen = whole_batch(loaders), whole_batch(loaders, "test")
    host = enhanced_host(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        host.labels = batch["labels"]["M"].reshape(-1)
        losses(predict(model.train(), args, batch), batch).backward()
        optimizer.step()
    host.labels = None
    with torch.no_grad():
        error = losses(predict(model.eval(), args, unseen), unseen)
    assert error < 0.5 * unseen["labels"]["M"].abs().mean()
