"""MMSA's own models in a faster form (`fast=true`): the same functions, other dropout masks.

MMSA's models pad every text to the file's length and encode all of it, and MulT holds all attention
weights. `fast_form` changes which classes MMSA's code finds while it builds a model: a text encoder
that computes no padding, and `fast_mult`'s attention. Parameters keep their names. Predictions in
evaluation are equal up to rounding. In training dropout draws other masks of the same distribution
(on a CPU to 1/65536, see `parts.dropout`).

The encoder is left alone where a model reads its output at padding (MCTN, TFR-Net, and MulT with
`use_bert`): a padded position has an embedding of its own, so that its output costs what a word's
does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.hosts.fast_mult import FastLayer, read_last_position
from MMSA_ext.models.parts.dropout import replace_dropout
from MMSA_ext.models.parts.encoders import in_length_groups
from MMSA_ext.models.parts.packed_text import encode_packed, is_packable, prepare_packing
from MMSA_ext.models.parts.packing import Packing
from MMSA_ext.registry import host_of

_BertTextEncoder: Any = import_module("MMSA.models.subNets").BertTextEncoder
_MAGBertModel: Any = import_module("MMSA.models.singleTask.BERT_MAG").MAG_BertModel
# Blocks of similar length, see `Packing`; more than 8 save no more.
_GROUPS = 8


class PackedTextEncoder(_BertTextEncoder):  # type: ignore[misc]  # MMSA is untyped
    """MMSA's text encoder without padding, where the output is 0."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        replace_dropout(self.model)
        prepare_packing(self.model)

    def forward(self, text: Tensor) -> Tensor:
        """Encode tokens.

        Args:
            text: `(B, 3, L)`: token ids, mask and segment ids.

        Returns:
            Last hidden states `(B, L, H)`, 0 at padding.
        """
        tokens = text.long().transpose(1, 2)
        mask = tokens[..., 1].bool()
        with torch.set_grad_enabled(self.use_finetune and torch.is_grad_enabled()):
            if is_packable(self.model):
                return encode_packed(self.model, tokens, mask, _GROUPS)
            hidden = in_length_groups(self._encode, tokens, mask, _GROUPS)
            return F.pad(hidden, (0, 0, 0, mask.shape[1] - hidden.shape[1]))

    def _encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = super().forward(tokens.transpose(1, 2))
        return hidden


class PackedMAGBert(_MAGBertModel):  # type: ignore[misc]  # MMSA is untyped
    """MMSA's BERT with a multimodal adaptation gate, without padding: only its first token is read.

    The gate treats every position alike, so that it runs on the packed rows too.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        replace_dropout(self)
        prepare_packing(self)

    def forward(
        self,
        input_ids: Tensor,
        visual: Tensor,
        acoustic: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        **unused: Any,
    ) -> tuple[Tensor, Tensor]:
        """Encode tokens with their frames.

        Args:
            input_ids: `(B, L)`.
            visual: `(B, L, d_v)`, aligned with the tokens.
            acoustic: `(B, L, d_a)`, likewise.
            attention_mask: `(B, L)`, 1 where valid.
            token_type_ids: `(B, L)`.
            unused: What MMSA passes beyond it: None.

        Returns:
            Last hidden states of the packed rows `(1, R, H)`, and the pooled first tokens `(B, H)`.
        """
        packing = Packing.of(attention_mask.bool(), _GROUPS)

        def rows(x: Tensor) -> Tensor:
            return packing.pack(x).unsqueeze(0)

        words = self.embeddings(
            input_ids=rows(input_ids),
            token_type_ids=rows(token_type_ids),
            position_ids=packing.within.unsqueeze(0),
        )
        fused = self.MAG(words, rows(visual), rows(acoustic))
        states = self.encoder(fused, packing=packing)[0]
        first = states[0].index_select(0, packing.starts)
        return states, self.pooler(first.unsqueeze(1))


def _packed_text(module: str) -> Callable[[ExitStack], None]:
    def replace(undo: ExitStack) -> None:
        mmsa_bridge.replace_attribute(
            undo, import_module(module), "BertTextEncoder", PackedTextEncoder
        )

    return replace


def _packed_mag(undo: ExitStack) -> None:
    module = import_module("MMSA.models.singleTask.BERT_MAG")
    mmsa_bridge.replace_attribute(undo, module, "MAG_BertModel", PackedMAGBert)


def _mult(undo: ExitStack) -> None:
    module = import_module("MMSA.models.subNets.transformers_encoder.transformer")
    mmsa_bridge.replace_attribute(undo, module, "TransformerEncoderLayer", FastLayer)
    read_last_position(undo)


# By model, what its code finds in place of MMSA's classes.
_FORMS: Mapping[str, Callable[[ExitStack], None]] = {
    "bert_mag": _packed_mag,
    "misa": _packed_text("MMSA.models.singleTask.MISA"),
    "mmim": _packed_text("MMSA.models.singleTask.MMIM"),
    "mult": _mult,
    "self_mm": _packed_text("MMSA.models.multiTask.SELF_MM"),
}


@contextmanager
def fast_form(args: Any) -> Iterator[None]:
    """Inside, MMSA builds the model of `args` in its faster form, if they ask for it.

    Args:
        args: MMSA's `args`, of one of its models or of a variant of one.
    """
    with ExitStack() as undo:
        if args.get("fast"):
            name = str(args["model_name"])
            _FORMS[host_of(name) or name](undo)
        yield
