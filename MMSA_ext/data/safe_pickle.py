"""Feature files as data: their pickles are interpreted, nothing in them is run.

`pickles.interpreter` says how. Here files are opened, hashed while they are read, and whatever is
wrong with one becomes a sentence that names it.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from MMSA_ext.data.pickles.errors import DamagedError, RefusedError, TruncatedError
from MMSA_ext.data.pickles.formats import (
    HEAD_BYTES,
    known_format,
    seems_pickle,
    text_format,
    text_mode_damage,
)
from MMSA_ext.data.pickles.interpreter import interpret
from MMSA_ext.data.pickles.source import ByteSource
from MMSA_ext.errors import FeatureFileError

__all__ = ["LoadedPickle", "load_pickle", "safe_load"]


@dataclass(frozen=True)
class LoadedPickle:
    """What one reading of a file gives.

    Attributes:
        data: what the pickle holds.
        fingerprint: SHA-256 of all bytes of the file, hexadecimal.
        size: number of bytes.
    """

    data: Any
    fingerprint: str
    size: int


def safe_load(source: str | os.PathLike[str] | IO[bytes]) -> Any:
    """Read a pickle that holds only numpy arrays, numbers, text and builtin containers.

    Args:
        source: path, or a binary file object positioned at the start of the pickle.

    Returns:
        What `pickle.load` would return; text of Python 2 as Latin-1.

    Raises:
        FeatureFileError: the file is missing, empty, truncated, damaged, no pickle, or holds
            anything else; the message names it and the mend.
    """
    return _opened(source, None).data


def load_pickle(source: str | os.PathLike[str] | IO[bytes]) -> LoadedPickle:
    """Like `safe_load`, and returns the SHA-256 of the same single reading.

    A second thread hashes what the first one reads, so that the slower of the two is what it costs.

    Args:
        source: path, or a binary file object positioned at the start of the pickle.

    Returns:
        Object, fingerprint and size.

    Raises:
        FeatureFileError: as `safe_load`.
    """
    with ThreadPoolExecutor(1, "fingerprint") as hashing:
        return _opened(source, hashing)


def _opened(
    source: str | os.PathLike[str] | IO[bytes], hashing: ThreadPoolExecutor | None
) -> LoadedPickle:
    if not isinstance(source, str | os.PathLike):
        return _load(source, str(getattr(source, "name", "the given file object")), hashing)
    path = Path(source).expanduser()
    try:
        with path.open("rb", buffering=0) as file:
            return _load(file, str(path), hashing)
    except FileNotFoundError:
        raise FeatureFileError(
            f"Feature file {path} does not exist. Check the path (featurePath, or the argument)."
        ) from None
    except IsADirectoryError:
        raise FeatureFileError(f"{path} is a folder; give the feature file in it.") from None
    except OSError as error:
        raise FeatureFileError(f"Feature file {path} cannot be read: {error}.") from error


def _load(file: Any, name: str, hashing: ThreadPoolExecutor | None) -> LoadedPickle:
    start = file.tell() if file.seekable() else None
    source = ByteSource(file, hashing)
    source.ensure(HEAD_BYTES)
    head = source.buffer[:HEAD_BYTES]
    if not head:
        raise FeatureFileError(f"Feature file {name} is empty. Download or write it again.")
    if other := known_format(head):
        raise FeatureFileError(f"{name} is not a pickle in MMSA's layout but {other}")
    try:
        data = interpret(source)
    except MemoryError:
        raise FeatureFileError(
            f"Feature file {name} asks for more memory than there is: it is too large for this "
            "machine. Use float16 features, or a machine with more memory."
        ) from None
    except (RefusedError, DamagedError, TruncatedError) as error:
        raise FeatureFileError(_message(error, name, head, source, start)) from None
    if hashing is not None:
        source.drain()  # bytes behind the pickle belong to the fingerprint
    return LoadedPickle(data, source.digest.hexdigest(), source.size)


def _message(
    error: Exception, name: str, head: bytes, source: ByteSource, start: int | None
) -> str:
    """What is wrong with a file, by the simplest explanation that there is."""
    if not seems_pickle(head):
        what = text_format(head)
        return f"{name} is not a pickle, so not a feature file in MMSA's layout" + (
            f", but {what}" if what else f". {RefusedError.REWRITE}"
        )
    truncated = isinstance(error, TruncatedError)
    changed = None if start is None else text_mode_damage(source.file, start, truncated)
    if changed is not None:
        return (
            f"Feature file {name} {changed}, as after a transfer in text mode (FTP, git's "
            "autocrlf, an e-mail). Copy it again in binary mode."
        )
    if isinstance(error, RefusedError):
        return f"Feature file {name} was refused: it {error.what}. {error.mend}"
    if truncated:
        return f"Feature file {name} ends too early (truncated). Download or copy it again."
    return (
        f"Feature file {name} is damaged near byte {source.position}: {error}. Download or copy it "
        "again."
    )
