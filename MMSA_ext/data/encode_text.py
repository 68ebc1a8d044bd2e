"""Fill the text keys of a feature file from its transcripts."""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from MMSA_ext.data.feature_checks import Scope, check_strings
from MMSA_ext.data.feature_layout import find_recipe, is_single_sample
from MMSA_ext.data.feature_report import FeatureReport
from MMSA_ext.data.features import write_features
from MMSA_ext.data.safe_pickle import safe_load
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.names import SPLITS
from MMSA_ext.paths import check_output, expand, expand_file
from MMSA_ext.text_encoders import identity, load_text_encoder, load_tokenizer, version

__all__ = [
    "TextCoverage",
    "coverage",
    "encode_text",
    "encode_tokens",
    "text_recipe",
    "token_arrays",
    "tokenize",
]

logger = logging.getLogger("MMSA")

_FIELDS = ("text_bert", "text")
_WARNED_SHARE = 0.05

Padding = Literal["zero", "encoder"]


@dataclass(frozen=True)
class TextCoverage:
    """How much of the transcripts reaches the encoder.

    A word is what the tokenizer takes for one before it looks into its vocabulary: of English a
    word or a punctuation mark, of Chinese a character.

    Attributes:
        encoder: name of the encoder.
        max_length: tokens a sample, as asked for.
        needed: tokens of the longest text, first and last special token included.
        samples: number of transcripts.
        cut: samples that are longer than `max_length`.
        words: of all transcripts.
        lost: words that are cut off, or cut in two.
        unknown: words with a part that the vocabulary does not have, lost ones included.
    """

    encoder: str
    max_length: int
    needed: int
    samples: int
    cut: int
    words: int
    lost: int
    unknown: int

    def __str__(self) -> str:
        """One line."""
        lost, unknown = self._share(self.lost), self._share(self.unknown)
        return (
            f"{self.cut} of {self.samples} samples cut at {self.max_length} tokens; of "
            f"{self.words} words {self.lost} lost by that ({lost:.1%}), {self.unknown} unknown to "
            f"{self.encoder} ({unknown:.1%})"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know: more than 5 % of the words do not reach the encoder."""
        said = []
        if (share := self._share(self.lost)) > _WARNED_SHARE:
            said.append(
                f"{share:.1%} of the words are cut off; --max-length {self.needed} (max_length) "
                "keeps all of them."
            )
        if (share := self._share(self.unknown)) > _WARNED_SHARE:
            said.append(
                f"{share:.1%} of the words are unknown to {self.encoder}, which reads them all "
                "alike; choose an encoder for the language of these texts."
            )
        return tuple(said)

    def _share(self, words: int) -> float:
        return words / max(1, self.words)


def encode_text(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    pretrained: str,
    *,
    max_length: int = 50,
    batch_size: int = 64,
    device: str = "cpu",
    fields: Sequence[str] = _FIELDS,
    padding: Padding = "zero",
    progress: bool = True,
    report: Callable[[TextCoverage], None] | None = None,
) -> Path:
    """Write a copy of a feature file whose text keys are computed from `raw_text`.

    `text_bert` becomes (n, 3, max_length) float32 (token ids, attention mask, segment ids) and
    `text` (n, max_length, hidden) float32 (the encoder's last hidden state); in a
    file of one sample without the leading n. Everything else is kept. The recipe of text becomes
    the encoder (`MMSA_ext.text_encoders.identity`), `max_length` and, if it is not zero, `padding`.

    Args:
        path: feature file with `raw_text` in every split.
        output: file to write; written atomically, must differ from `path`.
        pretrained: encoder, see `MMSA_ext.text_encoders.resolve`.
        max_length: tokens a sample, first and last special token included; longer texts are cut.
        batch_size: samples encoded at once. The result does not depend on it, up to rounding.
        device: torch device that encodes.
        fields: which of `text_bert` and `text` to fill.
        padding: what `text` holds at padding. `zero` lets models see where a text ends;
            `encoder` keeps what the encoder computes there, from the text's tokens. MMSA's models
            that read `text` with an LSTM (lf_dnn, lmf, tfn) take its state at the last position
            and learn nothing where that is behind many zeros.
        progress: show a progress bar.
        report: called with how many samples are cut and how many words are unknown; by default
            that is logged, more than 5 % of the words as a warning.

    Returns:
        The path written.

    Raises:
        FeatureFileError: the file is unusable, or a split has no transcripts.
        TextEncoderError: the encoder cannot be loaded.
        ConfigError: an option is out of range.
    """
    source, target = Path(expand_file(path)), Path(expand(output))
    _check_options(source, target, max_length, batch_size, fields, padding)
    data = safe_load(source)
    texts = _texts(data, source)
    tokenizer = load_tokenizer(pretrained)
    all_texts = [text for split_texts in texts.values() for text in split_texts]
    (report or _log)(coverage(tokenizer, all_texts, max_length, pretrained))
    encoder = load_text_encoder(pretrained) if "text" in fields else None
    if encoder is not None:
        _check_length(encoder.config, max_length, pretrained)
        encoder.to(_device(device))
    total = sum(map(len, texts.values())) if encoder is not None else None
    with tqdm(
        total=total, desc="encode text", unit=" samples", disable=None if progress else True
    ) as bar:
        for name, split_texts in texts.items():
            holder = data if name is None else data[name]
            tokens = tokenize(tokenizer, split_texts, max_length)
            filled: dict[str, NDArray[Any]] = {"text_bert": tokens}
            if encoder is not None:
                filled["text"] = encode_tokens(encoder, tokens, batch_size, bar, padding)
            for field in fields:
                holder[field] = filled[field][0] if name is None else filled[field]
    recipe, _ = find_recipe(data)
    data["recipe"] = recipe | {"text": text_recipe(pretrained, max_length, padding)}
    kept = [data if name is None else data[name] for name in texts]
    if any(field in holder for holder in kept for field in set(_FIELDS) - set(fields)):
        data["recipe"]["text"]["fields"] = list(fields)  # the other one is not known
    data.pop("text_encoder", None)  # its name before there were recipes
    return write_features(target, data)


def text_recipe(pretrained: str, max_length: int, padding: Padding = "zero") -> dict[str, Any]:
    """Who made a text (`data.recipes`); arguments are those of `encode_text`."""
    made = {"name": identity(pretrained), "version": version(pretrained), "max_length": max_length}
    return made if padding == "zero" else made | {"padding": padding}


def coverage(
    tokenizer: Any, texts: Sequence[str], max_length: int, encoder: str = "the encoder"
) -> TextCoverage:
    """Count what is cut off, and what the vocabulary does not have.

    Args:
        tokenizer: a Hugging Face tokenizer; one that does not tell words has its tokens counted.
        texts: transcripts, at least one.
        max_length: tokens a sample, special ones included.
        encoder: its name, to be shown.
    """
    kept = max_length - tokenizer.num_special_tokens_to_add()
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]], np.int64)
    # Every token of all texts in a row: its place in its text, and the number of its word.
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.arange(len(starts)) - starts
    words = _words(encoded, lengths)
    tokens = np.fromiter(_joined(encoded["input_ids"]), np.int64, len(starts))
    return TextCoverage(
        encoder,
        max_length,
        int(lengths.max(initial=0)) + max_length - kept,
        len(texts),
        int((lengths > kept).sum()),
        len(np.unique(words)),
        len(np.unique(words[places >= kept])),
        len(np.unique(words[tokens == tokenizer.unk_token_id])),
    )


def _words(encoded: Any, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each token of all texts in a row the number of its word, no two texts sharing one."""
    if not encoded.is_fast:
        return np.arange(lengths.sum())
    of_text = np.fromiter(
        _joined(encoded.word_ids(i) for i in range(len(lengths))), np.int64, lengths.sum()
    )
    longest = int(of_text.max(initial=0)) + 1
    return np.repeat(np.arange(len(lengths)), lengths) * longest + of_text


def _joined(rows: Iterable[Iterable[int]]) -> Iterator[int]:
    return itertools.chain.from_iterable(rows)


def _log(found: TextCoverage) -> None:
    logger.info("%s", found)
    for warning in found.warnings:
        logger.warning("%s", warning)


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> NDArray[np.float32]:
    """Tokenize into MMSA's layout.

    Args:
        tokenizer: a Hugging Face tokenizer that pads on the right.
        texts: n transcripts; an empty one keeps its special tokens.
        max_length: tokens a sample.

    Returns:
        (n, 3, max_length) float32: token ids, attention mask, segment ids.
    """
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=max_length,
        return_tensors="np",
    )
    ids = tokens["input_ids"]
    segments = tokens.get("token_type_ids", np.zeros_like(ids))
    return np.stack([ids, tokens["attention_mask"], segments], axis=1).astype(np.float32)


def token_arrays(tokenizer: Any, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Tokenize without padding and without cutting.

    Returns:
        Of each text (L, 3) token ids, mask (ones), segment ids.
    """
    if not len(texts):
        return []
    tokens = tokenizer(list(texts), verbose=False)
    ids = tokens["input_ids"]
    segments = tokens.get("token_type_ids") or [[0] * len(row) for row in ids]
    return [
        np.stack([row, np.ones(len(row)), kinds], axis=1).astype(np.int64)
        for row, kinds in zip(ids, segments, strict=True)
    ]


@torch.no_grad()
def encode_tokens(
    encoder: Any,
    tokens: NDArray[np.float32],
    batch_size: int,
    bar: Any = None,
    padding: Padding = "zero",
) -> NDArray[np.float32]:
    """Encode tokenized texts, in batches of similar length.

    Args:
        encoder: a Hugging Face encoder in evaluation mode.
        tokens: (n, 3, L), as `tokenize` returns.
        batch_size: samples encoded at once.
        bar: object with `update(samples)`, or None.
        padding: see `encode_text`.

    Returns:
        (n, L, hidden) float32: last hidden state.
    """
    count, _, length = tokens.shape
    hidden = np.zeros((count, length, encoder.config.hidden_size), np.float32)
    has_segments = getattr(encoder.config, "type_vocab_size", 0) > 1
    for rows, width in _batches(tokens[:, 1].sum(axis=1).astype(np.int64), batch_size):
        if padding == "encoder":
            width = length
        batch = torch.from_numpy(tokens[rows, :, :width].astype(np.int64)).to(encoder.device)
        inputs = {"input_ids": batch[:, 0], "attention_mask": batch[:, 1]}
        if has_segments:
            inputs["token_type_ids"] = batch[:, 2]
        states = encoder(**inputs).last_hidden_state
        if padding == "zero":
            states = states * batch[:, 1, :, None]
        hidden[rows, :width] = states.float().cpu().numpy()
        if bar is not None:
            bar.update(len(rows))
    return hidden


def _batches(
    lengths: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Longest first, so that a lack of memory shows at once."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, int(lengths[rows[0]])


def _texts(data: Any, path: Path) -> dict[str | None, list[str]]:
    """Transcripts by split; the key None stands for a file of one sample."""
    if not isinstance(data, dict):
        raise FeatureFileError(f"{path} holds a {type(data).__name__}, not a dict of splits.")
    report = FeatureReport(path)
    report.problems += [f"recipe {problem}" for problem in find_recipe(data)[1]]
    names: list[str | None] = [name for name in SPLITS if isinstance(data.get(name), dict)]
    if not names and (is_single_sample(data) or isinstance(data.get("raw_text"), str)):
        names = [None]
    if not names:
        report.problems.append(f"It has none of the splits {', '.join(SPLITS)}.")
    texts: dict[str | None, list[str]] = {}
    for name in names:
        raw = (data if name is None else data[name]).get("raw_text")
        scope = Scope(report, name or "sample")
        if raw is None:
            scope.problem("raw_text", "is missing; the text is computed from it.")
            continue
        found = check_strings(scope, "raw_text", [raw] if isinstance(raw, str) else raw)
        if found is None:
            continue
        if not found:
            scope.problem("raw_text", "is empty. A split needs at least one sample.")
        if name is None and len(found) > 1:
            scope.problem("raw_text", f"has {len(found)} texts without a split; name the split.")
        texts[name] = found
    if not report.ok:
        raise FeatureFileError(report.error_message())
    return texts


def _check_options(
    source: Path,
    target: Path,
    max_length: int,
    batch_size: int,
    fields: Sequence[str],
    padding: str,
) -> None:
    if padding not in get_args(Padding):
        raise ConfigError(f"padding must be zero or encoder; got {padding!r}.")
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown or not fields:
        raise ConfigError(f"fields must name some of {', '.join(_FIELDS)}; got {list(fields)}.")
    if max_length < 3 or batch_size < 1:
        raise ConfigError(
            f"max_length must be at least 3 (two special tokens and a word), got {max_length}; "
            f"batch_size at least 1, got {batch_size}."
        )
    check_output(target, source)


def _check_length(config: Any, max_length: int, pretrained: str) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ConfigError(
            f"max_length={max_length} is more than the {positions} positions of {pretrained!r}."
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"Device {name!r} is not available: {error}") from error
    return device
