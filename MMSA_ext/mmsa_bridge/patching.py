"""Replace attributes of foreign modules and classes, and put every one of them back."""

from __future__ import annotations

from contextlib import ExitStack
from types import ModuleType
from typing import Any

_ABSENT = object()


def replace_attribute(undo: ExitStack, owner: Any, name: str, value: object) -> None:
    """Set `owner.name` to `value`; closing `undo` restores the very object that was there.

    Args:
        undo: Stack that receives the restoration.
        owner: Module or class.
        name: Attribute; if `owner` itself does not define it, it is deleted again.
        value: New value.
    """
    before = vars(owner).get(name, _ABSENT)
    setattr(owner, name, value)
    if before is _ABSENT:
        undo.callback(delattr, owner, name)
    else:
        undo.callback(setattr, owner, name, before)


class ModuleProxy:
    """A module seen with some attributes replaced; everything else is looked up in the module.

    Put in place of a global of one foreign module, it changes what that module sees and leaves the
    real module alone.
    """

    def __init__(self, module: ModuleType, **replaced: object) -> None:
        self._module = module
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
