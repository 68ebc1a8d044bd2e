"""The words behind token ids."""

import numpy as np
import pytest

from MMSA_ext.explain.words import words_of


class Tokenizer:
    """Ids are positions in the vocabulary."""

    pad_token_id, cls_token_id, sep_token_id = 0, 2, 3
    bos_token_id = eos_token_id = None

    def __init__(self, *pieces):
        self.vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]

    def convert_ids_to_tokens(self, ids):
        return [self.vocabulary[i] for i in ids]


def text(*ids, padding=2):
    mask = [1] * len(ids) + [0] * padding
    return np.array([[*ids, *[0] * padding], mask, [0] * len(mask)], dtype=np.float32)


def test_word_pieces_make_one_word_and_special_tokens_none():
    words = words_of(Tokenizer("un", "##believ", "##able", "!"), text(2, 4, 5, 6, 7, 3))
    assert words.pieces == ("[CLS]", "un", "##believ", "##able", "!", "[SEP]")
    assert words.words == ("unbelievable", "!")
    assert words.index.tolist() == [-1, 0, 0, 0, 1, -1]


@pytest.mark.parametrize("mark", ["Ġ", "▁"])
def test_marked_beginnings_make_words_too(mark):
    words = words_of(Tokenizer("so", f"{mark}gr", "eat"), text(2, 4, 5, 6, 3))
    assert words.words == ("so", "great")
    assert words.index.tolist() == [-1, 0, 1, 1, -1]


def test_chinese_gives_a_word_a_character_in_order():
    words = words_of(Tokenizer("很", "好", "看"), text(2, 4, 5, 6, 3))
    assert words.words == ("很", "好", "看")


def test_an_unknown_word_is_a_word_and_a_lone_continuation_begins_one():
    words = words_of(Tokenizer("##s"), text(2, 4, 1, 3))
    assert words.words == ("s", "[UNK]")
    assert words.index.tolist() == [-1, 0, 1, -1]
