"""The package's version, and the version of the code that decides numbers."""

import hashlib
import inspect
import uuid
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_PACKAGE = Path(__file__).resolve().parent
# What only shows results, talks to the user or makes files cannot change a number of a run.
_NOT_DECIDING = (
    *(
        "reporting",
        "records",
        "explain",
        "cli",
        "__main__.py",
        "version.py",
        "errors.py",
        "paths.py",
    ),
    *("runs/results.py", "runs/prediction.py", "runs/tuning.py", "experiments"),
    *("runs/requirements.py", "validation.py", "json_files.py", "config/mmsa_keys.py"),
    *("mmsa_bridge/keys.py", "mmsa_bridge/values.py"),
    *("data/demo.py", "data/encode_text.py", "data/feature_report.py", "data/synthetic.py"),
    "data/fit_lengths.py",
    *("data/standardise.py", "data/synthetic_structure.py", "data/synthetic_text.py"),
    *("data/feature_cache.py", "mmsa_bridge/scoring.py", "on_import.py"),
)


def code_version(*parts: Any) -> str:
    """Version and digest of the sources that decide numbers, such as `0.2.0+1a2b3c4d`.

    A record made by other code is never taken for the result of this code.

    Args:
        parts: Functions and classes of a model, or `functools.partial` of them; the files of those
            that live outside this package count too. One without a source file (typed at a prompt)
            has a version of its own in each process, because its code cannot be compared.
    """
    outside = {_source_file(piece) for part in parts for piece in _pieces(part)}
    digests = [
        _digest(path) if path is not None else _unknown_source()
        for path in sorted(outside, key=str)
        if path is None or not path.is_relative_to(_PACKAGE)
    ]
    return "+".join([__version__, _package_digest(), *digests])


@cache
def _package_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        name = path.relative_to(_PACKAGE).as_posix()
        if not any(name == part or name.startswith(f"{part}/") for part in _NOT_DECIDING):
            digest.update(f"{name} {_digest(path)}\n".encode())
    return digest.hexdigest()[:8]


def _digest(path: Path) -> str:
    """Digest of a source file, the same for Unix and Windows line ends."""
    text = path.read_bytes().replace(b"\r\n", b"\n")
    return hashlib.sha256(text).hexdigest()[:8]


def _pieces(part: Any) -> Iterator[Any]:
    """The functions and classes that a partial function is made of; any other part as it is."""
    if not isinstance(part, partial):
        yield part
        return
    yield from _pieces(part.func)
    for bound in (*part.args, *part.keywords.values()):
        if callable(bound):
            yield from _pieces(bound)


def _source_file(part: Any) -> Path | None:
    try:
        name = inspect.getsourcefile(inspect.unwrap(part))
    except TypeError:
        return None
    return Path(name).resolve() if name and Path(name).is_file() else None


@cache
def _unknown_source() -> str:
    return f"unknown-{uuid.uuid4().hex[:8]}"
