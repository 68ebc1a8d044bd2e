"""What MMSA 2.2.1 needs to run on current libraries and any text encoder, one named shim a defect.

A shim changes one name in one module of MMSA (or one attribute of one of its classes), nothing
global, and no number: where MMSA ran before, it computes the same. The tests show for each that
MMSA still fails without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from MMSA_ext.errors import TextEncoderError
from MMSA_ext.mmsa_bridge.patching import ModuleProxy, replace_attribute
from MMSA_ext.text_encoders import load_text_encoder


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


def _bert_mag_encoder(undo: ExitStack) -> None:
    model = import_module("MMSA.models.singleTask.BERT_MAG").MAG_BertForSequenceClassification
    load = model.from_pretrained

    def from_pretrained(cls: Any, /, name: str, *, args: Any, **options: Any) -> Any:
        return load(args.get("pretrained", name), args=args, **options)

    replace_attribute(undo, model, "from_pretrained", classmethod(from_pretrained))


def _tfr_net_encoder(undo: ExitStack) -> None:
    module = import_module("MMSA.models.missingTask.TFR_NET.model")
    model, encoder = module.TFR_NET, module.BertTextEncoder
    build = model.__init__

    @wraps(build)
    def build_with_encoder(self: nn.Module, args: Any) -> None:
        options = {"pretrained": args.pretrained} if "pretrained" in args else {}
        with ExitStack() as restore:
            replace_attribute(restore, module, "BertTextEncoder", partial(encoder, **options))
            build(self, args)

    replace_attribute(undo, model, "__init__", build_with_encoder)


STATED_WIDTH = 768  # what MMSA takes for the hidden size of every text encoder


def _encoder_width(args: Any) -> int:
    """Hidden size of the text encoder `args.pretrained`.

    MMSA's 768 where the configuration names none or it cannot be found: the model that needs it
    says so when it loads it.
    """
    if "pretrained" not in args:
        return STATED_WIDTH
    try:
        with torch.device("meta"):  # the architecture alone: no weights, no memory, no random draw
            return int(load_text_encoder(args["pretrained"], random_init=True).config.hidden_size)
    except TextEncoderError:
        return STATED_WIDTH


def _encoder_width_everywhere(undo: ExitStack) -> None:
    """In the loader's feature dimensions, and in the two models that have a number of their own."""

    def dataset(read: Callable[..., None]) -> Callable[..., None]:
        @wraps(read)
        def read_with_width(self: Any, args: Any, *rest: Any, **options: Any) -> None:
            read(self, args, *rest, **options)
            if args.get("use_bert"):
                args["feature_dims"][0] = _encoder_width(args)

        return read_with_width

    def misa(build: Callable[..., None]) -> Callable[..., None]:
        @wraps(build)
        def build_with_width(self: Any, config: Any) -> None:
            build(self, config)
            projection = self.project_t.project_t
            width = self.bertmodel.model.config.hidden_size
            if projection.in_features != width:
                self.project_t.project_t = nn.Linear(width, projection.out_features)

        return build_with_width

    def self_mm(build: Callable[..., None]) -> Callable[..., None]:
        @wraps(build)
        def build_with_width(self: Any, args: Any) -> None:
            if args.text_out == STATED_WIDTH:
                args.text_out = _encoder_width(args)
            build(self, args)

        return build_with_width

    for module, name, with_width in (
        ("MMSA.data_loader", "MMDataset", dataset),
        ("MMSA.models.singleTask.MISA", "MISA", misa),
        ("MMSA.models.multiTask.SELF_MM", "SELF_MM", self_mm),
    ):
        patched = getattr(import_module(module), name)
        replace_attribute(undo, patched, "__init__", with_width(patched.__init__))


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
        _bert_mag_encoder,
    ),
    Shim(
        "tfr_net_encoder",
        "tfr_net ignores `pretrained` and loads bert-base-uncased, also for Chinese text.",
        _tfr_net_encoder,
    ),
    Shim(
        "encoder_width",
        "MMSA's loader, misa and self_mm take every text encoder to be 768 wide; misa, self_mm, "
        "mmim, bert_mag and tfr_net fail with any other.",
        _encoder_width_everywhere,
    ),
)
