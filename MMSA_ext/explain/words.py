"""The words behind token ids: names for the rows and columns of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Pieces that begin a word carry one of these in byte-pair and sentence-piece vocabularies; in
# WordPiece those that continue one carry `##`.
_WORD_STARTS = ("Ġ", "▁")
_CONTINUES = "##"
# Special tokens that frame a text; an unknown or masked word is a word.
_FRAME = ("cls", "sep", "pad", "bos", "eos")


@dataclass(frozen=True)
class Words:
    """The words of one tokenised text.

    Attributes:
        pieces: Name of every valid token, in order.
        words: The words, in order; Chinese text gives one word a character, as BERT reads it.
        index: `(len(pieces),)` int64, the word that a token is part of; -1 for those that frame the
            text, such as `[CLS]`.
    """

    pieces: tuple[str, ...]
    words: tuple[str, ...]
    index: NDArray[np.int64]


def words_of(tokenizer: Any, text_bert: NDArray[Any]) -> Words:
    """Read the words from token ids.

    Args:
        tokenizer: The text encoder's, of Hugging Face.
        text_bert: `(3, L)`: token ids, mask and segment ids of one text.
    """
    ids = text_bert[0][text_bert[1] > 0].astype(np.int64)
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(ids.tolist())]
    frame = {getattr(tokenizer, f"{name}_token_id", None) for name in _FRAME}
    return _joined(pieces, [int(i) in frame for i in ids])


def _joined(pieces: Sequence[str], special: Sequence[bool]) -> Words:
    marked = any(piece.startswith(_WORD_STARTS) for piece in pieces)
    words: list[str] = []
    index = np.full(len(pieces), -1, dtype=np.int64)
    follows = False  # whether there is a word that the next piece could continue
    for position, (piece, is_special) in enumerate(zip(pieces, special, strict=True)):
        if not is_special:
            if marked:
                continues = follows and not piece.startswith(_WORD_STARTS)
            else:
                continues = follows and piece.startswith(_CONTINUES)
            bare = piece.removeprefix(_CONTINUES).lstrip("".join(_WORD_STARTS))
            if continues:
                words[-1] += bare
            else:
                words.append(bare or piece)
            index[position] = len(words) - 1
        follows = not is_special
    return Words(tuple(pieces), tuple(words), index)
