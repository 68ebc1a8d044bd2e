"""What MMSA 2.2.1 needs to run on current libraries and any text encoder, one named shim a defect.

A shim changes one name in one module of MMSA (or one attribute of one of its classes), nothing
global, and no number: where MMSA ran before, it computes the same. The tests show for each that
MMSA still fails without it.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

from MMSA_ext.mmsa_bridge import encoder_shims
from MMSA_ext.mmsa_bridge.feature_reading import hand_over
from MMSA_ext.mmsa_bridge.patching import ModuleProxy, replace_attribute

logger = logging.getLogger("MMSA")


@dataclass(frozen=True)
class Shim:
    """One repair of MMSA.

    Attributes:
        name: Short name, used in documentation and tests.
        reason: What fails without it.
        apply: Makes the repair and registers its reversal on the stack it is given.
    """

    name: str
    reason: str
    apply: Callable[[ExitStack], None]


def apply_shims(undo: ExitStack) -> None:
    """Apply all of `SHIMS`; closing `undo` takes them back in reverse order."""
    for shim in SHIMS:
        shim.apply(undo)


def _set_device_unless_cpu(device: torch.device | int | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)


def _run_on_cpu(undo: ExitStack) -> None:
    cuda = ModuleProxy(torch.cuda, set_device=_set_device_unless_cpu)
    replace_attribute(undo, import_module("MMSA.run"), "torch", ModuleProxy(torch, cuda=cuda))


def _plateau_scheduler(*args: Any, verbose: object = None, **options: Any) -> ReduceLROnPlateau:
    """`ReduceLROnPlateau` that still accepts `verbose`, which only ever printed."""
    return ReduceLROnPlateau(*args, **options)


def _accept_verbose_scheduler(undo: ExitStack) -> None:
    for trainer in ("singleTask.MULT", "singleTask.MMIM", "missingTask.TFR_NET"):
        module = import_module(f"MMSA.trains.{trainer}")
        replace_attribute(undo, module, "ReduceLROnPlateau", _plateau_scheduler)


# The epoch's log line formats `train_results`, which is computed only below it.
_BEFORE_LOG_LINE = "train_loss = train_loss / len(dataloader['train'])"


def _define_results_before_logging(undo: ExitStack) -> None:
    for name in ("MLF_DNN", "MTFN", "MLMF"):
        module = import_module(f"MMSA.trains.multiTask.{name}")
        trainer = getattr(module, name)
        replace_attribute(undo, trainer, "do_train", _with_results_defined(trainer.do_train))


def _with_results_defined(do_train: Callable[..., Any]) -> Callable[..., Any]:
    """Recompile `do_train` with `train_results = {}` on the line before the log line.

    A local variable cannot be supplied from outside, and a copy of the function would be a second
    training loop. The statement joins an existing line, so that tracebacks keep their numbers.
    """
    lines, first = inspect.getsourcelines(do_train)
    source = "if True:\n" + "".join(lines)  # keeps the method's indentation valid
    if source.count(_BEFORE_LOG_LINE) != 1:
        raise RuntimeError(
            f"{inspect.getsourcefile(do_train)} is not MMSA 2.2.1's; install MMSA==2.2.1."
        )
    source = source.replace(_BEFORE_LOG_LINE, f"{_BEFORE_LOG_LINE}; train_results = {{}}")
    padding = "\n" * (first - 2)
    scope: dict[str, Any] = {}
    code = compile(padding + source, do_train.__code__.co_filename, "exec")
    exec(code, do_train.__globals__, scope)
    return wraps(do_train)(scope["do_train"])


class _DeviceOfParameters:
    """Attribute `device` of a module that always tells where its parameters are."""

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        return self if module is None else next(module.parameters()).device

    def __set__(self, module: nn.Module, value: object) -> None:
        vars(module)["device"] = value  # what MMSA finds there once the shim is gone


def _mctn_device(undo: ExitStack) -> None:
    seq2seq = import_module("MMSA.models.singleTask.MCTN").Seq2Seq
    replace_attribute(undo, seq2seq, "device", _DeviceOfParameters())


def _head_mask(model: nn.Module, head_mask: object, layers: int) -> None:
    """No head is masked; MMSA never asks for it, and the encoder no longer knows such masks."""


def _extended_attention_mask(
    model: nn.Module, attention_mask: Tensor, shape: object, device: object
) -> Tensor:
    """Additive mask (B, 1, 1, L) of a mask (B, L) with 1 where valid, as transformers 4 made it."""
    dtype = next(model.parameters()).dtype
    masked = 1.0 - attention_mask[:, None, None, :].to(dtype)
    return masked * torch.finfo(dtype).min


def _bert_mag_on_transformers_5(undo: ExitStack) -> None:
    module = import_module("MMSA.models.singleTask.BERT_MAG")
    for model in (module.MAG_BertModel, module.MAG_BertForSequenceClassification):
        replace_attribute(undo, model, "all_tied_weights_keys", {})
    replace_attribute(undo, module.MAG_BertModel, "get_head_mask", _head_mask)
    replace_attribute(
        undo, module.MAG_BertModel, "get_extended_attention_mask", _extended_attention_mask
    )


def _mctn_width(undo: ExitStack) -> None:
    """Let `output_dim` be the width of the widest modality, and pad text to it too.

    MCTN translates between the modalities, all padded to one width; it pads audio and vision alone.
    """
    model = import_module("MMSA.models.singleTask.MCTN").MCTN
    build, forward = model.__init__, model.forward

    @wraps(build)
    def build_with_width(self: nn.Module, config: Any) -> None:
        config.output_dim = max(config.get("feature_dims", [config.output_dim]))
        build(self, config)

    @wraps(forward)
    def forward_padded(
        self: Any, text: Tensor, audio: Tensor, vision: Tensor, *rest: Any, **options: Any
    ) -> Any:
        if not self.use_bert:
            width = max(text.shape[2], audio.shape[2], vision.shape[2])
            text = functional.pad(text, (0, width - text.shape[2]))
        return forward(self, text, audio, vision, *rest, **options)

    replace_attribute(undo, model, "__init__", build_with_width)
    replace_attribute(undo, model, "forward", forward_padded)


def _tfr_net_temporal_heads(undo: ExitStack) -> None:
    """Use the configured number of heads over time, or the largest below it that fits."""
    model = import_module("MMSA.models.missingTask.TFR_NET.model").TFR_NET
    build = model.__init__

    @wraps(build)
    def build_with_heads(self: nn.Module, args: Any) -> None:
        wanted, lengths = args.num_temporal_head, list(args.seq_lens)
        heads = next(n for n in range(wanted, 0, -1) if not any(step % n for step in lengths))
        if heads != wanted:
            logger.warning(
                "tfr_net: num_temporal_head=%d does not divide the lengths %s; %d is used.",
                wanted,
                lengths,
                heads,
            )
            args.num_temporal_head = heads
        build(self, args)

    replace_attribute(undo, model, "__init__", build_with_heads)


def _batch_of_one(undo: ExitStack) -> None:
    """Keep the dimension of samples where a batch holds a single one."""

    def keep(forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def kept(self: nn.Module, first: Tensor, *rest: Tensor) -> Any:
            output = forward(self, first, *rest)
            if isinstance(output, dict):
                return {key: value.reshape(len(first), -1) for key, value in output.items()}
            return output.reshape(len(first), -1)

        return kept

    for module, name in (
        ("singleTask.EF_LSTM", "EF_LSTM"),
        ("multiTask.MLF_DNN", "TextSubNet"),
        ("multiTask.MTFN", "TextSubNet"),
        ("multiTask.MLMF", "TextSubNet"),
    ):
        patched = getattr(import_module(f"MMSA.models.{module}"), name)
        replace_attribute(undo, patched, "forward", keep(patched.forward))


def _graph_mfn_checkpoint(undo: ExitStack) -> None:
    """Put the graph's untrained networks into the weights that are saved.

    The buffers share memory with the networks, so that loading weights loads these too; no
    optimiser sees a buffer.
    """
    graph = import_module("MMSA.models.singleTask.Graph_MFN").DynamicFusionGraph
    build = graph.__init__

    @wraps(build)
    def build_with_buffers(self: Any, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        for key, network in self.networks.items():
            node = "".join(map(str, key))
            for name, parameter in network.named_parameters():
                self.register_buffer(f"node{node}_{name.replace('.', '_')}", parameter.data)
        self.register_load_state_dict_pre_hook(_fill_in_networks)

    replace_attribute(undo, graph, "__init__", build_with_buffers)


def _fill_in_networks(graph: nn.Module, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Let checkpoints load that were written without the graph's networks."""
    missing = {
        f"{prefix}{name}": value
        for name, value in graph.named_buffers(recurse=False)
        if f"{prefix}{name}" not in weights
    }
    if missing:
        logger.warning(
            "This checkpoint of graph_mfn was written by MMSA alone, which leaves networks of the "
            "fusion graph out: they are random, and predictions differ from those of its training."
        )
        weights.update(missing)


def _undefined_metrics(undo: ExitStack) -> None:
    """Give NaN for what is not defined on the labels: classes of no samples, and correlations.

    MMSA's code asks for the positions of labels that are not 0, for accuracy and F1 on these, and
    for the correlation, of which numpy warns at a single sample and where all labels are the same.
    """
    module = import_module("MMSA.utils.metricsTop")

    def positions(values: list[int]) -> NDArray[Any]:
        return np.array(values, dtype=None if values else np.intp)

    def correlation(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
        if len(first) < 2:
            return np.full((2, 2), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            matrix: NDArray[np.float64] = np.corrcoef(first, second)
        return matrix

    def of_some(score: Callable[..., float]) -> Callable[..., float]:
        @wraps(score)
        def scored(first: NDArray[Any], second: NDArray[Any], **options: Any) -> float:
            return score(first, second, **options) if len(first) else math.nan

        return scored

    numpy = ModuleProxy(np, array=positions, corrcoef=correlation)
    replace_attribute(undo, module, "np", numpy)
    for name in ("accuracy_score", "f1_score"):
        replace_attribute(undo, module, name, of_some(getattr(module, name)))


SHIMS: tuple[Shim, ...] = (
    Shim(
        "run_on_cpu",
        "MMSA.run calls torch.cuda.set_device with the CPU device, which raises ValueError.",
        _run_on_cpu,
    ),
    Shim(
        "accept_verbose_scheduler",
        "Trainers of mult, mmim and tfr_net pass verbose= to ReduceLROnPlateau, which current "
        "torch no longer accepts.",
        _accept_verbose_scheduler,
    ),
    Shim(
        "define_results_before_logging",
        "Trainers of mlf_dnn, mtfn and mlmf log `train_results` before it is assigned.",
        _define_results_before_logging,
    ),
    Shim(
        "mctn_device",
        "mctn moves its decoder's outputs to 'cuda', whatever device it runs on.",
        _mctn_device,
    ),
    Shim(
        "bert_mag_on_transformers_5",
        "bert_mag relies on get_head_mask, get_extended_attention_mask and on no "
        "all_tied_weights_keys being needed; transformers 5 removed the first two.",
        _bert_mag_on_transformers_5,
    ),
    Shim(
        "bert_mag_encoder",
        "bert_mag loads a hard-coded encoder from the hub and ignores `pretrained`.",
        encoder_shims.bert_mag_encoder,
    ),
    Shim(
        "tfr_net_encoder",
        "tfr_net ignores `pretrained` and loads bert-base-uncased, also for Chinese text.",
        encoder_shims.tfr_net_encoder,
    ),
    Shim(
        "encoder_width",
        "MMSA's loader, misa and self_mm take every text encoder to be 768 wide; misa, self_mm, "
        "mmim, bert_mag and tfr_net fail with any other.",
        encoder_shims.encoder_width_everywhere,
    ),
    Shim(
        "unknown_token",
        "MMSA's loader puts id 100, BERT's [UNK], for a missing token; tfr_net needs the unknown "
        "token of the encoder it reads with.",
        encoder_shims.unknown_token,
    ),
    Shim(
        "encoder_kind",
        "MMSA builds a BERT, or by `transformers` a RoBERTa, of any encoder, leaves weights random "
        "that are missing or of another kind, and tries for minutes to get what cannot be had.",
        encoder_shims.encoder_kind,
    ),
    Shim(
        "mctn_width",
        "mctn takes `output_dim` (768) for the width of the text features, and these for the "
        "widest of the three.",
        _mctn_width,
    ),
    Shim(
        "tfr_net_temporal_heads",
        "tfr_net divides the sequence lengths by 25 heads over time, which its own configuration "
        "of sims cannot: 39 tokens, 400 and 55 frames.",
        _tfr_net_temporal_heads,
    ),
    Shim(
        "batch_of_one",
        "ef_lstm, mlf_dnn, mtfn and mlmf squeeze the dimension of samples away where the last "
        "batch holds a single one.",
        _batch_of_one,
    ),
    Shim(
        "graph_mfn_checkpoint",
        "graph_mfn keeps networks outside of its parameters, so that weights loaded elsewhere do "
        "not give its predictions back.",
        _graph_mfn_checkpoint,
    ),
    Shim(
        "file_gaps",
        "MMSA's loader fails where a file has no lengths or holds lists for arrays, its models "
        "where a length is 0 or a feature is NaN.",
        hand_over,
    ),
    Shim(
        "undefined_metrics",
        "MMSA's metrics raise IndexError where every label is 0.",
        _undefined_metrics,
    ),
)
