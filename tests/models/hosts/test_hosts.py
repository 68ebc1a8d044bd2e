"""Every variant of MMSA's models: one is tested by being registered."""

import itertools
import logging
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.config import schema
from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.features import read_features
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.hosts.common import EnhancedHost, enhanced_host
from MMSA_ext.registry import get_model
from tests.models.hosts.variants import (
    INFOENH,
    LENGTHS,
    VARIANTS,
    as_the_host,
    before_each_step,
    build,
    gradients_at_each_step,
    labels_at_each_forward,
    loss_added_by_trainer,
    make_args,
    outputs,
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
# Parameters of the host that it has but never trains itself.
UNUSED_BY_HOST = {
    "misa": ("bertmodel.model.pooler", "sp_discriminator", "tlayer_norm"),
    "self_mm": ("text_model.model.pooler",),
    "mmim": ("bertmodel.model.pooler", "mi_tv.entropy_prj", "mi_ta.entropy_prj"),
    "tfn": ("output_range", "output_shift"),
    "lmf": ("fusion_weights", "fusion_bias"),  # its trainer passes over them
}
# Those whose only use was to make the vector that InfoEnh's takes the place of.
REPLACED = {
    "self_mm": ("audio_model.linear_1", "video_model.linear_1"),
    "mmim": ("acoustic_enc.linear_1", "visual_enc.linear_1"),
}

# From the second epoch on Self-MM's unimodal heads learn, from the third on by labels that it made.
# Not many more: accuracies of few samples soon stay the same.
EPOCHS = {"self_mm": {"early_stop": 2, "KeyEval": "Has0_acc_2"}}
# So large that InfoEnh's loss shows.
LOUD = INFOENH | {"alpha": 5.0}


# One of each way in which hosts read and train; what all have in common is slow on the others.
QUICK = ("misa_infoenh", "mmim_infoenh", "self_mm_infoenh")


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in VARIANTS
    ]
)
def name(request):
    return request.param


@pytest.fixture
def host(name):
    return get_model(name).host


@dataclass
class Trained:
    """A variant's run in MMSA's loop and what was seen of it."""

    run: mmsa_bridge.StockRun
    gradients: list[list[torch.Tensor | None]]
    forwards: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def trained(args_of):
    """One run a variant that several tests look at; none changes it."""

    @cache
    def run_once(name):
        with gradients_at_each_step() as gradients, labels_at_each_forward() as forwards:
            return Trained(train(args_of(name, infoenh=LOUD)), gradients, forwards)

    return run_once


@pytest.fixture
def prepared(name, args_of):
    args = args_of(name)
    model, loaders = build(args)
    return args, model, whole_batch(loaders)


def losses(outputs, batch):
    return (outputs["M"].reshape(-1) - batch["labels"]["M"].reshape(-1)).abs().mean()


def test_the_three_hosts_of_the_paper_are_there():
    assert {"misa_infoenh", "self_mm_infoenh", "mmim_infoenh"} <= set(VARIANTS)


def test_its_configuration_is_bound_once_where_it_is_built(name, args_of, monkeypatch):
    args, bound = args_of(name), []
    bind = schema._bind
    monkeypatch.setattr(schema, "_bind", lambda *given: bound.append(given[0]) or bind(*given))
    build(args)
    assert bound == [get_model(name).config]


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_configured_as_the_host_on_every_data_set(name, host, dataset):
    variant, plain = resolve(name, dataset), resolve(host, dataset)
    added = set(get_model(name).config.model_fields)
    decided = {"need_normalized", "need_model_aligned"}  # by the feature-level variants
    assert set(variant) - set(plain) <= added | decided
    shared = set(plain) - added - decided - {"model_name"}
    assert {key: variant[key] for key in shared} == {key: plain[key] for key in shared}


def test_forward_gives_the_hosts_outputs(name, host, made):
    (model, args, batch), (plain, plain_args, plain_batch) = made(name), made(host)
    for rows in ([0], [3, 1], list(range(16))):
        some = _rows(batch, rows)
        outputs = predict(model, args, some)
        assert torch.isfinite(outputs["M"]).all()
        expected = predict(plain, plain_args, _rows(plain_batch, rows))
        assert list(outputs) == list(expected)
        assert outputs["M"].shape == expected["M"].shape


def _rows(batch, rows):
    return {
        key: value[rows] if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
        if key != "labels"
    } | {"labels": {key: value[rows] for key, value in batch["labels"].items()}}


def test_neither_batch_nor_padding_changes_a_result(name, host, made):
    """Short samples have fewer tokens than InfoEnh keeps, and the last one has no audio at all."""
    model, args, batch = made(name, infoenh={"k": 8, "d": 8})
    batch["audio"][-1] = 0

    def by_sample(batch):
        outputs = predict(model, args, batch)
        kept = [key for key in outputs if key == "M" or key.startswith("Feature_")]
        return {key: outputs[key].reshape(len(batch["text"]), -1) for key in kept}

    together = by_sample(batch)
    assert torch.isfinite(together["M"]).all()
    for row in range(16):
        alone = {key: x[[row]] for key, x in together.items()}
        torch.testing.assert_close(by_sample(_rows(batch, [row])), alone)
    if args.get("use_bert"):
        batch["text"][:, 0][batch["text"][:, 1] == 0] = 7
    for modality in ("audio", "vision"):
        batch[modality] = torch.nn.functional.pad(batch[modality], (0, 0, 0, 7))
        if host in LENGTHS:  # other hosts know padding by its zeros
            lengths = torch.as_tensor(batch[f"{modality}_lengths"])
            padding = torch.arange(batch[modality].shape[1])[None] >= lengths[:, None]
            batch[modality] = batch[modality] + padding[..., None]
    torch.testing.assert_close(by_sample(batch), together)


# Of hosts with vectors of their own: the model, its configuration, and options of InfoEnh.
OWN_VECTORS = [
    *[("misa", {"frame_lengths": lengths}, {}) for lengths in ("text", "own")],
    *[("self_mm", {}, {"unimodal_heads": heads}) for heads in ("filtered", "enhanced", "host")],
    *[("mmim", {"add_va": add_va}, {}) for add_va in (False, True)],
]


@pytest.mark.parametrize("aligned", [False, True], ids=["own lengths", "text's lengths"])
@pytest.mark.parametrize(("host", "config", "infoenh"), OWN_VECTORS, ids=str)
def test_its_own_vectors_give_its_own_outputs(made, host, config, infoenh, aligned):
    """With a silent InfoEnh and the residual, all that a host computes is what it was."""
    plain = made(f"{host}_infoenh", infoenh=None, **config)
    variant = made(f"{host}_infoenh", infoenh=INFOENH | {"residual": True} | infoenh, **config)
    as_the_host(variant[0], plain[0])
    plain[0].Model.aligned = variant[0].Model.aligned = aligned
    expected, given = outputs(*plain), outputs(*variant)
    assert given.keys() == expected.keys() >= {"M"}
    for key, value in given.items():
        torch.testing.assert_close(value, expected[key], msg=key)


WIDEN = {"hidden": 4, "vector": "widen"}
REFUSED = [
    ("misa_infoenh", {"frame_lengths": "audio"}, "frame_lengths"),
    ("misa_infoenh", {"infoenh": {"vector": "widen", "residual": True}}, "residual"),
    ("self_mm_infoenh", {"infoenh": {"unimodal_heads": "none"}}, r"infoenh\.unimodal_heads"),
    ("mmim_infoenh", {"infoenh": {"vector": "widen"}}, r"MMIM keeps its width.*NaN"),
    ("tfn_infoenh", {"infoenh": {"vector": "widen", "residual": True}}, "residual adds"),
    ("mult_infoenh", {"infoenh": WIDEN}, r"infoenh\.hidden, infoenh\.vector would have no"),
    ("ef_lstm_infoenh", {"infoenh": WIDEN}, r"infoenh\.hidden, infoenh\.vector would have no"),
    ("mfn_infoenh", {"infoenh": WIDEN}, r"infoenh\.hidden, infoenh\.vector would have no"),
]


@pytest.mark.parametrize(("variant", "wrong", "message"), REFUSED, ids=str)
def test_wrong_values_are_refused(variant, wrong, message):
    with pytest.raises(ConfigError, match=message):
        resolve(variant, "mosi", "", wrong)


def test_the_loss_joins_in_the_real_trainer(name, args_of, trained, monkeypatch):
    """Accumulation and clipping included."""
    args, attached = args_of(name, infoenh=LOUD), trained(name).gradients
    loss_added_by_trainer(monkeypatch, name)
    with gradients_at_each_step() as summed:
        train(args, splits=("test",))
    with monkeypatch.context() as patch:
        patch.setattr(EnhancedHost, "attach", lambda self, outputs, enhanced: outputs)
        with gradients_at_each_step() as without:
            train(args, splits=("test",))
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
    @pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
    def test_it_is_configured_as_the_host(self, name, host, dataset):
        off, plain = resolve(name, dataset, "", {"infoenh": None}), resolve(host, dataset)
        added = get_model(name).config.model_fields
        assert {k: v for k, v in off.items() if k not in added} == plain | {"model_name": name}

    def test_it_trains_as_the_host_bit_for_bit(self, name, host, args_of):
        epochs = EPOCHS.get(host, {})
        off = train(args_of(name, infoenh=None, **epochs))
        plain = train(args_of(host, **epochs))
        assert len(plain.history) >= (3 if epochs else 1)
        assert off.metrics == plain.metrics
        assert off.best_epoch == plain.best_epoch
        assert enhanced_host(off.model) is None
        assert type(off.model.Model) is type(plain.model.Model)
        state, expected = off.model.state_dict(), plain.model.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in initialised(expected))
        for split, samples in plain.predictions.items():
            np.testing.assert_array_equal(off.predictions[split].prediction, samples.prediction)


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

    @pytest.mark.parametrize("transport", ["barycentric_target", "source_pushforward"])
    def test_every_plan_is_another_prediction(self, name, args_of, transport):
        plans = [
            outputs_with(args_of, name, transport=transport, plan=plan)
            for plan in ("sinkhorn", "uniform", "shuffled")
        ]
        for one, other in itertools.combinations(plans, 2):
            assert (one - other).abs().max() > 1e-3 * one.std()


KEPT = {f"kept_ratio_{modality}" for modality in ("text", "audio", "vision")}
PLAN = {"transport_cost", "plan_entropy", "iterations"}


class TestAblations:
    """Each leaves out what it is named for, in the host's own training."""

    @pytest.fixture
    def step(self, name, args_of):
        def take(**infoenh):
            """Diagnostics of one training step, and the variant after it."""
            args = args_of(name, infoenh=INFOENH | infoenh)
            model, loaders = build(args)
            batch, host = whole_batch(loaders), enhanced_host(model)
            host.labels = batch["labels"]["M"].reshape(-1)
            losses(predict(model.train(), args, batch), batch).backward()
            reached = [p.grad for p in host.infoenh.parameters() if p.grad is not None]
            assert reached
            assert all(torch.isfinite(gradient).all() for gradient in reached)
            return host.take_diagnostics(), host

        return take

    @pytest.mark.parametrize(
        ("options", "reports"),
        [
            ({}, KEPT | PLAN),
            ({"alignment": False}, KEPT),
            ({"alignment": False, "without_alignment": "repeat"}, KEPT),
            ({"bottleneck": False}, PLAN),
            ({"plan": "uniform"}, KEPT | PLAN),
            ({"plan": "shuffled"}, KEPT | PLAN),
            ({"gates": "random"}, KEPT | PLAN),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else str(len(value)),
    )
    def test_what_is_left_is_reported_and_learned(self, step, options, reports):
        seen, host = step(**options)
        assert set(seen) == reports | {"infoenh_loss"}
        assert (seen["infoenh_loss"] > 0) == (reports >= KEPT)
        assert all(0 < seen[key] < 1 for key in KEPT & reports)
        gates = [n for n, _ in host.infoenh.named_parameters() if ".gate." in n]
        assert bool(gates) == (reports >= KEPT and "gates" not in options)
        if reports >= PLAN:
            uniform = options.get("plan") == "uniform"
            assert (seen["plan_entropy"] == pytest.approx(1)) == uniform
            assert (seen["iterations"] == 0) == uniform

    def test_repeated_it_has_as_many_parameters(self, step):
        _, full = step()
        _, repeated = step(alignment=False, without_alignment="repeat")
        _, alone = step(alignment=False)
        assert sizes(repeated) == sizes(full) != sizes(alone)


def sizes(model):
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def test_every_parameter_gets_a_gradient_and_infoenh_moves(name, host, args_of):
    """In the host's own trainer, whose losses read more than the prediction."""
    started, reached = {}, set()

    def look(optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # Not from the model as built: some trainers first initialise the parameters anew.
                started.setdefault(parameter, parameter.detach().clone())
                if parameter.grad is not None and parameter.grad.any():
                    reached.add(parameter)

    with before_each_step(look):
        run = train(args_of(name, **EPOCHS.get(host, {})), splits=("test",))
    parameters = dict(enhanced_host(run.model).named_parameters())
    excepted = UNUSED_BY_HOST.get(host, ()) + REPLACED.get(host, ())
    silent = [key for key, parameter in parameters.items() if parameter not in reached]
    assert [k for k in silent if not k.startswith(excepted) and not k.endswith("key.bias")] == []
    added = {key: p for key, p in parameters.items() if key.startswith("infoenh")}
    assert added
    # Self-MM's unimodal heads have no loss in its first epoch; a bias of zero stays zero then.
    still = [key for key, p in added.items() if started[p].any() and torch.equal(started[p], p)]
    assert still == []


def test_parameters_are_named_so_that_mmsas_optimizers_take_them(prepared, args_of, host):
    _, model, _ = prepared
    plain, _ = build(args_of(host))
    added = {n for n, _ in model.named_parameters()} - {n for n, _ in plain.named_parameters()}
    assert added
    assert [n for n in added if any(word in n for word in TAKEN)] == []


def test_the_seed_decides_everything(name, args_of, trained):
    """That the same seed gives the same is shown by MMSA's own function below."""
    other = train(args_of(name, infoenh=LOUD), seed=2, splits=("test",))
    first = trained(name).run.predictions["test"].prediction
    assert not np.array_equal(first, other.predictions["test"].prediction)


def test_saved_weights_give_the_same_predictions(name, args_of, trained, path):
    args, run = args_of(name, infoenh=LOUD), trained(name).run
    args.seq_lens = [10, 12, 12]
    table = mmsa_bridge.predict_stock(args, run.model.state_dict(), read_features(path, "mosi"))
    for split, samples in run.predictions.items():
        part = table[table.split == split]
        assert part.id.tolist() == samples.ids
        np.testing.assert_allclose(part.prediction, samples.prediction, atol=1e-6)


def check_labels(forwards):
    """While training those of the batch; none in evaluation."""
    assert {training for training, *_ in forwards} == {True, False}
    for training, labels, size, gradients in forwards:
        assert gradients is training
        assert (labels is not None and len(labels) == size) if training else labels is None


def test_labels_are_there_in_training_alone(name, trained):
    check_labels(trained(name).forwards)
    assert enhanced_host(trained(name).run.model).labels is None


class TestThroughMMSAsOwnFunction:
    """`MMSA.run.MMSA_run`, which `MMSA.MMSA_run` was before this package was imported."""

    @pytest.fixture
    def stock_run(self, monkeypatch, tmp_path):
        module = import_module("MMSA.run")
        assert module.MMSA_run.__module__ == "MMSA.run"
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)  # it rests after a seed
        logger = logging.getLogger("MMSA")
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "level", logger.level)

        def run(args):
            places = {"device", "model_save_path", "custom_feature", "feature_T", "feature_A"}
            config = {
                key: value for key, value in args.items() if key not in places | {"feature_V"}
            }
            folders = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), tmp_path)
            with mmsa_bridge.registered(), mmsa_bridge.progress_bars(False):
                module.MMSA_run(
                    args.model_name, "mosi", config=config, seeds=[1], gpu_ids=[],
                    num_workers=0, verbose_level=0, **folders,
                )  # fmt: skip
            return torch.load(tmp_path / f"{args.model_name}-mosi.pth", weights_only=True)

        yield run
        for handler in logger.handlers:
            handler.close()

    def test_it_trains_to_the_same_weights(self, name, args_of, trained, stock_run):
        """With labels, so with InfoEnh's loss, without which the gradients would be others."""
        with labels_at_each_forward() as forwards, gradients_at_each_step() as gradients:
            state = stock_run(args_of(name, infoenh=LOUD))
        check_labels(forwards)
        for ours, theirs in zip(trained(name).gradients, gradients, strict=True):
            assert _largest_difference(ours, theirs) == 0
        expected = trained(name).run.model.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in initialised(state))


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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "misa_infoenh" else pytest.mark.slow)
        for name in VARIANTS
    ],
)
def test_learns_planted_data(name, tmp_path, tiny_encoder):
    """In a plain loop: MMSA's trainers have no cap on epochs and learning rates for large data."""
    args = make_args(name, write_features(tmp_path / "mosi.pkl", planted=True), tiny_encoder)
    model, loaders = build(args)
    batch, unseen = whole_batch(loaders), whole_batch(loaders, "test")
    host = enhanced_host(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    goal = 0.5 * unseen["labels"]["M"].abs().mean()
    for _ in range(80):
        optimizer.zero_grad()
        host.labels = batch["labels"]["M"].reshape(-1)
        loss = losses(predict(model.train(), args, batch), batch)
        loss.backward()
        optimizer.step()
        if loss < 0.2 * goal:
            break
    host.labels = None
    with torch.no_grad():
        error = losses(predict(model.eval(), args, unseen), unseen)
    assert error < goal
