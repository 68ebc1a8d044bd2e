"""BERT on a packed batch: every layer runs once over all tokens, attention block by block.

transformers lets an attention function be chosen by name and hands it what the model was called
with; ours takes the `Packing` from there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from MMSA_ext.models.parts.attention import attend
from MMSA_ext.models.parts.packing import Packing

_NAME = "mmsa_ext_packed"
# Families whose positions are numbered from 0 and can be given.
_FAMILIES = frozenset({"bert"})


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in transformers' form: `(1, heads, R, head_dim)` in, `(1, R, heads, head_dim)` out.

    Called without a packing it is transformers' own.
    """
    if packing is None:
        mixed, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return mixed, None
    heads = query.shape[1]
    q, k, v = (x.transpose(1, 2).flatten(2).squeeze(0) for x in (query, key, value))
    packed = attend(
        q, k, v, packing, heads=heads, scale=options["scaling"], dropout=options["dropout"]
    )
    return packed.view(1, len(packed), heads, -1), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def prepare_packing(encoder: PreTrainedModel) -> None:
    """Make an encoder ready for `encode_packed`, if it is of a family that can be packed."""
    if encoder.config.model_type in _FAMILIES and not encoder.config.is_decoder:
        encoder.set_attn_implementation(_NAME)


def is_packable(encoder: PreTrainedModel) -> bool:
    """Whether an encoder was prepared, and has kept the attention function that this needs."""
    return bool(encoder.config._attn_implementation == _NAME)


def encode_packed(encoder: PreTrainedModel, tokens: Tensor, mask: Tensor, groups: int) -> Tensor:
    """Last hidden states of a ragged batch.

    Args:
        encoder: One that `is_packable`.
        tokens: `(B, L, 3)` int64: token ids, mask, segment ids.
        mask: `(B, L)` bool, True where valid.
        groups: Number of blocks, see `Packing`.

    Returns:
        `(B, L, H)`, zero behind the end of a sample's block.
    """
    packing = Packing.of(mask, groups)
    rows = packing.pack(tokens)
    hidden = encoder(
        input_ids=rows[None, :, 0],
        token_type_ids=rows[None, :, 2],
        position_ids=packing.within[None],
        packing=packing,
    ).last_hidden_state
    return packing.unpack(hidden.squeeze(0))
