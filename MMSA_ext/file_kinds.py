"""What a file really is that passes itself off as data or weights, by its first bytes."""

from __future__ import annotations

HEAD_BYTES = 512

_PAGE = "a web page, not the file itself; download it again, signed in if need be"
_BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file; get it with `git lfs pull`",
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<?xml": "an XML document, often a server's error message; download the file again",
}


def foreign_kind(head: bytes) -> str | None:
    """Say what a file is instead of what its name promises, and the mend.

    Args:
        head: Its first `HEAD_BYTES` bytes.

    Returns:
        A phrase such as "a Git LFS pointer, not the file itself; ..."; None if nothing is known
        against the file.
    """
    if not head:
        return "empty; fetch it again"
    beginning = head.lstrip().lower()
    found = (kind for mark, kind in _BEGINNINGS.items() if beginning.startswith(mark))
    return next(found, None)
