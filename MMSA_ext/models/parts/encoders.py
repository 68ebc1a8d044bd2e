"""Modality encoders (DashFusion section III-B): token ids or frames in, width-d sequences out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MMSA_ext.errors import FeatureFileError, TextEncoderError
from MMSA_ext.models.parts.attention import Activation, TransformerLayer, masked_mean
from MMSA_ext.models.parts.dropout import Dropout, replace_dropout
from MMSA_ext.models.parts.packed_text import encode_packed, is_packable, prepare_packing
from MMSA_ext.models.parts.packing import Packing, Ragged, groups_on
from MMSA_ext.text_encoders import build_text_encoder, load_text_encoder

ProjectorKind = Literal["linear", "mlp"]
TextPooling = Literal["pooler", "first", "mean"]


def in_length_groups(
    encode: Callable[[Tensor, Tensor], Tensor], sequence: Tensor, mask: Tensor, groups: int
) -> Tensor:
    """Encode a ragged batch in groups of similar length, so that little padding is computed.

    Changes no result where `encode` is padding-invariant.

    Args:
        encode: Maps `(b, l, ...)` and a mask `(b, l)` to `(b, l', D)` with l' - l constant.
        sequence: `(B, L, ...)`.
        mask: `(B, L)`, True where valid.
        groups: Number of groups as `groups_on` has it.

    Returns:
        `(B, L', D)`, padded with zeros, in the order of the batch.
    """
    groups = groups_on(mask.device, groups)
    if groups < 2 or len(sequence) < 2 * groups:
        return encode(sequence, mask)
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask * positions).amax(dim=1)  # up to the last valid position
    order = torch.argsort(lengths)
    parts = []
    for rows in order.tensor_split(groups):
        length = int(lengths[rows[-1]])
        parts.append(encode(sequence[rows, :length], mask[rows, :length]))
    longest = max(part.shape[1] for part in parts)
    padded = torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
    return padded[torch.argsort(order)]


class PretrainedText(nn.Module):
    """A pre-trained text encoder under `encoder`; base of what reads its last hidden states.

    Args:
        pretrained: Hugging Face name, folder, or `minilm`.
        random_init: Random weights in the named architecture.
        architecture: Architecture as a dictionary; if given, no file is read (checkpoints).
        length_groups: Groups of similar length, see `Packing`; encoders of other families than
            BERT's encode them apart, see `in_length_groups`.
        pooling_layer: Keep the encoder's pooling layer.

    Raises:
        TextEncoderError: If the encoder cannot be loaded, or lacks a pooling layer that is asked
            for.
    """

    _leading_rows = 0  # that `_encode` puts before those of the tokens

    def __init__(
        self,
        pretrained: str,
        *,
        random_init: bool = False,
        architecture: dict[str, Any] | None = None,
        length_groups: int = 1,
        pooling_layer: bool = False,
    ) -> None:
        super().__init__()
        self.length_groups = length_groups
        self.encoder = (
            load_text_encoder(pretrained, random_init=random_init, pooling_layer=pooling_layer)
            if architecture is None
            else build_text_encoder(architecture, pooling_layer=pooling_layer)
        )
        replace_dropout(self.encoder)
        prepare_packing(self.encoder)

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's hidden states."""
        return int(self.encoder.config.hidden_size)

    def layers(self) -> nn.ModuleList | None:
        """The encoder's Transformer layers; None if the architecture has no list of them."""
        count = self.encoder.config.num_hidden_layers
        lists = (m for m in self.encoder.modules() if isinstance(m, nn.ModuleList))
        return next((layers for layers in lists if len(layers) == count), None)

    def check_tokens(self, text_bert: np.ndarray, source: str) -> None:
        """Compare token ids `(n, 3, L)` with what the encoder can read.

        Raises:
            FeatureFileError: If an id is not in the vocabulary, or the text is too long.
        """
        config = self.encoder.config
        largest = int(text_bert[:, 0].max(initial=0))
        longest = int(text_bert[:, 1].sum(axis=-1).max(initial=0))
        problems = []
        if largest >= config.vocab_size:
            problems.append(
                f"token id {largest}, but the encoder's vocabulary has {config.vocab_size} entries"
            )
        if longest > (limit := getattr(config, "max_position_embeddings", longest)):
            problems.append(f"a text of {longest} tokens, but the encoder reads at most {limit}")
        if problems:
            raise FeatureFileError(
                f"{source}, key 'text_bert': {'; '.join(problems)}. Tokenise the file for this "
                "encoder with `mmsa-ext encode-text`, or choose its own encoder by 'pretrained'."
            )

    def _hidden(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """What `_encode` says of text `(B, 3, L)`, padded to its full length, and the mask."""
        tokens = text.long().transpose(1, 2)
        mask = tokens[..., 1].bool()
        if groups_on(mask.device, self.length_groups) > 1 and is_packable(self.encoder):
            return self._encode_packed(tokens, mask), mask
        hidden = in_length_groups(self._encode, tokens, mask, self.length_groups)
        missing = self._leading_rows + mask.shape[1] - hidden.shape[1]
        return F.pad(hidden, (0, 0, 0, missing)), mask

    def _encode_packed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return encode_packed(self.encoder, tokens, mask, self.length_groups)

    def _encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self._run(tokens, mask).last_hidden_state
        return hidden

    def _run(self, tokens: Tensor, mask: Tensor) -> Any:
        # Of a mask `(B, L)` transformers asks whether all of it is True, and waits for the device.
        seen = mask[:, None, None] if is_packable(self.encoder) else mask
        return self.encoder(
            input_ids=tokens[..., 0], attention_mask=seen, token_type_ids=tokens[..., 2]
        )


class TextStates(PretrainedText):
    """A pre-trained text encoder's last hidden states, those of padding included."""

    def forward(self, text: Tensor, length: int = 0) -> tuple[Tensor, Tensor]:
        """Encode tokens.

        Args:
            text: `(B, 3, L)`, as for `TextEncoder`.
            length: Pad the text to this length before; not read where it is as long.

        Returns:
            Hidden states `(B, L, H)`, and their mask `(B, L)`.
        """
        missing = max(0, length - text.shape[2])
        padding = text.new_zeros(text.shape[0], 3, missing)
        padding[:, 0] = self.encoder.config.pad_token_id or 0
        return self._hidden(torch.cat([text, padding], dim=2))


def padded_frames(frames: Tensor, mask: Tensor | None, length: int) -> Tensor:
    """Frames `(B, L, d)` with zeros where they are not valid, and up to `length` of them."""
    if mask is not None:
        frames = frames * mask.unsqueeze(-1)
    return F.pad(frames, (0, 0, 0, max(0, length - frames.shape[1])))


class TextEncoder(PretrainedText):
    """Pre-trained text encoder, fine-tuned, and its projection to width `dim`.

    Args:
        dim: Output width d.
        pretrained: Hugging Face name, folder, or `minilm`.
        projector: `linear`: Linear to d, LayerNorm. `mlp` (released): two bias-free linear layers
            with GELU, LayerNorm.
        random_init: As in `PretrainedText`.
        architecture: As in `PretrainedText`.
        length_groups: As in `PretrainedText`.
    """

    def __init__(
        self,
        dim: int,
        pretrained: str,
        *,
        projector: ProjectorKind = "linear",
        random_init: bool = False,
        architecture: dict[str, Any] | None = None,
        length_groups: int = 1,
    ) -> None:
        super().__init__(
            pretrained,
            random_init=random_init,
            architecture=architecture,
            length_groups=length_groups,
        )
        hidden = self.hidden_size
        if projector == "linear":
            layers = [nn.Linear(hidden, dim), nn.LayerNorm(dim)]
        else:
            layers = [
                nn.Linear(hidden, dim, bias=False),
                nn.GELU(),
                nn.Linear(dim, dim, bias=False),
                nn.GELU(),
                nn.LayerNorm(dim),
            ]
        self.projector = nn.Sequential(*layers)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Encode tokens.

        Args:
            text: `(B, 3, L)`: token ids, mask and segment ids in MMSA's layout, any numeric dtype.

        Returns:
            Features `(B, L, d)`, zero at padding, and their mask `(B, L)`.
        """
        hidden, mask = self._hidden(text)
        return self.projector(hidden) * mask.unsqueeze(-1), mask


class PooledTextEncoder(PretrainedText):
    """Pre-trained text encoder, read as it is: its last hidden states and one vector a text.

    Args:
        pretrained: Hugging Face name, folder, or `minilm`.
        pooling: The vector: `pooler` is the encoder's own pooling layer (BERT: tanh of a linear
            layer on the first token), `first` the first token, `mean` the masked mean.
        random_init: As in `PretrainedText`.
        architecture: As in `PretrainedText`.
        length_groups: As in `PretrainedText`.
    """

    _leading_rows = 1

    def __init__(
        self,
        pretrained: str,
        *,
        pooling: TextPooling = "pooler",
        random_init: bool = False,
        architecture: dict[str, Any] | None = None,
        length_groups: int = 1,
    ) -> None:
        super().__init__(
            pretrained,
            random_init=random_init,
            architecture=architecture,
            length_groups=length_groups,
            pooling_layer=pooling == "pooler",
        )
        self.pooling = pooling

    def last_layer(self) -> nn.Module:
        """The encoder's last Transformer layer.

        Raises:
            TextEncoderError: If the architecture keeps its layers in no list of their own.
        """
        layers = self.layers()
        if layers is None:
            raise TextEncoderError(
                f"{type(self.encoder).__name__} has no list of layers to take the last one from; "
                "set stage_one.text.finetuning to 'all'."
            )
        return layers[-1]

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode tokens.

        Args:
            text: `(B, 3, L)`, as for `TextEncoder`.

        Returns:
            The vector `(B, H)`; the last hidden states `(B, L, H)`, zero at padding; their mask
            `(B, L)`.
        """
        rows, mask = self._hidden(text)
        return rows[:, 0], rows[:, 1:] * mask.unsqueeze(-1), mask

    def _encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        output = self._run(tokens, mask)
        hidden: Tensor = output.last_hidden_state
        if self.pooling == "pooler":
            return _with_vector(output.pooler_output, hidden)
        return _with_vector(self._pooled(hidden, mask), hidden)

    def _encode_packed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = super()._encode_packed(tokens, mask)
        if self.pooling == "pooler":
            return _with_vector(self.encoder.pooler(hidden), hidden)
        return _with_vector(self._pooled(hidden, mask), hidden)

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, 0] if self.pooling == "first" else masked_mean(hidden, mask)


def _with_vector(vector: Tensor, hidden: Tensor) -> Tensor:
    return torch.cat([vector.unsqueeze(1), hidden], dim=1)


class FrameEncoder(nn.Module):
    """Transformer encoder of audio or vision frames with a class token and learned positions.

    Args:
        feature_dim: Width of a frame.
        dim: Output width d.
        max_length: Longest sequence in frames.
        layers: Layers of the Transformer.
        heads: Attention heads of each.
        feed_forward_dim: Hidden width of their feed-forward networks.
        activation: Activation of the feed-forward networks.
        embedding_dropout: Dropout after the positions are added.
        dropout: Dropout inside the layers.
        attention_dropout: Dropout on attention weights.
        final_norm: LayerNorm after the last layer (released).
        cloned_layers: All layers start as copies of the first, as those of
            `torch.nn.TransformerEncoder` do (released).
        length_groups: Groups of similar length, see `Packing`.
    """

    def __init__(
        self,
        feature_dim: int,
        dim: int,
        max_length: int,
        *,
        layers: int,
        heads: int,
        feed_forward_dim: int,
        activation: Activation = "relu",
        embedding_dropout: float = 0.1,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        final_norm: bool = False,
        cloned_layers: bool = False,
        length_groups: int = 1,
    ) -> None:
        super().__init__()
        self.length_groups = length_groups
        self.projection = nn.Linear(feature_dim, dim)
        self.class_token = nn.Parameter(torch.ones(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, max_length + 1, dim))
        self.embedding_dropout = Dropout(embedding_dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim,
                heads,
                feed_forward_dim,
                activation=activation,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
            for _ in range(layers)
        )
        if cloned_layers:
            for layer in self.layers[1:]:
                layer.load_state_dict(self.layers[0].state_dict())
        self.norm = nn.LayerNorm(dim) if final_norm else nn.Identity()

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Ragged:
        """Encode frames.

        Args:
            frames: `(B, L, feature_dim)`, float.
            mask: `(B, L)`, True where valid; valid frames come first. None if all are.

        Returns:
            Features of B samples of up to 1 + L positions, the class token first, width d.

        Raises:
            ValueError: If the sequence is longer than the position table.
        """
        if frames.shape[1] >= self.positions.shape[1]:
            raise ValueError(
                f"{frames.shape[1]} frames, but the model was built for at most "
                f"{self.positions.shape[1] - 1}; cut the sequences or set seq_lens and retrain."
            )
        if mask is None:
            mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        with_class = F.pad(mask, (1, 0), value=True)
        packing = Packing.of(with_class, self.length_groups)
        # The class token's place is kept by a frame of zeros.
        x = self.projection(packing.pack(F.pad(frames, (0, 0, 1, 0))))
        x = torch.where((packing.within == 0).unsqueeze(-1), self.class_token[0], x)
        x = self.embedding_dropout(x + F.embedding(packing.within, self.positions[0]))
        for layer in self.layers:
            x = layer(x, source_mask=packing)
        return Ragged(self.norm(x) * packing.pack(with_class.unsqueeze(-1)), packing)
