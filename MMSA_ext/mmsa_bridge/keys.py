"""Which keys of its configuration MMSA's code of a model reads, found in its sources.

MMSA passes one dictionary, `args` or `config`, to a model's class, its trainer and the data loader,
and each takes out of it what it wants. What nothing takes out has no effect, so the sources are
parsed: the module of the model, that of its trainer and the loader, with what they import of MMSA.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from MMSA_ext.mmsa_bridge.stock import model_class, trainer_class

# Names under which MMSA's functions take the configuration; where both are there it is the first,
# and the other is that of a text encoder.
_NAMES = ("args", "config")
# Keys that shims read for a model whose own code does not.
_READ_BY_SHIMS = {"bert_mag": ("pretrained",), "tfr_net": ("pretrained",)}
# The package knows no other: MMSA's classes are built and trained for regression.
_TRAIN_MODE = "regression"

_Path = tuple[str, ...]


@dataclass(frozen=True)
class KeysRead:
    """What a model reads, as it is configured; nested keys are joined by a dot.

    Attributes:
        read: Every key that is read.
        needed: Those that must be there.
        otherwise: By key, of what would be read if others had another value, these others.
    """

    read: frozenset[str]
    needed: frozenset[str]
    otherwise: Mapping[str, frozenset[str]]

    def reads(self, key: str) -> bool:
        """Whether a key, or for a nested one the dictionary that it stands in, is read."""
        return key in self.read or key.partition(".")[0] in self.read

    @property
    def names(self) -> list[str]:
        """The keys without what is nested in them, sorted."""
        return sorted({key.partition(".")[0] for key in self.read})


def keys_read(model_name: str, config: Mapping[str, Any]) -> KeysRead:
    """What MMSA's code reads of the configuration of one of its models.

    Args:
        model_name: Lower-case name of a model of MMSA.
        config: Its configuration: what is read only where another key has another value is left
            out, such as `pretrained` where `use_bert` is false.
    """
    found = _findings(model_name)
    live: set[_Read] = set()
    otherwise: dict[str, frozenset[str]] = {}
    for read in found.reads:
        against = [condition for condition in read.when if _holds(condition, config) is False]
        if not against:
            live.add(read)
        deciding = frozenset[str]().union(*(condition.names() for condition in against))
        if deciding and "train_mode" not in deciding:
            otherwise[".".join(read.path)] = deciding
    assigned = {".".join(path) for path in found.assigned}
    named = frozenset(".".join(read.path) for read in live) - assigned
    needed = {".".join(read.path) for read in live if read.needed} - assigned
    return KeysRead(
        named.union(_READ_BY_SHIMS.get(model_name, ())),
        frozenset(needed),
        {key: others for key, others in otherwise.items() if key not in named | assigned},
    )


@dataclass(frozen=True)
class _Condition:
    """A condition on values of the configuration, as far as the code tells it."""

    kind: str  # "true", "equal", "there", "not", "all", "any" or "unknown"
    path: _Path = ()
    value: Any = None
    parts: tuple[_Condition, ...] = ()

    def names(self) -> set[str]:
        """The keys whose values it is about."""
        return set(self.path[:1]).union(*(part.names() for part in self.parts))


_UNKNOWN = _Condition("unknown")


def _holds(condition: _Condition, config: Mapping[str, Any]) -> bool | None:
    """Whether a condition holds; None where that cannot be told."""
    if condition.kind == "unknown":
        return None
    if condition.parts:
        values = [_holds(part, config) for part in condition.parts]
        if condition.kind == "not":
            return None if values[0] is None else not values[0]
        decisive = condition.kind == "any"
        return decisive if decisive in values else None if None in values else not decisive
    there, value = _lookup(config, condition.path)
    if condition.kind == "there":
        return there
    return bool(value) if condition.kind == "true" else bool(value == condition.value)


def _lookup(config: Mapping[str, Any], path: _Path) -> tuple[bool, Any]:
    if path == ("train_mode",):
        return True, _TRAIN_MODE
    value: Any = config
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return False, None
        value = value[key]
    return True, value


@dataclass(frozen=True)
class _Read:
    path: _Path
    needed: bool
    when: tuple[_Condition, ...]


@dataclass
class _Findings:
    """What the sources of a model do with its configuration."""

    reads: list[_Read] = field(default_factory=list)
    assigned: dict[_Path, Any] = field(default_factory=dict)  # and a constant that is assigned


@cache
def _findings(model_name: str) -> _Findings:
    found = _Findings()
    homes = (model_class(model_name).__module__, trainer_class(model_name).__module__)
    sources = {name: None for home in (*homes, "MMSA.data_loader") for name in _imported(home)}
    for name in (*sources, "MMSA.models.AMIO"):
        _Module(found).visit(_parsed(name))
    return found


def _imported(home: str) -> Iterator[str]:
    """A module and what it imports of MMSA, by relative imports."""
    waiting, seen = [home], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        package = name if _source(name).stem == "__init__" else name.rpartition(".")[0]
        for node in ast.walk(_parsed(name)):
            if isinstance(node, ast.ImportFrom) and node.level:
                relative = "." * node.level + (node.module or "")
                waiting.append(importlib.util.resolve_name(relative, package))


def _source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


@cache
def _parsed(module: str) -> ast.Module:
    return ast.parse(_source(module).read_text(encoding="utf-8"))


class _Module(ast.NodeVisitor):
    """Follows the configuration through one module."""

    def __init__(self, found: _Findings) -> None:
        self.found = found
        self.names: frozenset[str] = frozenset()  # of the configuration, in this function
        self.attributes: frozenset[str] = frozenset()  # of `self`, in this class
        self.copies: dict[str, _Path] = {}  # attributes of `self` that are a key's value
        self.loops: dict[str, _Path] = {}  # loop variables that go through a key's value
        self.when: tuple[_Condition, ...] = ()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before = self.attributes, self.copies
        self.attributes, self.copies = self._kept(node)
        self.generic_visit(node)
        self.attributes, self.copies = before

    def _kept(self, node: ast.ClassDef) -> tuple[frozenset[str], dict[str, _Path]]:
        """Attributes under which a class keeps the configuration, or the value of one key."""
        values: dict[str, list[ast.expr]] = {}
        whole: set[str] = set()
        for function in (f for f in node.body if isinstance(f, ast.FunctionDef)):
            self.names = _configuration(function)
            for statement in ast.walk(function):
                if not isinstance(statement, ast.Assign):
                    continue
                for target in statement.targets:
                    if isinstance(target, ast.Attribute) and _is_self(target.value):
                        values.setdefault(target.attr, []).append(statement.value)
                        if self._is_configuration(statement.value):
                            whole.add(target.attr)
            paths = {name: self._path(given[0]) for name, given in values.items()}
        self.names = frozenset()
        once = {name: path for name, path in paths.items() if path and len(values[name]) == 1}
        return frozenset(whole), once

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = self.names, self.when
        self.names, self.when = self.names | _configuration(node), ()
        self.generic_visit(node)
        self.names, self.when = before

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        condition = self._condition(node.test)
        self.visit(node.test)
        for branch, holds in ((node.body, True), (node.orelse, False)):
            statements = branch if isinstance(branch, list) else [branch]
            self._under(condition if holds else _negated(condition), *statements)

    visit_IfExp = visit_If  # noqa: N815 (ast's name)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        earlier: list[_Condition] = []
        for operand in node.values:
            self._under(_Condition("all", parts=tuple(earlier)) if earlier else None, operand)
            condition = self._condition(operand)
            earlier.append(condition if isinstance(node.op, ast.And) else _negated(condition))

    def _under(self, condition: _Condition | None, *nodes: ast.AST) -> None:
        before = self.when
        self.when = before if condition is None else (*before, condition)
        for node in nodes:
            self.visit(node)
        self.when = before

    def visit_For(self, node: ast.For) -> None:
        path = self._path(node.iter)
        if path and isinstance(node.target, ast.Name):
            self.loops[node.target.id] = path
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            path = self._path(target)
            if path and not isinstance(getattr(target, "ctx", None), ast.Load):
                constant = node.value.value if isinstance(node.value, ast.Constant) else None
                self.found.assigned[path] = constant
            else:
                self.visit(target)
        self.visit(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._visit_read(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self._visit_read(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "eval":
            self._visit_eval(node.args[0])
        else:
            self._visit_read(node)

    def _visit_read(self, node: ast.expr) -> None:
        path = self._path(node)
        if path is None:
            self.generic_visit(node)
            return
        self.found.reads.append(_Read(path, not isinstance(node, ast.Call), self.when))
        for argument in node.args[1:] if isinstance(node, ast.Call) else ():
            self.visit(argument)

    def _visit_eval(self, text: ast.expr) -> None:
        """`eval('self.args.' + m)` in a loop over the letters of a key that MMSA itself set."""
        if isinstance(text, ast.BinOp) and isinstance(text.right, ast.Name):
            letters = self.found.assigned.get(self.loops.get(text.right.id, ()), "")
            for letter in letters or "":
                self.found.reads.append(_Read((letter,), True, self.when))

    def _is_configuration(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self.names
        return (
            isinstance(node, ast.Attribute)
            and _is_self(node.value)
            and node.attr in self.attributes
        )

    def _path(self, node: ast.expr) -> _Path | None:
        """The key that an expression takes out of the configuration; None if it does no such."""
        if isinstance(node, ast.Attribute) and self._is_configuration(node.value):
            return None if hasattr(dict, node.attr) else (node.attr,)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            key = node.slice.value
            if not isinstance(key, str):
                return None
            above = () if self._is_configuration(node.value) else self._path(node.value)
            return None if above is None else (*above, key)
        if isinstance(node, ast.Call) and self._is_method(node.func, "get"):
            return (str(node.args[0].value),) if isinstance(node.args[0], ast.Constant) else None
        return None

    def _is_method(self, node: ast.expr, name: str) -> bool:
        return (
            isinstance(node, ast.Attribute)
            and node.attr == name
            and self._is_configuration(node.value)
        )

    def _condition(self, test: ast.expr) -> _Condition:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return _negated(self._condition(test.operand))
        if isinstance(test, ast.BoolOp):
            kind = "all" if isinstance(test.op, ast.And) else "any"
            return _Condition(kind, parts=tuple(map(self._condition, test.values)))
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return self._comparison(test.left, test.ops[0], test.comparators[0])
        path = self._value(test)
        return _Condition("true", path) if path else _UNKNOWN

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> _Condition:
        negative = isinstance(operator, ast.NotEq | ast.NotIn)
        condition = _UNKNOWN
        if isinstance(operator, ast.Eq | ast.NotEq) and isinstance(right, ast.Constant):
            if path := self._value(left):
                condition = _Condition("equal", path, right.value)
        elif isinstance(operator, ast.In | ast.NotIn) and isinstance(left, ast.Constant):
            keys = isinstance(right, ast.Call) and self._is_method(right.func, "keys")
            if keys or self._is_configuration(right):
                condition = _Condition("there", (str(left.value),))
        return _negated(condition) if negative else condition

    def _value(self, node: ast.expr) -> _Path | None:
        """The key whose value an expression has, itself or by an attribute that keeps it."""
        if isinstance(node, ast.Attribute) and _is_self(node.value) and node.attr in self.copies:
            return self.copies[node.attr]
        return self._path(node)


def _configuration(function: ast.FunctionDef) -> frozenset[str]:
    """Name under which a function takes the configuration, if it does."""
    taken = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    return frozenset(next(([name] for name in _NAMES if name in taken), []))


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _negated(condition: _Condition) -> _Condition:
    return _Condition("not", parts=(condition,))
