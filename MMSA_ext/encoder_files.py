"""The files of a text encoder: which they are, where they are, and what is wrong with them."""

from __future__ import annotations

import json
import queue
import stat
import threading
import time
import zipfile
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache

from MMSA_ext.file_kinds import HEAD_BYTES, foreign_kind

__all__ = ["Part", "UnavailableError", "cached_folder", "defect", "downloaded_folder", "files_of"]

Part = Literal["config", "tokenizer", "weights"]
_TOKENIZER = (
    *("tokenizer*", "vocab*", "merges.txt", "*.model", "bpe.codes", "chat_template*"),
    *("special_tokens_map.json", "added_tokens.json"),
)
# In transformers' order: the first that is there is read.
_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# The hub is asked once, and not for longer; the libraries' own retries take minutes.
_PROBE_SECONDS = 5.0  # without a byte
_DEADLINE_SECONDS = 12.0  # for the whole answer, the look-up of the address included
_REMEMBERED_SECONDS = 120.0  # that the hub did not answer
_BEFORE_TORCH_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PARSED_BYTES = 2**20  # of JSON; of larger files only the end is looked at

_failures: dict[str, tuple[float, str]] = {}


class UnavailableError(Exception):
    """Says why an encoder cannot be downloaded, as part of a sentence."""


def files_of(part: Part, names: Collection[str]) -> list[str]:
    """The files that loading a part of an encoder takes.

    Args:
        part: The configuration; the tokenizer or the weights, with the configuration.
        names: Files that there are, folders with `/`.
    """
    wanted = {"config.json"}
    if part == "tokenizer":
        wanted |= {name for name in names if any(fnmatch(name, form) for form in _TOKENIZER)}
    if part == "weights":
        first = next((name for name in _WEIGHTS if name in names), "")
        wanted.add(first)
        if first.endswith(".index.json"):
            shards = first.removesuffix(".index.json").replace(".", "-*-of-*.")
            wanted |= {name for name in names if fnmatch(name, shards)}
    return sorted(name for name in wanted & {*names} if "/" not in name)


def cached_folder(name: str) -> Path | None:
    """The folder of the local cache that holds (some of) a repository of the hub."""
    try:
        found = try_to_load_from_cache(name, "config.json")
    except (ValueError, OSError):  # no repository can have this name, or nobody may look
        return None
    return Path(found).parent if isinstance(found, str) else None


def downloaded_folder(name: str, part: Part) -> Path:
    """Download a part of an encoder into the local cache.

    Args:
        name: Repository of the hub.
        part: What is needed; nothing else is downloaded.

    Returns:
        Its folder.

    Raises:
        UnavailableError: Offline mode is set, the hub does not answer or refuses; within
            `_DEADLINE_SECONDS` where there is no network.
    """
    if constants.HF_HUB_OFFLINE:
        raise UnavailableError("HF_HUB_OFFLINE is set")
    wanted = files_of(part, _listed(name))
    if "config.json" not in wanted:
        raise UnavailableError(f"what {constants.ENDPOINT} has of this name has no config.json")
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # of the network, the hub, the disk
        raise UnavailableError(f"its download failed ({_said(error)})") from error


def _listed(name: str) -> list[str]:
    """Names of the files of a repository, by one question that cannot take long."""
    failed, reason = _failures.get(name, (float("-inf"), ""))
    if time.monotonic() - failed < _REMEMBERED_SECONDS:
        raise UnavailableError(reason)
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            info = HfApi().model_info(name, timeout=_PROBE_SECONDS)
            answers.put([file.rfilename for file in info.siblings or ()])
        except Exception as error:
            answers.put(error)

    # A thread, because no timeout of a request covers the look-up of an address.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_DEADLINE_SECONDS)
    except queue.Empty:
        answer = TimeoutError(f"no answer within {_DEADLINE_SECONDS:.0f} seconds")
    if isinstance(answer, Exception):
        reason = f"{constants.ENDPOINT} does not give it ({_said(answer)})"
        _failures[name] = time.monotonic(), reason
        raise UnavailableError(reason) from answer
    return answer


def defect(folder: Path, part: Part) -> str | None:
    """Say which file of an encoder cannot be what its name promises.

    Args:
        folder: Folder of the encoder.
        part: What is to be loaded.

    Returns:
        A phrase that begins with the path; None if nothing is known against the files.
    """
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        return f"{folder} cannot be read ({error.strerror})"
    for path in (folder / name for name in files_of(part, names)):
        try:
            reason = _defect(path)
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        if reason is not None:
            return f"{path} {reason}"
    return None


def _defect(path: Path) -> str | None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(max(0, status.st_size - HEAD_BYTES))
        end = file.read()
    kind = foreign_kind(head)
    if kind is not None:
        return f"is {kind}"
    if path.suffix == ".json":
        return _defect_of_json(path, end, status.st_size)
    if path.suffix == ".safetensors":
        return _defect_of_safetensors(path, status.st_size)
    if path.suffix == ".bin" and not (
        head.startswith(_BEFORE_TORCH_1_6) or zipfile.is_zipfile(path)
    ):
        return "is cut off, or no file of torch.save; fetch it again"
    return None


def _defect_of_json(path: Path, end: bytes, size: int) -> str | None:
    if not end.rstrip().endswith(b"}"):
        return "is cut off, or no JSON object; fetch it again"
    try:
        content = json.loads(path.read_bytes()) if size <= _PARSED_BYTES else {}
    except (ValueError, RecursionError) as error:
        return f"is no valid JSON ({_said(error)}); fetch it again"
    return None if isinstance(content, dict) else "is no JSON object; fetch it again"


def _defect_of_safetensors(path: Path, size: int) -> str | None:
    """Compare the header's last offset with the file's size."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return "is cut off, or no safetensors file; fetch it again"
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            needed = 8 + length + max((t["data_offsets"][1] for t in header.values()), default=0)
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
            return "has no header of safetensors; fetch it again"
    if needed != size:
        return f"has {size:,} bytes in place of {needed:,}; fetch it again"
    return None


def _said(error: Exception) -> str:
    """An exception of a library in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}"
