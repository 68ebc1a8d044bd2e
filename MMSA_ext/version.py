"""The package's version, and the version of the code that decides numbers."""

import hashlib
from functools import cache
from pathlib import Path

__version__ = "0.1.0"

# What only shows results or talks to the user cannot change a number.
_NOT_DECIDING = ("reporting", "analysis", "cli.py", "__main__.py", "synthetic")


@cache
def code_version() -> str:
    """Version and digest of the sources that decide numbers, such as `0.1.0+1a2b3c4d`.

    A record made by other code is never taken for the result of this code.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not any(part in name for part in _NOT_DECIDING):
            digest.update(name.encode())
            digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"
