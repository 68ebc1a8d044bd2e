"""Doing something as soon as another module has been imported, by whomever.

By a finder that comes before the others and passes its work on to them (Python's import hooks,
https://docs.python.org/3/reference/import.html#import-hooks).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(
    name: str, action: Callable[[], object], *, before: Callable[[], object] = lambda: None
) -> None:
    """Call `action` now if module `name` has been imported, else right after it has been.

    Args:
        name: Full name of the module.
        action: Called once. What it raises, the `import` statement raises; it is called again at
            the next attempt to import the module.
        before: Called before the module is carried out, to raise where it would fail.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action, before))


class _Finder(MetaPathFinder):
    """Finds one module by the other finders, and leaves once it has been imported."""

    def __init__(
        self, name: str, action: Callable[[], object], before: Callable[[], object]
    ) -> None:
        self._name, self._action, self._before = name, action, before

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (
            finder.find_spec(fullname, path, target)
            for finder in later
            if hasattr(finder, "find_spec")
        )
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._before, self._imported)
        return spec

    def _imported(self) -> None:
        self._action()
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _Loader(Loader):
    """Loads with another loader, which is all that the module remembers, and then says so."""

    def __init__(
        self, loader: Loader, before: Callable[[], object], imported: Callable[[], None]
    ) -> None:
        self._loader, self._before, self._imported = loader, before, imported

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._before()
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._imported()
