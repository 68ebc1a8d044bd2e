"""A network of MMSA's without weights, and how MMSA's evaluation calls it with one sample."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict
from torch import nn
from torch.utils.data import DataLoader

from MMSA_ext.data.feature_report import FeatureReport
from MMSA_ext.data.feature_set import FeatureSet, FeatureSplit
from MMSA_ext.mmsa_bridge.feature_reading import provided_features
from MMSA_ext.mmsa_bridge.networks import build_model
from MMSA_ext.mmsa_bridge.registration import registered
from MMSA_ext.mmsa_bridge.runtime import preserved_random_state, progress_bars
from MMSA_ext.mmsa_bridge.stock import build_trainer


@dataclass(frozen=True)
class Outline:
    """A network and one call of it.

    Attributes:
        model: MMSA's `AMIO`, in evaluation mode; every parameter is 0 and takes no memory.
        arguments: Positional arguments of the call.
        options: Named ones.
    """

    model: nn.Module
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class _CalledError(Exception):
    """Ends an evaluation at its first call of the model."""


def outline(args: EasyDict, sample: FeatureSplit) -> Outline:
    """Build a network of MMSA's without its weights; no random number is drawn.

    Args:
        args: From `complete_args`, on the CPU. Of `pretrained`, a folder, the configuration and the
            tokenizer are read.
        sample: What it is called with.
    """
    args = copy.deepcopy(args)
    if "train_samples" in args:
        args.train_samples = 1  # sizes what training alone needs
    features = FeatureSet(Path("sample"), "", {"test": sample}, FeatureReport(Path("sample")))
    with registered(), preserved_random_state(), provided_features(features), progress_bars(False):
        dataset = import_module("MMSA.data_loader").MMDataset(args, mode="test")
        args.seq_lens = dataset.get_seq_len()
        model = _built_without_memory(args).eval()
        _fill(model)
        return _called(args, model, DataLoader(dataset, batch_size=1))


def _built_without_memory(args: EasyDict) -> nn.Module:
    """The network on torch's device `meta`, where its code is to run on the CPU."""
    args, nowhere = copy.deepcopy(args), torch.device("meta")
    args.device = nowhere
    with nowhere:
        model = build_model(args)
    args.device = torch.device("cpu")
    for module in model.modules():
        for name, value in vars(module).items():
            if value == nowhere:
                setattr(module, name, args.device)
    return model


def _fill(model: nn.Module) -> None:
    """Zeros for all tensors of a model that has none: its code may look at values."""
    filled: dict[nn.Parameter, nn.Parameter] = {}  # one that modules share stays one
    for module in _modules(model):
        for name, parameter in list(module.named_parameters(recurse=False)):
            zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            new = filled.setdefault(parameter, nn.Parameter(zeros, requires_grad=False))
            filled[new] = new
            setattr(module, name, new)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))


def _modules(model: nn.Module) -> list[nn.Module]:
    """All modules; Graph-MFN has some in a dictionary that torch knows nothing of."""
    kept = (value for module in model.modules() for value in vars(module).values())
    parts = [part for value in kept if isinstance(value, dict) for part in value.values()]
    found = [model, *(part for part in parts if isinstance(part, nn.Module))]
    return [module for part in found for module in part.modules()]


def _called(args: EasyDict, model: nn.Module, loader: DataLoader[Any]) -> Outline:
    """The first call that the evaluation makes."""
    calls: list[Outline] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls.append(Outline(model, arguments, options))
        raise _CalledError

    trainer = build_trainer(args)
    trainer.model = model  # two of MMSA's trainers keep it from training on
    hook = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        trainer.do_test(model, loader, mode="TEST")
    except _CalledError:
        pass
    finally:
        hook.remove()
    return calls[0]
