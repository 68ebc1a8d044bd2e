"""Shims that let MMSA's models read with the text encoder that the configuration names.

MMSA takes every encoder for a BERT that is 768 wide, and two of its models load one of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial, wraps
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from MMSA_ext.errors import TextEncoderError
from MMSA_ext.mmsa_bridge.patching import replace_attribute
from MMSA_ext.text_encoders import (
    identity,
    load_config,
    load_text_encoder,
    load_tokenizer,
    load_weights,
    without_weights,
)

STATED_WIDTH = 768  # what MMSA takes for the hidden size of every text encoder
STATED_UNKNOWN_TOKEN = 100  # what MMSA puts for a missing token: BERT's [UNK]


def encoder_architecture(pretrained: str) -> PretrainedConfig | None:
    """Configuration of a text encoder, without its weights.

    Returns:
        None where the encoder cannot be found: what needs it says so when it loads it.
    """
    try:
        return _architecture(pretrained, identity(pretrained))
    except TextEncoderError:
        return None


@cache
def _architecture(pretrained: str, content: str) -> PretrainedConfig:
    """Looked up once for the same `content`."""
    with torch.device("meta"):  # the architecture alone: no weights, no memory, no random draw
        config: PretrainedConfig = load_text_encoder(pretrained, random_init=True).config
    return config


def encoder_width(args: Any) -> int:
    """Hidden size of the text encoder `args.pretrained`; MMSA's 768 where there is none."""
    config = encoder_architecture(args["pretrained"]) if "pretrained" in args else None
    return STATED_WIDTH if config is None else int(config.hidden_size)


def bert_mag_encoder(undo: ExitStack) -> None:
    """Let bert_mag load `args.pretrained`, whole."""
    model = import_module("MMSA.models.singleTask.BERT_MAG").MAG_BertForSequenceClassification
    stock = SimpleNamespace(from_pretrained=model.from_pretrained)

    def from_pretrained(cls: Any, /, name: str, *, args: Any, **options: Any) -> Any:
        name = args.get("pretrained", name)
        if without_weights():
            return cls(load_config(name, **options), args)
        own = ("bert.MAG.", "classifier.")  # what is not BERT's
        return load_weights(stock, name, spare=own, args=args, **options)

    replace_attribute(undo, model, "from_pretrained", classmethod(from_pretrained))


def tfr_net_encoder(undo: ExitStack) -> None:
    """Let tfr_net load `args.pretrained`, and lose tokens to that encoder's unknown token."""
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


def unknown_token(undo: ExitStack) -> None:
    """Replace missing tokens by the unknown token of `args.pretrained`, which in BERT is 100."""
    dataset = import_module("MMSA.data_loader").MMDataset
    generate = dataset.generate_m

    @wraps(generate)
    def generate_with_token(self: Any, *arguments: Any, mode: str = "text") -> Any:
        lost, length, mask, missing = generate(self, *arguments, mode=mode)
        if mode == "text":
            unknown = _unknown_token(getattr(self, "args", {}))  # MMSA's needs no instance
            lost = lost + (unknown - STATED_UNKNOWN_TOKEN) * (mask - missing)
        return lost, length, mask, missing

    replace_attribute(undo, dataset, "generate_m", generate_with_token)


def _unknown_token(args: Any) -> int:
    if "pretrained" not in args:
        return STATED_UNKNOWN_TOKEN
    try:
        token = load_tokenizer(args["pretrained"]).unk_token_id
    except TextEncoderError:
        return STATED_UNKNOWN_TOKEN
    return STATED_UNKNOWN_TOKEN if token is None else int(token)


def encoder_kind(undo: ExitStack) -> None:
    """Load encoders whole, and those that are not of the kind `args.transformers` as they are."""
    module = import_module("MMSA.models.subNets.BertTextEncoder")
    encoder = module.BertTextEncoder
    build, encode = encoder.__init__, encoder.forward
    loaders = {
        kind: (
            SimpleNamespace(from_pretrained=partial(_whole_model, model)),
            SimpleNamespace(from_pretrained=partial(load_tokenizer, kind=tokenizer)),
        )
        for kind, (model, tokenizer) in module.TRANSFORMERS_MAP.items()
    }

    @wraps(build)
    def build_kind(
        self: Any,
        use_finetune: bool = False,
        transformers: str = "bert",
        pretrained: str = "bert-base-uncased",
    ) -> None:
        config = encoder_architecture(pretrained)
        if config is None or config.model_type == transformers:
            build(self, use_finetune, transformers, pretrained)
            return
        nn.Module.__init__(self)
        self.tokenizer = load_tokenizer(pretrained)
        self.model = load_text_encoder(pretrained)
        self.use_finetune = use_finetune

    @wraps(encode)
    def encode_kind(self: Any, text: Tensor) -> Tensor:
        if "token_type_ids" in inspect.signature(self.model.forward).parameters:
            hidden: Tensor = encode(self, text)
        else:
            with torch.set_grad_enabled(self.use_finetune and torch.is_grad_enabled()):
                hidden = self.model(input_ids=text[:, 0].long(), attention_mask=text[:, 1])[0]
        return hidden

    replace_attribute(undo, module, "TRANSFORMERS_MAP", loaders)
    replace_attribute(undo, encoder, "__init__", build_kind)
    replace_attribute(undo, encoder, "forward", encode_kind)


def _whole_model(kind: Any, name: str) -> Any:
    """`kind.from_pretrained`, which leaves random what the weights lack; only the pooler may be."""
    if without_weights():
        return kind(load_config(name))
    return load_weights(kind, name, spare=("pooler.",))


def encoder_width_everywhere(undo: ExitStack) -> None:
    """In the loader's feature dimensions, and in the two models that have a number of their own."""

    def dataset(read: Callable[..., None]) -> Callable[..., None]:
        @wraps(read)
        def read_with_width(self: Any, args: Any, *rest: Any, **options: Any) -> None:
            read(self, args, *rest, **options)
            if args.get("use_bert"):
                args["feature_dims"][0] = encoder_width(args)

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
                args.text_out = encoder_width(args)
            build(self, args)

        return build_with_width

    for module, name, with_width in (
        ("MMSA.data_loader", "MMDataset", dataset),
        ("MMSA.models.singleTask.MISA", "MISA", misa),
        ("MMSA.models.multiTask.SELF_MM", "SELF_MM", self_mm),
    ):
        patched = getattr(import_module(module), name)
        replace_attribute(undo, patched, "__init__", with_width(patched.__init__))
