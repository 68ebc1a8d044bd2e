"""Words, token ids and an offline text encoder for generated data.

Every word is one WordPiece of ``bert-base-uncased`` (Chinese: one character, one token of
``bert-base-chinese``), so that a sentence means the same to a pre-trained encoder, to the built-in
vocabulary and to the encoder of `write_tiny_encoder`, and a word's position is its token's.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.names import SPLITS

# The layout of BERT's own vocabulary: MMSA's corruption of text writes 100 for an unknown word.
PAD, CLS, SEP = 0, 101, 102
SPECIAL_TOKENS = (
    "[PAD]",
    *(f"[unused{i}]" for i in range(99)),
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
)
SENTIMENT_LEVELS = (-3, -2, -1, 1, 2, 3)
SYNONYMS = 2


@dataclass(frozen=True)
class Lexicon:
    """Words of one language.

    Attributes:
        separator: What stands between two words in a sentence.
        neutral: Words without sentiment.
        sentiment: For every level of `SENTIMENT_LEVELS`, in its order, `SYNONYMS` words.
        straight: Markers that leave the sign of the cue that accompanies them.
        inverted: Markers that turn the sign of the cue that accompanies them.
    """

    separator: str
    neutral: tuple[str, ...]
    sentiment: tuple[str, ...]
    straight: tuple[str, ...]
    inverted: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All words; the order is that of the built-in vocabulary."""
        return self.neutral + self.sentiment + self.straight + self.inverted

    def split(self, sentence: str) -> list[str]:
        """Words of a sentence: by spaces, or its characters where words are not separated."""
        return sentence.split() if self.separator else [c for c in sentence if not c.isspace()]


def _lexicon(separator: str, words: str, sentiment: str, straight: str, inverted: str) -> Lexicon:
    groups = (words, sentiment, straight, inverted)
    return Lexicon(separator, *(tuple(group.split() if separator else group) for group in groups))


ENGLISH = _lexicon(
    " ",
    "the a this that movie film story scene actor music plot camera voice room street people "
    "man woman we they i you it was is with and of in on about then when there end time day "
    "place thing work",
    "awful terrible bad poor dull slow fine okay good nice wonderful amazing",
    straight="really truly",
    inverted="hardly barely",
)
CHINESE = _lexicon(
    "",
    "我你他她们今天看说话来去家人事里上下和在的了吗呢门车水饭书电",
    "糟惨坏烂差怪行顺好妙棒赞",
    straight="真很",
    inverted="反假",
)


@cache
def vocabulary() -> tuple[str, ...]:
    """Return the built-in vocabulary; a token's id is its index.

    Ids 0 to 103 are laid out as in BERT (``[PAD]`` 0, ``[UNK]`` 100, ``[CLS]`` 101, ``[SEP]`` 102,
    ``[MASK]`` 103), then the English words, then the Chinese characters.
    """
    return (*SPECIAL_TOKENS, *ENGLISH.words, *CHINESE.words)


@cache
def word_ids(lexicon: Lexicon) -> NDArray[np.int64]:
    """Return the built-in token id of every word of ``lexicon.words``."""
    index = {token: i for i, token in enumerate(vocabulary())}
    return np.array([index[word] for word in lexicon.words], dtype=np.int64)


def compose(
    rng: np.random.Generator,
    lexicon: Lexicon,
    lengths: NDArray[np.int64],
    sentiment_at: NDArray[np.int64],
    level: NDArray[np.int64],
    markers_at: NDArray[np.int64],
    inverted: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Write sentences of neutral words with one sentiment word and two markers each.

    Args:
        rng: Source of randomness.
        lexicon: The language.
        lengths: Words of each sentence, (n,).
        sentiment_at: Position of the sentiment word, (n,).
        level: Index into `SENTIMENT_LEVELS`, (n,).
        markers_at: Positions of the audio and the vision marker, (n, 2).
        inverted: Whether each marker turns the sign of its cue, (n, 2).

    Returns:
        Indices into ``lexicon.words``, (n, longest), -1 beyond the sentence.
    """
    n, rows = len(lengths), np.arange(len(lengths))
    words = rng.integers(len(lexicon.neutral), size=(n, int(lengths.max())))
    first_sentiment = len(lexicon.neutral)
    first_marker = first_sentiment + len(lexicon.sentiment)
    words[rows, sentiment_at] = first_sentiment + level * SYNONYMS + rng.integers(SYNONYMS, size=n)
    words[rows[:, None], markers_at] = (
        first_marker + inverted * len(lexicon.straight) + rng.integers(SYNONYMS, size=(n, 2))
    )
    words[np.arange(words.shape[1]) >= lengths[:, None]] = -1
    return words


def join(lexicon: Lexicon, words: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[str]:
    """Return the sentences that `compose` wrote, as strings."""
    table = np.array(lexicon.words)
    return [
        lexicon.separator.join(table[row[:length]])
        for row, length in zip(words, lengths, strict=True)
    ]


def encode_words(
    lexicon: Lexicon, words: NDArray[np.int64], lengths: NDArray[np.int64], length: int
) -> NDArray[np.float32]:
    """Return ``text_bert`` (n, 3, length) float32 of `compose`'s sentences, by the built-in ids."""
    n, rows = len(words), np.arange(len(words))
    ids = np.full((n, length), PAD, dtype=np.int64)
    ids[:, 0] = CLS
    ids[:, 1 : words.shape[1] + 1] = np.where(words >= 0, word_ids(lexicon)[words], PAD)
    ids[rows, lengths + 1] = SEP
    mask = np.arange(length) < lengths[:, None] + 2
    return np.stack([ids, mask, np.zeros_like(ids)], axis=1).astype(np.float32)


def encode_strings(tokenizer: Any, sentences: Sequence[str], length: int) -> NDArray[np.float32]:
    """Return ``text_bert`` (n, 3, length) float32 by a tokenizer (ids, mask, segment).

    Args:
        tokenizer: A Hugging Face tokenizer, or a name or folder that
            `MMSA_ext.text_encoders.load_tokenizer` takes.
        sentences: The texts.
        length: Tokens a row; longer texts are cut, shorter ones padded.

    Raises:
        TextEncoderError: The tokenizer cannot be loaded.
    """
    if isinstance(tokenizer, str | Path):
        # Imported here because it loads transformers, which generated text does not need.
        from MMSA_ext.text_encoders import load_tokenizer

        tokenizer = load_tokenizer(str(tokenizer))
    encoded = tokenizer(
        list(sentences),
        max_length=length,
        padding="max_length",
        truncation=True,
        return_token_type_ids=True,
        return_tensors="np",
    )
    rows = [encoded["input_ids"], encoded["attention_mask"], encoded["token_type_ids"]]
    return np.stack(rows, axis=1).astype(np.float32)


def embed(
    rng: np.random.Generator, text_bert: NDArray[np.float32], dim: int, noise: float
) -> NDArray[np.float32]:
    """Return ``text`` (n, L, dim) float32: a fixed random vector per token id, plus noise.

    The vector of an id is the same in every file; padding is zero.
    """
    ids, valid = text_bert[:, 0].astype(np.int64), text_bert[:, 1] > 0
    # A fixed seed and row-wise filling: an id's row does not depend on how many rows there are.
    table = np.random.default_rng(0).standard_normal((int(ids.max()) + 1, dim), dtype=np.float32)
    features = np.zeros((*ids.shape, dim), dtype=np.float32)
    noise_rows = rng.standard_normal((int(valid.sum()), dim), dtype=np.float32)
    noise_rows *= noise
    noise_rows += table[ids[valid]]
    features[valid] = noise_rows
    return features


def read_transcripts(path: Path | str, label_range: float) -> pd.DataFrame:
    """Read and check a transcript CSV with the columns ``id, split, text, label``.

    Args:
        path: The file, UTF-8; further columns are ignored.
        label_range: Labels must lie in [-label_range, label_range].

    Raises:
        FeatureFileError: The file cannot be read, lacks a column or a split, or has rows with an
            unknown split, an empty text, a label that is no number within range, or an id that
            occurred before. The message names the column and the rows (1 is the first after the
            header).
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise FeatureFileError(f"{path}: cannot be read as a CSV file: {error}") from error
    missing = [name for name in ("id", "split", "text", "label") if name not in table.columns]
    if missing:
        raise FeatureFileError(
            f"{path}: lacks the columns {missing}; wanted id, split, text, label."
        )
    table["label"] = pd.to_numeric(table["label"], errors="coerce")
    wrong = {
        "column 'split' is none of train, valid, test": ~table["split"].isin(SPLITS),
        "column 'text' is empty": table["text"].str.strip() == "",
        f"column 'label' is no number in [-{label_range}, {label_range}]": ~table["label"].between(
            -label_range, label_range
        ),
        "column 'id' repeats an earlier row's": table["id"].duplicated(),
    }
    problems = [
        f"{what} in {int(rows.sum())} row(s): {(np.flatnonzero(rows) + 1)[:10].tolist()}"
        for what, rows in wrong.items()
        if rows.any()
    ]
    problems += [f"no row has split {s!r}" for s in SPLITS if not (table["split"] == s).any()]
    if problems:
        raise FeatureFileError(f"{path}: " + "; ".join(problems) + ".")
    return table


def write_tiny_encoder(
    folder: Path | str,
    *,
    hidden: int = 32,
    layers: int = 2,
    seed: int = 0,
    texts: Iterable[str] = (),
) -> Path:
    """Write a randomly initialised BERT and its tokenizer, loadable as a local text encoder.

    Its ids are those of `vocabulary`, so it fits generated data; it needs no network.

    Args:
        folder: Where to write; created if absent.
        hidden: Hidden size, a multiple of 8 (one attention head per 8).
        layers: Transformer layers.
        seed: Seed of the weights; the global random state is left as it was.
        texts: Further texts whose words (at most 30,000, most frequent first; Chinese by
            character) join the vocabulary, for instance those of a transcript CSV.

    Returns:
        The folder.

    Raises:
        ConfigError: ``hidden`` is not a positive multiple of 8.
    """
    if hidden <= 0 or hidden % 8:
        raise ConfigError(f"hidden={hidden}: give a positive multiple of 8.")
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = dict.fromkeys(vocabulary())
    splitter = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}).backend_tokenizer
    counts = Counter(
        word
        for text in texts
        for word, _ in splitter.pre_tokenizer.pre_tokenize_str(
            splitter.normalizer.normalize_str(text)
        )
    )
    tokens.update(dict.fromkeys(word for word, _ in counts.most_common(30_000)))
    vocabulary_file = folder / "vocab.txt"
    vocabulary_file.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(
            BertConfig(
                vocab_size=len(tokens),
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=hidden // 8,
                intermediate_size=2 * hidden,
            )
        )
    model.save_pretrained(folder)
    BertTokenizer(vocab=str(vocabulary_file)).save_pretrained(folder)
    return folder
