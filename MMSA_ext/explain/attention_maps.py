"""Where the words of a text look: the weights of DashFusion's temporal alignment over time.

Temporal alignment (DashFusion eq. 4) lets every token of the text attend to the frames of audio and
of vision. The model computes it by a fused kernel that never holds the weights, and that stays so:
here the inputs of the alignment are caught by a hook in one ordinary forward pass, and the weights
are computed again from the module's own queries and keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from MMSA_ext import text_encoders
from MMSA_ext.errors import CheckpointError
from MMSA_ext.explain.trained_model import Call, TrainedModel
from MMSA_ext.explain.words import words_of
from MMSA_ext.models.dashfusion import DashFusion
from MMSA_ext.models.parts.attention import MultiSourceAttention
from MMSA_ext.models.parts.packing import Ragged


def attention_weights(
    attention: MultiSourceAttention,
    target: Tensor,
    sources: dict[str, Tensor],
    masks: Mapping[str, Tensor | None],
) -> dict[str, Tensor]:
    """The weights by which a target reads its sources.

    Args:
        attention: The module; its parameters are read, nothing else.
        target: `(B, T, D)`.
        sources: `(B, S_m, D)` by modality.
        masks: `(B, S_m)` bool by modality, True where valid; None if all are.

    Returns:
        By source `(B, heads, T, S_m)`: rows add up to one, zero at masked positions.
    """
    weights = {}
    for name in attention.sources:
        scale: float | None = None
        if attention.shared_query:
            query, key = attention.query(target), attention.keys[name](sources[name])
        else:
            module: Any = attention.attention[name]
            query, key, scale = module.query(target), module.key(sources[name]), module.scale
        weights[name] = _softmax(query, key, masks[name], attention.heads, scale)
    return weights


def _softmax(
    query: Tensor, key: Tensor, mask: Tensor | None, heads: int, scale: float | None
) -> Tensor:
    q, k = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key))
    logits: Tensor = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], -torch.inf)
    return logits.softmax(dim=-1)


def attention_maps(trained: TrainedModel) -> pd.DataFrame:
    """Attention of the text's tokens over the frames, of every sample.

    Args:
        trained: DashFusion with temporal alignment.

    Returns:
        One row a sample, modality, token and frame: `id`, `modality` (`audio`, `vision`), `token`
        (from 0, special tokens included), `piece` (its name), `frame` (from 0; -1 is the class
        token that the encoder puts in front), `valid` (False for padding, which only a model with
        `reading.padding=seen` attends to), `weight` (mean over heads) and `head_0`, `head_1`, ...
        Over the frames of a token each of these adds up to one.

    Raises:
        CheckpointError: The model has no temporal alignment.
        TextEncoderError: The tokenizer, which gives the words, cannot be loaded.
    """
    model = trained.core
    if not isinstance(model, DashFusion):
        raise CheckpointError(
            f"{trained.name} has no temporal alignment, whose attention could be shown; use a "
            "checkpoint of dashfusion."
        )
    if not model.config.temporal_alignment:
        raise CheckpointError(
            f"this {trained.name} was trained with temporal_alignment=false, so there is no "
            "attention over time to show; use one trained with it."
        )
    tokenizer = text_encoders.load_tokenizer(trained.args.pretrained)
    tables = [
        table for call in trained.calls for table in _maps_of(trained, model, call, tokenizer)
    ]
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def _maps_of(
    trained: TrainedModel, model: DashFusion, call: Call, tokenizer: Any
) -> list[pd.DataFrame]:
    caught: list[dict[str, Ragged]] = []
    alignment = model.temporal_alignment
    with alignment.register_forward_pre_hook(lambda module, given: caught.append(given[0])):
        model(*call.inputs)
    padded = {name: sequence.padded() for name, sequence in caught[0].items()}
    features = {name: x for name, (x, _) in padded.items()}
    masks = {name: mask for name, (_, mask) in padded.items()}
    weights = attention_weights(alignment.cross_attention, features["text"], features, masks)
    stacked = {name: w.float().cpu().numpy() for name, w in weights.items()}
    text = call.inputs[0].cpu().numpy()
    return [
        _table(trained.samples.iloc[row], name, stacked[name][position], text[position], tokenizer)
        for position, row in enumerate(call.rows)
        for name in stacked
    ]


def _table(
    sample: pd.Series, modality: str, weights: Any, text_bert: Any, tokenizer: Any
) -> pd.DataFrame:
    """Rows of one sample and modality; `weights` `(heads, T, S)`."""
    pieces = words_of(tokenizer, text_bert).pieces
    frames = np.arange(weights.shape[2]) - 1
    valid = frames < int(sample[f"{modality}_length"])
    # Padding that gets no attention is no part of the map.
    shown = valid | (weights[:, : len(pieces)].max(axis=(0, 1)) > 0)
    weights, frames, valid = weights[:, : len(pieces), shown], frames[shown], valid[shown]
    tokens = np.repeat(np.arange(len(pieces)), len(frames))
    heads = {f"head_{h}": part.reshape(-1) for h, part in enumerate(weights)}
    return pd.DataFrame(
        {
            "id": sample["id"],
            "modality": modality,
            "token": tokens,
            "piece": np.array(pieces, dtype=object)[tokens],
            "frame": np.tile(frames, len(pieces)),
            "valid": np.tile(valid, len(pieces)),
            "weight": weights.mean(axis=0).reshape(-1),
            **heads,
        }
    )
