"""Which code a run is made by: a digest of the sources that its model, trainer and data import.

The part of a run's name (`record.RunIdentity`) that its configuration, data and seed leave open.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
_DIGITS = 12
# Where packages are installed: of what is not ours there, a file counts without what it imports.
_INSTALLED = tuple(
    Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")
)
# Leaves that name, read, write and complain, or settle what is in the name already. They do no
# arithmetic (a test says so), so they change no number, and what they import is not followed.
NO_NUMBERS = frozenset(
    {
        *("errors.py", "extras.py", "file_kinds.py", "files.py", "json_files.py", "paths.py"),
        *("registry.py", "catalogue.py", "mmsa_files.py", "version.py", "records/code_version.py"),
        *("datasets.py", "data/recipes.py", "mmsa_bridge/keys.py", "mmsa_bridge/values.py"),
        *("validation.py", "training/callbacks.py"),
    }
)


def code_version(*parts: Any) -> str:
    """Digest of all sources that decide what some functions and classes compute.

    These are their own files and, by the import statements in them, at the top and in functions,
    everything of this package that they reach, so that a change of one model leaves the others'
    records what they were. Of code outside of this package what lies beside it and below counts
    too. A module that is imported by its name alone, as the registry does, is not followed: it has
    to be a part.

    Args:
        parts: Functions and classes, or `functools.partial` of them. One without a source file
            (typed at a prompt) has a version of its own in each process, because its code cannot be
            compared.

    Returns:
        12 hex digits, or `unknown-` and 8 that are new in each process.
    """
    files = {_source_file(piece) for part in parts for piece in _pieces(part)}
    if None in files:
        return _unknown_source()
    found = closure(file for file in files if file is not None)
    lines = sorted(f"{_name(path)} {_read(path)[0]}\n" for path in found)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGITS]


def closure(files: Iterable[Path]) -> set[Path]:
    """Source files, and those that they reach by imports; `NO_NUMBERS` are not in it."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path not in found and _name(path) not in NO_NUMBERS:
            found.add(path)
            waiting += _read(path)[1]
    return found


def _read(path: Path) -> tuple[str, frozenset[Path]]:
    """Digest and imports of a file; of this package as they were when they were first asked for."""
    return _read_once(path) if path.is_relative_to(_PACKAGE) else (_digest(path), _imports(path))


@cache
def _read_once(path: Path) -> tuple[str, frozenset[Path]]:
    return _digest(path), _imports(path)


def _name(path: Path) -> str:
    """Name of a file that is the same on every machine."""
    return path.relative_to(_root(path)).as_posix()


def _root(path: Path) -> Path:
    """Of this package its folder, else the folder from which a file is imported."""
    if path.is_relative_to(_PACKAGE):
        return _PACKAGE
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _imports(path: Path) -> frozenset[Path]:
    """Files that a file imports, of this package and of its own folder."""
    ours = path.is_relative_to(_PACKAGE)
    if not ours and any(path.is_relative_to(folder) for folder in _INSTALLED):
        return frozenset()
    roots = [_PACKAGE.parent] if ours else [_root(path), _PACKAGE.parent]
    package = path.parent.relative_to(roots[0]).parts
    tree = ast.parse(path.read_bytes())
    found: set[Path | None] = set()
    for root in roots:
        for module, name in _imported(tree, package):
            if root == _PACKAGE.parent and module[:1] != (_PACKAGE.name,):
                continue
            file = _module_file(root, (*module, name)) or _module_file(root, module)
            found |= _homes(name) if file == _PACKAGE / "__init__.py" else {file}
    return frozenset(file for file in found if file is not None)


def _imported(
    tree: ast.AST, package: tuple[str, ...], *, annotations: bool = False
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Modules and the names that are imported from them; empty names for whole modules."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((tuple(alias.name.split(".")), "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.expr):
            continue  # most of a tree, and there are no imports in it
        elif annotations or not (isinstance(node, ast.If) and _is_for_annotations(node)):
            yield from _imported(node, package, annotations=annotations)
        else:
            yield from _imported(ast.Module(node.orelse, []), package)


def _is_for_annotations(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def _homes(name: str) -> frozenset[Path | None]:
    """Home of a public name of this package, which imports it late; of all if there is no name."""
    tree = ast.parse((_PACKAGE / "__init__.py").read_bytes())
    names = _imported(tree, (_PACKAGE.name,), annotations=True)
    return frozenset(
        _module_file(_PACKAGE.parent, module)
        for module, public in names
        if module[0] == _PACKAGE.name and name in (public, "", "*")
    )


def _module_file(root: Path, module: tuple[str, ...]) -> Path | None:
    path = root.joinpath(*module)
    for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if file.is_file() and file.is_relative_to(root):
            return file.resolve()
    return None


def _digest(path: Path) -> str:
    """Digest of a source file, the same for Unix and Windows line ends."""
    text = path.read_bytes().replace(b"\r\n", b"\n")
    return hashlib.sha256(text).hexdigest()


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
