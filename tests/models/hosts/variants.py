"""Tiny variants of MMSA's models, and what the tests do with them."""

import contextlib
import pickle
from dataclasses import replace
from importlib import import_module

import numpy as np
import torch
from easydict import EasyDict
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import get_config_regression, resolve, unread
from MMSA_ext.models.hosts.common import EnhancedHost
from MMSA_ext.registry import get_model, list_models
from tests.conftest import make_feature_data

VARIANTS = [name for name in list_models() if get_model(name).host]
CPU = torch.device("cpu")
# One epoch: patience 0.
TRAINING = {"batch_size": 4, "early_stop": 0, "update_epochs": 2, "train_samples": 16}
INFOENH = {"k": 3, "d": 8}
SIZES = {
    "mult": {"dst_feature_dim_nheads": [4, 2], "nlevels": 1}
    | {f"conv1d_kernel_size_{modality}": 1 for modality in "lav"},
    "tfn": {"hidden_dims": [4, 4, 4], "text_out": 4},
    "misa": {"hidden_size": 8},
    # Its entropy, from the third batch on, takes more samples than there are here.
    "mmim": {"batch_size": 8},
}
# Of these trainers the batches hold lengths.
LENGTHS = {"self_mm", "mmim"}


def read_by(model, values, dataset="mosi"):
    """Those of some values that a model reads."""
    args = get_config_regression(model, dataset)
    return {key: value for key, value in values.items() if not unread(args, [key])}


def write_features(path, dataset="mosi", planted=False):
    """A feature file of 16, 8 and 8 samples, no modality shorter than the text.

    With `planted`, all three modalities tell the label.
    """
    data = make_feature_data((16, 8, 8), dataset)
    for split in data.values():
        # MISA packs frames with the text's length, so there must be as many.
        split["vision"] = np.pad(split["vision"], ((0, 0), (0, 4), (0, 0)))
        if planted:
            plant_labels(split)
    path.write_bytes(pickle.dumps(data, protocol=4))
    return path


def plant_labels(split):
    labels = np.resize(np.array([-2.0, -1.0, 1.0, 2.0], np.float32), len(split["id"]))
    split["regression_labels"] = labels
    words = split["text_bert"][:, 1].astype(bool)
    words[:, 0] = False
    ids = np.broadcast_to((20 + 8 * labels)[:, None], words.shape)
    split["text_bert"][:, 0][words] = ids[words]
    for key in ("text", "audio", "vision"):
        valid = np.abs(split[key]).sum(-1) > 0
        split[key][..., 0] = labels[:, None] * valid


def tiny_overrides(host, encoder, dataset="mosi"):
    """Overrides that make a host tiny, of those that it reads."""
    common = TRAINING | {"pretrained": str(encoder)}
    idle = unread(get_config_regression(host, dataset), common)
    return {key: value for key, value in common.items() if key not in idle} | SIZES.get(host, {})


def make_args(name, path, encoder, dataset="mosi", **config):
    """Complete configuration of a tiny variant, or of the host itself."""
    host = get_model(name).host if name in VARIANTS else name
    overrides = tiny_overrides(host, encoder, dataset) | {"featurePath": str(path)}
    if name in VARIANTS:
        overrides["infoenh"] = INFOENH
    overrides |= config
    weights = path.with_suffix(".pth")
    args = resolve(name, dataset, "", overrides)
    return mmsa_bridge.complete_args(args, device=CPU, model_save_path=weights)


def build(args, seed=0):
    """The model of `args`, and MMSA's loaders."""
    args = EasyDict(args)
    with mmsa_bridge.registered():
        loaders = mmsa_bridge.stock_loaders(args)
        mmsa_bridge.setup_seed(seed)
        return mmsa_bridge.build_model(args), loaders


def whole_batch(loaders, split="train"):
    """All samples of a split in file order."""
    dataset = loaders[split].dataset
    return next(iter(torch.utils.data.DataLoader(dataset, batch_size=len(dataset))))


def predict(model, args, batch, **options):
    """The outputs of a model on a batch, called as its trainer calls it."""
    host = get_model(args.model_name).host if args.model_name in VARIANTS else args.model_name
    audio, vision = batch["audio"], batch["vision"]
    if host in LENGTHS:
        audio, vision = (audio, batch["audio_lengths"]), (vision, batch["vision_lengths"])
    if host == "mmim" and model.training:
        options = {"y": batch["labels"]["M"], "mem": dict.fromkeys(("tv", "ta", "va"))} | options
    return model(batch["text"], audio, vision, **options)


@torch.no_grad()
def outputs(model, args, batch):
    """All that a model in evaluation mode computes, MMIM's estimates of information included."""
    options = {}
    if args.model_name.startswith("mmim"):
        options = {"y": batch["labels"]["M"], "mem": dict.fromkeys(("tv", "ta", "va"))}
    return predict(model, args, batch, **options)


def as_the_host(variant, host):
    """Give a variant its host's weights, and let its readouts say nothing."""
    variant.load_state_dict(host.state_dict(), strict=False)
    silent = [n for n, _ in variant.named_parameters() if n.split(".")[-2] == "output"]
    silent = [n for n in silent if "infoenh_" in n]
    assert silent
    for name in silent:
        torch.nn.init.zeros_(variant.get_parameter(name))


def train(args, seed=1, **options):
    """A real training in MMSA's loop, as the runner does it."""
    with mmsa_bridge.progress_bars(False):
        return mmsa_bridge.train_and_test(EasyDict(args), seed=seed, **options)


def loss_added_by_trainer(monkeypatch, name):
    """Let a variant's trainer add InfoEnh's loss to its own; nothing joins the prediction.

    This is the sum that `attach_auxiliary_loss` stands for, written out.
    """
    pending = []

    def keep(self, outputs, enhanced):
        if self.training and self.labels is not None:
            pending[:] = [enhanced.loss]
        return outputs

    def with_loss(loss):
        return loss + pending.pop() if pending else loss

    def make(trainer_class):
        def build_trainer(args):
            trainer = trainer_class(args)
            if hasattr(trainer, "criterion"):
                criterion = trainer.criterion
                trainer.criterion = lambda *given: with_loss(criterion(*given))
            else:
                weighted = trainer.weighted_loss
                trainer.weighted_loss = lambda *given, **options: (
                    with_loss(weighted(*given, **options))
                    if options.get("mode") == "fusion"
                    else weighted(*given, **options)
                )
            return trainer

        return build_trainer

    monkeypatch.setattr(EnhancedHost, "attach", keep)
    entry = get_model(name)
    changed = replace(entry, trained_by=make(entry.trainer))
    monkeypatch.setitem(import_module("MMSA_ext.registry")._MODELS, name, changed)


@contextlib.contextmanager
def before_each_step(look):
    """Call a function with any optimizer that is about to step."""
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: look(optimizer))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def gradients_at_each_step():
    """List of the gradients that any optimizer steps with, by its own order of parameters."""
    seen = []

    def keep(optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append([None if p.grad is None else p.grad.clone() for p in parameters])

    with before_each_step(keep):
        yield seen


@contextlib.contextmanager
def labels_at_each_forward():
    """List of what a host of InfoEnh knows when called: training, labels, samples, gradients."""
    seen = []

    def keep(module, inputs):
        if isinstance(module, EnhancedHost):
            known = module.training, module.labels, len(inputs[0]), torch.is_grad_enabled()
            seen.append(known)

    handle = register_module_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
